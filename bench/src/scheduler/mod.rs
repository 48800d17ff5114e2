//! The scheduler on the scenarios of Kubernetes' scheduler_perf: its core alone, or a whole cluster.
//!
//! The core alone: decisions per second on a live-updated snapshot in one thread, without an API. Each
//! pod is taken in as its watch would show it, queued, decided, placed, and seen placed. Rates are by
//! the time the thread had a processor, which on an idle machine is all the time: others' work does not
//! change them.

mod core;
mod end_to_end;
mod explanations;
mod growth;
mod plot;
pub mod scenarios;

use std::path::PathBuf;

use clap::Args;

use crate::report::{Report, percentile};
use crate::target::Target;
use crate::{Outcome, process};
use core::Core;
use scenarios::{SCENARIOS, Scenario};

/// As many as the nodes of the first scenario hold, nearly.
const MEMORY_PODS: usize = 150_000;

#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Only the scenario of this name, or those whose names contain it; `explanations` for what
    /// `amphipod why` costs.
    #[arg(long, default_value = "")]
    pub scenario: String,
    /// Nodes instead of those the scenarios name; pods in proportion.
    #[arg(long)]
    pub nodes: Option<usize>,
    /// Through the API of a whole cluster, from a pod's creation to its binding; needs no root.
    #[arg(long)]
    pub end_to_end: bool,
    /// Plots what a pod costs the core in clusters of 100 to 15,000 nodes, as an SVG.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["end_to_end", "scenario", "nodes"])]
    pub growth: Option<PathBuf>,
    #[command(flatten, next_help_heading = "With --end-to-end")]
    pub target: Target,
}

pub async fn run(options: &Options, report: &mut Report) -> Outcome<()> {
    if let Some(file) = &options.growth {
        return growth::run(file, report);
    }
    if options.scenario == explanations::NAME {
        return explanations::measure(options.nodes, report);
    }
    let chosen = scenarios::called(&options.scenario);
    if !options.end_to_end && "memory".contains(&options.scenario) {
        memory(report)?; // first, while nothing that was freed is resident
    } else if chosen.is_empty() {
        let names: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        return Err(format!("no scenario is called so; there are: {}", names.join("; ")).into());
    }
    for scenario in chosen {
        let scenario = scenario.at(options.nodes.unwrap_or(scenario.nodes));
        if options.end_to_end {
            end_to_end::measure(&options.target, &scenario, report).await?;
        } else {
            measure(&scenario, report)?;
        }
    }
    Ok(())
}

/// What a placed pod takes in the snapshot, the node's share included.
fn memory(report: &mut Report) -> Outcome<()> {
    let own = std::process::id();
    let before = process::resident_mb(own)?;
    let scenario = &SCENARIOS[0];
    let mut core = Core::new(scenario.nodes, scenario.node);
    core.fill(&Scenario { filled: MEMORY_PODS, ..*scenario });
    let grown = (process::resident_mb(own)? - before) * f64::from(1 << 20);
    report.add("memory per placed pod", grown / MEMORY_PODS as f64, "bytes");
    Ok(())
}

fn measure(scenario: &Scenario, report: &mut Report) -> Outcome<()> {
    let mut run = core_run(scenario)?;
    let name = format!("{} ({} nodes)", scenario.name, scenario.nodes);
    report.add(&name, run.latencies_us.len() as f64 / run.seconds, "pods/s");
    report.add(&format!("{name}, p50"), percentile(&mut run.latencies_us, 0.5), "us");
    report.add(&format!("{name}, p99"), percentile(&mut run.latencies_us, 0.99), "us");
    Ok(())
}

/// What a scenario took the core.
struct CoreRun {
    /// Of a processor.
    seconds: f64,
    latencies_us: Vec<f64>,
}

fn core_run(scenario: &Scenario) -> Outcome<CoreRun> {
    let mut core = Core::new(scenario.nodes, scenario.node);
    core.fill(scenario);
    let pods = core.prepare(scenario);
    let start = process::thread_seconds()?;
    let latencies_us = core.schedule(scenario, pods)?;
    Ok(CoreRun { seconds: process::thread_seconds()? - start, latencies_us })
}

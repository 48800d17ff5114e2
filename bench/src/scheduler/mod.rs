//! The scheduler's core alone: decisions per second on a live-updated snapshot in one thread, without
//! an API. Each pod is taken in as its watch would show it, queued, decided, placed, and seen placed.
//! The scenarios are those of Kubernetes' scheduler_perf. Rates are by the time the thread had a
//! processor, which on an idle machine is all the time: others' work does not change them.

mod core;
mod scenarios;

use clap::Args;

use crate::report::{Report, percentile};
use crate::{Outcome, process};
use core::Core;
use scenarios::{SCENARIOS, Scenario};

/// As many as the nodes of the first scenario hold, nearly.
const MEMORY_PODS: usize = 150_000;

#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Only scenarios whose name contains this.
    #[arg(long, default_value = "")]
    pub only: String,
    /// Nodes instead of those the scenarios name.
    #[arg(long)]
    pub nodes: Option<usize>,
}

pub fn run(options: &Options, report: &mut Report) -> Outcome<()> {
    memory(options, report)?; // first, while nothing that was freed is resident
    for scenario in SCENARIOS.iter().filter(|scenario| scenario.name.contains(&options.only)) {
        let nodes = options.nodes.unwrap_or(scenario.nodes);
        measure(scenario, nodes, report)?;
    }
    Ok(())
}

/// What a placed pod takes in the snapshot, the node's share included.
fn memory(options: &Options, report: &mut Report) -> Outcome<()> {
    if !"memory".contains(&options.only) {
        return Ok(());
    }
    let own = std::process::id();
    let before = process::resident_mb(own)?;
    let scenario = &SCENARIOS[0];
    let mut core = Core::new(scenario.nodes, scenario.node);
    core.fill(&Scenario { filled: MEMORY_PODS, ..*scenario });
    let grown = (process::resident_mb(own)? - before) * f64::from(1 << 20);
    report.add("memory per placed pod", grown / MEMORY_PODS as f64, "bytes");
    Ok(())
}

fn measure(scenario: &Scenario, nodes: usize, report: &mut Report) -> Outcome<()> {
    let mut core = Core::new(nodes, scenario.node);
    core.fill(scenario);
    let pods = core.prepare(scenario);
    let name = format!("{} ({nodes} nodes)", scenario.name);
    let start = process::thread_seconds()?;
    let mut latencies = core.schedule(scenario, pods)?;
    let seconds = process::thread_seconds()? - start;
    report.add(&name, latencies.len() as f64 / seconds, "pods/s");
    report.add(&format!("{name}, p50"), percentile(&mut latencies, 0.5), "us");
    report.add(&format!("{name}, p99"), percentile(&mut latencies, 0.99), "us");
    Ok(())
}

//! What a pod costs the core as the cluster grows.

use std::path::Path;

use super::core_run;
use super::plot::{Plot, Series};
use super::scenarios::called;
use crate::Outcome;
use crate::report::Report;

const NODES: [usize; 6] = [100, 500, 1_000, 5_000, 10_000, 15_000];
/// One of each kind of work.
const SCENARIOS: [&str; 7] = [
    "basic",
    "node affinity",
    "pod affinity",
    "pod anti-affinity",
    "topology spreading, required",
    "preemption",
    "unschedulable backlog",
];
/// Small clusters are measured again and again until so many pods were.
const PODS: usize = 30_000;

pub fn run(file: &Path, report: &mut Report) -> Outcome<()> {
    let mut series = Vec::new();
    for name in SCENARIOS {
        let mut points = Vec::new();
        for nodes in NODES {
            let micros = cost_us(name, nodes)?;
            report.add(&format!("{name} ({nodes} nodes), a pod"), micros, "us");
            points.push((nodes as f64, micros));
        }
        series.push(Series { name, points });
    }
    let plot = Plot {
        title: "What scheduling a pod costs: the core alone, one thread",
        across: "nodes",
        up: "microseconds per pod",
        series,
    };
    std::fs::write(file, plot.svg()).map_err(|error| format!("{}: {error}", file.display()).into())
}

fn cost_us(name: &str, nodes: usize) -> Outcome<f64> {
    let (mut seconds, mut pods) = (0.0, 0);
    for scenario in called(name) {
        while pods < PODS {
            let run = core_run(&scenario.at(nodes))?;
            seconds += run.seconds;
            pods += run.latencies_us.len();
        }
    }
    Ok(seconds / pods as f64 * 1e6)
}

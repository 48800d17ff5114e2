//! A large Deployment: how soon all its pods exist, and how soon all have a node.

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::Outcome;
use crate::api::{NAMESPACE, container};
use crate::arrivals::{Arrivals, BOUND};
use crate::process::Usage;
use crate::report::Report;
use crate::scheduler::scenarios;
use crate::target::{Running, Target};
use crate::wire::Call;
use crate::world::World;

const PATIENCE: Duration = Duration::from_secs(300);

#[derive(Clone, Debug, Args)]
pub struct Options {
    #[command(flatten)]
    pub target: Target,
    /// Hollow ones; in a given cluster nodes without kubelets, removed afterwards.
    #[arg(long, default_value_t = 1_000)]
    pub nodes: usize,
    #[arg(long, default_value_t = 1_000)]
    pub replicas: usize,
}

pub async fn run(options: &Options, report: &mut Report) -> Outcome<()> {
    let target = &options.target;
    let running = target.start(&["--hollow-nodes", &options.nodes.to_string()]).await?;
    let nodes = if target.is_given() { options.nodes } else { 0 };
    let world = World { wire: running.wire.clone(), nodes, node: scenarios::node };
    let outcome = async {
        if target.is_given() {
            world.clear().await?; // what an interrupted run has left
        }
        world.build().await?;
        world.alive(figures(&running, options, report)).await
    };
    let outcome = outcome.await;
    if target.is_given() {
        world.clear().await?;
    }
    running.stop().await?;
    outcome
}

async fn figures(running: &Running<'_>, options: &Options, report: &mut Report) -> Outcome<()> {
    let (wire, replicas) = (&running.wire, options.replicas);
    let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let exist = count(Arrivals::watch(wire, &pods, "").await?, replicas);
    let bound = count(Arrivals::watch(wire, &pods, BOUND).await?, replicas);
    let usage = Usage::start(&running.pids)?;
    let begin = Instant::now();
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "large"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "large"}},
            "template": {"metadata": {"labels": {"app": "large"}},
                "spec": {"terminationGracePeriodSeconds": 0, "containers": [container()]}}},
    });
    let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments");
    wire.drain(Call::post(&path, &deployment)).await?;
    let name = format!("Deployment of {replicas} replicas ({} nodes)", options.nodes);
    for (what, counting) in [("all exist", exist), ("all bound", bound)] {
        let last = tokio::time::timeout(PATIENCE, counting).await;
        let last = last.map_err(|_| format!("not {what} within {} s", PATIENCE.as_secs()))???;
        report.add(&format!("{name}, {what}"), last.duration_since(begin).as_secs_f64(), "s");
    }
    usage.report(report, &name)
}

/// When so many had come.
fn count(arrivals: Arrivals, mut left: usize) -> JoinHandle<Outcome<Instant>> {
    tokio::spawn(async move {
        let mut last = Instant::now();
        let counted = arrivals.until(|_, now| {
            last = now;
            left -= 1;
            left == 0
        });
        counted.await?;
        Ok(last)
    })
}

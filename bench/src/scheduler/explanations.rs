//! What it costs to explain where a pod goes (`amphipod why`), in a cluster that is full of others.

use std::sync::Arc;

use amphipod_client::{CachedPod, Resource};
use amphipod_scheduler::Profile;
use amphipod_scheduler::why::{Asked, Cluster, Kept, explain};
use k8s_openapi::api::core::v1::Node;

use super::core::seen;
use super::scenarios::{SCENARIOS, node_name, too_large};
use crate::report::{Report, percentile};
use crate::{Outcome, process};

pub const NAME: &str = "explanations";
const PODS_PER_NODE: usize = 10;
const QUESTIONS: usize = 20;

pub fn measure(nodes: Option<usize>, report: &mut Report) -> Outcome<()> {
    let scenario = SCENARIOS[0].at(nodes.unwrap_or(SCENARIOS[0].nodes));
    let mut cluster = Cluster::default();
    for index in 0..scenario.nodes {
        let node = (scenario.node)(index);
        cluster.nodes.push(Arc::new(Node::decode(node.to_string().as_bytes())?));
    }
    for index in 0..scenario.nodes * PODS_PER_NODE {
        let mut pod = seen(scenario.pod, index);
        pod["spec"]["nodeName"] = node_name(index % scenario.nodes).into();
        cluster.pods.push(Arc::new(CachedPod::decode(pod.to_string().as_bytes())?));
    }
    let peak = process::Peak::start(Some(std::process::id()))?;
    for (what, make) in [("a pod that fits", scenario.pod), ("a pod that fits nowhere", too_large)] {
        let pod = CachedPod::decode(seen(make, scenario.nodes * PODS_PER_NODE).to_string().as_bytes())?;
        let [mut first, mut later] = [Vec::new(), Vec::new()];
        for _ in 0..QUESTIONS {
            let mut kept = Kept::default();
            first.push(question(&cluster, &mut kept, &pod)?);
            // Meanwhile some pods have changed.
            for place in cluster.pods.iter_mut().step_by(cluster.nodes.len()) {
                *place = Arc::new(CachedPod::clone(place));
            }
            later.push(question(&cluster, &mut kept, &pod)?);
        }
        report.add(&format!("{what}, first question"), percentile(&mut first, 0.5), "ms");
        report.add(&format!("{what}, one that follows"), percentile(&mut later, 0.5), "ms");
    }
    report.add("memory", peak.grown_mb()?.unwrap_or(0.0), "MB");
    Ok(())
}

/// Milliseconds of processor time.
fn question(cluster: &Cluster, kept: &mut Kept, pod: &CachedPod) -> Outcome<f64> {
    let start = process::thread_seconds()?;
    let snapshot = kept.follow(cluster.clone());
    let info = Arc::new(snapshot.catalogue.pod(pod));
    explain(snapshot, vec![Profile::default()], &info, Asked::default());
    Ok((process::thread_seconds()? - start) * 1e3)
}

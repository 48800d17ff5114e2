//! The default spreading: pods of one owner go to different nodes, then different zones. (What
//! PodTopologySpread does with its system defaults.)

use std::collections::HashMap;

use super::{MAX_SCORE, normalise};
use crate::cache::{NodeState, Snapshot};
use crate::pod::PodState;

const ZONE: &str = "topology.kubernetes.io/zone";

pub fn score(_: &Snapshot, pod: &PodState, nodes: &[&NodeState]) -> Vec<i64> {
    let Some(owner) = &pod.owner else { return vec![0; nodes.len()] };
    let siblings =
        |node: &NodeState| node.pods.values().filter(|p| p.owner.as_ref() == Some(owner)).count() as i64;
    let on_node: Vec<i64> = nodes.iter().map(|node| siblings(node)).collect();
    let mut in_zone: HashMap<&str, i64> = HashMap::new();
    for (node, count) in nodes.iter().zip(&on_node) {
        *in_zone.entry(node.label(ZONE).unwrap_or("")).or_insert(0) += count;
    }
    let zones = nodes.iter().map(|node| in_zone[node.label(ZONE).unwrap_or("")]).collect();
    let (by_node, by_zone) = (normalise(on_node, true), normalise(zones, true));
    let several_zones = in_zone.len() > 1;
    let combine = |(node, zone): (i64, i64)| if several_zones { (node + 2 * zone) / 3 } else { node };
    by_node.into_iter().zip(by_zone).map(combine).map(|mark| mark.min(MAX_SCORE)).collect()
}

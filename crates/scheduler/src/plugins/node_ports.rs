//! NodePorts: two pods cannot have one host port.

use super::{Verdict, refuse};
use crate::cache::NodeState;
use crate::pod::PodState;

pub fn filter(pod: &PodState, node: &NodeState) -> Verdict {
    let taken = || node.pods.values().flat_map(|p| p.host_ports.iter());
    if pod.host_ports.iter().any(|wanted| taken().any(|port| port.clashes(wanted))) {
        return refuse("node(s) didn't have free ports for the requested pod ports");
    }
    Ok(())
}

//! What hollow nodes are like and how their pods fare, in types that cannot be wrong; what people
//! write is parsed in [`super::file`].

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{NodeSystemInfo, Taint};

use super::chance::Span;
use crate::node::machine::{KUBELET_VERSION, Machine, architecture};
use crate::node::status::default_labels;
use crate::pod::resources::Amounts;

pub const NAME_PREFIX: &str = "hollow-";
/// What a node has where nothing else is said.
pub const CAPACITY: [(&str, &str); 4] =
    [("cpu", "32"), ("memory", "256Gi"), ("ephemeral-storage", "100Gi"), ("pods", "110")];
const ZONE: &str = "topology.kubernetes.io/zone";
const REGION: &str = "topology.kubernetes.io/region";

#[derive(Clone, Debug)]
pub struct Config {
    /// All chance comes from it.
    pub seed: u64,
    /// Tell the events a kubelet tells: each is a write.
    pub events: bool,
    /// Where pod addresses come from.
    pub pod_cidr: IpNet,
    pub groups: Vec<Group>,
}

/// Nodes that are alike.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    pub count: u32,
    /// Nodes are called `<prefix><number>`.
    pub name_prefix: String,
    pub capacity: Amounts,
    pub allocatable: Amounts,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    pub region: Option<String>,
    /// Nodes take them in turn.
    pub zones: Vec<String>,
    pub behaviour: Behaviour,
    pub outages: Option<Outages>,
}

/// How pods fare.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Behaviour {
    /// From assigned to the first container's start.
    pub start: Span,
    /// How long an init container runs.
    pub init: Span,
    /// From deletion to gone, at most the grace period.
    pub stop: Span,
    /// How long containers of a Job's pods run until they end well; the others run on.
    pub completion: Option<Span>,
    /// Share of image pulls that fail.
    pub image_pull_failures: f64,
    /// Share of container instances that crash.
    pub crashes: f64,
    /// How long those run.
    pub crash_after: Span,
    /// Without it readiness probes count as passed.
    pub readiness: Option<Readiness>,
}

/// How readiness probes fare.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Readiness {
    /// From a container's start, but not before its probe begins.
    pub after: Span,
    /// Share of container instances that never become ready.
    pub never: f64,
}

/// Nodes that fall silent and come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outages {
    /// How long a node is heard of before it falls silent.
    pub after: Span,
    pub duration: Span,
}

impl Config {
    /// The nodes, numbered through all groups.
    pub fn fleet(&self) -> Fleet {
        let mut fleet = Fleet { nodes: Vec::new(), by_name: HashMap::new() };
        for (group_index, group) in self.groups.iter().enumerate() {
            for number in 0..group.count {
                let index = fleet.nodes.len();
                fleet.by_name.insert(group.node_name(number), index);
                fleet.nodes.push(Place { group: group_index, number });
            }
        }
        fleet
    }
    pub fn count(&self) -> u32 {
        self.groups.iter().map(|g| g.count).fold(0, u32::saturating_add)
    }
}

impl Group {
    pub fn node_name(&self, number: u32) -> String {
        format!("{}{number}", self.name_prefix)
    }
    /// Labels the node with this number registers with.
    pub fn labels_of(&self, number: u32) -> BTreeMap<String, String> {
        let mut labels = default_labels(&self.node_name(number));
        labels.extend(self.region.iter().map(|region| (REGION.to_owned(), region.clone())));
        if !self.zones.is_empty() {
            let zone = &self.zones[number as usize % self.zones.len()];
            labels.insert(ZONE.to_owned(), zone.clone());
        }
        labels.extend(self.labels.clone());
        labels
    }
    pub fn machine(&self) -> Machine {
        Machine {
            memory_bytes: self.capacity.get("memory").map_or(0, |q| q.units()),
            capacity: self.capacity.clone(),
            allocatable: self.allocatable.clone(),
            info: NodeSystemInfo {
                architecture: architecture().to_owned(),
                container_runtime_version: "hollow://1".to_owned(),
                kernel_version: "0".to_owned(),
                kubelet_version: KUBELET_VERSION.to_owned(),
                operating_system: "linux".to_owned(),
                os_image: "Amphipod hollow node".to_owned(),
                ..NodeSystemInfo::default()
            },
        }
    }
}

/// Which group a node is of, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub group: usize,
    pub number: u32,
}

pub struct Fleet {
    pub nodes: Vec<Place>,
    by_name: HashMap<String, usize>,
}

impl Fleet {
    /// The number, through all groups, of a node of ours.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }
}

/// From the range kept for benchmarks (RFC 2544): no machine has these addresses, so nothing that
/// is meant for a simulated node ever reaches a real one.
pub fn node_ip(index: usize) -> Ipv4Addr {
    const SIZE: usize = 1 << 17;
    let offset = u32::try_from(index % SIZE).unwrap_or(0);
    Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 1)) + offset)
}

/// What crashes where nothing else is said runs this long before.
pub const CRASH_AFTER: Span = Span { min: Duration::from_secs(1), max: Duration::from_secs(60) };

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hollow::file;

    #[test]
    fn nodes_are_found_by_name_and_take_zones_in_turn() {
        let text = "nodes: [{count: 3, namePrefix: a-, zones: [east, west], region: r, labels: {disk: ssd}}, {count: 1, namePrefix: b-}]";
        let config = file::parse(text, 0, "10.0.0.0/8".parse().unwrap()).unwrap();
        let fleet = config.fleet();
        assert_eq!(config.count(), 4);
        assert_eq!(fleet.index_of("b-0"), Some(3));
        assert_eq!(
            (fleet.index_of("b-1"), fleet.index_of("a-x"), fleet.index_of("a-03")),
            (None, None, None)
        );
        assert_eq!(fleet.nodes[2], Place { group: 0, number: 2 });
        let labels = |number| config.groups[0].labels_of(number);
        assert_eq!(labels(0)[ZONE], "east");
        assert_eq!(labels(1)[ZONE], "west");
        assert_eq!(labels(2)[ZONE], "east");
        assert_eq!((labels(0)[REGION].as_str(), labels(0)["disk"].as_str()), ("r", "ssd"));
        assert!(!config.groups[1].labels_of(0).contains_key(ZONE));
        assert_eq!(node_ip(1), Ipv4Addr::new(198, 18, 0, 2));
    }
}

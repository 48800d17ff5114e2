//! The flags of hollow nodes.

use std::path::PathBuf;

use amphipod_kubelet::hollow::{self, Config};
use clap::Args;
use ipnet::IpNet;

use crate::compose::Failure;

const CONFIG_HELP: &str = "\
Groups of simulated nodes, as YAML or JSON; all fields but nodes and count are optional:

  apiVersion: hollow.amphipod.io/v1alpha1
  kind: HollowConfiguration
  seed: 1                      # of all chance: the same seed, the same fates
  events: false                # Pulled, Created, Started ...: each is a write
  nodes:
  - count: 4000                # without it: what the others leave of --hollow-nodes
    namePrefix: general-       # default: hollow-
    capacity: {cpu: 32, memory: 256Gi, pods: 110, example.com/gpu: 8}
    allocatable: {cpu: 31500m} # default: the capacity
    labels: {disk: ssd}
    annotations: {example.com/rack: r7}
    taints: [{key: dedicated, value: batch, effect: NoSchedule}]
    region: r1
    zones: [a, b, c]           # nodes take them in turn
    latencies:                 # a duration, or a range it is drawn from
      start: 500ms-3s          # assigned to Running
      init: 1s                 # of each init container
      ready: 2s-10s            # started to ready, of containers with a readiness probe
      stop: 1s-5s              # deleted to gone, at most the grace period
      completion: 10s-1m       # of containers of Jobs' pods
    failures:                  # shares, 0 to 1
      ready: 0.01              # of container instances with a readiness probe: never ready
      imagePull: 0.01
      crash: 0.02              # of container instances, each after:
      crashAfter: 5s-1m
    outages:                   # nodes fall silent and come back
      after: 30m-2h
      duration: 1m-5m

A file with a mistake is refused with the path of the field before anything starts.";

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Hollow nodes")]
pub struct HollowOptions {
    /// Simulate this many nodes, whose pods become Running without containers; implies --no-node.
    #[arg(long, value_name = "N")]
    pub hollow_nodes: Option<u32>,
    /// Groups of simulated nodes (YAML or JSON; --help shows the fields); implies --no-node.
    #[arg(long, value_name = "FILE", long_help = CONFIG_HELP)]
    hollow_config: Option<PathBuf>,
    /// What each has: cpu=32,memory=256Gi,pods=110,example.com/gpu=8.
    #[arg(long, value_name = "NAME=QUANTITY", value_delimiter = ',', conflicts_with = "hollow_config")]
    #[arg(requires = "hollow_nodes")]
    hollow_capacity: Vec<String>,
    /// Labels each registers with.
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', conflicts_with = "hollow_config")]
    #[arg(requires = "hollow_nodes")]
    hollow_labels: Vec<String>,
    /// Taints each registers with.
    #[arg(long, value_name = "KEY=VALUE:EFFECT", value_delimiter = ',', conflicts_with = "hollow_config")]
    #[arg(requires = "hollow_nodes")]
    hollow_taints: Vec<String>,
    /// Zones, taken in turn.
    #[arg(long, value_name = "ZONE", value_delimiter = ',', conflicts_with = "hollow_config")]
    #[arg(requires = "hollow_nodes")]
    hollow_zones: Vec<String>,
    /// How long things take: start=500ms-3s,init=1s,ready=2s,stop=1s-5s,completion=10s-1m;
    /// 0 by default.
    #[arg(long, value_name = "WHAT=DURATION", value_delimiter = ',', conflicts_with = "hollow_config")]
    #[arg(requires = "hollow_nodes")]
    hollow_latencies: Vec<String>,
    /// Shares that fail: imagePull=0.01,crash=0.02,crashAfter=5s-1m,ready=0.01.
    #[arg(long, value_name = "WHAT=SHARE", value_delimiter = ',', conflicts_with = "hollow_config")]
    #[arg(requires = "hollow_nodes")]
    hollow_failures: Vec<String>,
}

impl HollowOptions {
    /// Nodes are simulated.
    pub fn are_wanted(&self) -> bool {
        self.hollow_config.is_some() || self.hollow_nodes.is_some_and(|count| count > 0)
    }

    /// What is asked for, if anything; a mistake is refused with the path of each field.
    pub fn config(&self, pod_cidr: IpNet) -> Result<Option<Config>, Failure> {
        if !self.are_wanted() {
            return Ok(None);
        }
        let total = self.hollow_nodes.unwrap_or(0);
        let Some(path) = &self.hollow_config else {
            let flags: [(&str, &[String]); 6] = [
                ("capacity", &self.hollow_capacity),
                ("labels", &self.hollow_labels),
                ("taints", &self.hollow_taints),
                ("zones", &self.hollow_zones),
                ("latencies", &self.hollow_latencies),
                ("failures", &self.hollow_failures),
            ];
            return hollow::from_flags(total, &flags, pod_cidr).map(Some).map_err(Failure::new);
        };
        let named = |what: String| {
            let lines = what.lines().map(|line| format!("--hollow-config {}: {line}", path.display()));
            Failure::new(lines.collect::<Vec<_>>().join("\n"))
        };
        let text = std::fs::read_to_string(path).map_err(|error| named(error.to_string()))?;
        hollow::parse(&text, total, pod_cidr).map(Some).map_err(named)
    }
}

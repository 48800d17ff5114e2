use std::fmt::Write;
use std::sync::Arc;

use amphipod_client::CachedPod;
use amphipod_scheduler::Profile;
use amphipod_scheduler::why::{Asked, Cluster, change_nodes, change_requests, explain, waits};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::*;

const TRANSCRIPT: &str = include_str!("transcript.txt");
const PLACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/why/transcript.txt");

fn node(name: &str, zone: &str, cpu: &str, extra: Value) -> Arc<Node> {
    let labels = json!({"kubernetes.io/hostname": name, "zone": zone});
    let room = json!({"cpu": cpu, "memory": "16384256Ki", "pods": "110"});
    let node =
        json!({"metadata": {"name": name, "labels": labels}, "spec": extra, "status": {"allocatable": room}});
    Arc::new(serde_json::from_value(node).unwrap())
}

fn pod(name: &str, cpu: &str, memory: &str, extra: Value) -> Pod {
    let requests = json!({"cpu": cpu, "memory": memory});
    let mut spec = json!({"schedulerName": "default-scheduler", "containers": [{"name": "c", "resources": {"requests": requests}}]});
    for (key, value) in extra.as_object().unwrap() {
        spec[key] = value.clone();
    }
    let meta = json!({"name": name, "namespace": "shop", "labels": {"app": name}});
    serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap()
}

/// Two zones; one node full of a database and a batch job, two for GPUs, one cordoned.
fn shop() -> Cluster {
    let gpu = json!({"taints": [{"key": "gpu", "effect": "NoSchedule"}]});
    let nodes = vec![
        node("node-1", "a", "4", json!({})),
        node("node-2", "b", "4", json!({"unschedulable": true})),
        node("node-3", "a", "8", gpu.clone()),
        node("node-4", "b", "8", gpu),
    ];
    let on = |name: &str, node: &str, cpu: &str, priority: i32| {
        let pod = pod(name, cpu, "2Gi", json!({"nodeName": node, "priority": priority}));
        Arc::new(CachedPod::from(pod))
    };
    let pods =
        vec![on("batch", "node-1", "1500m", 0), on("db", "node-1", "2", 1000), on("web", "node-2", "1", 0)];
    Cluster { nodes, pods, ..Cluster::default() }
}

fn told(words: &str) -> String {
    let line = std::iter::once("kubectl").chain(words.split_whitespace());
    let crate::Command::Why(args) = <crate::Cli as clap::Parser>::try_parse_from(line).unwrap().command
    else {
        panic!("{words}")
    };
    let mut pod = match args.resource[1].as_str() {
        "api" => pod("api", "750m", "1Gi", json!({})),
        "checkout" => pod("checkout", "750m", "1Gi", json!({"priority": 500})),
        "render" => pod("render", "6", "4Gi", json!({"tolerations": [{"key": "gpu", "operator": "Exists"}]})),
        "gated" => pod("gated", "100m", "64Mi", json!({"schedulingGates": [{"name": "example.com/budget"}]})),
        _ => pod("web", "1", "2Gi", json!({"nodeName": "node-2"})),
    };
    let (changes, mut cluster) = (args.changes().unwrap(), shop());
    let mut assumed = change_requests(&mut pod, &changes.requests);
    assumed.extend(change_nodes(&mut cluster, &changes).unwrap());
    let waits_for = waits(&pod, &[], true);
    let node = pod.spec.as_mut().and_then(|spec| spec.node_name.take());
    let mut snapshot = cluster.snapshot();
    let info = Arc::new(snapshot.catalogue.pod(&CachedPod::from(pod)));
    let asked = Asked { node, waits_for, assumed, ..Asked::default() };
    text::of(&explain(&mut snapshot, vec![Profile::default()], &info, asked))
}

/// `UPDATE_TRANSCRIPTS=1` writes it anew; read the difference as whoever asks before committing it.
#[test]
fn what_people_read() {
    let commands = TRANSCRIPT.lines().filter_map(|line| line.strip_prefix("$ amphipod "));
    let mut found = String::new();
    for command in commands {
        let _ = writeln!(found, "$ amphipod {command}\n{}", told(command));
    }
    if std::env::var_os("UPDATE_TRANSCRIPTS").is_some() {
        std::fs::write(PLACE, &found).unwrap();
        return;
    }
    assert_eq!(found, TRANSCRIPT, "UPDATE_TRANSCRIPTS=1 writes it anew");
}

#[test]
fn flags_that_cannot_be_read_are_refused() {
    assert_eq!(taint("n1:a.io/k=v:NoSchedule").unwrap().taint.key, "a.io/k");
    assert_eq!(taint("n1:k:NoExecute").unwrap().taint.value, "");
    assert_eq!(taint("k=v").unwrap_err().to_string(), "error: --taint: \"k=v\" is not NODE:KEY=VALUE:EFFECT");
    let args =
        <crate::Cli as clap::Parser>::try_parse_from(["kubectl", "why", "pod", "a", "--requests", "cpu"]);
    let crate::Command::Why(args) = args.unwrap().command else { panic!("another command") };
    assert_eq!(args.changes().unwrap_err().to_string(), "error: --requests: \"cpu\" is not RESOURCE=AMOUNT");
    let alone = <crate::Cli as clap::Parser>::try_parse_from(["kubectl", "why", "pod", "a", "--like", "n"]);
    assert!(alone.is_err(), "--like needs --add-nodes");
}

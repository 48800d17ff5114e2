//! Hollow nodes as a person meets them: described in a file or by flags, looked at with kubectl.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;
use support::{AMPHIPOD, Cluster, eventually, text};

const NODES: &str = "
apiVersion: hollow.amphipod.io/v1alpha1
kind: HollowConfiguration
seed: 7
events: true
nodes:
- namePrefix: general-
  zones: [east, west]
  region: north
  labels: {pool: general}
  latencies: {start: 50ms-100ms, stop: 50ms, completion: 50ms}
- count: 1
  namePrefix: gpu-
  capacity: {cpu: 8, example.com/gpu: 4}
  allocatable: {cpu: 7500m}
  labels: {pool: gpu}
  taints: [{key: example.com/gpu, value: present, effect: NoSchedule}]
- count: 1
  namePrefix: frail-
  labels: {pool: frail}
  taints: [{key: frail, effect: NoSchedule}]
  failures: {crash: 1, crashAfter: 10ms}
- count: 1
  namePrefix: offline-
  labels: {pool: offline}
  taints: [{key: offline, effect: NoSchedule}]
  failures: {imagePull: 1}
";

/// One pod for the nodes of a pool.
fn pod(pool: &str, container: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {pool}}}\nspec:\n  nodeSelector: {{pool: {pool}}}\n  \
         tolerations: [{{operator: Exists}}]\n  containers: [{{name: a, image: 'registry.example/a:1'{container}}}]\n"
    )
}

#[test]
fn mistakes_are_refused_before_anything_starts() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("nodes.yaml");
    let path = file.to_str().unwrap();
    std::fs::write(&file, "nodes: [{count: 1, capacity: {cpu: lots}, taint: []}]").unwrap();
    let data = directory.path().join("data");
    for (flags, expected) in [
        (
            vec!["--hollow-config", path],
            vec![
                format!("error: --hollow-config {path}: nodes[0].taint: Forbidden: unknown field"),
                format!("error: --hollow-config {path}: nodes[0].capacity[cpu]: Invalid value: \"lots\""),
            ],
        ),
        (
            vec!["--hollow-config", "/nonexistent"],
            vec!["error: --hollow-config /nonexistent: No such file".to_owned()],
        ),
        (
            vec!["--hollow-nodes", "2", "--hollow-latencies", "start=soon"],
            vec!["error: --hollow-latencies.start: Invalid value: \"soon\": must be a duration".to_owned()],
        ),
        (vec!["--hollow-zones", "a"], vec!["--hollow-nodes".to_owned()]),
    ] {
        let output =
            Command::new(AMPHIPOD).arg("up").args(&flags).arg("--data-dir").arg(&data).output().unwrap();
        let said = text(&output);
        assert!(!output.status.success(), "{flags:?}: {said}");
        for expected in expected {
            assert!(said.contains(&expected), "{flags:?}: {said}");
        }
        assert!(!data.exists(), "{flags:?}: something was started");
    }
}

#[test]
fn nodes_and_pods_are_as_described() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("nodes.yaml");
    std::fs::write(&file, NODES).unwrap();
    let cluster =
        Cluster::up(&["--no-node", "--hollow-nodes", "7", "--hollow-config", file.to_str().unwrap()]);

    let nodes = cluster.run(&["get", "nodes", "--no-headers"]);
    assert_eq!(nodes.lines().filter(|line| line.contains(" Ready ")).count(), 7, "{nodes}");
    let west = cluster.run(&["get", "nodes", "-o", "name", "-l", "topology.kubernetes.io/zone=west"]);
    assert_eq!(west, "node/general-1\nnode/general-3\n");
    let gpu = cluster.json(&["get", "node", "gpu-0"]);
    assert_eq!(gpu["status"]["capacity"]["example.com/gpu"], "4");
    assert_eq!(gpu["status"]["allocatable"]["cpu"], "7500m");
    assert_eq!(gpu["spec"]["taints"][0]["key"], "example.com/gpu");
    let leases = cluster.run(&["get", "leases", "-n", "kube-node-lease", "-o", "name"]);
    assert_eq!(leases.lines().count(), 7);

    cluster.run(&["create", "deployment", "web", "--image=registry.example/web:1", "--replicas=12"]);
    cluster.run(&["rollout", "status", "deployment/web", "--timeout=120s"]);
    let pods = cluster.json(&["get", "pods"]);
    let items = pods["items"].as_array().unwrap();
    let on_general = |pod: &Value| pod["spec"]["nodeName"].as_str().unwrap().starts_with("general-");
    assert!(items.len() == 12 && items.iter().all(on_general), "the others are tainted");
    let pods = cluster.run(&["get", "--raw", "/api/v1/namespaces/default/pods?labelSelector=app=web"]);
    let pods: Value = serde_json::from_str(&pods).unwrap();
    let fields = pods["items"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|pod| pod["metadata"]["managedFields"].as_array().unwrap());
    let managers: BTreeSet<_> = fields.map(|entry| entry["manager"].as_str().unwrap()).collect();
    assert_eq!(
        managers,
        BTreeSet::from(["kube-controller-manager", "kubelet"]),
        "they have upstream's names"
    );

    cluster.apply(&pod("gpu", ", resources: {limits: {example.com/gpu: 3}}"));
    cluster.run(&["wait", "pod/gpu", "--for=condition=Ready", "--timeout=60s"]);
    cluster.apply(&pod("frail", ""));
    cluster.expect(&["get", "pod", "frail"], "CrashLoopBackOff", 60);
    assert_eq!(cluster.json(&["get", "pod", "frail"])["status"]["containerStatuses"][0]["restartCount"], 1);
    cluster.apply(&pod("offline", ""));
    cluster.expect(&["get", "pod", "offline"], "ImagePullBackOff", 60);
    cluster.expect(&["get", "events"], "Failed to pull image \"registry.example/a:1\"", 60);

    cluster.run(&["create", "job", "work", "--image=registry.example/work:1"]);
    cluster.run(&["wait", "job/work", "--for=condition=Complete", "--timeout=60s"]);
    cluster.run(&["delete", "pod", "gpu", "frail", "offline", "--timeout=60s"]);
    cluster.run(&["delete", "deployment", "web"]);
    eventually("the pods to be gone", 60, || {
        let seen = cluster.run(&["get", "pods", "-o", "name", "-l", "app=web"]);
        if seen.is_empty() { Ok(()) } else { Err(seen) }
    });
    assert!(cluster.status().contains("7 of 7 Ready"), "{}", cluster.status());
}

/// Where each pod is, by uid; those without a node are left out.
fn placed(cluster: &Cluster) -> BTreeMap<String, String> {
    let pods = cluster.json(&["get", "pods"]);
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let at = |pod: &Value| Some((text(&pod["metadata"]["uid"])?, text(&pod["spec"]["nodeName"])?));
    pods["items"].as_array().unwrap().iter().filter_map(at).collect()
}

#[test]
fn kills_while_pods_are_bound_move_none_and_overfill_no_node() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("nodes.yaml");
    std::fs::write(&file, "nodes: [{count: 40, capacity: {cpu: 2}}]").unwrap();
    let cluster = Cluster::up(&["--no-node", "--hollow-config", file.to_str().unwrap()]);
    // Of 500 there is room for 400.
    cluster.apply(
        "apiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {name: web}\nspec:\n  replicas: 500\n  \
         selector: {matchLabels: {app: web}}\n  template:\n    metadata: {labels: {app: web}}\n    \
         spec: {containers: [{name: a, image: 'registry.example/a:1', resources: {requests: {cpu: 200m}}}]}\n",
    );
    let mut known = BTreeMap::new();
    for _ in 0..3 {
        eventually("more pods to be bound", 60, || {
            let now = placed(&cluster);
            let more = now.len() > known.len() || now.len() == 400;
            known = now;
            if more { Ok(()) } else { Err(format!("{} pods", known.len())) }
        });
        cluster.kill();
        cluster.start();
    }
    let full = eventually("the nodes to be full", 120, || {
        let now = placed(&cluster);
        if now.len() >= 400 { Ok(now) } else { Err(format!("{} pods", now.len())) }
    });
    for (uid, node) in &known {
        assert_eq!(full.get(uid), Some(node), "{uid} was moved");
    }
    let mut on: BTreeMap<&str, usize> = BTreeMap::new();
    full.values().for_each(|node| *on.entry(node).or_default() += 1);
    assert!(on.len() == 40 && on.values().all(|pods| *pods == 10), "{on:?}");
}

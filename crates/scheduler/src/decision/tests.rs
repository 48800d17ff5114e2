use std::collections::BTreeMap;

use super::*;
use amphipod_client::{CachedPod, Resource};
use serde_json::{Value, json};

fn cluster(nodes: &[Value]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for (index, extra) in nodes.iter().enumerate() {
        let mut node = json!({
            "metadata": {"name": format!("n{index}"), "labels": {"kubernetes.io/hostname": format!("n{index}"), "zone": "a"}},
            "spec": {},
            "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "3"}},
        });
        for (key, value) in extra.as_object().unwrap() {
            node["spec"][key] = value.clone();
        }
        snapshot.set_node(&serde_json::from_value(node).unwrap());
    }
    snapshot
}
fn asking(cpu: &str) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]})
}
fn object(name: &str, spec: Value) -> CachedPod {
    let meta = json!({"name": name, "namespace": "ns", "labels": {"app": "web"}});
    CachedPod::decode(json!({"metadata": meta, "spec": spec}).to_string().as_bytes()).unwrap()
}
fn place(snapshot: &mut Snapshot, name: &str, mut spec: Value, node: &str) {
    spec["nodeName"] = node.into();
    snapshot.set_pod(&object(name, spec));
}
fn decide(snapshot: &mut Snapshot, name: &str, spec: Value) -> Decision {
    let pod = Arc::new(snapshot.catalogue.pod(&object(name, spec)));
    let decision = Scheduler::new(vec![Profile::default()]).decide(snapshot, &pod, 0);
    snapshot.denominate(&pod.key);
    decision
}
fn reasons(snapshot: &mut Snapshot, spec: Value) -> String {
    match decide(snapshot, "p", spec) {
        Decision::Node(slot) => snapshot.name(slot).to_owned(),
        Decision::Unschedulable(unschedulable) => unschedulable.explanation.message(),
    }
}

/// A cluster for the texts: `n0` holds a pod of priority 5, `n1` is cordoned, `n2` tainted.
fn mixed() -> Snapshot {
    let taint = json!({"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]});
    let mut snapshot = cluster(&[json!({}), json!({"unschedulable": true}), taint]);
    let mut spec = asking("1500m");
    spec["priority"] = 5.into();
    spec["containers"][0]["ports"] = json!([{"containerPort": 80, "hostPort": 80}]);
    place(&mut snapshot, "there", spec, "n0");
    snapshot
}
const HOPELESS: &str = "no new claims to deallocate, preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.";
const NO_VICTIMS: &str = "no new claims to deallocate, preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling.";

#[test]
fn refusals_are_counted_in_kubernetes_words() {
    let elsewhere = "1 node(s) had untolerated taint(s), 1 node(s) were unschedulable";
    let cases: Vec<(&str, Value, String)> = vec![
        (
            "more than any node has",
            json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "3", "memory": "9Gi"}}}]}),
            format!("1 Insufficient cpu, 1 Insufficient memory, {elsewhere}. {HOPELESS}"),
        ),
        ("a full node", asking("1"), format!("1 Insufficient cpu, {elsewhere}. {NO_VICTIMS}")),
        (
            "a taken port",
            json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 80}]}]}),
            format!(
                "1 node(s) didn't have free ports for the requested pod ports, {elsewhere}. {NO_VICTIMS}"
            ),
        ),
        (
            "a selector",
            json!({"containers": [], "nodeSelector": {"zone": "b"}}),
            format!("1 node(s) didn't match Pod's node affinity/selector, {elsewhere}. {HOPELESS}"),
        ),
        (
            "claims of devices",
            json!({"containers": [], "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "gpu"}]}),
            format!("pod \"ns/p\": ResourceClaim not created yet. {HOPELESS}"),
        ),
        (
            "a named node",
            by_name(&[json!(["n1"])], asking("1")),
            format!(
                "1 node(s) were unschedulable, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]. {HOPELESS}"
            ),
        ),
        (
            "names that exclude each other",
            by_name(&[json!(["n0"]), json!(["n1"])], asking("1")),
            format!("pod affinity terms conflict. {HOPELESS}"),
        ),
    ];
    for (name, spec, expected) in cases {
        assert_eq!(reasons(&mut mixed(), spec), format!("0/3 nodes are available: {expected}"), "{name}");
    }
    assert_eq!(reasons(&mut Snapshot::default(), asking("1")), "no nodes available to schedule pods");
}

/// Required affinity for nodes of these names, all of them at once.
fn by_name(names: &[Value], mut spec: Value) -> Value {
    let fields: Vec<Value> = names
        .iter()
        .map(|names| json!({"key": "metadata.name", "operator": "In", "values": names}))
        .collect();
    spec["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        {"nodeSelectorTerms": [{"matchFields": fields}]}}});
    spec
}

#[test]
fn what_preemption_would_come_to() {
    let elsewhere = "1 node(s) had untolerated taint(s), 1 node(s) were unschedulable";
    let asking = |cpu: &str, priority: i32, policy: &str| {
        let mut spec = asking(cpu);
        (spec["priority"], spec["preemptionPolicy"]) = (priority.into(), policy.into());
        spec
    };
    let lower = "PreemptLowerPriority";
    let cases = [
        ("less important", asking("1", 5, lower), NO_VICTIMS.to_owned()),
        (
            "never",
            asking("1", 9, "Never"),
            "no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never.".to_owned(),
        ),
        // It would help: nothing is said against it.
        ("helps", asking("1", 9, lower), String::new()),
    ];
    for (name, spec, expected) in cases {
        let text = format!("0/3 nodes are available: 1 Insufficient cpu, {elsewhere}. {expected}");
        assert_eq!(reasons(&mut mixed(), spec), text.trim_end(), "{name}");
    }
    // One victim there is, but a pod that matters as much stays in the way.
    let mut snapshot = mixed();
    let mut other = asking("400m", 9, lower);
    other["containers"][0]["ports"] = json!([{"containerPort": 80, "hostPort": 81}]);
    place(&mut snapshot, "stays", other, "n0");
    let mut wants_port = asking("1", 9, lower);
    wants_port["containers"][0]["ports"] = json!([{"containerPort": 80, "hostPort": 81}]);
    assert_eq!(
        reasons(&mut snapshot, wants_port),
        format!(
            "0/3 nodes are available: 1 node(s) didn't have free ports for the requested pod ports, {elsewhere}. \
            no new claims to deallocate, preemption: 0/3 nodes are available: \
            1 node(s) didn't have free ports for the requested pod ports, 2 Preemption is not helpful for scheduling."
        )
    );
}

#[test]
fn a_trial_counts_without_the_victims_and_leaves_no_trace() {
    let term =
        json!([{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]);
    let spread = json!([{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]);
    let mut apart = asking("1m");
    apart["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}});
    let mut even = asking("1m");
    even["topologySpreadConstraints"] = spread;
    for (spec, reason) in [
        (apart, "node(s) didn't match pod anti-affinity rules"),
        (even, "node(s) didn't match pod topology spread constraints"),
    ] {
        // `n0` has the only such pod; `n1` is cordoned, so an even spread needs it gone as well.
        let mut snapshot = cluster(&[json!({}), json!({"unschedulable": true})]);
        place(&mut snapshot, "a", asking("1m"), "n0");
        let refused = format!("0/2 nodes are available: 1 {reason}, 1 node(s) were unschedulable.");
        let same = reasons(&mut snapshot, spec.clone());
        assert!(same.starts_with(&refused) && same.contains("1 No preemption victims found"), "{same}");
        let mut important = spec;
        important["priority"] = 1.into();
        assert_eq!(reasons(&mut snapshot, important.clone()), refused, "the trial succeeds");
    }
}

#[test]
fn pods_of_one_service_spread_and_capacity_is_never_exceeded() {
    let mut snapshot = cluster(&[json!({}), json!({}), json!({})]);
    let service = json!({"metadata": {"name": "s", "namespace": "ns"}, "spec": {"selector": {"app": "web"}}});
    let Snapshot { catalogue, workloads, .. } = &mut snapshot;
    workloads.set_service(catalogue, &serde_json::from_value(service).unwrap());
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for index in 0..9 {
        let name = format!("p{index}");
        match decide(&mut snapshot, &name, asking("100m")) {
            Decision::Node(slot) => {
                let node = snapshot.name(slot).to_owned();
                *counts.entry(node.clone()).or_insert(0) += 1;
                place(&mut snapshot, &name, asking("100m"), &node);
            }
            Decision::Unschedulable(why) => panic!("{}", why.explanation.message()),
        }
        let (most, least) = (counts.values().max().unwrap(), counts.values().min().unwrap());
        assert!(index < 2 || most - least <= 1, "{counts:?}");
    }
    let victims =
        NO_VICTIMS.replace("1 No", "3 No").replace(", 2 Preemption is not helpful for scheduling", "");
    assert_eq!(
        reasons(&mut snapshot, asking("0")),
        format!("0/3 nodes are available: 3 Too many pods. {victims}")
    );
}

#[test]
fn anti_affinity_holds_both_ways_and_the_first_of_a_group_starts() {
    let mut snapshot = cluster(&[json!({}), json!({})]);
    let term =
        json!([{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]);
    let mut apart = asking("1m");
    apart["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}});
    for (index, node) in ["n0", "n1"].into_iter().enumerate() {
        place(&mut snapshot, &format!("a{index}"), apart.clone(), node);
    }
    for (spec, rule) in [
        (apart, "node(s) didn't match pod anti-affinity rules"),
        (asking("1m"), "node(s) didn't satisfy existing pods anti-affinity rules"),
    ] {
        let text = reasons(&mut snapshot, spec);
        assert!(text.starts_with(&format!("0/2 nodes are available: 2 {rule}. ")), "{text}");
    }
    let mut together = asking("1m");
    together["affinity"] = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}});
    assert_eq!(reasons(&mut cluster(&[json!({})]), together), "n0");
}

#[test]
fn hard_topology_spread_keeps_the_skew() {
    let mut snapshot = cluster(&[json!({}), json!({})]);
    let mut spec = asking("1m");
    spec["topologySpreadConstraints"] = json!([{
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}},
    }]);
    place(&mut snapshot, "a", spec.clone(), "n0");
    assert_eq!(reasons(&mut snapshot, spec), "n1");
}

#[test]
fn plugins_are_asked_of_nodes_that_changed_only_and_each_time_is_counted() {
    let mut snapshot = cluster(&[json!({}), json!({}), json!({"unschedulable": true})]);
    let mut scheduler = Scheduler::new(vec![Profile::default()]);
    let times = |scheduler: &Scheduler, plugin: &str| -> Vec<(&str, u64)> {
        let all = scheduler.take_evaluations();
        assert!(all.iter().all(|evaluated| evaluated.profile == "default-scheduler"));
        let of_plugin = all.into_iter().filter(|evaluated| evaluated.plugin == plugin);
        of_plugin.map(|evaluated| (evaluated.point, evaluated.times)).collect()
    };
    let mut decide = |scheduler: &mut Scheduler, name: &str| {
        let pod = Arc::new(snapshot.catalogue.pod(&object(name, asking("1"))));
        let Decision::Node(slot) = scheduler.decide(&mut snapshot, &pod, 0) else { panic!("no node") };
        snapshot.place(&pod, slot);
    };
    decide(&mut scheduler, "first");
    assert_eq!(times(&scheduler, "NodeResourcesFit"), [("Filter", 2), ("Score", 2)], "one is refused before");
    decide(&mut scheduler, "second");
    assert_eq!(times(&scheduler, "NodeResourcesFit"), [("Filter", 1), ("Score", 1)], "the one that changed");
    decide(&mut scheduler, "third");
    let successor = Scheduler::new(vec![Profile::default()]);
    successor.inherit(&scheduler);
    assert_eq!(times(&scheduler, "NodeUnschedulable"), []);
    assert_eq!(times(&successor, "NodeUnschedulable"), [("Filter", 1)]);
    decide(&mut scheduler, "fourth");
    assert_eq!(times(&scheduler, "NodeAffinity"), [("PreFilter", 1), ("Filter", 1), ("Score", 1)]);
}

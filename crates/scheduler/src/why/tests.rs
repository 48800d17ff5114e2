use std::collections::BTreeMap;

use amphipod_api::scheduling_review::{Changes, Outcome};
use amphipod_client::CachedPod;
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use serde_json::{Value, json};

use super::*;
use crate::why::waits::Claim;

fn node(name: &str, extra: Value) -> Arc<Node> {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "zone": "a"}},
        "spec": {},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "3"}},
    });
    for (part, fields) in extra.as_object().unwrap() {
        for (key, value) in fields.as_object().unwrap() {
            node[part][key] = value.clone();
        }
    }
    Arc::new(serde_json::from_value(node).unwrap())
}
fn asking(cpu: &str, memory: &str) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]})
}
fn with(mut spec: Value, extra: Value) -> Value {
    for (key, value) in extra.as_object().unwrap() {
        spec[key] = value.clone();
    }
    spec
}
fn pod(name: &str, spec: Value) -> Pod {
    let meta = json!({"name": name, "namespace": "shop", "labels": {"app": "web"}});
    let spec = with(json!({"schedulerName": "default-scheduler"}), spec);
    serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap()
}
fn placed(name: &str, node: &str, spec: Value) -> Arc<CachedPod> {
    Arc::new(pod(name, with(spec, json!({"nodeName": node}))).into())
}

/// `n1` is nearly full of pods that matter little and much, `n2` is cordoned, `n3` is for others.
fn shop() -> Cluster {
    let taints = json!({"spec": {"taints": [{"key": "for", "value": "others", "effect": "NoSchedule"}]}});
    Cluster {
        nodes: vec![
            node("n1", json!({})),
            node("n2", json!({"spec": {"unschedulable": true}})),
            node("n3", taints),
        ],
        pods: vec![
            placed("batch", "n1", asking("1", "1Gi")),
            placed("db", "n1", with(asking("500m", "1Gi"), json!({"priority": 1000}))),
        ],
        ..Cluster::default()
    }
}

fn ask(cluster: &Cluster, mut pod: Pod, assumed: Vec<String>) -> Status {
    let waits_for = waits(&pod, &[], true);
    let node = pod.spec.as_mut().and_then(|spec| spec.node_name.take());
    let mut snapshot = cluster.snapshot();
    let pod = CachedPod::from(pod);
    let info = Arc::new(snapshot.catalogue.pod(&pod));
    let written = crate::pod::written(&mut snapshot.catalogue.resources, &pod);
    let asked = Asked { node, nominated: None, waits_for, written, assumed };
    explain(&mut snapshot, vec![Profile::default()], &info, asked)
}
fn near(status: &Status) -> (&str, &str) {
    let miss = status.nearest_miss.as_ref().unwrap();
    (&miss.summary, miss.without.as_ref().map_or("", |without| &without.summary))
}

#[test]
fn absurd_amounts_are_told_as_they_were_written() {
    let status = ask(&shop(), pod("web", asking("100m", "7Ei")), Vec::new());
    assert_eq!(status.pod.requests["memory"], "7Ei");
    assert_eq!(near(&status).0, "n1 would take the pod if it had 7Ei memory in all (it has 4Gi)");
    let told = status.groups.iter().flat_map(|group| &group.plugins).flat_map(|plugin| &plugin.shortages);
    let shortage = told.clone().next().unwrap();
    // The first node has 2Gi free.
    assert_eq!((shortage.requested.as_str(), shortage.missing.as_str()), ("7Ei", "7516192766Gi"));
    assert!(told.clone().all(|shortage| shortage.requested == "7Ei"));
}

#[test]
fn the_nearest_miss_in_numbers() {
    let spread = json!([{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}}, "minDomains": 2}]);
    let apart = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        [{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]}});
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms":
        [{"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd", "nvme"]}]}]}}});
    let cases = [
        (
            "too little room, among equals",
            asking("750m", "2500Mi"),
            "n1 would take the pod if 250m more cpu were free and 452Mi more memory were free",
            "without shop/batch it would do, but the scheduler will not preempt: priority 0 is not above 0",
        ),
        (
            "one that matters more",
            with(asking("750m", "1Gi"), json!({"priority": 10})),
            "n1 would take the pod if 250m more cpu were free",
            "preempting shop/batch would do",
        ),
        (
            "one that may not preempt",
            with(asking("750m", "1Gi"), json!({"priority": 10, "preemptionPolicy": "Never"})),
            "n1 would take the pod if 250m more cpu were free",
            "without shop/batch it would do, but the scheduler will not preempt: the pod's preemptionPolicy is Never",
        ),
        (
            "more than any node has",
            asking("3", "1Gi"),
            "n1 would take the pod if it had 3 cpu in all (it has 2)",
            "",
        ),
        (
            "a label",
            with(asking("100m", "1Mi"), json!({"nodeSelector": {"zone": "b"}})),
            "n1 would take the pod if it were labelled zone=b",
            "",
        ),
        (
            "node affinity",
            with(asking("100m", "1Mi"), json!({"affinity": affinity})),
            "n1 would take the pod if the pod's node affinity did not ask for disk in (ssd, nvme)",
            "",
        ),
        (
            "spreading",
            with(asking("100m", "1Mi"), json!({"topologySpreadConstraints": spread})),
            "n1 would take the pod if 2 of the 2 matching pods in zone=a were elsewhere",
            "without shop/db and shop/batch it would do, but the scheduler will not preempt: priority 0 is not above \
             1000",
        ),
        (
            "apart from its like",
            with(asking("100m", "1Mi"), json!({"affinity": apart, "priority": 2000})),
            "n1 would take the pod if no pod its anti-affinity excludes ran on the node",
            "preempting shop/db and shop/batch would do",
        ),
    ];
    for (name, spec, miss, without) in cases {
        let status = ask(&shop(), pod("web", spec), Vec::new());
        assert_eq!(near(&status), (miss, without), "{name}");
    }
}

#[test]
fn several_things_missing_at_once() {
    let port = json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}],
        "resources": {"requests": {"cpu": "1"}}}]});
    let mut cluster = shop();
    cluster.pods.push(placed("proxy", "n1", port.clone()));
    cluster.pods[0] = placed("batch", "n1", asking("0", "0"));
    let status = ask(&cluster, pod("web", port), Vec::new());
    assert_eq!(
        near(&status).0,
        "n1 would take the pod if host port 80/TCP were free, it had room for one pod more (it takes 3) and 500m \
         more cpu were free"
    );
}

/// What is said to be missing is what is missing: asking for so much less, the pod fits.
#[test]
fn the_numbers_are_right() {
    let status = ask(&shop(), pod("web", asking("750m", "2500Mi")), Vec::new());
    let plugins = &status.nearest_miss.as_ref().unwrap().plugins;
    let shortages = plugins.iter().flat_map(|plugin| &plugin.shortages);
    let missing: BTreeMap<&str, &str> =
        shortages.map(|s| (s.resource.as_str(), s.missing.as_str())).collect();
    assert_eq!(missing, BTreeMap::from([("cpu", "250m"), ("memory", "452Mi")]));
    for (cpu, memory, fits) in
        [("500m", "2048Mi", true), ("501m", "2048Mi", false), ("500m", "2049Mi", false)]
    {
        let mut changed = pod("web", asking("750m", "2500Mi"));
        let requests = [("cpu", cpu), ("memory", memory)].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let assumed = change_requests(&mut changed, &requests);
        assert_eq!(assumed, [format!("the pod asks for {cpu} cpu and {memory} memory")]);
        assert_eq!(ask(&shop(), changed, assumed).outcome == Outcome::Fits, fits, "{cpu} {memory}");
    }
}

#[test]
fn every_plugin_is_heard_and_like_nodes_are_told_together() {
    let mut cluster = shop();
    cluster
        .nodes
        .extend((10..13).map(|number| node(&format!("n{number}"), json!({"spec": {"unschedulable": true}}))));
    let status = ask(&cluster, pod("web", asking("3", "1Gi")), Vec::new());
    let groups: Vec<String> = status
        .groups
        .iter()
        .map(|group| {
            let refusing = group.plugins.iter().filter(|plugin| !plugin.passes);
            let told =
                refusing.map(|p| format!("{} {:?} {:?}", p.name, p.reasons, p.details)).collect::<Vec<_>>();
            format!("{}: {}", group.names.join(" "), told.join("; "))
        })
        .collect();
    assert_eq!(
        groups,
        [
            r#"n1: NodeResourcesFit ["Insufficient cpu"] []"#,
            r#"n2 n10 n11 n12: NodeUnschedulable ["node(s) were unschedulable"] ["cordoned"]; NodeResourcesFit ["Insufficient cpu"] []"#,
            r#"n3: TaintToleration ["node(s) had untolerated taint(s)"] ["taint for=others:NoSchedule"]; NodeResourcesFit ["Insufficient cpu"] []"#,
        ]
    );
    let free = &status.groups[0].plugins.iter().find(|plugin| !plugin.passes).unwrap().shortages[0];
    let told =
        (&*free.requested, &*free.least_free, &*free.most_free, &*free.most_allocatable, &*free.missing);
    assert_eq!(told, ("3", "500m", "500m", "2", "2500m"));
}

#[test]
fn the_answer_in_a_sentence() {
    let room = || Cluster { nodes: vec![node("n1", json!({})), node("n2", json!({}))], ..shop() };
    let one = asking("100m", "1Mi");
    let cases = [
        ("no nodes", Cluster::default(), one.clone(), "shop/web: no nodes available to schedule pods"),
        (
            "no room",
            shop(),
            asking("1", "1Gi"),
            "shop/web: no node takes it: 1 Insufficient cpu, 1 node(s) had untolerated taint(s), 1 node(s) were \
             unschedulable",
        ),
        (
            "room can be made",
            shop(),
            with(asking("1", "1Gi"), json!({"priority": 1})),
            "shop/web: no node takes it as things are, but on n1 preempting shop/batch would do",
        ),
        (
            "one will do",
            shop(),
            one.clone(),
            "shop/web: n1 would be chosen, the only one of 3 nodes that would take it",
        ),
        (
            "a better one",
            room(),
            one.clone(),
            "shop/web: n2 would be chosen, the best (score 494) of 2 that would take it",
        ),
        (
            "equals",
            Cluster { pods: Vec::new(), ..room() },
            one.clone(),
            "shop/web: one of 2 equally good nodes (score 494) would be chosen, such as n1; 2 of 2 nodes would take it",
        ),
        (
            "gates",
            shop(),
            with(one.clone(), json!({"schedulingGates": [{"name": "budget"}]})),
            "shop/web waits until its scheduling gates are taken away (\"budget\"); then n1 would be chosen, the only \
             one of 3 nodes that would take it",
        ),
        (
            "placed well",
            room(),
            with(one.clone(), json!({"nodeName": "n2"})),
            "shop/web is on n2, the best of 2 nodes that would take it (score 494)",
        ),
        (
            "placed worse than now possible",
            room(),
            with(one.clone(), json!({"nodeName": "n1"})),
            "shop/web is on n1; placed now, it would rather go to n2 (score 494 against 419)",
        ),
        (
            "placed before the node was cordoned",
            shop(),
            with(one, json!({"nodeName": "n2"})),
            "shop/web is on n2, which would not take it now; placed now, n1 would be chosen, the only one of 3 nodes \
             that would take it",
        ),
    ];
    for (name, cluster, spec, expected) in cases {
        assert_eq!(ask(&cluster, pod("web", spec), Vec::new()).summary, expected, "{name}");
    }
}

/// A pod that fills its node is not in its own way.
#[test]
fn a_placed_pod_is_explained_without_itself() {
    let mut cluster = Cluster { nodes: vec![node("n1", json!({}))], ..Cluster::default() };
    cluster.pods.push(placed("web", "n1", asking("2", "4Gi")));
    let status = ask(&cluster, pod("web", with(asking("2", "4Gi"), json!({"nodeName": "n1"}))), Vec::new());
    assert_eq!(status.outcome, Outcome::Placed);
    assert_eq!(status.summary, "shop/web is on n1, the only one of 1 node that takes it");
    assert!(status.ranking[0].current && status.ranking[0].rank == 1);
    let requests: Vec<&str> = status.pod.requests.values().map(String::as_str).collect();
    assert_eq!((requests, status.pod.node_name.as_deref()), (vec!["2", "4Gi"], Some("n1")));
}

#[test]
fn nodes_are_assumed_to_come_go_and_change() {
    let outcome = |changes: Value| {
        let changes: Changes = serde_json::from_value(changes).unwrap();
        let mut cluster = shop();
        let assumed = change_nodes(&mut cluster, &changes)
            .map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))?;
        let status = ask(&cluster, pod("web", asking("1", "1Gi")), assumed);
        Ok::<_, String>((
            status.assumed.join("; "),
            status.ranking.iter().map(|s| s.node_name.clone()).collect(),
        ))
    };
    let yes = |assumed: &str, nodes: &[&str]| {
        Ok((assumed.to_owned(), nodes.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()))
    };
    let cases = [
        (json!({}), yes("", &[])),
        (json!({"addNodes": [{"count": 2}]}), yes("2 nodes more, like n1", &["added-1", "added-2"])),
        (json!({"addNodes": [{"count": 1, "like": "n2"}]}), yes("1 node more, like n2", &["added-1"])),
        (json!({"addNodes": [{"count": 1, "like": "n3"}]}), yes("1 node more, like n3", &[])),
        (
            json!({"addNodes": [{"count": 1, "node": {"metadata": {"name": "x"},
                "status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "1"}}}}]}),
            yes("1 node more, as described", &["added-1"]),
        ),
        (json!({"uncordonNodes": ["n2"]}), yes("n2 uncordoned", &["n2"])),
        (
            json!({"uncordonNodes": ["n2"], "taintNodes":
                [{"nodeName": "n2", "taint": {"key": "k", "effect": "NoExecute"}}]}),
            yes("n2 uncordoned; n2 tainted k:NoExecute", &[]),
        ),
        (
            json!({"removeNodes": ["n1"], "cordonNodes": ["n3"]}),
            yes("n1 removed, with the pods there; n3 cordoned", &[]),
        ),
        (
            json!({"removeNodes": ["n9"], "addNodes": [{"count": 1, "like": "n8"}]}),
            Err("spec.changes.removeNodes[0]: Not found: \"n9\", spec.changes.addNodes[0].like: Not found: \"n8\"".to_owned()),
        ),
    ];
    for (changes, expected) in cases {
        assert_eq!(outcome(changes.clone()), expected, "{changes}");
    }
}

#[test]
fn what_a_pod_waits_for() {
    let claim = |name: &str, phase: &str| Claim {
        name: name.to_owned(),
        found: Some(
            serde_json::from_value::<PersistentVolumeClaim>(json!({"metadata": {"name": name},
            "status": {"phase": phase}}))
            .unwrap(),
        ),
        class: None,
    };
    let late = serde_json::from_value(json!({"metadata": {"name": "late"}, "provisioner": "p",
        "volumeBindingMode": "WaitForFirstConsumer"}));
    let claims = [
        claim("bound", "Bound"),
        claim("now", "Pending"),
        claim("lost", "Lost"),
        Claim { class: Some(late.unwrap()), ..claim("late", "Pending") },
        Claim { name: "none".to_owned(), ..Claim::default() },
    ];
    let spec = json!({"schedulerName": "other", "containers": [], "schedulingGates": [{"name": "g"}]});
    let mut asking = pod("web", spec);
    let status = json!({"nominatedNodeName": "n1", "conditions": [{"type": "PodScheduled", "status": "False",
        "reason": "Unschedulable", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
    asking.status = serde_json::from_value(status).unwrap();
    let told: Vec<String> = waits(&asking, &claims, false)
        .iter()
        .map(|w| format!("{} {}: {}", w.kind, w.name, w.message))
        .collect();
    assert_eq!(
        told,
        [
            "Scheduler other: \"other\" decides for this pod; what is told here is what Amphipod's own scheduler would do",
            "SchedulingGate g: whoever set this gate has to take it away",
            "PersistentVolumeClaim now: it has to be bound first",
            "PersistentVolumeClaim lost: its volume is gone",
            "PersistentVolumeClaim late: it is bound once the pod has a node",
            "PersistentVolumeClaim none: there is no such claim",
            "NominatedNode n1: room is being made there; pods that were preempted for it have to end first",
            "Retry : the scheduler has found no node since 2026-01-01T00:00:00Z; it tries again when something changes \
             that may help, and every five minutes",
        ]
    );
    asking.spec.as_mut().unwrap().node_name = Some("n1".to_owned());
    assert_eq!(waits(&asking, &claims, false).len(), 5, "a placed pod waits for no node");
}

//! Each plugin by itself: what it refuses, in which words, and how it scores.

use std::sync::Arc;

use super::*;
use crate::amounts::ResourceId;
use crate::decision::Scheduler;
use crate::framework::{
    AddedAffinity, Arguments, Candidate, DefaultConstraints, FitStrategy, InterPodArgs, Point, Profile,
    ScoringStrategy, ShapePoint,
};
use crate::labels::NodeTerm;
use crate::node::Fill;
use crate::snapshot::Snapshot;
use amphipod_client::{CachedPod, Resource};
use serde_json::{Value, json};

/// `base` with the fields of `extra` laid over it, level by level.
fn merged(mut base: Value, extra: Value) -> Value {
    match (&mut base, extra) {
        (Value::Object(base), Value::Object(extra)) => {
            for (key, value) in extra {
                let old = base.remove(&key).unwrap_or(Value::Null);
                base.insert(key, merged(old, value));
            }
        }
        (base, extra) => *base = extra,
    }
    base
}
fn node(name: &str, extra: Value) -> Value {
    let labels = json!({"kubernetes.io/hostname": name});
    let allocatable = json!({"cpu": "4", "memory": "4Gi", "pods": "10", "example.com/gpu": "2"});
    merged(
        json!({"metadata": {"name": name, "labels": labels}, "spec": {}, "status": {"allocatable": allocatable}}),
        extra,
    )
}
fn pod(name: &str, extra: Value) -> CachedPod {
    let meta = json!({"name": name, "namespace": "ns", "labels": {"app": "web"}});
    let pod = merged(json!({"metadata": meta, "spec": {"containers": [{"name": "c", "image": "i"}]}}), extra);
    CachedPod::decode(pod.to_string().as_bytes()).unwrap()
}
fn asking(requests: Value) -> Value {
    json!({"spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": requests}}]}})
}
fn on(node: &str, extra: Value) -> Value {
    merged(extra, json!({"spec": {"nodeName": node}}))
}

struct Case {
    snapshot: Snapshot,
    arguments: Arguments,
}

impl Case {
    fn new(nodes: &[Value], placed: &[Value]) -> Self {
        let mut snapshot = Snapshot::default();
        for node in nodes {
            snapshot.set_node(&serde_json::from_value(node.clone()).unwrap());
        }
        for (index, extra) in placed.iter().enumerate() {
            snapshot.set_pod(&pod(&format!("placed-{index}"), extra.clone()));
        }
        Case { snapshot, arguments: Arguments::default() }
    }
    fn with(mut self, change: impl FnOnce(&mut Snapshot, &mut Arguments)) -> Self {
        change(&mut self.snapshot, &mut self.arguments);
        self
    }
    /// With this plugin alone: each node's score, or why it will not do.
    fn ask(mut self, plugin: &str, extra: Value) -> Vec<Result<i64, String>> {
        let mut profile = Profile { arguments: self.arguments, ..Profile::default() };
        profile.enabled.retain(|enabled| enabled.plugin.name == plugin);
        assert_eq!(profile.enabled.len(), 1, "{plugin} is in the table");
        profile.enabled[0].weight = 1;
        let info = Arc::new(self.snapshot.catalogue.pod(&pod("incoming", extra)));
        let mut scheduler = Scheduler::new(vec![profile]);
        let (class, profile) = scheduler.class(&self.snapshot, &info);
        let view = class.view(&self.snapshot, profile);
        let scores: std::collections::BTreeMap<_, _> =
            class.judge(&self.snapshot, profile).scores().collect();
        let answer = |slot| match class.refusal(&view, slot) {
            None => Ok(scores[&slot]),
            Some(refusal) => Err(refusal.reasons(&self.snapshot.catalogue.resources).join(", ")),
        };
        self.snapshot.nodes().map(|(slot, ..)| answer(slot)).collect()
    }
    /// The reason why the only node will not do; empty if it will.
    fn refusal(self, plugin: &str, extra: Value) -> String {
        self.ask(plugin, extra).remove(0).err().unwrap_or_default()
    }
    fn scores(self, plugin: &str, extra: Value) -> Vec<i64> {
        self.ask(plugin, extra).into_iter().map(Result::unwrap).collect()
    }
}

#[test]
fn nodes_that_are_cordoned_tainted_or_not_wanted() {
    let cordoned = json!({"spec": {"unschedulable": true}});
    let taint = |effect: &str| json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": effect}]}});
    let tolerating = |key: &str| json!({"spec": {"tolerations": [{"key": key, "operator": "Exists"}]}});
    let term = |r: Value| json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [r]}}}}});
    let wanted = |operator: &str, value: &str| {
        term(json!({"matchExpressions": [{"key": "disk", "operator": operator, "values": [value]}]}))
    };
    let named = |name: &str| {
        term(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}))
    };
    let ssd = json!({"metadata": {"labels": {"disk": "ssd"}}});
    let (tainted, unwanted) =
        ("node(s) had untolerated taint(s)", "node(s) didn't match Pod's node affinity/selector");
    let cases = [
        (node_unschedulable::NAME, cordoned.clone(), json!({}), "node(s) were unschedulable"),
        (node_unschedulable::NAME, cordoned, tolerating("node.kubernetes.io/unschedulable"), ""),
        (taint_toleration::NAME, taint("NoSchedule"), json!({}), tainted),
        (taint_toleration::NAME, taint("NoExecute"), tolerating("other"), tainted),
        (taint_toleration::NAME, taint("NoExecute"), tolerating("k"), ""),
        (taint_toleration::NAME, taint("PreferNoSchedule"), json!({}), ""),
        (node_affinity::NAME, ssd.clone(), json!({"spec": {"nodeSelector": {"disk": "hdd"}}}), unwanted),
        (node_affinity::NAME, ssd.clone(), json!({"spec": {"nodeSelector": {"disk": "ssd"}}}), ""),
        (node_affinity::NAME, ssd.clone(), wanted("NotIn", "ssd"), unwanted),
        (node_affinity::NAME, ssd.clone(), wanted("In", "ssd"), ""),
        (node_affinity::NAME, ssd.clone(), term(json!({})), unwanted),
        (node_affinity::NAME, ssd.clone(), named("n"), ""),
        (node_affinity::NAME, ssd, named("m"), "node(s) didn't satisfy plugin(s) [NodeAffinity]"),
        (node_name::NAME, json!({}), on("m", json!({})), "node(s) didn't match the requested node name"),
        (node_name::NAME, json!({}), on("n", json!({})), ""),
    ];
    for (plugin, shape, extra, reason) in cases {
        let case = Case::new(&[node("n", shape.clone())], &[]);
        assert_eq!(case.refusal(plugin, extra.clone()), reason, "{plugin} {shape} {extra}");
    }
}

#[test]
fn host_ports() {
    let port = |address: &str, port: u16, protocol: &str| {
        let port = json!({"containerPort": 1, "hostPort": port, "hostIP": address, "protocol": protocol});
        json!({"spec": {"containers": [{"name": "c", "image": "i", "ports": [port]}]}})
    };
    let taken = "node(s) didn't have free ports for the requested pod ports";
    let cases = [
        (port("", 80, "TCP"), taken),
        (port("0.0.0.0", 80, "TCP"), taken),
        (port("10.0.0.1", 80, "TCP"), taken),
        (port("10.0.0.2", 80, "TCP"), ""),
        (port("10.0.0.1", 81, "TCP"), ""),
        (port("10.0.0.1", 80, "UDP"), ""),
        (json!({}), ""),
    ];
    for (extra, reason) in cases {
        let case = Case::new(&[node("n", json!({}))], &[on("n", port("10.0.0.1", 80, "TCP"))]);
        assert_eq!(case.refusal(node_ports::NAME, extra.clone()), reason, "{extra}");
    }
}

#[test]
fn room() {
    let one_pod = json!({"status": {"allocatable": {"pods": "1"}}});
    let used = on("n", asking(json!({"cpu": "3", "example.com/gpu": "1"})));
    let ignoring = |_: &mut Snapshot, arguments: &mut Arguments| {
        arguments.fit.ignored_resource_groups = vec!["example.com".to_owned()];
    };
    let cases = [
        (json!({}), json!({"cpu": "1"}), ""),
        (json!({}), json!({"cpu": "1001m"}), "Insufficient cpu"),
        (
            json!({}),
            json!({"cpu": "2", "memory": "5Gi", "ephemeral-storage": "1"}),
            "Insufficient cpu, Insufficient memory, Insufficient ephemeral-storage",
        ),
        (json!({}), json!({"example.com/gpu": "2"}), "Insufficient example.com/gpu"),
        (json!({}), json!({"example.com/none": "1"}), "Insufficient example.com/none"),
        (one_pod, json!({"cpu": "2"}), "Too many pods, Insufficient cpu"),
    ];
    for (shape, requests, reason) in cases {
        let case = Case::new(&[node("n", shape)], std::slice::from_ref(&used));
        assert_eq!(case.refusal(node_resources_fit::NAME, asking(requests.clone())), reason, "{requests}");
    }
    let case = Case::new(&[node("n", json!({}))], &[used]).with(ignoring);
    assert_eq!(case.refusal(node_resources_fit::NAME, asking(json!({"example.com/gpu": "9"}))), "");
}

/// Pods set on a node by others ask for anything, and there may be any number of them.
#[test]
fn sums_that_have_wrapped_are_judged_as_well() {
    let mut snapshot = Case::new(&[node("n", json!({}))], &[]).snapshot;
    let small = pod("incoming", asking(json!({"cpu": "1", "memory": "1Gi"})));
    let info = Arc::new(snapshot.catalogue.pod(&small));
    let mut scheduler = Scheduler::new(vec![Profile::default()]);
    let (class, profile) = scheduler.class(&snapshot, &info);
    let view = class.view(&snapshot, profile);
    let node = snapshot.node(0);
    for (used, fits) in [(i64::MIN, true), (-1, true), (0, true), (4 << 30, false), (i64::MAX, false)] {
        let mut fill = Fill { nonzero: [used; 2], ..Fill::default() };
        fill.requested.set(ResourceId::MEMORY, used);
        let candidate = Candidate { node, shape: node.shape.as_ref().unwrap(), fill: &fill };
        assert_eq!(node_resources_fit::filter(&view, &candidate).is_ok(), fits, "{used}");
        let scores = [
            node_resources_fit::score(&view, &candidate),
            node_resources_balanced_allocation::score(&view, &candidate),
        ];
        assert!(scores.iter().all(|score| (0..=MAX_SCORE).contains(score)), "{used}: {scores:?}");
    }
}

#[test]
fn scores_by_what_is_used() {
    let nodes = [node("empty", json!({})), node("half", json!({}))];
    let half = on("half", asking(json!({"cpu": "1", "memory": "2Gi"})));
    let strategy = |scoring: ScoringStrategy| FitStrategy { scoring, ..FitStrategy::default() };
    let shape = [(0, 10), (100, 0)].map(|(utilization, score)| ShapePoint { utilization, score });
    // With the pod: a quarter of each, and half of the CPU and three quarters of the memory.
    let cases = [
        (ScoringStrategy::LeastAllocated, vec![75, 37]),
        (ScoringStrategy::MostAllocated, vec![25, 62]),
        (ScoringStrategy::RequestedToCapacityRatio(shape.into()), vec![75, 38]),
    ];
    let asked = asking(json!({"cpu": "1", "memory": "1Gi"}));
    for (scoring, expected) in cases {
        let case = Case::new(&nodes, std::slice::from_ref(&half))
            .with(|_, arguments| arguments.fit = strategy(scoring.clone()));
        assert_eq!(case.scores(node_resources_fit::NAME, asked.clone()), expected, "{scoring:?}");
    }
    let balanced = node_resources_balanced_allocation::NAME;
    let case = || Case::new(&nodes, std::slice::from_ref(&half));
    assert_eq!(case().scores(balanced, asked), [100, 87]);
    assert_eq!(case().scores(balanced, json!({})), [0, 0], "a pod that asks for nothing");
}

#[test]
fn scores_by_taints_affinity_and_images() {
    let taint = json!({"key": "k", "effect": "PreferNoSchedule"});
    let images = |bytes: u64| json!({"status": {"images": [{"names": ["i:latest"], "sizeBytes": bytes}]}});
    let labelled = |disk: &str| json!({"metadata": {"labels": {"disk": disk}}});
    let tainted = [
        node("a", json!({"spec": {"taints": [taint, {"key": "l", "effect": "PreferNoSchedule"}]}})),
        node("b", json!({"spec": {"taints": [taint]}})),
        node("c", json!({})),
    ];
    assert_eq!(Case::new(&tainted, &[]).scores(taint_toleration::NAME, json!({})), [0, 50, 100]);
    let tolerating = json!({"spec": {"tolerations": [{"key": "k", "operator": "Exists", "effect": "NoSchedule"}, {"key": "l", "operator": "Exists"}]}});
    assert_eq!(Case::new(&tainted, &[]).scores(taint_toleration::NAME, tolerating), [0, 0, 100]);

    let nodes = [node("a", labelled("ssd")), node("b", labelled("hdd")), node("c", json!({}))];
    let prefer = |weight: u8, r: Value| json!({"weight": weight, "preference": {"matchExpressions": [r]}});
    let preferred = [
        prefer(30, json!({"key": "disk", "operator": "Exists"})),
        prefer(10, json!({"key": "disk", "operator": "In", "values": ["ssd"]})),
    ];
    let preferring = json!({"spec": {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}}});
    assert_eq!(Case::new(&nodes, &[]).scores(node_affinity::NAME, preferring), [100, 75, 0]);

    // 1,000 MB on two of three nodes; 23 MB are worth nothing.
    let nodes = [node("a", images(1000 << 20)), node("b", images(1000 << 20)), node("c", json!({}))];
    assert_eq!(Case::new(&nodes, &[]).scores(image_locality::NAME, json!({})), [65, 65, 0]);
    assert_eq!(Case::new(&[node("a", images(23 << 20))], &[]).scores(image_locality::NAME, json!({})), [0]);
}

#[test]
fn a_profile_adds_node_affinity_to_all_its_pods() {
    let add = |snapshot: &mut Snapshot, arguments: &mut Arguments| {
        let term = json!({"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]});
        let term = NodeTerm::parse(&mut snapshot.catalogue.symbols, &serde_json::from_value(term).unwrap());
        arguments.added_affinity =
            AddedAffinity { required: Some(vec![term.clone()]), preferred: vec![(1, term)] };
    };
    let nodes = [node("a", json!({"metadata": {"labels": {"disk": "ssd"}}})), node("b", json!({}))];
    let answers = Case::new(&nodes, &[]).with(add).ask(node_affinity::NAME, json!({}));
    assert_eq!(answers, [Ok(100), Err("node(s) didn't match scheduler-enforced node affinity".to_owned())]);
}

/// Two zones of two nodes each.
fn zones() -> Vec<Value> {
    let zone = |zone: &str| json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}});
    [("a", "1"), ("b", "1"), ("c", "2"), ("d", "2")].map(|(name, at)| node(name, zone(at))).into()
}
fn rule(kind: &str, force: &str, rule: Value) -> Value {
    json!({"spec": {"affinity": {kind: {force: rule}}}})
}
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const ZONE_KEY: &str = "topology.kubernetes.io/zone";

#[test]
fn rules_about_other_pods() {
    let web = json!({"topologyKey": ZONE_KEY, "labelSelector": {"matchLabels": {"app": "web"}}});
    let db = json!({"topologyKey": ZONE_KEY, "labelSelector": {"matchLabels": {"app": "db"}}});
    let required = |kind: &str, term: &Value| rule(kind, REQUIRED, json!([term]));
    let (near, apart) =
        ("node(s) didn't match pod affinity rules", "node(s) didn't match pod anti-affinity rules");
    let others = "node(s) didn't satisfy existing pods anti-affinity rules";
    let there = [on("a", json!({}))];
    let guarded = [on("a", required("podAntiAffinity", &web))];
    let foreign = [on("a", json!({"metadata": {"namespace": "other"}}))];
    // The incoming pod, those that are there, and the answers of a zone with them and one without.
    let cases = [
        (required("podAffinity", &web), &there[..], ["", near]),
        (required("podAffinity", &web), &[], ["", ""]),
        (required("podAffinity", &db), &[], [near, near]),
        (required("podAffinity", &web), &foreign, ["", ""]),
        (required("podAntiAffinity", &web), &there, [apart, ""]),
        (required("podAntiAffinity", &db), &there, ["", ""]),
        (json!({}), &guarded, [others, ""]),
        (json!({"metadata": {"labels": {"app": "db"}}}), &guarded, ["", ""]),
    ];
    for (extra, placed, expected) in cases {
        let answers = Case::new(&zones(), placed).ask(inter_pod_affinity::NAME, extra.clone());
        let reasons: Vec<String> =
            answers.into_iter().map(|answer| answer.err().unwrap_or_default()).collect();
        assert_eq!(reasons, [expected[0], expected[0], expected[1], expected[1]], "{extra} {placed:?}");
    }
}

#[test]
fn wishes_about_other_pods() {
    let term = json!({"topologyKey": ZONE_KEY, "labelSelector": {"matchLabels": {"app": "web"}}});
    let wish = |kind: &str| rule(kind, PREFERRED, json!([{"weight": 10, "podAffinityTerm": term}]));
    let needs = rule("podAffinity", REQUIRED, json!([term]));
    let of = |incoming: Value, there: Value, args: InterPodArgs| {
        let case = Case::new(&zones(), &[on("a", there)]);
        case.with(|_, arguments| arguments.inter_pod_affinity = args)
            .scores(inter_pod_affinity::NAME, incoming)
    };
    let default = InterPodArgs::default();
    let ignoring = InterPodArgs { ignore_preferred_terms_of_existing_pods: true, ..default };
    let no_weight = InterPodArgs { hard_weight: 0, ..default };
    let (there, elsewhere, nowhere) = ([100, 100, 0, 0], [0, 0, 100, 100], [0; 4]);
    assert_eq!(of(wish("podAffinity"), json!({}), default), there);
    assert_eq!(of(wish("podAntiAffinity"), json!({}), default), elsewhere);
    assert_eq!(of(json!({}), wish("podAntiAffinity"), default), elsewhere, "they wish it too");
    assert_eq!(of(json!({}), wish("podAntiAffinity"), ignoring), nowhere);
    assert_eq!(of(json!({}), needs.clone(), default), there, "what they need counts as a wish");
    assert_eq!(of(json!({}), needs, no_weight), nowhere);
}

#[test]
fn spreading() {
    let constraint = |extra: Value| {
        let base = json!({"maxSkew": 1, "topologyKey": ZONE_KEY, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}});
        json!({"spec": {"topologySpreadConstraints": [merged(base, extra)]}})
    };
    let (many, missing) = (
        "node(s) didn't match pod topology spread constraints",
        "node(s) didn't match pod topology spread constraints (missing required label)",
    );
    let there = [on("a", json!({}))];
    let two = [there[0].clone(), on("c", json!({}))];
    let leaving = [on("a", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}))];
    let cases = [
        (constraint(json!({})), &there[..], [many, ""]),
        (constraint(json!({"maxSkew": 2})), &there, ["", ""]),
        (constraint(json!({})), &leaving, ["", ""]),
        (constraint(json!({"minDomains": 3})), &two, [many, many]),
        (constraint(json!({"minDomains": 2})), &two, ["", ""]),
        (constraint(json!({"topologyKey": "rack"})), &there, [missing, missing]),
        (constraint(json!({"labelSelector": {"matchLabels": {"app": "db"}}})), &there, ["", ""]),
    ];
    for (extra, placed, expected) in cases {
        let answers = Case::new(&zones(), placed).ask(pod_topology_spread::NAME, extra.clone());
        let reasons: Vec<String> =
            answers.into_iter().map(|answer| answer.err().unwrap_or_default()).collect();
        assert_eq!(reasons, [expected[0], expected[0], expected[1], expected[1]], "{extra} {placed:?}");
    }
    let soft = constraint(json!({"whenUnsatisfiable": "ScheduleAnyway"}));
    assert_eq!(Case::new(&zones(), &there).scores(pod_topology_spread::NAME, soft), [0, 0, 100, 100]);
}

#[test]
fn default_spreading_follows_services() {
    let serve = |snapshot: &mut Snapshot| {
        let service =
            json!({"metadata": {"name": "s", "namespace": "ns"}, "spec": {"selector": {"app": "web"}}});
        let Snapshot { catalogue, workloads, .. } = snapshot;
        workloads.set_service(catalogue, &serde_json::from_value(service).unwrap());
    };
    let there = [on("a", json!({}))];
    let case = || Case::new(&zones(), &there);
    assert_eq!(case().scores(pod_topology_spread::NAME, json!({})), [0; 4], "nobody selects it");
    // The node counts as well as the zone: ln 6 and ln 4, each on top of the skews allowed.
    let scores = case().with(|snapshot, _| serve(snapshot)).scores(pod_topology_spread::NAME, json!({}));
    assert_eq!(scores, [66, 88, 100, 100]);
    let none = |snapshot: &mut Snapshot, arguments: &mut Arguments| {
        serve(snapshot);
        arguments.default_constraints = DefaultConstraints::List(Vec::new());
    };
    assert_eq!(case().with(none).scores(pod_topology_spread::NAME, json!({})), [0; 4]);
}

#[test]
fn the_table_is_kube_schedulers() {
    let weights = TABLE.iter().filter(|row| row.points.has(Point::Score));
    let weights: Vec<_> = weights.map(|row| (row.name, row.weight)).collect();
    assert_eq!(
        weights,
        [
            ("TaintToleration", 3),
            ("NodeAffinity", 2),
            ("NodeResourcesFit", 1),
            ("PodTopologySpread", 2),
            ("InterPodAffinity", 2),
            ("DynamicResources", 1),
            ("NodeResourcesBalancedAllocation", 1),
            ("ImageLocality", 1),
        ]
    );
    let gated = TABLE.iter().filter(|row| row.points.has(Point::PreEnqueue));
    assert_eq!(gated.map(|row| row.name).collect::<Vec<_>>(), ["SchedulingGates", "DynamicResources"]);
}

use super::*;
use crate::framework::DefaultConstraints;
use crate::node::Shape;
use crate::plugins::{inter_pod_affinity, node_resources_fit, pod_topology_spread};
use crate::pod::spread_constraint;
use crate::symbols::Symbol;
use amphipod_client::{CachedPod, Resource};
use serde_json::{Value, json};

struct Bench {
    queue: Queue,
    snapshot: Snapshot,
    profiles: Vec<Profile>,
    start: Instant,
}

impl Bench {
    fn new() -> Self {
        Bench {
            queue: Queue::default(),
            snapshot: Snapshot::default(),
            profiles: vec![Profile::default()],
            start: Instant::now(),
        }
    }
    fn at(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }
    fn pod(&mut self, name: &str, spec: Value) -> Arc<PodInfo> {
        let mut pod = json!({"metadata": {"name": name, "namespace": "ns", "labels": {"app": "web"}}, "spec": {"containers": []}});
        for (key, value) in spec.as_object().unwrap() {
            pod["spec"][key] = value.clone();
        }
        Arc::new(self.snapshot.catalogue.pod(&CachedPod::decode(pod.to_string().as_bytes()).unwrap()))
    }
    /// Pods without constraints have this one; those of app web belong together.
    fn spread_by_default(&mut self, rule: &Value) {
        let Snapshot { catalogue, workloads, .. } = &mut self.snapshot;
        let rule = serde_json::from_value(rule.clone()).unwrap();
        let rule = spread_constraint(&mut catalogue.symbols, &rule, None);
        self.profiles[0].arguments.default_constraints = DefaultConstraints::List(vec![rule]);
        let service =
            json!({"metadata": {"name": "s", "namespace": "ns"}, "spec": {"selector": {"app": "web"}}});
        workloads.set_service(catalogue, &serde_json::from_value(service).unwrap());
    }
    /// A pod with these labels; one with the label `leaving` is on its way out.
    fn labelled(&mut self, labels: Value) -> Arc<PodInfo> {
        let deleted = labels.get("leaving").map(|_| "2026-01-01T00:00:00Z");
        let meta = json!({"name": "p", "namespace": "ns", "labels": labels, "deletionTimestamp": deleted});
        let pod = json!({"metadata": meta, "spec": {"containers": []}}).to_string();
        Arc::new(self.snapshot.catalogue.pod(&CachedPod::decode(pod.as_bytes()).unwrap()))
    }
    fn add(&mut self, name: &str, spec: Value) {
        let (pod, now) = (self.pod(name, spec), self.at(0));
        self.queue.add(pod, now);
    }
    fn pop(&mut self, seconds: u64) -> Option<String> {
        let now = self.at(seconds);
        self.queue.pop(now).map(|pod| pod.name().to_owned())
    }
    fn refused(&mut self, name: &str, by: &str, seconds: u64) {
        let now = self.at(seconds);
        self.queue.refused(&format!("ns/{name}"), PluginSet::of([by]), now);
    }
    /// Refused while something happened.
    fn missed(&mut self, name: &str, seconds: u64) {
        self.queue.missed(&format!("ns/{name}"));
        self.refused(name, FIT, seconds);
    }
    fn failed(&mut self, name: &str, seconds: u64) {
        let now = self.at(seconds);
        self.queue.failed(&format!("ns/{name}"), now);
    }
    fn happened(&mut self, event: Event, seconds: u64) {
        let now = self.at(seconds);
        self.queue.happened(&self.snapshot, &self.profiles, event, now);
    }
}

const FIT: &str = node_resources_fit::NAME;

#[test]
fn priority_then_age() {
    let mut bench = Bench::new();
    for (name, priority) in [("a", 0), ("b", 5), ("c", 0)] {
        bench.add(name, json!({"priority": priority}));
    }
    let order = [(); 4].map(|()| bench.pop(0));
    assert_eq!(order.iter().flatten().collect::<Vec<_>>(), ["b", "a", "c"]);
}

#[test]
fn a_refused_pod_waits_for_what_may_help_and_its_back_off() {
    let mut bench = Bench::new();
    bench.add("a", json!({}));
    let other = bench.pod("other", json!({}));
    let mut at = 0;
    for wait in [1, 2, 4, 8, 10, 10] {
        assert_eq!(bench.pop(at).as_deref(), Some("a"), "before all that matter less");
        bench.queue.remove("ns/idle");
        bench.refused("a", FIT, at);
        bench.happened(Event::PodPlaced(&other), at);
        assert_eq!(bench.queue.counts().unschedulable, 1, "fewer places do not help");
        bench.happened(Event::PodRemoved(&other), at);
        assert_eq!((bench.queue.counts().backoff, bench.queue.next_wake()), (1, Some(bench.at(at + wait))));
        bench.add("busy", json!({"priority": 1}));
        assert_eq!(bench.pop(at + wait - 1).as_deref(), Some("busy"));
        assert_eq!(bench.queue.counts().backoff, 1, "not yet");
        bench.queue.remove("ns/busy");
        at += wait;
        bench.add("idle", json!({"priority": -1}));
    }
}

#[test]
fn when_nothing_is_ready_pods_in_back_off_need_not_wait() {
    let mut bench = Bench::new();
    // How important it is, when it was refused, in milliseconds, and how often.
    let pods = [("rarely", 0, 0, 1), ("important", 5, 900, 1), ("often", 9, 0, 3), ("later", 9, 1100, 1)];
    for (name, priority, milliseconds, times) in pods {
        let now = bench.at(0) + Duration::from_millis(milliseconds);
        let pod = bench.pod(name, json!({"priority": priority}));
        let mut alone = Queue::default();
        alone.add(pod.clone(), now);
        (0..times).for_each(|_| {
            alone.pop(now);
            alone.missed(&pod.key);
            alone.refused(&pod.key, PluginSet::of([FIT]), now);
        });
        bench.queue.add(pod, now);
        bench.queue.inherit(alone);
    }
    bench.add("ready", json!({"priority": -1}));
    assert_eq!(bench.queue.counts(), Counts { active: 1, backoff: 4, ..Counts::default() });
    let order = [(); 6].map(|()| bench.pop(0));
    let expected = ["ready", "important", "rarely", "later", "often"];
    assert_eq!(order.iter().flatten().collect::<Vec<_>>(), expected);
    assert_eq!((bench.queue.counts(), bench.queue.next_wake()), (Counts::default(), None));
}

#[test]
fn what_went_wrong_waits_even_if_there_is_nothing_else() {
    type Happens = fn(&mut Bench);
    let cases: [(&str, Happens, bool); 4] = [
        ("refused, and something missed", |bench| bench.missed("a", 0), true),
        ("an error", |bench| bench.failed("a", 0), false),
        (
            "victims that could not be sent away",
            |bench| {
                bench.queue.hold("ns/a");
                bench.refused("a", FIT, 0);
                let now = bench.at(0);
                bench.queue.let_go("ns/a", true, now);
            },
            false,
        ),
        (
            "a refusal after an error",
            |bench| {
                bench.failed("a", 0);
                assert_eq!(bench.pop(1).as_deref(), Some("a"));
                bench.missed("a", 1);
            },
            true,
        ),
    ];
    for (what, happens, early) in cases {
        let mut bench = Bench::new();
        bench.add("a", json!({}));
        bench.pop(0);
        happens(&mut bench);
        let wake = bench.queue.next_wake().unwrap();
        assert_eq!((bench.queue.counts().backoff, bench.pop(0).is_some()), (1, early), "{what}");
        assert!(early || bench.queue.pop(wake).is_some(), "{what}");
    }
}

#[test]
fn errors_and_refusals_are_counted_apart() {
    let mut bench = Bench::new();
    bench.add("a", json!({}));
    let mut at = 0;
    let tries = [(true, 1), (true, 2), (false, 1), (false, 2), (false, 4), (true, 4), (false, 1), (true, 8)];
    for (refused, wait) in tries {
        assert_eq!(bench.pop(at).as_deref(), Some("a"), "at {at}");
        if refused {
            bench.missed("a", at);
        } else {
            bench.failed("a", at);
        }
        assert_eq!(bench.queue.next_wake(), Some(bench.at(at + wait)), "at {at}");
        at += wait;
    }
}

#[test]
fn a_back_off_begins_when_the_attempt_ends() {
    let mut bench = Bench::new();
    bench.add("a", json!({}));
    bench.pop(0);
    bench.failed("a", 600);
    assert_eq!((bench.pop(600), bench.pop(601).as_deref()), (None, Some("a")));
}

#[test]
fn plugins_say_what_helps() {
    let term = json!([{"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "web"}}}]);
    let near = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}});
    let apart =
        json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}});
    // The plugin that refused, the pod's rules, and whether a web pod that comes or goes helps.
    let cases = [
        (FIT, json!({}), false, true),
        (inter_pod_affinity::NAME, near, true, false),
        (inter_pod_affinity::NAME, apart, false, true),
        ("NodeAffinity", json!({}), false, false),
    ];
    for (plugin, spec, comes, goes) in cases {
        for (helps, placed) in [(comes, true), (goes, false)] {
            let mut bench = Bench::new();
            bench.add("a", spec.clone());
            let web = bench.pod("web", json!({}));
            bench.pop(0);
            bench.refused("a", plugin, 0);
            bench.happened(if placed { Event::PodPlaced(&web) } else { Event::PodRemoved(&web) }, 0);
            let counts = bench.queue.counts();
            assert_eq!(counts.backoff == 1, helps, "{plugin} {spec} {placed}");
        }
    }
}

/// A node with these labels and taints.
fn shape(bench: &mut Bench, labels: Value, taints: Value) -> Shape {
    let node = json!({"metadata": {"name": "n", "labels": labels}, "spec": {"taints": taints}});
    Shape::parse(&mut bench.snapshot.catalogue, &serde_json::from_value(node).unwrap())
}

#[test]
fn a_pod_to_be_spread_is_helped_by_other_counts_and_domains() {
    let rule = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}}, "nodeTaintsPolicy": "Honor"});
    for by_default in [false, true] {
        let mut bench = Bench::new();
        let mut spec = json!({"nodeSelector": {"disk": "ssd"}});
        if by_default {
            bench.spread_by_default(&rule);
        } else {
            spec["topologySpreadConstraints"] = json!([rule]);
        }
        let [zoned, elsewhere, moved, unlike] = [
            json!({"zone": "a", "disk": "ssd"}),
            json!({"disk": "ssd"}),
            json!({"zone": "b", "disk": "ssd"}),
            json!({"zone": "a"}),
        ]
        .map(|labels| shape(&mut bench, labels, json!([])));
        let tainted = json!([{"key": "out", "effect": "NoExecute"}]);
        let tainted = shape(&mut bench, json!({"zone": "a", "disk": "ssd"}), tainted);
        let [web, leaving, other] = [json!({"app": "web"}), json!({"app": "web", "leaving": "1"}), json!({})]
            .map(|labels| bench.labelled(labels));
        let name = Symbol::HOSTNAME; // any will do
        let cases = [
            ("a pod comes", Event::PodPlaced(&web), true),
            ("another comes", Event::PodPlaced(&other), false),
            ("a pod on its way out comes", Event::PodPlaced(&leaving), false),
            ("a pod goes", Event::PodRemoved(&web), true),
            ("a pod is on its way out", Event::PodChanged { old: &web, new: &leaving }, true),
            ("a pod on its way out goes", Event::PodRemoved(&leaving), false),
            ("a node comes", Event::NodeAdded { name, new: &zoned }, true),
            ("one without a zone comes", Event::NodeAdded { name, new: &elsewhere }, false),
            ("a node goes", Event::NodeRemoved { old: &zoned }, true),
            ("a node moves", Event::NodeChanged { name, old: &zoned, new: &moved }, true),
            ("a node is tainted", Event::NodeChanged { name, old: &zoned, new: &tainted }, true),
            ("a taint goes", Event::NodeChanged { name, old: &tainted, new: &zoned }, true),
            ("a node counts no more", Event::NodeChanged { name, old: &zoned, new: &unlike }, true),
            ("nothing of interest", Event::NodeChanged { name, old: &zoned, new: &zoned }, false),
        ];
        for (what, event, helps) in cases {
            bench.add("a", spec.clone());
            bench.pop(0);
            bench.refused("a", pod_topology_spread::NAME, 0);
            bench.happened(event, 0);
            assert_eq!(bench.queue.counts().backoff == 1, helps, "{what}, by default: {by_default}");
            bench.queue.remove("ns/a");
        }
    }
}

#[test]
fn a_pod_refused_by_nobody_waits_for_anything() {
    let mut bench = Bench::new();
    bench.add("a", json!({}));
    bench.pop(0);
    let now = bench.at(0);
    bench.queue.refused("ns/a", PluginSet::default(), now);
    bench.happened(Event::NamespaceChanged, 0);
    assert_eq!(bench.pop(1).as_deref(), Some("a"));
}

#[test]
fn what_happens_while_a_decision_is_carried_out_is_remembered() {
    for (event, failed, goes_on) in [(true, false, true), (false, true, true), (false, false, false)] {
        let mut bench = Bench::new();
        bench.add("a", json!({}));
        let other = bench.pod("other", json!({}));
        bench.pop(0);
        bench.queue.hold("ns/a");
        bench.refused("a", FIT, 0);
        if event {
            bench.happened(Event::PodRemoved(&other), 0);
        }
        assert_eq!(bench.pop(5), None, "it is held");
        let now = bench.at(5);
        bench.queue.let_go("ns/a", failed, now);
        assert_eq!(bench.pop(5).is_some(), goes_on, "{event} {failed}");
    }
}

#[test]
fn a_held_pod_is_not_given_out_before_it_is_let_go() {
    type Release = fn(&mut Bench);
    let releases: [(&str, Release); 5] = [
        ("something was missed", |bench| bench.missed("a", 0)),
        ("something went wrong", |bench| bench.failed("a", 0)),
        ("nothing happened for long", |bench| bench.refused("a", FIT, 0)),
        ("it changed in flight", |bench| {
            bench.add("a", json!({"priority": 1}));
            bench.refused("a", FIT, 0);
        }),
        ("it changed while it waited", |bench| {
            bench.refused("a", FIT, 0);
            bench.add("a", json!({"priority": 1}));
        }),
    ];
    for (name, release) in releases {
        let mut bench = Bench::new();
        bench.add("a", json!({}));
        bench.pop(0);
        bench.queue.hold("ns/a");
        release(&mut bench);
        assert_eq!((bench.pop(400), bench.queue.next_wake()), (None, None), "{name}: it is held");
        assert_eq!(bench.queue.counts().unschedulable, 1, "{name}");
        let now = bench.at(400);
        bench.queue.let_go("ns/a", false, now);
        assert_eq!(bench.pop(400).as_deref(), Some("a"), "{name}");
    }
}

#[test]
fn a_queue_that_takes_over_gives_out_what_the_old_one_would() {
    let mut bench = Bench::new();
    for name in ["backing-off", "parked", "held"] {
        bench.add(name, json!({}));
    }
    let now = bench.at(0);
    let popped = [(); 3].map(|()| bench.pop(0));
    assert_eq!(popped.iter().flatten().collect::<Vec<_>>(), ["backing-off", "parked", "held"]);
    bench.queue.failed("ns/backing-off", now);
    bench.refused("parked", FIT, 0);
    bench.queue.hold("ns/held");
    bench.refused("held", FIT, 0);
    bench.add("ready", json!({}));

    let old = std::mem::take(&mut bench.queue);
    for name in ["backing-off", "parked", "held", "ready", "new"] {
        bench.add(name, json!({}));
    }
    bench.queue.inherit(old);
    assert_eq!(bench.queue.counts(), Counts { active: 2, backoff: 2, unschedulable: 1, gated: 0 });
    let ready = [(); 4].map(|()| bench.pop(0));
    assert_eq!(ready.map(|name| name.unwrap_or_default()), ["ready", "new", "parked", ""]);
    let later = [(); 2].map(|()| bench.pop(1));
    assert_eq!(later.map(|name| name.unwrap_or_default()), ["backing-off", ""]);
    assert_eq!(bench.queue.attempt("ns/parked").map(|attempt| attempt.number), Some(2));
    let now = bench.at(1);
    bench.queue.let_go("ns/held", false, now);
    assert_eq!(bench.pop(1).as_deref(), Some("held"));
}

#[test]
fn gated_pods_wait_for_their_gates_and_changed_ones_try_again() {
    let mut bench = Bench::new();
    bench.add("a", json!({"schedulingGates": [{"name": "g"}]}));
    assert_eq!((bench.pop(0), bench.queue.counts().gated), (None, 1));
    bench.add("a", json!({}));
    assert_eq!(bench.pop(0).as_deref(), Some("a"));
    bench.refused("a", FIT, 0);
    bench.add("a", json!({}));
    assert_eq!(bench.queue.counts().unschedulable, 1, "nothing of interest has changed");
    bench.add("a", json!({"tolerations": [{"operator": "Exists"}]}));
    assert_eq!(bench.pop(1).as_deref(), Some("a"));
    bench.add("a", json!({"schedulingGates": [{"name": "g"}]}));
    bench.refused("a", FIT, 1);
    bench.queue.remove("ns/a");
    assert!(bench.queue.is_empty() && bench.queue.next_wake().is_none());
}

#[test]
fn what_went_wrong_is_tried_again_and_parked_pods_are_flushed() {
    let mut bench = Bench::new();
    bench.add("a", json!({}));
    bench.pop(0);
    let now = bench.at(0);
    bench.queue.failed("ns/a", now);
    assert_eq!(bench.pop(1).as_deref(), Some("a"));
    bench.refused("a", FIT, 1);
    assert_eq!(bench.pop(300), None);
    assert_eq!(bench.pop(301).as_deref(), Some("a"));
}

#[test]
fn who_comes_where_and_why_is_counted() {
    let mut bench = Bench::new();
    let other = bench.pod("other", json!({}));
    let coming = |bench: &mut Bench| bench.queue.take_incoming().iter().collect::<Vec<_>>();
    bench.add("a", json!({}));
    bench.add("gated", json!({"schedulingGates": [{"name": "g"}]}));
    bench.add("gated", json!({"schedulingGates": [{"name": "g"}]}));
    assert_eq!(
        coming(&mut bench),
        [("active", "UnschedulablePodAdd", 1), ("unschedulable", "UnschedulablePodAdd", 1)]
    );
    bench.pop(0);
    bench.add("gated", json!({}));
    let gates_gone = ("active", "UnschedulablePodUpdatePodSchedulingGatesEliminated", 1);
    assert_eq!(coming(&mut bench), [gates_gone]);
    bench.pop(0);
    bench.refused("a", FIT, 0);
    bench.failed("gated", 0);
    let failed = "ScheduleAttemptFailure";
    assert_eq!(coming(&mut bench), [("backoff", failed, 1), ("unschedulable", failed, 1)]);
    bench.happened(Event::PodRemoved(&other), 0);
    assert_eq!(bench.pop(0).as_deref(), Some("a"));
    assert_eq!(coming(&mut bench), [("active", "PopFromBackoffQ", 1), ("backoff", "AssignedPodDelete", 1)]);
    bench.refused("a", FIT, 0);
    assert_eq!([bench.pop(300), bench.pop(300)].map(Option::unwrap), ["a", "gated"]);
    let entered = [("active", "BackoffComplete", 1), ("active", "UnschedulableTimeout", 1)];
    assert_eq!(coming(&mut bench), [&entered[..], &[("unschedulable", failed, 1)]].concat());
    // What is held is counted when it is let go, by what helped it.
    bench.queue.hold("ns/a");
    bench.refused("a", FIT, 300);
    bench.happened(Event::PodRemoved(&other), 300);
    assert_eq!(coming(&mut bench), [("unschedulable", failed, 1)]);
    let now = bench.at(300);
    bench.queue.let_go("ns/a", false, now);
    assert_eq!(coming(&mut bench), [("backoff", "AssignedPodDelete", 1)]);
}

#[test]
fn events_have_upstreams_names() {
    let mut bench = Bench::new();
    let name = Symbol::HOSTNAME; // any will do
    let [plain, zoned, tainted] = [
        (json!({}), json!([])),
        (json!({"zone": "a"}), json!([])),
        (json!({}), json!([{"key": "out", "effect": "NoExecute"}])),
    ]
    .map(|(labels, taints)| shape(&mut bench, labels, taints));
    let cordoned = Shape { unschedulable: true, ..plain.clone() };
    let larger = Shape { pod_slots: 9, ..plain.clone() };
    let asking = json!([{"name": "c", "resources": {"requests": {"cpu": "1"}}}]);
    let [pod, tolerant, asking] =
        [json!({}), json!({"tolerations": [{"operator": "Exists"}]}), json!({"containers": asking})]
            .map(|spec| bench.pod("p", spec));
    let labelled = bench.labelled(json!({"app": "db"}));
    let cases = [
        (Event::NodeAdded { name, new: &plain }, "NodeAdd"),
        (Event::NodeRemoved { old: &plain }, "NodeDelete"),
        (Event::NodeChanged { name, old: &plain, new: &larger }, "NodeUpdateNodeAllocatable"),
        (Event::NodeChanged { name, old: &plain, new: &zoned }, "NodeUpdateNodeLabel"),
        (Event::NodeChanged { name, old: &plain, new: &tainted }, "NodeUpdateNodeTaint"),
        (Event::NodeChanged { name, old: &cordoned, new: &plain }, "NodeUpdateNodeTaint"),
        (Event::PodPlaced(&pod), "AssignedPodAdd"),
        (Event::PodChanged { old: &pod, new: &labelled }, "AssignedPodUpdatePodLabel"),
        (Event::PodChanged { old: &asking, new: &pod }, "AssignedPodUpdatePodScaleDown"),
        (Event::PodChanged { old: &pod, new: &asking }, "AssignedPodUpdate"),
        (Event::PodChanged { old: &pod, new: &tolerant }, "AssignedPodUpdatePodToleration"),
        (Event::Devices, "resource.k8s.io/ResourceClaimUpdate"),
    ];
    for (event, label) in cases {
        assert_eq!(event.label(), label);
    }
}

#[test]
fn a_pod_is_not_taken_for_another_of_its_name() {
    let mut bench = Bench::new();
    bench.add("a", json!({}));
    let now = bench.at(0);
    let old = bench.queue.pop(now).unwrap();
    let successor = PodInfo { uid: "another".into(), ..PodInfo::clone(&old) };
    bench.queue.remove(&old.key);
    bench.queue.add(Arc::new(successor), now);
    bench.queue.remove_instance(&old);
    assert_eq!(bench.pop(0).as_deref(), Some("a"));
}

#[test]
fn a_pod_removed_in_any_place_is_gone() {
    let mut bench = Bench::new();
    for place in 0..4 {
        bench.add("a", json!({}));
        if place > 0 {
            bench.pop(place * 1000);
        }
        if place > 1 {
            bench.refused("a", FIT, place * 1000);
        }
        if place > 2 {
            let other = bench.pod("other", json!({}));
            bench.happened(Event::PodRemoved(&other), place * 1000);
        }
        bench.queue.remove("ns/a");
        assert!(bench.queue.is_empty() && bench.queue.next_wake().is_none(), "{place}");
        assert_eq!(bench.pop(place * 1000 + 999), None);
    }
}

#[test]
fn another_pod_of_the_name_starts_anew() {
    let mut bench = Bench::new();
    let named = |bench: &mut Bench, uid: &str| {
        let pod =
            json!({"metadata": {"name": "a", "namespace": "ns", "uid": uid}, "spec": {"containers": []}});
        Arc::new(bench.snapshot.catalogue.pod(&CachedPod::decode(pod.to_string().as_bytes()).unwrap()))
    };
    let (old, new, now) = (named(&mut bench, "1"), named(&mut bench, "2"), bench.at(0));
    bench.queue.add(old.clone(), now);
    assert!(bench.queue.in_flight(&old).is_none());
    assert_eq!(bench.queue.pop(now).unwrap().uid, old.uid);
    assert_eq!(bench.queue.in_flight(&old).unwrap().number, 1);
    bench.queue.add(new.clone(), now);
    assert!(bench.queue.in_flight(&old).is_none());
    assert_eq!(bench.queue.pop(now).unwrap().uid, new.uid);
    assert_eq!(bench.queue.in_flight(&new).unwrap().number, 1);
}

#[test]
fn where_a_pod_is() {
    let mut bench = Bench::new();
    let stage = |bench: &Bench, name: &str| {
        let key = format!("ns/{name}");
        let uid = bench.queue.get(&key).unwrap().uid.clone();
        assert_eq!(bench.queue.whereabouts(&key, "of another"), None);
        bench.queue.whereabouts(&key, &uid).unwrap()
    };
    bench.add("a", json!({}));
    bench.add("b", json!({}));
    bench.add("first", json!({"priority": 7}));
    bench.add("gated", json!({"schedulingGates": [{"name": "g"}]}));
    assert_eq!(stage(&bench, "first").stage, Stage::Ready { before: Some(0) });
    assert_eq!(stage(&bench, "b").stage, Stage::Ready { before: Some(2) });
    assert_eq!((stage(&bench, "b").attempts, stage(&bench, "b").last_attempt), (0, None));
    assert_eq!(stage(&bench, "gated").stage, Stage::Gated);
    assert_eq!(bench.pop(0).as_deref(), Some("first"));
    assert_eq!(stage(&bench, "first").stage, Stage::InProgress);
    bench.refused("first", FIT, 0);
    let by = PluginSet::of(["NodeResourcesFit"]);
    let parked = stage(&bench, "first");
    assert_eq!(parked.stage, Stage::Parked { until: bench.at(0) + FLUSH_AFTER, by });
    assert_eq!((parked.attempts, parked.last_attempt), (1, Some(bench.at(0))));
    let other = bench.pod("other", json!({}));
    bench.happened(Event::PodRemoved(&other), 0);
    assert_eq!(stage(&bench, "first").stage, Stage::BackOff { until: bench.at(1), early: true });
}

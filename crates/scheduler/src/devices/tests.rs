//! Decisions about pods with claims of devices, over objects as the API shows them.

use serde_json::{Value, json};

use super::*;
use crate::decision::{Decision, Scheduler};
use crate::framework::Profile;
use crate::snapshot::Snapshot;

/// Two nodes and their scheduler, which remembers.
struct Cluster {
    snapshot: Snapshot,
    scheduler: Scheduler,
}

fn parse<T: Resource>(object: &Value) -> T {
    T::decode(object.to_string().as_bytes()).unwrap()
}

impl Cluster {
    fn new() -> Self {
        let mut snapshot = Snapshot::default();
        for name in ["a", "b"] {
            let node = json!({"metadata": {"name": name, "labels": {"rack": name}}, "status": {"allocatable": {"pods": "9"}}});
            snapshot.set_node(&parse(&node));
        }
        let mut cluster = Cluster { snapshot, scheduler: Scheduler::new(vec![Profile::default()]) };
        cluster.class("gpu", json!({"selectors": [{"cel": {"expression": "device.driver == 'gpu.com'"}}]}));
        cluster
    }
    fn class(&mut self, name: &str, spec: Value) {
        let Snapshot { catalogue, devices, .. } = &mut self.snapshot;
        devices.set_class(&mut catalogue.symbols, &parse(&json!({"metadata": {"name": name}, "spec": spec})));
    }
    fn claim(&mut self, claim: &Value) {
        let Snapshot { catalogue, devices, .. } = &mut self.snapshot;
        devices.set_claim(&mut catalogue.symbols, &parse(claim));
    }
    fn slice(&mut self, name: &str, place: Value, devices: Value) {
        self.part(name, (name, 1, 1), place, devices);
    }
    /// `pool`: its name, generation and how many slices it has.
    fn part(&mut self, name: &str, pool: (&str, i64, i64), place: Value, devices: Value) {
        let pool = json!({"name": pool.0, "generation": pool.1, "resourceSliceCount": pool.2});
        let mut spec = json!({"driver": "gpu.com", "pool": pool, "devices": devices});
        for (key, value) in place.as_object().unwrap() {
            spec[key] = value.clone();
        }
        let Snapshot { catalogue, devices, .. } = &mut self.snapshot;
        devices.set_slice(&mut catalogue.symbols, &parse(&json!({"metadata": {"name": name}, "spec": spec})));
    }
    /// The nodes that take a pod, or why none does, without what preemption would do.
    fn ask(&mut self, claims: &[&str]) -> String {
        let pod = Arc::new(self.snapshot.catalogue.pod(&parse(&pod("p", claims))));
        if let Decision::Unschedulable(why) = self.scheduler.decide(&mut self.snapshot, &pod, 0) {
            let message = why.explanation.message();
            let message = message.strip_prefix("0/2 nodes are available: ").unwrap();
            return message.split_once(". ").map_or(message, |(text, _)| text).to_owned();
        }
        let (class, profile) = self.scheduler.class(&self.snapshot, &pod);
        let judgement = class.judge(&self.snapshot, profile);
        let mut nodes: Vec<&str> = judgement.scores().map(|(slot, _)| self.snapshot.name(slot)).collect();
        nodes.sort_unstable();
        nodes.join(" ")
    }
    fn reserve(&mut self, name: &str, claims: &[&str], node: &str) -> Vec<ClaimWork> {
        let pod = self.snapshot.catalogue.pod(&parse(&pod(name, claims)));
        let slot = self.snapshot.slot(node).unwrap();
        self.snapshot.reserve_devices(&pod, slot)
    }
}

fn pod(name: &str, claims: &[&str]) -> Value {
    let claims: Vec<Value> = claims.iter().map(|c| json!({"name": c, "resourceClaimName": c})).collect();
    json!({"metadata": {"name": name, "namespace": "ns", "uid": name}, "spec": {"containers": [], "resourceClaims": claims}})
}
fn claim(name: &str, devices: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "ns", "uid": name}, "spec": {"devices": devices}})
}
fn exactly(extra: Value) -> Value {
    let mut request = json!({"deviceClassName": "gpu"});
    for (key, value) in extra.as_object().unwrap() {
        request[key] = value.clone();
    }
    json!({"requests": [{"name": "r", "exactly": request}]})
}
/// Devices of a model each.
fn devices(models: &[&str]) -> Value {
    let device = |(index, model): (usize, &&str)| json!({"name": format!("d{index}"), "attributes": {"model": {"string": model}}});
    models.iter().enumerate().map(device).collect::<Vec<_>>().into()
}
fn of_model(model: &str) -> Value {
    json!([{"cel": {"expression": format!("device.attributes['gpu.com'].model == '{model}'")}}])
}
fn given(works: &[ClaimWork]) -> Vec<&str> {
    works.iter().flat_map(|work| &work.devices).map(|[_, _, device]| device.as_str()).collect()
}

#[test]
fn claims_that_refuse_a_pod_every_node() {
    let with = |extra: Value| {
        let mut claim = claim("x", exactly(json!({})));
        for (key, value) in extra.as_object().unwrap() {
            claim[key] = value.clone();
        }
        claim
    };
    let leaving =
        json!({"metadata": {"name": "x", "namespace": "ns", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let consumers: Vec<Value> =
        (0..MAX_CONSUMERS).map(|i| json!({"resource": "pods", "name": "q", "uid": i.to_string()})).collect();
    let other = json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "none"}}]});
    let cases = [
        (json!(null), "resourceclaim.resource.k8s.io \"x\" not found"),
        (with(leaving), "resourceclaim \"x\" is being deleted"),
        (with(json!({"status": {"allocation": {}, "reservedFor": consumers}})), "resourceclaim in use"),
        (claim("x", other), "request r: device class none does not exist"),
        (claim("x", exactly(json!({}))), "2 cannot allocate all claims"),
        (with(json!({"status": {"allocation": {}}})), "a b"),
    ];
    for (object, expected) in cases {
        let mut cluster = Cluster::new();
        if !object.is_null() {
            cluster.claim(&object);
        }
        assert_eq!(cluster.ask(&["x"]), expected, "{object}");
    }
}

#[test]
fn whether_all_claims_are_there_is_looked_at_first() {
    let mut cluster = Cluster::new();
    cluster.claim(&claim("x", json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "none"}}]})));
    assert_eq!(cluster.ask(&["x", "y"]), "resourceclaim.resource.k8s.io \"y\" not found");
    assert_eq!(cluster.ask(&["x"]), "request r: device class none does not exist");
}

#[test]
fn claims_made_for_a_pod_have_to_be_its_own() {
    let mut pod = pod("p", &[]);
    pod["spec"]["resourceClaims"] = json!([{"name": "g", "resourceClaimTemplateName": "t"}]);
    let mut cluster = Cluster::new();
    let ask = |cluster: &mut Cluster, pod: &Value| {
        let pod = cluster.snapshot.catalogue.pod(&parse(pod));
        let refused = cluster.scheduler.refusal_beforehand(&cluster.snapshot, &pod, 0);
        refused.map(|(_, text)| text.into_owned())
    };
    assert_eq!(ask(&mut cluster, &pod).unwrap(), "pod \"ns/p\": ResourceClaim not created yet");
    pod["status"] = json!({"resourceClaimStatuses": [{"name": "g", "resourceClaimName": "p-g"}]});
    let mut claim = claim("p-g", exactly(json!({})));
    cluster.claim(&claim);
    let expected = "ResourceClaim ns/p-g was not created for pod ns/p (pod is not owner)";
    assert_eq!(ask(&mut cluster, &pod).unwrap(), expected);
    claim["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "p", "controller": true}]);
    cluster.claim(&claim);
    assert_eq!(ask(&mut cluster, &pod), None);
    pod["status"] = json!({"resourceClaimStatuses": [{"name": "g"}]});
    assert_eq!(ask(&mut cluster, &pod), None, "it turned out to need none");
}

#[test]
fn requests_are_met_by_what_a_node_has() {
    let first = |alternatives: Value| json!({"requests": [{"name": "r", "firstAvailable": alternatives}]});
    let two = |constraint: Value| {
        let request = |name: &str| json!({"name": name, "exactly": {"deviceClassName": "gpu"}});
        json!({"requests": [request("r"), request("s")], "constraints": [constraint]})
    };
    let mixed = devices(&["x", "y", "x"]);
    let mut partition = devices(&["x"]);
    partition[0]["consumesCounters"] = json!([{"counterSet": "c", "counters": {"n": {"value": "1"}}}]);
    let cases = [
        ("any", exactly(json!({})), &mixed, vec!["d0"]),
        ("as many as there are", exactly(json!({"count": 3})), &mixed, vec!["d0", "d1", "d2"]),
        ("more than there are", exactly(json!({"count": 4})), &mixed, vec![]),
        ("of a model", exactly(json!({"selectors": of_model("y")})), &mixed, vec!["d1"]),
        (
            "two of a model",
            exactly(json!({"selectors": of_model("x"), "count": 2})),
            &mixed,
            vec!["d0", "d2"],
        ),
        (
            "all of a model",
            exactly(json!({"selectors": of_model("x"), "allocationMode": "All"})),
            &mixed,
            vec!["d0", "d2"],
        ),
        (
            "all of none",
            exactly(json!({"selectors": of_model("z"), "allocationMode": "All"})),
            &mixed,
            vec![],
        ),
        (
            "the first alternative that can be had",
            first(json!([
                {"name": "best", "deviceClassName": "gpu", "selectors": of_model("z")},
                {"name": "good", "deviceClassName": "gpu", "selectors": of_model("y")},
            ])),
            &mixed,
            vec!["d1"],
        ),
        ("alike", two(json!({"matchAttribute": "gpu.com/model"})), &mixed, vec!["d0", "d2"]),
        ("a constraint of an unknown kind", two(json!({})), &mixed, vec![]),
        ("alike in what they do not have", two(json!({"matchAttribute": "gpu.com/color"})), &mixed, vec![]),
        (
            "a constraint of another request",
            two(json!({"requests": ["r"], "matchAttribute": "gpu.com/model"})),
            &mixed,
            vec!["d0", "d1"],
        ),
        ("part of a larger one", exactly(json!({})), &partition, vec![]),
    ];
    for (name, wish, devices, expected) in cases {
        let mut cluster = Cluster::new();
        cluster.slice("s", json!({"nodeName": "b"}), devices.clone());
        cluster.claim(&claim("x", wish));
        let answer = if expected.is_empty() { "2 cannot allocate all claims" } else { "b" };
        assert_eq!(cluster.ask(&["x"]), answer, "{name}");
        assert_eq!(given(&cluster.reserve("p", &["x"], "b")), expected, "{name}");
    }
}

#[test]
fn slices_say_which_nodes_they_are_for() {
    let term = json!({"matchExpressions": [{"key": "rack", "operator": "In", "values": ["b"]}]});
    let cases = [
        (json!({"allNodes": true}), "a b"),
        (json!({"nodeName": "a"}), "a"),
        (json!({"nodeSelector": {"nodeSelectorTerms": [term]}}), "b"),
        (json!({}), "2 cannot allocate all claims"),
    ];
    for (place, expected) in cases {
        let mut cluster = Cluster::new();
        cluster.claim(&claim("x", exactly(json!({}))));
        cluster.slice("s", place.clone(), devices(&["x"]));
        assert_eq!(cluster.ask(&["x"]), expected, "{place}");
    }
}

#[test]
fn a_device_is_given_once_and_comes_back() {
    let mut cluster = Cluster::new();
    for name in ["x", "y"] {
        cluster.claim(&claim(name, exactly(json!({}))));
    }
    cluster.slice("s", json!({"nodeName": "a"}), devices(&["x"]));
    assert_eq!(cluster.ask(&["x", "y"]), "2 cannot allocate all claims");
    let works = cluster.reserve("p", &["x"], "a");
    assert_eq!(cluster.ask(&["y"]), "2 cannot allocate all claims");
    assert_eq!(cluster.ask(&["x"]), "resource claim ns/x is in the process of being allocated");
    cluster.snapshot.release_devices(&works);
    assert_eq!(cluster.ask(&["y"]), "a");
    // The API shows it: then nothing is assumed any more.
    let works = cluster.reserve("p", &["x"], "a");
    let mut allocated = claim("x", exactly(json!({})));
    allocated["status"] = json!({"allocation": works[0].allocation});
    cluster.claim(&allocated);
    cluster.snapshot.release_devices(&works);
    assert_eq!(cluster.ask(&["y"]), "2 cannot allocate all claims");
    assert_eq!(cluster.ask(&["x"]), "a", "it is for that node");
    assert_eq!(cluster.reserve("q", &["x"], "a"), [ClaimWork::to_consume("ns/x".to_owned(), "q".into())]);
    // Whoever only looks after devices may have those of others.
    cluster.claim(&claim("z", exactly(json!({"adminAccess": true}))));
    assert_eq!(cluster.ask(&["z"]), "a");
    let Snapshot { catalogue, devices, .. } = &mut cluster.snapshot;
    devices.remove_claim(&catalogue.symbols, "ns/x");
    assert_eq!(cluster.ask(&["y"]), "a");
}

/// One device, and two claims of one at version 9.
fn one_for_two() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.slice("s", json!({"nodeName": "a"}), devices(&["x"]));
    ["x", "y"].iter().for_each(|name| cluster.claim(&at(name, 9, json!(null))));
    cluster
}
/// The claim at a version, with what it has then.
fn at(name: &str, version: u32, allocation: Value) -> Value {
    let mut claim = claim(name, exactly(json!({})));
    claim["metadata"]["resourceVersion"] = version.to_string().into();
    claim["status"] = json!({"allocation": allocation});
    claim
}
const TAKEN: &str = "2 cannot allocate all claims";

#[test]
fn what_was_written_is_believed_until_the_api_is_as_new() {
    // The claim as it is seen after it was written at version 10, and what is left for the other.
    let others = json!({"devices": {"results": [{"request": "r", "driver": "gpu.com", "pool": "else", "device": "d"}]}});
    for (version, allocation, left) in [
        (9, json!(null), TAKEN),
        (9, others.clone(), TAKEN),
        (10, others, "a"),
        (10, json!(null), "a"),
        (100, json!(null), "a"),
    ] {
        for seen_first in [false, true] {
            let mut cluster = one_for_two();
            let works = cluster.reserve("p", &["x"], "a");
            let seen = at("x", version, allocation.clone());
            if seen_first {
                cluster.claim(&seen);
            }
            let Snapshot { catalogue, devices, .. } = &mut cluster.snapshot;
            let freed = devices.written(&mut catalogue.symbols, &works[0], 10);
            assert_eq!(freed, seen_first && version >= 10 && allocation.is_null(), "{seen}");
            if !seen_first {
                assert_eq!(cluster.ask(&["y"]), TAKEN, "before {seen}");
                cluster.claim(&seen);
            }
            assert_eq!(cluster.ask(&["y"]), left, "{seen}, first: {seen_first}");
        }
    }
}

#[test]
fn that_a_claim_has_lost_its_devices_is_news_though_it_was_never_seen_with_them() {
    let mut cluster = one_for_two();
    let works = cluster.reserve("p", &["x"], "a");
    let Snapshot { catalogue, devices, .. } = &mut cluster.snapshot;
    devices.written(&mut catalogue.symbols, &works[0], 10);
    let claim: ResourceClaim = parse(&at("x", 11, json!(null)));
    assert!(devices.set_claim(&mut catalogue.symbols, &claim));
    assert!(!devices.set_claim(&mut catalogue.symbols, &claim));
}

#[test]
fn a_snapshot_built_anew_goes_on_believing_what_the_api_does_not_show() {
    for (written, shown, left) in [(None, 9, TAKEN), (Some(10), 9, TAKEN), (Some(10), 11, "a")] {
        let mut old = one_for_two();
        let works = old.reserve("p", &["x"], "a");
        if let Some(version) = written {
            let Snapshot { catalogue, devices, .. } = &mut old.snapshot;
            devices.written(&mut catalogue.symbols, &works[0], version);
        }
        let mut new = one_for_two();
        new.claim(&at("x", shown, json!(null)));
        new.snapshot.inherit_devices(&old.snapshot);
        assert_eq!(new.ask(&["y"]), left, "{written:?} {shown}");
        // Nor is it believed for longer than it would have been.
        new.claim(&at("x", 12, json!(null)));
        assert_eq!(new.ask(&["y"]), if written.is_some() { "a" } else { TAKEN });
    }
}

#[test]
fn what_another_pod_is_given_is_not_taken_back() {
    let mut cluster = one_for_two();
    let old = cluster.reserve("p", &["x"], "a");
    let Snapshot { catalogue, devices, .. } = &mut cluster.snapshot;
    devices.remove_claim(&catalogue.symbols, "ns/x");
    cluster.claim(&at("x", 20, json!(null)));
    cluster.reserve("q", &["x"], "a");
    cluster.snapshot.release_devices(&old);
    assert_eq!(cluster.ask(&["y"]), TAKEN);
    let Snapshot { catalogue, devices, .. } = &mut cluster.snapshot;
    assert!(!devices.written(&mut catalogue.symbols, &old[0], 10), "the answer was late");
    assert_eq!(cluster.ask(&["y"]), TAKEN);
}

#[test]
fn what_is_given_is_written_with_its_configurations() {
    let opaque = |text: &str| json!({"driver": "gpu.com", "parameters": {"text": text}});
    let mut cluster = Cluster::new();
    cluster.class("gpu", json!({"config": [{"opaque": opaque("class")}]}));
    let mut wish = exactly(json!({}));
    wish["config"] = json!([{"opaque": opaque("claim")}, {"requests": ["r"], "opaque": opaque("request")}]);
    cluster.claim(&claim("x", wish));
    cluster.slice("s", json!({"nodeName": "a"}), devices(&["x"]));
    let works = cluster.reserve("p", &["x"], "a");
    let config = |source: &str, text: &str| json!({"source": source, "opaque": opaque(text)});
    let field = json!({"key": "metadata.name", "operator": "In", "values": ["a"]});
    assert_eq!(
        works[0].allocation,
        Some(json!({
            "devices": {
                "results": [{"request": "r", "driver": "gpu.com", "pool": "s", "device": "d0"}],
                "config": [config("FromClass", "class"), config("FromClaim", "claim"), config("FromClaim", "request")],
            },
            "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [field]}]},
        }))
    );
}

/// A claim with devices that can be used on one node.
fn allocated(name: &str, node: &str, consumers: &[&str]) -> Value {
    let field = json!({"key": "metadata.name", "operator": "In", "values": [node]});
    let consumers: Vec<Value> =
        consumers.iter().map(|c| json!({"resource": "pods", "name": c, "uid": c})).collect();
    let mut claim = claim(name, exactly(json!({})));
    claim["status"] = json!({
        "allocation": {"nodeSelector": {"nodeSelectorTerms": [{"matchFields": [field]}]}},
        "reservedFor": consumers,
    });
    claim
}

#[test]
fn a_claim_that_is_in_the_way_gives_its_devices_back() {
    use crate::plugins::dynamic_resources::Deallocation::{self, NoHelp, Of};
    let deallocation = |claims: &[Value], full: &str| -> Deallocation {
        let mut cluster = Cluster::new();
        let node = json!({"metadata": {"name": full}, "spec": {"unschedulable": true}, "status": {"allocatable": {"pods": "9"}}});
        cluster.snapshot.set_node(&parse(&node));
        claims.iter().for_each(|claim| cluster.claim(claim));
        let names: Vec<&str> = claims.iter().filter_map(|claim| claim["metadata"]["name"].as_str()).collect();
        let pod = Arc::new(cluster.snapshot.catalogue.pod(&parse(&pod("p", &names))));
        match cluster.scheduler.decide(&mut cluster.snapshot, &pod, 0) {
            Decision::Unschedulable(why) => {
                let tried = why.deallocation.unwrap();
                assert!(why.explanation.message().contains(tried.message()), "{}", why.explanation.message());
                tried
            }
            Decision::Node(_) => panic!("there is no node for it"),
        }
    };
    let x = || Of("ns/x".to_owned());
    // Where its devices are no pod can go; on the other node they cannot be used.
    assert_eq!(deallocation(&[allocated("x", "a", &[])], "a"), x());
    assert_eq!(deallocation(&[allocated("x", "a", &["p"])], "a"), x());
    assert_eq!(deallocation(&[allocated("x", "a", &["q"])], "a"), NoHelp);
    assert_eq!(deallocation(&[allocated("x", "a", &["p", "q"])], "a"), NoHelp);
    assert_eq!(deallocation(&[allocated("y", "b", &[]), allocated("x", "a", &[])], "a"), x());
    // The node is not refused for what the claim has.
    assert_eq!(deallocation(&[allocated("x", "a", &[]), claim("y", exactly(json!({})))], "a"), NoHelp);
}

#[test]
fn nodes_with_devices_of_an_earlier_alternative_are_better() {
    let alternatives = json!([
        {"name": "best", "deviceClassName": "gpu", "selectors": of_model("y")},
        {"name": "good", "deviceClassName": "gpu", "selectors": of_model("x")},
    ]);
    let mut cluster = Cluster::new();
    cluster.slice("s", json!({"nodeName": "a"}), devices(&["x"]));
    cluster.slice("t", json!({"nodeName": "b"}), devices(&["x", "y"]));
    cluster.claim(&claim("c", json!({"requests": [{"name": "r", "firstAvailable": alternatives}]})));
    cluster.claim(&claim("d", exactly(json!({"selectors": of_model("x")}))));
    let mut marks = |claims: &[&str]| -> Vec<i64> {
        let pod = Arc::new(cluster.snapshot.catalogue.pod(&parse(&pod("p", claims))));
        let (class, profile) = cluster.scheduler.class(&cluster.snapshot, &pod);
        let judgement = class.judge(&cluster.snapshot, profile);
        let score =
            |name: &str| judgement.scores().find(|(slot, _)| cluster.snapshot.name(*slot) == name).unwrap().1;
        vec![score("a"), score("b")]
    };
    let [alike, other] = marks(&["d"])[..] else { panic!() };
    assert_eq!(alike, other);
    // 7 of 8 marks.
    assert_eq!(marks(&["c"]), [alike + 87, alike + 100]);
}

#[test]
fn a_search_that_takes_too_long_is_given_up() {
    let mut cluster = Cluster::new();
    let model: Vec<String> = (0..40).map(|i| format!("m{}", i / 2)).collect();
    let model: Vec<&str> = model.iter().map(String::as_str).collect();
    cluster.slice("s", json!({"nodeName": "a"}), devices(&model));
    let request = |i: usize| json!({"name": format!("r{i}"), "exactly": {"deviceClassName": "gpu"}});
    let mut wish = json!({"requests": (0..8).map(request).collect::<Vec<_>>()});
    wish["constraints"] = json!([{"matchAttribute": "gpu.com/none", "requests": ["r7"]}]);
    cluster.claim(&claim("x", wish));
    assert_eq!(cluster.ask(&["x"]), "1 cannot allocate all claims, 1 timed out trying to allocate devices");
}

#[test]
fn pools_that_name_a_device_twice_are_left_out() {
    let mut cluster = Cluster::new();
    let twice = json!([{"name": "d"}, {"name": "d"}]);
    cluster.slice("s", json!({"allNodes": true}), twice);
    cluster.claim(&claim("x", exactly(json!({}))));
    assert_eq!(cluster.ask(&["x"]), "2 invalid resource pools were encountered");
    cluster.slice("t", json!({"nodeName": "a"}), json!([{"name": "d"}]));
    assert_eq!(cluster.ask(&["x"]), "a");
}

#[test]
fn pools_are_left_out_as_long_as_they_are_being_updated() {
    let on = |node: &str| json!({"nodeName": node});
    let one = || json!([{"name": "d"}]);
    let all = || exactly(json!({"allocationMode": "All"}));
    let updated = "asks for all devices, but a resource pool is currently being updated";
    let mut cluster = Cluster::new();
    cluster.claim(&claim("x", exactly(json!({}))));
    cluster.claim(&claim("y", all()));
    cluster.part("s", ("p", 1, 2), on("a"), one());
    assert_eq!(cluster.ask(&["x"]), "2 cannot allocate all claims");
    assert_eq!(cluster.ask(&["y"]), format!("1 {updated}, 1 cannot allocate all claims"));
    // The slice that was missed is another node's: what is known of it matters all the same.
    cluster.part("t", ("p", 1, 2), on("b"), one());
    assert_eq!(cluster.ask(&["x"]), "a b");
    assert_eq!(cluster.ask(&["y"]), "a b");
    // Of the newer generation nothing is known but that it has begun.
    cluster.part("t", ("p", 2, 2), on("b"), one());
    assert_eq!(cluster.ask(&["x"]), "2 cannot allocate all claims");
    assert_eq!(cluster.ask(&["y"]), format!("1 {updated}, 1 cannot allocate all claims"));
    cluster.part("s", ("p", 2, 2), on("a"), one());
    assert_eq!(cluster.ask(&["y"]), "a b");
    // An alternative that asks for all waits as well, and so do those after it.
    let ways = json!([
        {"name": "all", "deviceClassName": "gpu", "allocationMode": "All"},
        {"name": "one", "deviceClassName": "gpu"},
    ]);
    cluster.claim(&claim("z", json!({"requests": [{"name": "r", "firstAvailable": ways}]})));
    cluster.part("u", ("q", 1, 2), json!({"allNodes": true}), one());
    assert_eq!(cluster.ask(&["z"]), format!("2 {updated}"));
    assert_eq!(cluster.ask(&["x"]), "a b");
}

#[test]
fn what_somebody_looks_after_is_not_given_to_the_same_pod_as_well() {
    let request = |name: &str, admin: bool| json!({"name": name, "exactly": {"deviceClassName": "gpu", "adminAccess": admin}});
    let cases =
        [([true, false], "2 cannot allocate all claims"), ([false, true], "2 cannot allocate all claims")];
    for (admin, expected) in cases {
        let mut cluster = Cluster::new();
        cluster.slice("s", json!({"nodeName": "a"}), devices(&["x"]));
        cluster.claim(&claim("x", json!({"requests": [request("r", admin[0]), request("s", admin[1])]})));
        assert_eq!(cluster.ask(&["x"]), expected, "{admin:?}");
    }
    let mut cluster = Cluster::new();
    cluster.slice("s", json!({"nodeName": "a"}), devices(&["x"]));
    cluster.claim(&claim("plain", exactly(json!({}))));
    cluster.claim(&claim("looking", exactly(json!({"adminAccess": true}))));
    assert_eq!(cluster.ask(&["plain", "looking"]), "a");
    assert_eq!(cluster.ask(&["looking", "plain"]), "2 cannot allocate all claims");
}

#[test]
fn another_claim_of_the_name_asks_for_what_it_says() {
    let mut cluster = Cluster::new();
    cluster.slice("s", json!({"nodeName": "a"}), devices(&["x"]));
    cluster.claim(&claim("x", exactly(json!({"count": 2}))));
    assert_eq!(cluster.ask(&["x"]), "2 cannot allocate all claims");
    let mut other = claim("x", exactly(json!({})));
    other["metadata"]["uid"] = "other".into();
    cluster.claim(&other);
    assert_eq!(cluster.ask(&["x"]), "a");
}

#[test]
fn who_looks_after_devices_looks_after_each_once() {
    let admin =
        |name: &str| json!({"name": name, "exactly": {"deviceClassName": "gpu", "adminAccess": true}});
    let mut cluster = Cluster::new();
    cluster.slice("s", json!({"nodeName": "a"}), devices(&["x"]));
    cluster.claim(&claim("one", json!({"requests": [admin("r")]})));
    cluster.claim(&claim("two", json!({"requests": [admin("r"), admin("s")]})));
    assert_eq!(cluster.ask(&["one"]), "a");
    assert_eq!(cluster.ask(&["two"]), "2 cannot allocate all claims");
}

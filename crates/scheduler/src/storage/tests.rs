//! Decisions about pods with claims, over objects as the API shows them.

use serde_json::{Value, json};

use super::*;
use crate::decision::{Decision, Scheduler};
use crate::framework::Profile;
use crate::snapshot::Snapshot;
use amphipod_client::{CachedPod, Resource};

const AFTERWARDS: &str = ". no new claims to deallocate, preemption: 0/";

/// A cluster and its scheduler, which remembers.
struct Cluster {
    snapshot: Snapshot,
    scheduler: Scheduler,
}

fn parse<T: Resource>(object: &Value) -> T {
    T::decode(object.to_string().as_bytes()).unwrap()
}

impl Cluster {
    /// Nodes `a` to `c`, each in a zone of its own.
    fn new() -> Self {
        let mut cluster =
            Cluster { snapshot: Snapshot::default(), scheduler: Scheduler::new(vec![Profile::default()]) };
        for name in ["a", "b", "c"] {
            cluster.node(
                name,
                json!({"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("z{name}")}),
            );
        }
        cluster
    }
    fn node(&mut self, name: &str, labels: Value) {
        let node = json!({"metadata": {"name": name, "labels": labels},
            "status": {"allocatable": {"cpu": "9", "memory": "9Gi", "pods": "9"}}});
        self.snapshot.set_node(&parse(&node));
    }
    fn with<T>(&mut self, set: fn(&mut Storage, &mut Symbols, &T) -> bool, object: &Value) -> &mut Self
    where
        T: Resource,
    {
        let Snapshot { catalogue, storage, .. } = &mut self.snapshot;
        set(storage, &mut catalogue.symbols, &parse(object));
        self
    }
    fn claim(&mut self, claim: &Value) -> &mut Self {
        self.with(Storage::set_claim, claim)
    }
    fn volume(&mut self, volume: &Value) -> &mut Self {
        self.with(Storage::set_volume, volume)
    }
    fn class(&mut self, name: &str, extra: Value) -> &mut Self {
        let class = json!({"metadata": {"name": name}, "provisioner": "csi.example.com", "volumeBindingMode": "WaitForFirstConsumer"});
        self.with(Storage::set_class, &merged(class, extra))
    }
    fn limit(&mut self, node: &str, count: i64) -> &mut Self {
        let driver = json!({"name": "csi.example.com", "nodeID": node, "allocatable": {"count": count}});
        self.with(Storage::set_limits, &json!({"metadata": {"name": node}, "spec": {"drivers": [driver]}}))
    }
    /// The nodes that take a pod, or why none does, without what preemption would do.
    fn ask(&mut self, pod: &Value) -> String {
        let pod = Arc::new(self.snapshot.catalogue.pod(&parse(pod)));
        if let Decision::Unschedulable(why) = self.scheduler.decide(&mut self.snapshot, &pod, 0) {
            let message = why.explanation.message();
            let message = message.strip_prefix("0/3 nodes are available: ").unwrap();
            return message.split_once(AFTERWARDS).map_or(message, |(text, _)| text).to_owned();
        }
        let (class, profile) = self.scheduler.class(&self.snapshot, &pod);
        let judgement = class.judge(&self.snapshot, profile);
        let mut nodes: Vec<&str> = judgement.scores().map(|(slot, _)| self.snapshot.name(slot)).collect();
        nodes.sort_unstable();
        nodes.join(" ")
    }
    fn victims(&mut self, pod: &Value) -> Vec<String> {
        let pod = Arc::new(self.snapshot.catalogue.pod(&parse(pod)));
        let decision = self.scheduler.decide(&mut self.snapshot, &pod, 0);
        self.snapshot.denominate(&pod.key);
        match decision {
            Decision::Unschedulable(why) => match why.preemption {
                Some(crate::preemption::Preemption::Plan(plan)) => {
                    plan.victims.iter().map(|victim| victim.name().to_owned()).collect()
                }
                _ => Vec::new(),
            },
            Decision::Node(_) => Vec::new(),
        }
    }
    fn place(&mut self, pod: &Value, node: &str) {
        let mut pod = pod.clone();
        pod["spec"]["nodeName"] = node.into();
        self.snapshot.set_pod(&parse::<CachedPod>(&pod));
    }
    fn reserve(&mut self, pod: &Value, node: &str) -> Reservation {
        let pod = self.snapshot.catalogue.pod(&parse(pod));
        let slot = self.snapshot.slot(node).unwrap();
        let reservation = self.snapshot.reserve(&pod, slot);
        self.snapshot.place(&pod, slot);
        reservation
    }
}

fn merged(mut object: Value, extra: Value) -> Value {
    match (&mut object, extra) {
        (Value::Object(map), Value::Object(extra)) => {
            for (key, value) in extra {
                let known = map.entry(key).or_insert(Value::Null);
                *known = merged(known.take(), value);
            }
            object
        }
        (_, extra) => extra,
    }
}

fn pod(name: &str, claims: &[&str]) -> Value {
    let volumes: Vec<Value> = claims
        .iter()
        .map(|claim| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}}))
        .collect();
    json!({"metadata": {"name": name, "namespace": "ns", "uid": name}, "spec": {"containers": [], "volumes": volumes}})
}
fn claim(name: &str, extra: Value) -> Value {
    let spec = json!({"storageClassName": "late", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    merged(json!({"metadata": {"name": name, "namespace": "ns", "uid": name}, "spec": spec}), extra)
}
fn bound(name: &str, volume: &str) -> Value {
    let annotations = json!({"pv.kubernetes.io/bind-completed": "yes"});
    claim(name, json!({"metadata": {"annotations": annotations}, "spec": {"volumeName": volume}}))
}
fn volume(name: &str, extra: Value) -> Value {
    let spec =
        json!({"storageClassName": "late", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}});
    let status = json!({"phase": "Available"});
    merged(json!({"metadata": {"name": name}, "spec": spec, "status": status}), extra)
}
fn only_on(key: &str, values: &[&str]) -> Value {
    let expression = json!({"key": key, "operator": "In", "values": values});
    json!({"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}})
}
/// A volume on one node.
fn local(name: &str, node: &str, extra: Value) -> Value {
    merged(volume(name, json!({"spec": only_on("kubernetes.io/hostname", &[node])})), extra)
}
fn of_driver(name: &str, handle: &str) -> Value {
    volume(name, json!({"spec": {"csi": {"driver": "csi.example.com", "volumeHandle": handle}}}))
}

#[test]
fn claims_that_refuse_a_pod_every_node() {
    let cases = [
        ("missing", json!(null), "persistentvolumeclaim \"x\" not found"),
        (
            "leaving",
            claim("x", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})),
            "persistentvolumeclaim \"x\" is being deleted",
        ),
        (
            "lost",
            claim("x", json!({"spec": {"volumeName": "v"}, "status": {"phase": "Lost"}})),
            "persistentvolumeclaim \"x\" bound to non-existent persistentvolume \"v\"",
        ),
        (
            "immediate",
            claim("x", json!({"spec": {"storageClassName": "soon"}})),
            "pod has unbound immediate PersistentVolumeClaims",
        ),
        (
            "its volume is chosen, but not bound",
            claim("x", json!({"spec": {"volumeName": "v"}})),
            "pod has unbound immediate PersistentVolumeClaims",
        ),
        (
            "no such class",
            claim("x", json!({"spec": {"storageClassName": "none"}})),
            "pod has unbound immediate PersistentVolumeClaims",
        ),
        ("bound to nothing", bound("x", "gone"), "persistentvolume \"gone\" not found"),
        ("waits for the pod", claim("x", json!({})), "a b c"),
    ];
    for (name, object, expected) in cases {
        let mut cluster = Cluster::new();
        cluster.class("late", json!({})).class("soon", json!({"volumeBindingMode": "Immediate"}));
        if !object.is_null() {
            cluster.claim(&object);
        }
        assert_eq!(cluster.ask(&pod("p", &["x"])), expected, "{name}");
    }
}

#[test]
fn volumes_made_for_a_pod_have_to_be_its_own() {
    let mut pod = pod("p", &[]);
    pod["spec"]["volumes"] = json!([{"name": "x", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}]);
    let mut cluster = Cluster::new();
    cluster.class("late", json!({}));
    assert_eq!(
        cluster.ask(&pod),
        "waiting for ephemeral volume controller to create the persistentvolumeclaim \"p-x\""
    );
    cluster.claim(&claim("p-x", json!({})));
    assert_eq!(cluster.ask(&pod), "PVC ns/p-x was not created for pod ns/p (pod is not owner)");
    let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "p", "controller": true}]);
    cluster.claim(&claim("p-x", json!({"metadata": {"ownerReferences": owner}})));
    assert_eq!(cluster.ask(&pod), "a b c");
}

#[test]
fn bound_volumes_say_which_nodes_reach_them() {
    let elsewhere = "node(s) didn't match PersistentVolume's node affinity";
    let zone = "topology.kubernetes.io/zone";
    let cases = [
        ("everywhere", json!({}), "a b c".to_owned()),
        ("two zones", json!({"spec": only_on(zone, &["za", "zb"])}), "a b".to_owned()),
        ("nowhere", json!({"spec": only_on(zone, &["zx"])}), format!("3 {elsewhere}")),
        ("its labels name a zone", json!({"metadata": {"labels": {zone: "zc"}}}), "c".to_owned()),
        ("several", json!({"metadata": {"labels": {zone: "zb__zc"}}}), "b c".to_owned()),
        ("no list", json!({"metadata": {"labels": {zone: "__"}}}), "a b c".to_owned()),
        (
            "under the old name",
            json!({"metadata": {"labels": {"failure-domain.beta.kubernetes.io/zone": "za"}}}),
            "a".to_owned(),
        ),
        (
            "a region no node names",
            json!({"metadata": {"labels": {"topology.kubernetes.io/region": "r"}}}),
            "3 node(s) had no available volume zone".to_owned(),
        ),
    ];
    for (name, extra, expected) in cases {
        let mut cluster = Cluster::new();
        cluster.class("late", json!({})).claim(&bound("x", "v")).volume(&volume("v", extra));
        assert_eq!(cluster.ask(&pod("p", &["x"])), expected, "{name}");
    }
    // A node that does not say where it is takes volumes of any zone.
    let mut cluster = Cluster::new();
    cluster.claim(&bound("x", "v")).volume(&volume("v", json!({"metadata": {"labels": {zone: "zx"}}})));
    cluster.node("b", json!({}));
    assert_eq!(cluster.ask(&pod("p", &["x"])), "b");
}

#[test]
fn a_waiting_claim_takes_the_smallest_volume_that_will_do() {
    let block = json!({"spec": {"volumeMode": "Block"}});
    let cases = [
        ("as asked", local("v", "b", json!({})), true),
        ("too small", local("v", "b", json!({"spec": {"capacity": {"storage": "500Mi"}}})), false),
        ("another class", local("v", "b", json!({"spec": {"storageClassName": "other"}})), false),
        ("another mode", local("v", "b", json!({"spec": {"accessModes": ["ReadOnlyMany"]}})), false),
        (
            "more modes than asked",
            local("v", "b", json!({"spec": {"accessModes": ["ReadOnlyMany", "ReadWriteOnce"]}})),
            true,
        ),
        ("a block device", local("v", "b", block), false),
        ("other attributes", local("v", "b", json!({"spec": {"volumeAttributesClassName": "gold"}})), false),
        ("not free", local("v", "b", json!({"status": {"phase": "Released"}})), false),
        (
            "leaving",
            local("v", "b", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})),
            false,
        ),
        (
            "kept for another",
            local("v", "b", json!({"spec": {"claimRef": {"namespace": "ns", "name": "y"}}})),
            false,
        ),
        (
            "kept for it",
            local("v", "b", json!({"spec": {"claimRef": {"namespace": "ns", "name": "x", "uid": "x"}}})),
            true,
        ),
        (
            "kept for one of that name before",
            local("v", "b", json!({"spec": {"claimRef": {"namespace": "ns", "name": "x", "uid": "old"}}})),
            false,
        ),
    ];
    for (name, volume, fits) in cases {
        let mut cluster = Cluster::new();
        cluster.class("late", json!({"provisioner": "kubernetes.io/no-provisioner"}));
        cluster.claim(&claim("x", json!({}))).volume(&volume);
        let expected = if fits { "b" } else { "3 node(s) didn't find available persistent volumes to bind" };
        assert_eq!(cluster.ask(&pod("p", &["x"])), expected, "{name}");
    }
    let mut cluster = Cluster::new();
    cluster.class("late", json!({})).claim(&claim("x", json!({})));
    for (name, size) in [("large", "9Gi"), ("small", "2Gi"), ("tiny", "1Mi")] {
        cluster.volume(&local(name, "a", json!({"spec": {"capacity": {"storage": size}}})));
    }
    let reserved = cluster.reserve(&pod("p", &["x"]), "a");
    assert_eq!(reserved.volumes, [("ns/x".to_owned(), "small".to_owned())]);
    assert_eq!(cluster.reserve(&pod("q", &["x"]), "b").volumes, [], "the claim's volume is on another node");
}

#[test]
fn selectors_choose_among_volumes_and_two_claims_need_two() {
    let mut cluster = Cluster::new();
    cluster.class("late", json!({"provisioner": "kubernetes.io/no-provisioner"}));
    let selector = json!({"spec": {"selector": {"matchLabels": {"tier": "fast"}}}});
    cluster.claim(&claim("x", selector)).claim(&claim("y", json!({})));
    let none = "3 node(s) didn't find available persistent volumes to bind";
    cluster.volume(&local("v", "a", json!({})));
    assert_eq!(cluster.ask(&pod("p", &["x"])), none);
    assert_eq!(cluster.ask(&pod("p", &["y"])), "a");
    cluster.volume(&local("w", "a", json!({"metadata": {"labels": {"tier": "fast"}}})));
    assert_eq!(cluster.ask(&pod("p", &["x"])), "a");
    assert_eq!(cluster.ask(&pod("p", &["x", "y"])), "a");
    cluster.snapshot.storage.remove_volume(&cluster.snapshot.catalogue.symbols, "v");
    assert_eq!(cluster.ask(&pod("p", &["x", "y"])), none);
}

#[test]
fn volumes_are_made_where_the_class_and_the_drivers_room_allow() {
    let zones = |zones: &[&str]| {
        let expression = json!({"key": "topology.kubernetes.io/zone", "values": zones});
        json!({"allowedTopologies": [{"matchLabelExpressions": [expression]}]})
    };
    let mut cluster = Cluster::new();
    cluster.class("late", zones(&["zb", "zc"])).claim(&claim("x", json!({})));
    assert_eq!(cluster.ask(&pod("p", &["x"])), "b c");
    cluster.with(
        Storage::set_driver,
        &json!({"metadata": {"name": "csi.example.com"}, "spec": {"storageCapacity": true}}),
    );
    assert_eq!(
        cluster.ask(&pod("p", &["x"])),
        "1 node(s) didn't find available persistent volumes to bind, 2 node(s) did not have enough free storage"
    );
    let room = |name: &str, zone: &str, amounts: Value| {
        let topology = json!({"matchLabels": {"topology.kubernetes.io/zone": zone}});
        let room = json!({"metadata": {"name": name, "namespace": "ns"}, "storageClassName": "late", "nodeTopology": topology});
        merged(room, amounts)
    };
    let cases = [
        ("too little", room("r", "zb", json!({"capacity": "500Mi"})), None),
        ("enough", room("r", "zb", json!({"capacity": "1Gi"})), Some("b")),
        ("not in one piece", room("r", "zb", json!({"capacity": "9Gi", "maximumVolumeSize": "500Mi"})), None),
        ("not said", room("r", "zb", json!({})), None),
        (
            "for no node",
            json!({"metadata": {"name": "r", "namespace": "ns"}, "storageClassName": "late", "capacity": "9Gi"}),
            None,
        ),
        ("where the class allows none", room("r", "za", json!({"capacity": "9Gi"})), None),
        ("elsewhere", room("r", "zc", json!({"capacity": "9Gi"})), Some("c")),
    ];
    for (name, capacity, expected) in cases {
        cluster.with(Storage::set_capacity, &capacity);
        let answer = cluster.ask(&pod("p", &["x"]));
        match expected {
            Some(node) => assert_eq!(answer, node, "{name}"),
            None => {
                assert!(answer.contains("2 node(s) did not have enough free storage"), "{name}: {answer}")
            }
        }
    }
}

#[test]
fn what_is_reserved_is_kept_until_it_is_released() {
    let mut cluster = Cluster::new();
    cluster.class("late", json!({"provisioner": "kubernetes.io/no-provisioner"}));
    cluster.claim(&claim("x", json!({}))).claim(&claim("y", json!({})));
    cluster.volume(&local("v", "a", json!({}))).volume(&local("w", "b", json!({})));
    assert_eq!(cluster.ask(&pod("q", &["y"])), "a b");
    let reservation = cluster.reserve(&pod("p", &["x"]), "a");
    assert_eq!(cluster.ask(&pod("q", &["y"])), "b");
    assert_eq!(cluster.ask(&pod("r", &["x"])), "a", "the claim of the first pod has its volume");
    cluster.snapshot.release(&reservation);
    assert_eq!(cluster.ask(&pod("q", &["y"])), "a b");
    // The API shows it: then it is not assumed any more, and a release changes nothing.
    let reservation = cluster.reserve(&pod("p", &["x"]), "a");
    let claim_ref = json!({"spec": {"claimRef": {"namespace": "ns", "name": "x", "uid": "x"}}});
    cluster.volume(&local("v", "a", claim_ref));
    cluster.snapshot.release(&reservation);
    assert_eq!(cluster.ask(&pod("q", &["y"])), "b");
}

#[test]
fn a_volume_is_made_where_its_first_pod_goes() {
    let mut cluster = Cluster::new();
    cluster.class("late", json!({})).claim(&claim("x", json!({})));
    let reservation = cluster.reserve(&pod("p", &["x"]), "b");
    assert_eq!(reservation.provisions, ["ns/x"]);
    assert_eq!(cluster.ask(&pod("q", &["x"])), "b");
    cluster.snapshot.release(&reservation);
    assert_eq!(cluster.ask(&pod("q", &["x"])), "a b c");
    let selected = json!({"metadata": {"annotations": {SELECTED_NODE: "c"}}});
    cluster.claim(&claim("x", selected));
    assert_eq!(cluster.ask(&pod("q", &["x"])), "c");
}

#[test]
fn each_volume_of_a_driver_counts_once_on_a_node() {
    let mut cluster = Cluster::new();
    cluster.class("late", json!({})).limit("a", 2).limit("b", 1).limit("c", 0);
    for name in ["x", "y", "z"] {
        cluster.claim(&bound(name, name)).volume(&of_driver(name, name));
    }
    assert_eq!(cluster.ask(&pod("p", &["x"])), "a b");
    assert_eq!(cluster.ask(&pod("p", &["x", "y"])), "a");
    let full = "3 node(s) exceed max volume count";
    assert_eq!(cluster.ask(&pod("p", &["x", "y", "z"])), full);
    cluster.place(&pod("one", &["x"]), "a");
    cluster.place(&pod("two", &["x"]), "a");
    cluster.place(&pod("three", &["y"]), "b");
    assert_eq!(cluster.ask(&pod("p", &["z"])), "a", "one volume of two pods");
    assert_eq!(cluster.ask(&pod("p", &["x", "z"])), "a", "it is there already");
    assert_eq!(cluster.ask(&pod("p", &["y"])), "a b", "on b it is there already");
    // What is attached counts, used or not, and not twice.
    let attachment = |volume: &str| {
        let spec = json!({"attacher": "csi.example.com", "nodeName": "a", "source": {"persistentVolumeName": volume}});
        json!({"metadata": {"name": volume}, "spec": spec})
    };
    cluster.with(Storage::set_attachment, &attachment("x"));
    assert_eq!(cluster.ask(&pod("p", &["z"])), "a");
    cluster.with(Storage::set_attachment, &attachment("y"));
    assert_eq!(cluster.ask(&pod("p", &["z"])), full);
    assert_eq!(cluster.ask(&pod("p", &["y"])), "a b", "it is attached already");
    cluster.snapshot.storage.remove_attachment(&cluster.snapshot.catalogue.symbols, "y");
    assert_eq!(cluster.ask(&pod("p", &["z"])), "a");
    cluster.limit("a", 1);
    assert_eq!(cluster.ask(&pod("p", &["z"])), full);
}

#[test]
fn of_several_volumes_kept_for_a_claim_the_one_a_node_reaches_is_its() {
    for order in [["a", "b"], ["b", "a"]] {
        let mut cluster = Cluster::new();
        cluster.class("late", json!({"provisioner": "kubernetes.io/no-provisioner"}));
        cluster.claim(&claim("x", json!({})));
        for node in order {
            let kept = json!({"spec": {"claimRef": {"namespace": "ns", "name": "x"}}});
            cluster.volume(&local(node, node, kept));
        }
        assert_eq!(cluster.ask(&pod("p", &["x"])), "a b", "{order:?}");
        let reserved = cluster.reserve(&pod("p", &["x"]), "b");
        assert_eq!(reserved.volumes, [("ns/x".to_owned(), "b".to_owned())]);
    }
}

#[test]
fn a_volume_that_a_waiting_pod_will_bring_counts_once_as_well() {
    let mut cluster = Cluster::new();
    cluster.class("late", json!({})).limit("a", 1).limit("b", 0).limit("c", 0);
    for name in ["x", "y"] {
        cluster.claim(&bound(name, name)).volume(&of_driver(name, name));
    }
    let waiting = Arc::new(cluster.snapshot.catalogue.pod(&parse(&pod("waiting", &["x"]))));
    let slot = cluster.snapshot.slot("a").unwrap();
    cluster.snapshot.nominate(waiting, slot);
    assert_eq!(cluster.ask(&pod("p", &["y"])), "3 node(s) exceed max volume count");
    assert_eq!(cluster.ask(&pod("p", &["x"])), "a", "it is the same");
}

#[test]
fn volumes_that_are_still_to_be_made_count_as_well() {
    let mut cluster = Cluster::new();
    cluster.class("late", json!({})).limit("a", 1).limit("b", 0).limit("c", 0);
    cluster.claim(&claim("x", json!({}))).claim(&claim("y", json!({})));
    assert_eq!(cluster.ask(&pod("p", &["x"])), "a");
    cluster.place(&pod("one", &["x"]), "a");
    assert_eq!(cluster.ask(&pod("p", &["y"])), "3 node(s) exceed max volume count");
    assert_eq!(cluster.ask(&pod("p", &["x"])), "a");
    // It turns out to be the volume of another driver.
    let other = volume("v", json!({"spec": {"csi": {"driver": "other.example.com", "volumeHandle": "h"}}}));
    cluster.volume(&other).claim(&bound("x", "v"));
    assert_eq!(cluster.ask(&pod("p", &["y"])), "a");
}

#[test]
fn a_claim_for_one_pod_is_taken_from_pods_that_matter_less() {
    let in_use = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod";
    let mut cluster = Cluster::new();
    let once = merged(bound("x", "v"), json!({"spec": {"accessModes": ["ReadWriteOncePod"]}}));
    cluster.claim(&once).volume(&of_driver("v", "v"));
    assert_eq!(cluster.ask(&pod("p", &["x"])), "a b c");
    cluster.place(&pod("holder", &["x"]), "b");
    cluster.place(&pod("bystander", &[]), "a");
    assert_eq!(cluster.ask(&pod("p", &["x"])), format!("3 {in_use}"));
    let mut important = pod("p", &["x"]);
    important["spec"]["priority"] = 5.into();
    assert_eq!(cluster.victims(&important), ["holder"]);
    cluster.snapshot.remove_pod("ns/holder");
    assert_eq!(cluster.ask(&pod("p", &["x"])), "a b c");
}

#[test]
fn victims_make_room_for_volumes_and_a_lower_limit_asks_for_more() {
    let mut cluster = Cluster::new();
    cluster.class("late", json!({})).limit("a", 2).limit("b", 0).limit("c", 0);
    for name in ["x", "y", "z"] {
        cluster.claim(&bound(name, name)).volume(&of_driver(name, name));
    }
    let with_priority = |name: &str, claim: &str, priority: i32| {
        let mut pod = pod(name, &[claim]);
        pod["spec"]["priority"] = priority.into();
        pod
    };
    cluster.place(&with_priority("less", "x", 1), "a");
    cluster.place(&with_priority("more", "y", 2), "a");
    let important = with_priority("p", "z", 5);
    assert_eq!(cluster.victims(&important), ["less"]);
    cluster.limit("a", 1);
    assert_eq!(cluster.victims(&important), ["more", "less"]);
}

#[test]
fn disks_pods_name_themselves_are_not_shared_on_a_node() {
    let with_disk = |name: &str| {
        let mut pod = pod(name, &[]);
        pod["spec"]["volumes"] = json!([{"name": "d", "gcePersistentDisk": {"pdName": "d"}}]);
        pod
    };
    let mut cluster = Cluster::new();
    cluster.place(&with_disk("one"), "a");
    cluster.place(&with_disk("two"), "b");
    assert_eq!(cluster.ask(&with_disk("p")), "c");
    cluster.place(&with_disk("three"), "c");
    assert_eq!(cluster.ask(&with_disk("p")), "3 node(s) had no available disk");
}

#[test]
fn pods_whose_claims_differ_in_name_only_are_of_one_class() {
    let mut cluster = Cluster::new();
    cluster.class("late", json!({})).limit("a", 5);
    cluster.claim(&claim("x", json!({}))).claim(&claim("y", json!({})));
    let needs = |cluster: &mut Cluster, claim: &str| {
        let pod = cluster.snapshot.catalogue.pod(&parse(&pod("p", &[claim])));
        cluster.snapshot.storage.needs(&pod, |_| true).unwrap()
    };
    assert_eq!(needs(&mut cluster, "x"), needs(&mut cluster, "y"));
    cluster.place(&pod("q", &["y"]), "a");
    assert_ne!(needs(&mut cluster, "x"), needs(&mut cluster, "y"), "one may be attached already");
}

/// What the node's drivers can attach, and the plugins it has given up.
fn migrating(node: &str, count: i64, plugins: &str) -> Value {
    let annotations = json!({"storage.alpha.kubernetes.io/migrated-plugins": plugins});
    let driver = json!({"name": "ebs.csi.aws.com", "nodeID": node, "allocatable": {"count": count}});
    json!({"metadata": {"name": node, "annotations": annotations}, "spec": {"drivers": [driver]}})
}
fn ebs(name: &str, id: &str) -> Value {
    volume(name, json!({"spec": {"awsElasticBlockStore": {"volumeID": id}}}))
}

#[test]
fn volumes_of_plugins_that_were_given_up_count_for_their_driver() {
    const AWS: &str = "kubernetes.io/aws-ebs";
    let mut cluster = Cluster::new();
    cluster.class("late", json!({"provisioner": AWS}));
    for (node, count, plugins) in [("a", 1, AWS), ("b", 0, "kubernetes.io/gce-pd"), ("c", 0, AWS)] {
        cluster.with(Storage::set_limits, &migrating(node, count, plugins));
    }
    cluster.claim(&bound("x", "x")).volume(&ebs("x", "aws://za/vol-1"));
    assert_eq!(cluster.ask(&pod("p", &["x"])), "a b", "b does not leave it to the driver");
    cluster.claim(&claim("new", json!({})));
    assert_eq!(cluster.ask(&pod("p", &["new"])), "a b", "one of its class will be the driver's as well");
    let inline = |name: &str, id: &str| {
        let mut pod = pod(name, &[]);
        pod["spec"]["volumes"] = json!([{"name": "v", "awsElasticBlockStore": {"volumeID": id}}]);
        pod
    };
    assert_eq!(cluster.ask(&inline("p", "vol-2")), "a b");
    cluster.place(&inline("one", "vol-1"), "a");
    assert_eq!(cluster.ask(&pod("p", &["x"])), "a b", "it is the same volume");
    assert_eq!(cluster.ask(&pod("p", &["new"])), "b");
    assert_eq!(cluster.ask(&inline("p", "vol-2")), "b");
    let csi = json!({"spec": {"csi": {"driver": "ebs.csi.aws.com", "volumeHandle": "vol-1"}}});
    cluster.claim(&bound("y", "y")).volume(&volume("y", csi));
    assert_eq!(cluster.ask(&pod("p", &["y"])), "a", "and so is this one, which is the driver's everywhere");
    cluster.with(Storage::set_limits, &migrating("b", 0, AWS));
    assert_eq!(cluster.ask(&pod("p", &["new"])), "3 node(s) exceed max volume count");
}

#[test]
fn volumes_of_plugins_that_were_given_up_are_in_the_drivers_zones() {
    const AWS: &str = "kubernetes.io/aws-ebs";
    let mut cluster = Cluster::new();
    cluster.class("late", json!({}));
    // Only c has the driver's label, and only a and c have given the plugin up.
    cluster.node("c", json!({"topology.ebs.csi.aws.com/zone": "za"}));
    for node in ["a", "c"] {
        cluster.with(Storage::set_limits, &migrating(node, 9, AWS));
    }
    let there = only_on("topology.kubernetes.io/zone", &["za", "zb"]);
    cluster.claim(&bound("x", "x")).volume(&merged(ebs("x", "vol-1"), json!({"spec": there})));
    assert_eq!(cluster.ask(&pod("p", &["x"])), "b c");
    cluster.with(Storage::set_limits, &migrating("a", 9, ""));
    assert_eq!(cluster.ask(&pod("p", &["x"])), "a b c");
}

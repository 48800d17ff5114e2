use super::*;
use serde_json::{Value, json};

fn node(name: &str, zone: &str) -> Node {
    let labels = json!({"topology.kubernetes.io/zone": zone});
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": labels},
        "status": {"allocatable": {"cpu": "2", "pods": "10"}, "images": [{"names": ["i:1"], "sizeBytes": 5}]},
    }))
    .unwrap()
}
fn pod(name: &str, node: &str, extra: Value) -> CachedPod {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name},
        "spec": {"nodeName": node, "containers": [{"name": "c", "resources": {"requests": {"cpu": "500m"}}}]},
    });
    for (key, value) in extra.as_object().unwrap() {
        pod["spec"][key] = value.clone();
    }
    CachedPod::decode(pod.to_string().as_bytes()).unwrap()
}

#[test]
fn placed_pods_count_until_removed_and_their_node_may_come_later() {
    let mut snapshot = Snapshot::default();
    snapshot.set_pod(&pod("a", "n", json!({})));
    assert_eq!((snapshot.node_count(), snapshot.pod_count(), snapshot.slot("n")), (0, 1, None));
    snapshot.set_node(&node("n", "z"));
    let slot = snapshot.slot("n").unwrap();
    assert_eq!(snapshot.node(slot).fill.pods, 1);
    snapshot.remove_node("n");
    assert_eq!((snapshot.node_count(), snapshot.slots()), (0, 1));
    snapshot.remove_pod("ns/a");
    snapshot.set_node(&node("m", "z"));
    assert_eq!((snapshot.slot("m"), snapshot.slots()), (Some(slot), 1), "the slot is used again");
}

#[test]
fn what_changes_nothing_is_not_logged() {
    let mut snapshot = Snapshot::default();
    snapshot.set_node(&node("n", "z"));
    snapshot.set_pod(&pod("a", "n", json!({})));
    let position = snapshot.log().position();
    snapshot.set_node(&node("n", "z"));
    let mut seen_again = pod("a", "n", json!({}));
    seen_again.metadata.resource_version = Some("7".into());
    snapshot.set_pod(&seen_again);
    assert_eq!(snapshot.log().position(), position);
    snapshot.set_node(&node("n", "y"));
    assert_eq!(snapshot.log().position(), position + 1);
}

#[test]
fn a_nomination_ends_with_the_placing() {
    let mut snapshot = Snapshot::default();
    snapshot.set_node(&node("n", "z"));
    let slot = snapshot.slot("n").unwrap();
    let waiting = Arc::new(snapshot.catalogue.pod(&pod("a", "", json!({}))));
    snapshot.nominate(waiting.clone(), slot);
    assert_eq!((snapshot.nominated_slot("ns/a"), snapshot.node(slot).nominated.len()), (Some(slot), 1));
    snapshot.place(&waiting, slot);
    assert_eq!((snapshot.nominated_slot("ns/a"), snapshot.node(slot).nominated.len()), (None, 0));
}

#[test]
fn rules_of_placed_pods_are_known_as_long_as_one_pod_has_them() {
    let mut snapshot = Snapshot::default();
    snapshot.set_node(&node("n", "z"));
    let term = json!([{"topologyKey": "k", "labelSelector": {}}]);
    let affinity =
        json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}});
    snapshot.set_pod(&pod("a", "n", affinity.clone()));
    snapshot.set_pod(&pod("b", "n", affinity));
    let generation = snapshot.generations().terms;
    assert_eq!(snapshot.terms().count(), 1);
    snapshot.remove_pod("ns/a");
    assert_eq!((snapshot.terms().count(), snapshot.generations().terms), (1, generation));
    snapshot.remove_pod("ns/b");
    assert_eq!((snapshot.terms().count(), snapshot.generations().terms), (0, generation + 1));
}

#[test]
fn the_checker_tells_what_is_wrong() {
    let mut snapshot = Snapshot::default();
    let mut other = Snapshot::default();
    for snapshot in [&mut snapshot, &mut other] {
        snapshot.set_node(&node("n", "z"));
        snapshot.set_pod(&pod("a", "n", json!({})));
    }
    assert_eq!(snapshot.differences(&other), [] as [String; 0]);
    other.nodes[0].fill.pods += 1;
    let differences = snapshot.differences(&other);
    assert!(differences.len() == 1 && differences[0].starts_with("node n:"), "{differences:?}");
}

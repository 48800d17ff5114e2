use super::*;

fn cidr() -> IpNet {
    "10.0.0.0/8".parse().unwrap()
}
fn faults(text: &str, total: u32) -> Vec<String> {
    parse(text, total, cidr()).unwrap_err().lines().map(str::to_owned).collect()
}
fn seconds(min: u64, max: u64) -> Span {
    Span { min: Duration::from_secs(min), max: Duration::from_secs(max) }
}

#[test]
fn everything_that_can_be_said() {
    let text = r#"
apiVersion: hollow.amphipod.io/v1alpha1
kind: HollowConfiguration
seed: 42
events: true
nodes:
- count: 2
  namePrefix: gpu-
  capacity: {cpu: 64, memory: 512Gi, nvidia.com/gpu: "8"}
  allocatable: {cpu: 63500m}
  labels: {disk: ssd}
  annotations: {example.com/note: any text}
  taints: [{key: nvidia.com/gpu, value: present, effect: NoSchedule}, {key: nvidia.com/gpu, effect: NoExecute}]
  region: r1
  zones: [a, b]
  latencies: {start: 500ms, init: 1s, ready: 2s, stop: 1s-3s, completion: 5s-1m}
  failures: {imagePull: 0.1, crash: 1, crashAfter: 2s, ready: 0.5}
  outages: {after: 30m-2h, duration: 1m}
"#;
    let config = parse(text, 0, cidr()).unwrap();
    let amount = |text: &str| Quantity::parse(text).unwrap();
    let group = &config.groups[0];
    assert_eq!((config.seed, config.events, group.count), (42, true, 2));
    assert_eq!(group.capacity["cpu"], amount("64"));
    assert_eq!((group.capacity["pods"], group.capacity["nvidia.com/gpu"]), (amount("110"), amount("8")));
    assert_eq!((group.allocatable["cpu"], group.allocatable["memory"]), (amount("63500m"), amount("512Gi")));
    assert_eq!(group.annotations["example.com/note"], "any text");
    assert_eq!(group.taints[0].value.as_deref(), Some("present"));
    assert_eq!((group.taints[1].value.as_deref(), group.taints[1].effect.as_str()), (None, "NoExecute"));
    assert_eq!((group.region.as_deref(), group.zones.len()), (Some("r1"), 2));
    let expected = Behaviour {
        start: Span::fixed(Duration::from_millis(500)),
        init: seconds(1, 1),
        stop: seconds(1, 3),
        completion: Some(seconds(5, 60)),
        image_pull_failures: 0.1,
        crashes: 1.0,
        crash_after: seconds(2, 2),
        readiness: Some(Readiness { after: seconds(2, 2), never: 0.5 }),
    };
    assert_eq!(group.behaviour, expected);
    assert_eq!(group.outages, Some(Outages { after: seconds(1800, 7200), duration: seconds(60, 60) }));
}

#[test]
fn groups_without_a_count_share_the_rest() {
    let text = "nodes: [{count: 3, namePrefix: a-}, {namePrefix: b-}, {namePrefix: c-}]";
    let counts =
        |total| parse(text, total, cidr()).unwrap().groups.iter().map(|g| g.count).collect::<Vec<_>>();
    assert_eq!(counts(10), [3, 4, 3]);
    assert_eq!(counts(3), [3, 0, 0]);
    assert_eq!(
        faults(text, 0),
        [
            "nodes[1].count: Required value: unless --hollow-nodes says how many there are",
            "nodes[2].count: Required value: unless --hollow-nodes says how many there are"
        ]
    );
    assert_eq!(faults(text, 2), ["nodes: Invalid value: 3: groups count 3 nodes, --hollow-nodes says 2"]);
    assert_eq!(
        faults("nodes: [{count: 3}]", 5),
        ["nodes: Invalid value: 3: groups count 3 nodes, --hollow-nodes says 5"]
    );
}

#[test]
fn every_fault_has_its_path() {
    let one = |field: &str| faults(&format!("nodes: [{{count: 1, {field}}}]"), 0).join("\n");
    for (field, expected) in [
        ("cpus: 4", "nodes[0].cpus: Forbidden: unknown field; there are count, namePrefix, "),
        ("namePrefix: A", "nodes[0].namePrefix: Invalid value: \"A\": a lowercase RFC 1123 subdomain must"),
        ("capacity: {cpu: 4x}", "nodes[0].capacity[cpu]: Invalid value: \"4x\": quantities must match"),
        (
            "capacity: {cpu: -1}",
            "nodes[0].capacity[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
        ),
        ("capacity: {pods: 1.5}", "nodes[0].capacity[pods]: Invalid value: \"1.5\": must be an integer"),
        ("capacity: [cpu]", "nodes[0].capacity: Invalid value: [\"cpu\"]: must be a map"),
        ("allocatable: {cpu: 33}", "nodes[0].allocatable[cpu]: Invalid value: \"33\": must be at most 32"),
        ("allocatable: {a.io/x: 3}", "nodes[0].allocatable[a.io/x]: Not found: \"a.io/x\""),
        ("labels: {disk: a b}", "nodes[0].labels[disk]: Invalid value: \"a b\": a valid label must be"),
        ("labels: {disk: 1}", "nodes[0].labels[disk]: Invalid value: 1: must be a string"),
        ("zones: [a/b]", "nodes[0].zones[0]: Invalid value: \"a/b\": a valid label must be"),
        (
            "taints: [{key: a, effect: Never}]",
            "nodes[0].taints[0].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", ",
        ),
        (
            "taints: [{key: a, effect: NoExecute}, {key: a, value: b, effect: NoExecute}]",
            "nodes[0].taints[1]: Duplicate value: ",
        ),
        ("latencies: {start: 5}", "nodes[0].latencies.start: Invalid value: 5: must be a string"),
        (
            "latencies: {start: 5s-1s}",
            "nodes[0].latencies.start: Invalid value: \"5s-1s\": must be a duration like 250ms, or a range like 1s-5s",
        ),
        (
            "labels: {node-role.kubernetes.io/worker: ''}",
            "nodes[0].labels[node-role.kubernetes.io/worker]: Forbidden: kubelets are not let set this label",
        ),
        (
            "failures: {ready: 2}",
            "nodes[0].failures.ready: Invalid value: \"2\": must be a number from 0 to 1",
        ),
        (
            "latencies: {begin: 5s}",
            "nodes[0].latencies.begin: Forbidden: unknown field; there are start, init, ready",
        ),
        (
            "failures: {crash: 2}",
            "nodes[0].failures.crash: Invalid value: \"2\": must be a number from 0 to 1",
        ),
        ("outages: {after: 1h}", "nodes[0].outages.duration: Required value: a duration above 0"),
    ] {
        let said = one(field);
        assert!(said.starts_with(expected) && said.lines().count() == 1, "{field}: {said}");
    }
}

#[test]
fn every_node_has_a_name_that_can_be_a_label() {
    let of = |length: usize, count: u32| {
        let prefix = "a".repeat(length);
        parse(&format!("nodes: [{{count: {count}, namePrefix: {prefix}}}]"), 0, cidr())
    };
    assert!(of(62, 10).is_ok() && of(61, 100).is_ok());
    for (length, count) in [(62, 11), (61, 101), (63, 1), (253, 1)] {
        let said = of(length, count).unwrap_err();
        let expected =
            format!("nodes[0].namePrefix: Invalid value: \"{}\": must be no more than ", "a".repeat(length));
        assert!(said.starts_with(&expected) && said.lines().count() == 1, "{length} {count}: {said}");
    }
}

#[test]
fn faults_of_the_whole() {
    assert_eq!(faults("{}", 0), ["nodes: Required value: at least one group of nodes"]);
    assert_eq!(
        faults("kind: Stage\nseed: -1\nnodes: [{count: 1}]", 0),
        [
            "kind: Unsupported value: \"Stage\": supported values: \"HollowConfiguration\"",
            "seed: Invalid value: -1: must be a whole number from 0 to 18446744073709551615"
        ]
    );
    assert_eq!(
        faults("nodes: [{count: 11, namePrefix: a-}, {count: 1, namePrefix: a-1}]", 0),
        ["nodes[1].namePrefix: Duplicate value: \"a-1\": another group has a node a-10"]
    );
    assert_eq!(
        faults("nodes: [{count: 0}]", 0),
        ["nodes: Invalid value: 0: there must be at least one node"]
    );
    assert!(faults("nodes: [", 0)[0].contains("yaml: line"));
    assert!(faults("nodes: [{count: 200000}]", 0)[0].starts_with("nodes[0].count: Invalid value: 200000"));
}

#[test]
fn flags_say_the_same_of_one_group() {
    let list = |entries: &[&str]| entries.iter().map(|e| (*e).to_owned()).collect::<Vec<_>>();
    let capacity = list(&["cpu=4", "nvidia.com/gpu=8"]);
    let taints = list(&["dedicated=gpu:NoSchedule", "spot:NoExecute"]);
    let zones = list(&["a", "b"]);
    let latencies = list(&["start=1s-2s"]);
    let flags: [(&str, &[String]); 4] =
        [("capacity", &capacity), ("taints", &taints), ("zones", &zones), ("latencies", &latencies)];
    let config = from_flags(5, &flags, cidr()).unwrap();
    let text =
        "nodes: [{count: 5, capacity: {cpu: 4, nvidia.com/gpu: 8}, zones: [a, b], latencies: {start: 1s-2s},
        taints: [{key: dedicated, value: gpu, effect: NoSchedule}, {key: spot, effect: NoExecute}]}]";
    assert_eq!(config.groups, parse(text, 0, cidr()).unwrap().groups);
    let bad = list(&["cpu=x"]);
    let said = from_flags(5, &[("capacity", &bad)], cidr()).unwrap_err();
    assert!(said.starts_with("--hollow-capacity[cpu]: Invalid value: \"x\""), "{said}");
    assert!(
        from_flags(200_000, &[], cidr()).unwrap_err().starts_with("--hollow-nodes: Invalid value: 200000")
    );
}

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::resources::Amounts;
use super::super::state::testing::at;
use super::super::testing::{node, pod, with_meta};
use super::*;
use serde_json::{Value, json};

fn requirements(cpu: (&str, &str), memory: (&str, &str)) -> Value {
    json!({"requests": {"cpu": cpu.0, "memory": memory.0}, "limits": {"cpu": cpu.1, "memory": memory.1}})
}
fn exact(cpu: &str, memory: &str) -> Value {
    requirements((cpu, cpu), (memory, memory))
}
fn of(containers: &[(&str, Value)]) -> Pod {
    let list: Vec<Value> = containers.iter().map(|(n, r)| json!({"name": n, "resources": r})).collect();
    pod(json!({"containers": list}))
}

#[test]
fn what_the_node_can_give() {
    let allocatable: Amounts = [("cpu", "2"), ("memory", "1Gi"), ("pods", "10")]
        .map(|(name, amount)| (name.to_owned(), Quantity::parse(amount).unwrap()))
        .into();
    let labels = BTreeMap::new();
    let others = [Arc::new(of(&[("o", exact("1500m", "512Mi"))]))];
    let node = node(&allocatable, &labels, &others);
    let cases = [
        ("fits", exact("500m", "512Mi"), None),
        (
            "not now",
            exact("600m", "1Mi"),
            Some(Refusal::Deferred(
                "Node didn't have enough resource: cpu, requested: 600, used: 1500, capacity: 2000".into(),
            )),
        ),
        (
            "never",
            exact("3", "1Mi"),
            Some(Refusal::Infeasible(
                "Node didn't have enough capacity: cpu, requested: 3000, capacity: 2000".into(),
            )),
        ),
        (
            "memory is told first",
            exact("3", "2Gi"),
            Some(Refusal::Infeasible(
                "Node didn't have enough capacity: memory, requested: 2147483648, capacity: 1073741824"
                    .into(),
            )),
        ),
    ];
    for (name, resources, expected) in cases {
        assert_eq!(check(&of(&[("a", resources)]), &node).err(), expected, "{name}");
    }
}

#[test]
fn waiting_pods_have_their_turns() {
    let held = of(&[("a", exact("100m", "1Mi"))]);
    let burstable = |cpu: &str| of(&[("a", json!({"requests": {"cpu": cpu, "memory": "1Mi"}}))]);
    let important =
        pod(json!({"priority": 5, "containers": [{"name": "a", "resources": exact("200m", "1Mi")}]}));
    let guaranteed = of(&[("a", exact("200m", "1Mi"))]);
    let in_order = [
        turn(&burstable("50m"), &held, at(9)),
        turn(&important, &held, at(9)),
        turn(&guaranteed, &held, at(9)),
        turn(&burstable("200m"), &held, at(1)),
        turn(&burstable("200m"), &held, at(2)),
    ];
    assert!(in_order.is_sorted());
}

/// A plan in words: `pod` and `name` with memory in MiB and CPU quota in milliseconds.
fn told(before: &Pod, after: &Pod) -> Vec<String> {
    let running: Vec<(String, ResourceRequirements)> =
        all_containers(before).map(|c| (c.name.clone(), c.resources.clone().unwrap_or_default())).collect();
    let running: Vec<Running> =
        running.iter().map(|(name, actuated)| Running { id: name, name, actuated }).collect();
    let plan = plan(pod_cgroup(&in_force(after, &running)), after, &running, 4 << 30);
    let steps = plan.steps.iter().map(|step| match step {
        Step::Pod(c) => format!(
            "pod {:?} {:?} {}",
            c.memory_limit.map(|m| m >> 20),
            c.cpu_quota.map(|q| q / 1000),
            c.cpu_shares
        ),
        Step::Container { id, resources } => {
            format!("{id} {} {}", resources.memory_limit_in_bytes >> 20, resources.cpu_quota / 1000)
        }
    });
    plan.restarts.iter().map(|id| format!("restart {id}")).chain(steps).collect()
}

#[test]
fn growing_goes_from_outside_in_and_shrinking_from_inside_out() {
    let cases: Vec<(&str, Pod, Pod, &[&str])> = vec![
        ("nothing", of(&[("a", exact("1", "64Mi"))]), of(&[("a", exact("1000m", "64Mi"))]), &[]),
        (
            "up",
            of(&[("a", exact("1", "64Mi"))]),
            of(&[("a", exact("2", "128Mi"))]),
            &["pod Some(128) Some(100) 1024", "a 128 100", "pod Some(128) Some(200) 2048", "a 128 200"],
        ),
        (
            "down",
            of(&[("a", exact("2", "128Mi"))]),
            of(&[("a", exact("1", "64Mi"))]),
            &["a 64 200", "pod Some(64) Some(200) 2048", "a 64 100", "pod Some(64) Some(100) 1024"],
        ),
        (
            "giving before taking",
            of(&[("a", exact("1", "64Mi")), ("b", exact("2", "128Mi"))]),
            of(&[("a", exact("2", "128Mi")), ("b", exact("1", "64Mi"))]),
            &["b 64 200", "a 128 100", "b 64 100", "a 128 200"],
        ),
        (
            "a first limit",
            of(&[("a", json!({"requests": {"cpu": "100m"}}))]),
            of(&[("a", json!({"requests": {"cpu": "100m"}, "limits": {"memory": "64Mi"}}))]),
            &["a 64 0", "pod Some(64) None 102"],
        ),
        (
            "requests alone touch the shares",
            of(&[("a", requirements(("100m", "1"), ("1Mi", "64Mi")))]),
            of(&[("a", requirements(("200m", "1"), ("2Mi", "64Mi")))]),
            &["pod Some(64) Some(100) 204", "a 64 100"],
        ),
    ];
    for (name, before, after, expected) in cases {
        assert_eq!(told(&before, &after), expected, "{name}");
    }
}

#[test]
fn some_containers_must_start_anew() {
    let policy = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"},
        {"resourceName": "cpu", "restartPolicy": "NotRequired"}]);
    let with = |resources: Value| {
        pod(json!({"containers": [{"name": "a", "resizePolicy": policy, "resources": resources},
            {"name": "b", "resources": exact("1", "64Mi")}]}))
    };
    let before = with(exact("1", "64Mi"));
    assert_eq!(
        told(&before, &with(exact("2", "64Mi"))),
        ["pod Some(128) Some(300) 3072", "a 64 200"],
        "CPU does without"
    );
    // The pod's cgroup grows at once but does not shrink before the old instance is gone.
    assert_eq!(told(&before, &with(exact("1", "128Mi"))), ["restart a", "pod Some(192) Some(200) 2048"]);
    assert_eq!(told(&before, &with(exact("1", "32Mi"))), ["restart a"]);
}

#[test]
fn limits_are_not_set_below_what_is_used() {
    let plan = Plan {
        lowered: vec![("1".into(), "a".into(), 100), ("2".into(), "b".into(), 100)],
        pod_lowered: Some(200),
        ..Plan::default()
    };
    let usage = |first: i64| move |id: &str| (id == "1").then_some(first);
    assert_eq!(still_used(&plan, usage(99), Some(199)), None);
    assert_eq!(
        still_used(&plan, usage(100), None).as_deref(),
        Some(
            "cannot decrease memory limits: attempting to set container \"a\" memory limit (100) below current usage (100)"
        )
    );
    assert_eq!(
        still_used(&plan, usage(300), Some(300)).as_deref(),
        Some(
            "cannot decrease memory limits: [attempting to set pod memory limit (200) below current usage (300), attempting to set container \"a\" memory limit (100) below current usage (300)]"
        )
    );
}

#[test]
fn conditions_come_stay_and_are_taken_up_again() {
    let pending = Pending { reason: "Deferred".into(), message: "full".into(), generation: Some(3) };
    let progress = Progress { error: Some("no".into()), generation: Some(2) };
    let standing = Standing { pending: Some(pending), progress: Some(progress) };
    let first = standing.conditions(&[], at(1));
    let told: Vec<_> = first
        .iter()
        .map(|c| {
            (
                c.type_.as_str(),
                c.reason.as_deref().unwrap(),
                c.message.as_deref().unwrap(),
                c.observed_generation,
            )
        })
        .collect();
    assert_eq!(
        told,
        [("PodResizePending", "Deferred", "full", Some(3)), ("PodResizeInProgress", "Error", "no", Some(2))]
    );
    assert_eq!(standing.conditions(&first, at(9)), first, "times stay");
    let status = PodStatus { conditions: Some(first), ..PodStatus::default() };
    assert_eq!(Standing::restored(&status), standing);
    let quiet = Standing { progress: Some(Progress::default()), ..Standing::default() };
    assert_eq!(quiet.conditions(&[], at(1))[0].reason, None);
}

#[test]
fn an_allocation_outlives_a_changed_spec() {
    let held = with_meta(
        json!({"name": "p", "uid": "u"}),
        json!({"initContainers": [{"name": "s", "restartPolicy": "Always", "resources": exact("1", "1Mi")}],
            "containers": [{"name": "a", "resources": exact("1", "1Mi")}, {"name": "b"}]}),
    );
    let wanted = with(&held, |_| Some(serde_json::from_value(exact("2", "2Mi")).unwrap()));
    assert!(!same_resources(&wanted, &held) && grows(&wanted, &held) && !grows(&held, &wanted));
    assert_eq!(with_resources(&wanted, &held), held);
    assert!(is_resizable(&held, "s") && is_resizable(&held, "a") && !is_resizable(&held, "x"));
}

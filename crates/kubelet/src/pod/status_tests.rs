use super::super::state::testing::{at, exited, record, state};
use super::super::testing::pod;
use super::*;
use serde_json::{Value, json};

struct Case {
    spec: Value,
    state: RuntimeState,
    probes: ProbeResults,
    waiting: BTreeMap<String, Waiting>,
    over: bool,
}

impl Case {
    fn new(spec: Value, containers: Vec<ContainerRecord>) -> Self {
        Case {
            spec,
            state: state(containers),
            probes: ProbeResults::default(),
            waiting: BTreeMap::new(),
            over: false,
        }
    }
    fn status(&self, previous: Option<&PodStatus>) -> PodStatus {
        let pod = pod(self.spec.clone());
        pod_status(&StatusView {
            pod: &pod,
            state: &self.state,
            probes: &self.probes,
            resize: &resize::Standing::default(),
            actuated: &HashMap::new(),
            waiting: &self.waiting,
            previous,
            failed: None,
            over: self.over,
            host_ips: &["192.168.0.1".to_owned()],
            runtime_name: "amphipod",
            now: at(200),
        })
    }
}

fn run(name: &str) -> ContainerRecord {
    record(name, 0, Run::Running)
}

fn condition<'a>(status: &'a PodStatus, kind: &str) -> &'a PodCondition {
    status.conditions.as_ref().unwrap().iter().find(|c| c.type_ == kind).unwrap()
}

#[test]
fn phases() {
    let always = json!({"containers": [{"name": "a"}, {"name": "b"}]});
    let with = |policy: &str| json!({"restartPolicy": policy, "containers": [{"name": "a"}]});
    let init = json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]});
    let init_never =
        json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}], "containers": [{"name": "a"}]});
    let job = json!({"restartPolicy": "Never", "initContainers": [{"name": "s", "restartPolicy": "Always"}],
        "containers": [{"name": "a"}]});
    let cases = vec![
        (always.clone(), vec![], "Pending"),
        (always.clone(), vec![run("a")], "Pending"),
        (always.clone(), vec![run("a"), run("b")], "Running"),
        (always, vec![exited("a", 0, 0), exited("b", 0, 1)], "Running"),
        (with("OnFailure"), vec![exited("a", 0, 1)], "Running"),
        (with("OnFailure"), vec![exited("a", 0, 0)], "Succeeded"),
        (with("Never"), vec![exited("a", 0, 1)], "Failed"),
        (with("Never"), vec![exited("a", 0, 0)], "Succeeded"),
        (init.clone(), vec![run("i")], "Pending"),
        (init.clone(), vec![exited("i", 0, 1)], "Pending"),
        (init, vec![exited("i", 0, 0), run("a")], "Running"),
        (init_never, vec![exited("i", 0, 1)], "Failed"),
        (job.clone(), vec![run("s")], "Pending"),
        (job.clone(), vec![run("s"), run("a")], "Running"),
        (job, vec![exited("s", 0, 137), exited("a", 0, 0)], "Succeeded"),
    ];
    for (spec, containers, expected) in cases {
        let case = Case::new(spec, containers);
        let phase = case.status(None).phase;
        assert_eq!(phase.as_deref(), Some(expected), "{:?} {:?}", case.spec, case.state.containers);
    }
}

#[test]
fn a_pod_that_starts() {
    let spec = json!({"initContainers": [{"name": "init1"}, {"name": "init2"}], "containers": [{"name": "a", "image": "x"}]});
    let status = Case::new(spec, vec![]).status(None);
    let app = &status.container_statuses.as_ref().unwrap()[0];
    assert_eq!(
        app.state.as_ref().unwrap().waiting.as_ref().unwrap().reason.as_deref(),
        Some("PodInitializing")
    );
    assert_eq!((app.image.as_str(), app.restart_count), ("x", 0));
    let initialized = condition(&status, "Initialized");
    assert_eq!(initialized.message.as_deref(), Some("containers with incomplete status: [init1 init2]"));
    assert_eq!(condition(&status, "Ready").message.as_deref(), Some("containers with unready status: [a]"));
    assert_eq!(status.pod_ip.as_deref(), Some("10.244.0.7"));
    assert_eq!(status.host_ip.as_deref(), Some("192.168.0.1"));
}

#[test]
fn readiness_follows_probes_and_keeps_transition_times() {
    let spec = json!({"containers": [{"name": "a", "readinessProbe": {}, "startupProbe": {}}]});
    let mut case = Case::new(spec, vec![run("a")]);
    let before = case.status(None);
    assert_eq!(before.container_statuses.as_ref().unwrap()[0].started, Some(false));
    case.probes.set("a-0", ProbeKind::Readiness, Outcome::Success);
    assert!(!case.status(None).container_statuses.unwrap()[0].ready, "startup probe not passed");
    case.probes.set("a-0", ProbeKind::Startup, Outcome::Success);
    let mut earlier = before;
    for condition in earlier.conditions.iter_mut().flatten() {
        condition.last_transition_time = Some(Time(at(5)));
    }
    let status = case.status(Some(&earlier));
    assert!(status.container_statuses.as_ref().unwrap()[0].ready);
    assert_eq!(condition(&status, "Ready").last_transition_time, Some(Time(at(200))));
    assert_eq!(condition(&status, "PodScheduled").last_transition_time, Some(Time(at(5))));
}

#[test]
fn crash_loops_wait_with_their_last_end_kept() {
    let mut case =
        Case::new(json!({"containers": [{"name": "a"}]}), vec![exited("a", 1, 3), exited("a", 0, 2)]);
    let status = case.status(None).container_statuses.unwrap().remove(0);
    assert_eq!(status.state.unwrap().terminated.unwrap().exit_code, 3);
    assert_eq!(status.last_state.unwrap().terminated.unwrap().exit_code, 2);
    let reason = Waiting { reason: "CrashLoopBackOff".into(), message: "back-off 10s".into() };
    case.waiting.insert("a".into(), reason);
    let status = case.status(None).container_statuses.unwrap().remove(0);
    assert_eq!(status.state.unwrap().waiting.unwrap().reason.as_deref(), Some("CrashLoopBackOff"));
    let last = status.last_state.unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (3, Some("Error")));
    assert_eq!(status.restart_count, 1);
    assert_eq!(last.container_id.as_deref(), Some("amphipod://a-1"));
}

#[test]
fn a_terminal_phase_is_final_and_verdicts_show() {
    let case = Case::new(json!({"containers": [{"name": "a"}]}), vec![run("a")]);
    let previous =
        PodStatus { phase: Some("Failed".into()), reason: Some("Evicted".into()), ..PodStatus::default() };
    let status = case.status(Some(&previous));
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("Evicted")));
    assert_eq!(condition(&status, "Ready").reason.as_deref(), Some("PodFailed"));
}

#[test]
fn lost_containers_are_told_apart() {
    let mut case = Case::new(json!({"containers": [{"name": "a"}]}), vec![run("a")]);
    let before = case.status(None);
    case.state.containers.clear();
    let status = case.status(Some(&before)).container_statuses.unwrap().remove(0);
    assert_eq!(
        status.last_state.unwrap().terminated.unwrap().reason.as_deref(),
        Some("ContainerStatusUnknown")
    );
    assert!(status.state.unwrap().waiting.is_some());
}

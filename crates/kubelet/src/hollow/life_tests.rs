use super::*;
use crate::hollow::chance::Span;
use crate::hollow::config::Readiness;
use crate::hollow::imagined::{readiness_probes, with_probes};
use crate::pod::testing::with_meta;
use amphipod_client::{CachedPod, Resource, Writable};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(1_700_000_000_000 + millis).unwrap()
}
fn fixed(millis: u64) -> Span {
    Span::fixed(Duration::from_millis(millis))
}
fn metadata() -> Value {
    json!({"name": "p", "namespace": "ns", "uid": "u", "generation": 1})
}
fn one(spec: Value) -> Value {
    let resources = json!({"requests": {"cpu": "1"}});
    let mut whole = json!({"containers": [{"name": "a", "image": "x", "resources": resources}]});
    whole.as_object_mut().unwrap().extend(spec.as_object().cloned().unwrap());
    whole
}

/// A pod and the API around it: what a plan writes is stored, encoded and decoded, with every step
/// taken down as one line.
struct World {
    pod: Pod,
    behaviour: Behaviour,
    life: Life,
    millis: i64,
    lines: Vec<String>,
    told: Vec<String>,
}

impl World {
    fn new(metadata: Value, spec: Value, behaviour: Behaviour) -> Self {
        let pod = with_meta(metadata, spec);
        let life = Life::of(&pod, Some([10, 0, 0, 7].into()), at(0));
        let life = Life { probes: readiness_probes(&pod), ..life };
        World { pod, behaviour, life, millis: 0, lines: Vec::new(), told: Vec::new() }
    }
    fn plan(&mut self) -> Plan {
        let view = View {
            pod: &self.pod,
            behaviour: &self.behaviour,
            chance: Chance::new(0, "ns/p"),
            host_ip: "1.2.3.4",
            tell: true,
            now: at(self.millis),
        };
        plan(&view, &mut self.life)
    }
    fn step(&mut self) -> Plan {
        let plan = self.plan();
        self.told.extend(plan.told.iter().map(|t| t.notice.reason.to_string()));
        if let Some(status) = &plan.status {
            self.pod.status = Some(status.clone());
            let pod = CachedPod::decode(&self.pod.encode()).unwrap().to_pod();
            self.pod = with_probes(pod, &self.life.probes);
            self.lines.push(format!("{} {}", self.millis, brief(status)));
        }
        if plan.delete {
            self.lines.push(format!("{} deleted", self.millis));
        }
        plan
    }
    /// Steps until nothing is due, or `end` is reached; the lines of that time.
    fn run(&mut self, end: i64) -> Vec<String> {
        loop {
            let plan = self.step();
            let again = self.plan();
            assert_eq!(again.status, None, "what was written is what is wanted, at {}", self.millis);
            let due =
                plan.due.or(again.due).map(|due| (due.duration_since(at(0)).as_micros() as i64 + 999) / 1000);
            match due {
                Some(due) if due <= end && !plan.delete => self.millis = due.max(self.millis + 1),
                _ => {
                    self.millis = end;
                    return std::mem::take(&mut self.lines);
                }
            }
        }
    }
    fn delete(&mut self, grace: i64) {
        self.pod.metadata.deletion_grace_period_seconds = Some(grace);
        self.pod.metadata.deletion_timestamp = Some(Time(at(self.millis) + SignedDuration::from_secs(grace)));
    }
    fn condition(&mut self, kind: &str, status: &str) {
        let conditions = self.pod.status.as_mut().unwrap().conditions.get_or_insert_default();
        conditions.retain(|c| c.type_ != kind);
        conditions.push(PodCondition {
            type_: kind.into(),
            status: status.into(),
            ..PodCondition::default()
        });
    }
}

fn brief(status: &PodStatus) -> String {
    let lists = [&status.init_container_statuses, &status.container_statuses];
    let containers = lists.into_iter().flatten().flatten().map(|c| {
        let state = c.state.as_ref().unwrap();
        let shown = if let Some(waiting) = &state.waiting {
            waiting.reason.clone().unwrap()
        } else if let Some(ended) = &state.terminated {
            format!("{}:{}", ended.reason.as_deref().unwrap(), ended.exit_code)
        } else {
            "running".to_owned()
        };
        format!(" {}={shown}/{}", c.name, c.restart_count)
    });
    let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    let phase = status.phase.as_deref().unwrap();
    format!("{phase}{}{}", if ready { " ready" } else { "" }, containers.collect::<String>())
}

type Case<'a> = (&'a str, Value, Value, &'a Behaviour, &'a [&'a str]);

fn check(cases: &[Case]) {
    for (name, metadata, spec, behaviour, expected) in cases {
        let mut world = World::new(metadata.clone(), spec.clone(), (*behaviour).clone());
        assert_eq!(world.run(65_000), *expected, "{name}");
    }
}
fn of_job() -> Value {
    let mut metadata = metadata();
    metadata["ownerReferences"] =
        json!([{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "j", "controller": true}]);
    metadata
}
fn policy(name: &str) -> Value {
    one(json!({"restartPolicy": name}))
}

#[test]
fn readiness_takes_its_time_where_the_group_says_so() {
    let passes = Behaviour::default();
    let readiness = |after, never| Some(Readiness { after: fixed(after), never });
    let slow = Behaviour { readiness: readiness(2000, 0.0), ..passes.clone() };
    let never = Behaviour { readiness: readiness(0, 1.0), ..passes.clone() };
    let probed = |seconds: i32| {
        let probe = json!({"initialDelaySeconds": seconds, "tcpSocket": {"port": 80}});
        json!({"containers": [{"name": "a", "image": "x", "readinessProbe": probe}]})
    };
    let later = ["0 Running a=running/0", "2000 Running ready a=running/0"];
    check(&[
        ("without a probe", metadata(), one(json!({})), &slow, &["0 Running ready a=running/0"]),
        ("once it is", metadata(), probed(0), &slow, &later),
        (
            "not before the probe begins",
            metadata(),
            probed(5),
            &slow,
            &["0 Running a=running/0", "5000 Running ready a=running/0"],
        ),
        ("never", metadata(), probed(0), &never, &["0 Running a=running/0"]),
    ]);
}

#[test]
fn starts() {
    let none = Behaviour::default();
    let slow = Behaviour { start: fixed(1500), init: fixed(2000), ..none.clone() };
    let init = json!({"initContainers": [
        {"name": "i", "image": "x"}, {"name": "s", "image": "x", "restartPolicy": "Always"}]});
    check(&[
        (
            "without latency one write is enough",
            metadata(),
            one(json!({})),
            &none,
            &["0 Running ready a=running/0"],
        ),
        (
            "latency is seen",
            metadata(),
            one(json!({})),
            &slow,
            &["0 Pending a=ContainerCreating/0", "1500 Running ready a=running/0"],
        ),
        (
            "init containers and sidecars, at once",
            metadata(),
            one(init.clone()),
            &none,
            &["0 Running ready i=Completed:0/0 s=running/0 a=running/0"],
        ),
        (
            "init containers and sidecars, in turn",
            metadata(),
            one(init.clone()),
            &slow,
            &[
                "0 Pending i=PodInitializing/0 s=PodInitializing/0 a=PodInitializing/0",
                "1500 Pending i=running/0 s=PodInitializing/0 a=PodInitializing/0",
                "3500 Running ready i=Completed:0/0 s=running/0 a=running/0",
            ],
        ),
    ]);
}

#[test]
fn runs() {
    let none = Behaviour::default();
    let works = Behaviour { completion: Some(fixed(5000)), ..none.clone() };
    let mut annotated = metadata();
    annotated["annotations"] = json!({COMPLETE_AFTER: "100"});
    let late = json!({"activeDeadlineSeconds": 60});
    check(&[
        (
            "a Job's pod succeeds",
            of_job(),
            policy("OnFailure"),
            &works,
            &["0 Running ready a=running/0", "5000 Succeeded a=Completed:0/0"],
        ),
        ("another's does not", metadata(), policy("OnFailure"), &works, &["0 Running ready a=running/0"]),
        (
            "an annotation says so too",
            annotated,
            policy("Never"),
            &none,
            &["0 Running ready a=running/0", "100 Succeeded a=Completed:0/0"],
        ),
        (
            "deadlines",
            metadata(),
            one(late),
            &none,
            &["0 Running ready a=running/0", "60000 Failed a=Completed:0/0"],
        ),
    ]);
}

#[test]
fn failures() {
    let none = Behaviour::default();
    let crashes = Behaviour { crashes: 1.0, crash_after: fixed(1000), ..none.clone() };
    let no_image = Behaviour { image_pull_failures: 1.0, ..none };
    check(&[
        (
            "what never restarts fails",
            of_job(),
            policy("Never"),
            &crashes,
            &["0 Running ready a=running/0", "1000 Failed a=Error:1/0"],
        ),
        (
            "as does an init container",
            metadata(),
            one(json!({"restartPolicy": "Never", "initContainers": [{"name": "i", "image": "x"}]})),
            &crashes,
            &["0 Pending i=running/0 a=PodInitializing/0", "1000 Failed i=Error:1/0 a=PodInitializing/0"],
        ),
        (
            "crashes back off",
            metadata(),
            one(json!({})),
            &crashes,
            &[
                "0 Running ready a=running/0",
                "1000 Running ready a=running/1",
                "2000 Running a=CrashLoopBackOff/1",
                "12000 Running ready a=running/2",
                "13000 Running a=CrashLoopBackOff/2",
                "33000 Running ready a=running/3",
                "34000 Running a=CrashLoopBackOff/3",
            ],
        ),
        (
            "images that do not come",
            metadata(),
            one(json!({})),
            &no_image,
            &[
                "0 Pending a=ErrImagePull/0",
                "1000 Pending a=ImagePullBackOff/0",
                "10000 Pending a=ErrImagePull/0",
                "11000 Pending a=ImagePullBackOff/0",
                "30000 Pending a=ErrImagePull/0",
                "31000 Pending a=ImagePullBackOff/0",
            ],
        ),
    ]);
}

#[test]
fn ends() {
    for (stop, grace, expected) in [
        (0, 30, ["1000 Succeeded a=Completed:0/0", "1000 deleted"]),
        (2500, 30, ["3500 Succeeded a=Completed:0/0", "3500 deleted"]),
        (9000, 5, ["6000 Failed a=Error:137/0", "6000 deleted"]),
    ] {
        let mut world =
            World::new(metadata(), one(json!({})), Behaviour { stop: fixed(stop), ..Behaviour::default() });
        world.run(1000);
        world.delete(grace);
        assert_eq!(world.run(20_000), expected, "{stop} ms of {grace} s");
        assert!(world.plan().delete, "until that has been done");
        world.life.is_let_go = true;
        assert!(!world.plan().delete);
        world.life.is_let_go = false;
        world.pod.metadata.deletion_grace_period_seconds = Some(0);
        assert!(world.plan().is_settled(), "a finalizer holds it, that is not the node's affair");
    }
}

#[test]
fn a_second_deletion_shortens_the_grace_period() {
    let mut world =
        World::new(metadata(), one(json!({})), Behaviour { stop: fixed(60_000), ..Behaviour::default() });
    world.run(1000);
    world.delete(30);
    assert_eq!(world.run(5000), [""; 0]);
    world.delete(10);
    assert_eq!(world.run(60_000), ["11000 Failed a=Error:137/0", "11000 deleted"]);
}

#[test]
fn a_pod_that_never_started_ends_at_once() {
    let mut world =
        World::new(metadata(), one(json!({})), Behaviour { start: fixed(60_000), ..Behaviour::default() });
    world.run(1000);
    world.delete(30);
    assert_eq!(world.run(60_000).last().unwrap(), "1000 deleted");
}

#[test]
fn the_whole_status() {
    let spec = one(json!({"readinessGates": [{"conditionType": "example.com/gate"}]}));
    let mut world = World::new(metadata(), spec, Behaviour::default());
    world.run(1000);
    let status = world.pod.status.clone().unwrap();
    let shown = |kind: &str| {
        let found = status.conditions.iter().flatten().find(|c| c.type_ == kind).unwrap();
        (found.status.clone(), found.reason.clone(), found.observed_generation)
    };
    for kind in ["PodReadyToStartContainers", "Initialized", "ContainersReady", "PodScheduled"] {
        assert_eq!(shown(kind), ("True".into(), None, Some(1)), "{kind}");
    }
    assert_eq!(shown("Ready").1.as_deref(), Some("ReadinessGatesNotReady"));
    assert_eq!((status.pod_ip.as_deref(), status.pod_ips.unwrap().len()), (Some("10.0.0.7"), 1));
    assert_eq!((status.host_ip.as_deref(), status.host_ips.unwrap().len()), (Some("1.2.3.4"), 1));
    assert_eq!((status.qos_class.as_deref(), status.observed_generation), (Some("Burstable"), Some(1)));
    assert_eq!(status.start_time, Some(Time(at(0))));
    let container = &status.container_statuses.unwrap()[0];
    assert_eq!(container.container_id.as_deref(), Some("hollow://u-a"));
    assert_eq!((container.ready, container.started), (true, Some(true)));
    world.condition("example.com/gate", "True");
    assert_eq!(world.run(2000), ["1000 Running ready a=running/0"]);
    assert_eq!(world.told, ["Pulled", "Created", "Started"]);
}

#[test]
fn what_others_change_is_set_right() {
    let mut world = World::new(metadata(), one(json!({})), Behaviour::default());
    world.run(1000);
    world.condition("Ready", "False");
    assert_eq!(world.run(2000), ["1000 Running ready a=running/0"]);
    // Another image: the container is replaced, and that is no crash.
    let containers = &mut world.pod.spec.as_mut().unwrap().containers;
    containers[0].image = Some("y".into());
    world.pod.metadata.generation = Some(2);
    assert_eq!(world.run(3000), ["2000 Running ready a=running/1"]);
    let status = world.pod.status.as_ref().unwrap();
    let container = &status.container_statuses.as_ref().unwrap()[0];
    assert_eq!((container.image.as_str(), status.observed_generation), ("y", Some(2)));
    let last = container.last_state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!((last.exit_code, last.container_id.as_deref()), (0, Some("hollow://u-a")));
}

#[test]
fn a_life_is_taken_up_from_the_status() {
    let crashes = Behaviour { crashes: 1.0, crash_after: fixed(60_000), ..Behaviour::default() };
    let spec = one(json!({"initContainers": [{"name": "i", "image": "x"}]}));
    let mut world = World::new(metadata(), spec, Behaviour::default());
    world.run(1000);
    world.behaviour = crashes;
    world.life = Life::of(&world.pod, Some([10, 0, 0, 7].into()), at(30_000));
    world.millis = 30_000;
    assert_eq!(world.run(59_000), [""; 0], "nothing is new");
    assert_eq!(world.run(70_000), ["60000 Running ready i=Completed:0/0 a=running/1"]);
    // In the middle of a back-off: a new process knows of none, as a kubelet does not.
    world.run(125_000);
    let waiting = world.pod.status.as_ref().unwrap();
    assert_eq!(brief(waiting), "Running i=Completed:0/0 a=CrashLoopBackOff/1");
    world.life = Life::of(&world.pod, Some([10, 0, 0, 7].into()), at(125_000));
    assert_eq!(world.run(131_000), ["125000 Running ready i=Completed:0/0 a=running/2"]);
}

#[test]
fn events_are_told_once() {
    let mut world = World::new(
        metadata(),
        one(json!({})),
        Behaviour { image_pull_failures: 1.0, ..Behaviour::default() },
    );
    world.run(5000);
    world.run(6000);
    assert_eq!(world.told, ["Pulling", "Failed", "Failed", "BackOff"]);
    let mut world = World::new(
        metadata(),
        one(json!({})),
        Behaviour { crashes: 1.0, crash_after: fixed(1000), stop: fixed(1000), ..Behaviour::default() },
    );
    world.run(3000);
    world.run(13_000);
    world.delete(30);
    world.run(20_000);
    let again = ["Pulled", "Created", "Started"];
    let expected = [&again[..], &again, &["BackOff"], &again, &["BackOff"]].concat();
    assert_eq!(world.told, expected);
}

//! Pods, whose STATUS column tells the story of their containers.

use jiff::Timestamp;
use serde_json::Value;

use super::cells::{NONE, Object, int_of, str_of};
use super::{Kind, columns, kind};
use crate::duration::human_duration;

pub(super) const KINDS: &[Kind] =
    &[kind("", "pods", columns::PODS, pod), kind("", "podtemplates", columns::POD_TEMPLATES, pod_template)];

fn pod(object: &Object<'_>) -> Vec<Value> {
    let summary = Summary::of(object);
    vec![
        object.name(),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        summary.restarts.shown(object.now).into(),
        object.age(),
        object.text_or("/status/podIPs/0/ip", NONE),
        object.text_or("/spec/nodeName", NONE),
        object.text_or("/status/nominatedNodeName", NONE),
        readiness_gates(object).into(),
    ]
}

fn pod_template(object: &Object<'_>) -> Vec<Value> {
    let [names, images] = object.containers("/template/spec/containers");
    vec![object.name(), names, images, object.labels("/template/metadata/labels")]
}

fn readiness_gates(object: &Object<'_>) -> String {
    let gates = object.list("/spec/readinessGates");
    if gates.is_empty() {
        return NONE.to_owned();
    }
    let met = gates.iter().filter(|g| object.has_condition(str_of(g, "conditionType"))).count();
    format!("{met}/{}", gates.len())
}

#[derive(Clone, Copy, Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count += int_of(status, "restartCount");
        let finished = status.pointer("/lastState/terminated/finishedAt").and_then(Value::as_str);
        self.last = self.last.max(finished.and_then(|t| t.parse().ok()));
    }
    fn shown(self, now: Timestamp) -> String {
        match self.last {
            Some(last) if self.count != 0 => {
                format!("{} ({} ago)", self.count, human_duration(now.as_second() - last.as_second()))
            }
            _ => self.count.to_string(),
        }
    }
}

struct Summary {
    reason: String,
    ready: usize,
    total: usize,
    restarts: Restarts,
}

impl Summary {
    fn of(object: &Object<'_>) -> Self {
        let mut summary = Summary {
            reason: first_reason(object),
            ready: 0,
            total: object.list("/spec/containers").len(),
            restarts: Restarts::default(),
        };
        let mut sidecars = Restarts::default();
        let initialising = summary.read_init_containers(object, &mut sidecars);
        if !initialising || object.has_condition("Initialized") {
            summary.restarts = sidecars;
            summary.read_containers(object);
        }
        if object.deleted() {
            let phase = object.text("/status/phase");
            if object.text("/status/reason") == "NodeLost" {
                summary.reason = "Unknown".to_owned();
            } else if !matches!(phase, "Succeeded" | "Failed") {
                summary.reason = "Terminating".to_owned();
            }
        }
        summary
    }

    /// Says whether the pod is still initialising.
    fn read_init_containers(&mut self, object: &Object<'_>, sidecars: &mut Restarts) -> bool {
        let specs = object.list("/spec/initContainers");
        let is_sidecar = |name: &str| {
            specs.iter().any(|s| str_of(s, "name") == name && str_of(s, "restartPolicy") == "Always")
        };
        self.total += specs.iter().filter(|s| str_of(s, "restartPolicy") == "Always").count();
        for (index, status) in object.list("/status/initContainerStatuses").iter().enumerate() {
            self.restarts.add(status);
            let sidecar = is_sidecar(str_of(status, "name"));
            if sidecar {
                sidecars.add(status);
            }
            let terminated = status.pointer("/state/terminated").filter(|t| !t.is_null());
            if terminated.is_some_and(|t| int_of(t, "exitCode") == 0) {
                continue;
            }
            if sidecar && status.get("started") == Some(&Value::Bool(true)) {
                self.ready += usize::from(is_ready(status));
                continue;
            }
            let waiting = status.pointer("/state/waiting/reason").and_then(Value::as_str).unwrap_or_default();
            self.reason = match terminated {
                Some(terminated) => format!("Init:{}", exit_reason(terminated)),
                None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
                None => format!("Init:{index}/{}", specs.len()),
            };
            return true;
        }
        false
    }

    fn read_containers(&mut self, object: &Object<'_>) {
        let mut running = false;
        for status in object.list("/status/containerStatuses").iter().rev() {
            self.restarts.add(status);
            let waiting = status.pointer("/state/waiting/reason").and_then(Value::as_str).unwrap_or_default();
            if !waiting.is_empty() {
                self.reason = waiting.to_owned();
            } else if let Some(terminated) = status.pointer("/state/terminated").filter(|t| !t.is_null()) {
                self.reason = exit_reason(terminated);
            } else if is_ready(status) && status.pointer("/state/running").is_some() {
                running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" && running {
            self.reason = if object.has_condition("Ready") { "Running" } else { "NotReady" }.to_owned();
        }
    }
}

fn is_ready(status: &Value) -> bool {
    status.get("ready") == Some(&Value::Bool(true))
}

fn first_reason(object: &Object<'_>) -> String {
    let gated = |c: &Value| str_of(c, "type") == "PodScheduled" && str_of(c, "reason") == "SchedulingGated";
    if object.list("/status/conditions").iter().any(gated) {
        return "SchedulingGated".to_owned();
    }
    let reason = object.text("/status/reason");
    if reason.is_empty() { object.text("/status/phase").to_owned() } else { reason.to_owned() }
}

fn exit_reason(terminated: &Value) -> String {
    let reason = str_of(terminated, "reason");
    let signal = int_of(terminated, "signal");
    match (reason.is_empty(), signal) {
        (false, _) => reason.to_owned(),
        (true, 0) => format!("ExitCode:{}", int_of(terminated, "exitCode")),
        (true, signal) => format!("Signal:{signal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(spec: Value, status: Value, deleted: bool) -> Vec<String> {
        let mut pod = json!({"metadata": {"name": "p", "creationTimestamp": "2024-01-01T00:00:00Z"},
            "spec": spec, "status": status});
        if deleted {
            pod["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
        }
        let now = "2024-01-01T00:01:00Z".parse().expect("time");
        let cells = super::super::row("", "pods", &pod, now);
        cells[1..4].iter().map(|c| c.as_str().unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn status_column() {
        let one = json!({"containers": [{"name": "a"}]});
        let with_init = json!({"initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
            "containers": [{"name": "a"}]});
        let running = json!({"name": "a", "ready": true, "restartCount": 0, "state": {"running": {}}});
        let cases = [
            (one.clone(), json!({"phase": "Pending"}), false, ["0/1", "Pending", "0"]),
            (
                one.clone(),
                json!({"phase": "Running", "containerStatuses": [running]}),
                false,
                ["1/1", "Running", "0"],
            ),
            (
                one.clone(),
                json!({"phase": "Running", "containerStatuses": [{"name": "a", "restartCount": 2,
                    "lastState": {"terminated": {"finishedAt": "2024-01-01T00:00:55Z"}},
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
                false,
                ["0/1", "CrashLoopBackOff", "2 (5s ago)"],
            ),
            (
                one.clone(),
                json!({"phase": "Succeeded", "containerStatuses": [{"name": "a",
                    "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}),
                false,
                ["0/1", "Completed", "0"],
            ),
            (
                one.clone(),
                json!({"phase": "Running", "containerStatuses": [running]}),
                true,
                ["1/1", "Terminating", "0"],
            ),
            (one.clone(), json!({"phase": "Failed", "reason": "Evicted"}), true, ["0/1", "Evicted", "0"]),
            (
                with_init.clone(),
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}),
                false,
                ["0/2", "Init:0/2", "0"],
            ),
            (
                with_init.clone(),
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "restartCount": 1,
                    "state": {"terminated": {"exitCode": 3}}}]}),
                false,
                ["0/2", "Init:ExitCode:3", "1"],
            ),
            (
                with_init,
                json!({"phase": "Running", "initContainerStatuses": [
                    {"name": "i", "restartCount": 1, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}},
                    {"name": "s", "started": true, "ready": true, "state": {"running": {}}}],
                    "containerStatuses": [running]}),
                false,
                ["2/2", "Running", "0"],
            ),
        ];
        for (spec, status, deleted, expected) in cases {
            assert_eq!(shown(spec, status.clone(), deleted), expected, "{status}");
        }
    }
}

//! Nodes: conditions, capacity, and what runs there.

use amphipod_api::duration::human_duration;
use amphipod_api::object;
use amphipod_api::quantity::{Format, Quantity};
use jiff::Timestamp;
use serde_json::Value;

use super::text::{self, Text, text as get};

const ROLE: &str = "node-role.kubernetes.io/";

/// `lease` is null where the node has none.
pub fn describe(out: &mut Text, (node, lease): (&Value, &Value), pods: &[Value], now: Timestamp) {
    out.field(0, "Name", object::name(node));
    let roles: Vec<&str> =
        object::labels(node).into_iter().flatten().filter_map(|(key, _)| key.strip_prefix(ROLE)).collect();
    out.field(0, "Roles", if roles.is_empty() { "<none>" } else { roles[0] });
    text::labels_and_annotations(out, node);
    out.field(0, "CreationTimestamp", &text::time(node["metadata"]["creationTimestamp"].as_str()));
    let taints = node.pointer("/spec/taints").and_then(Value::as_array);
    let taints: Vec<String> = taints.into_iter().flatten().map(taint).collect();
    out.list(0, "Taints", &taints);
    out.field(0, "Unschedulable", if node["spec"]["unschedulable"] == true { "true" } else { "false" });
    heartbeat(out, lease);
    conditions(out, node);
    out.line(0, "Addresses:");
    for address in node.pointer("/status/addresses").and_then(Value::as_array).into_iter().flatten() {
        out.field(1, get(address, "/type"), get(address, "/address"));
    }
    for (title, key) in [("Capacity", "capacity"), ("Allocatable", "allocatable")] {
        out.line(0, &format!("{title}:"));
        for (name, amount) in node["status"][key].as_object().into_iter().flatten() {
            out.field(1, name, amount.as_str().unwrap_or(""));
        }
    }
    out.line(0, "System Info:");
    for (title, key) in [
        ("Machine ID", "machineID"),
        ("System UUID", "systemUUID"),
        ("Boot ID", "bootID"),
        ("Kernel Version", "kernelVersion"),
        ("OS Image", "osImage"),
        ("Operating System", "operatingSystem"),
        ("Architecture", "architecture"),
        ("Container Runtime Version", "containerRuntimeVersion"),
        ("Kubelet Version", "kubeletVersion"),
        ("Kube-Proxy Version", "kubeProxyVersion"),
    ] {
        out.field(1, title, node["status"]["nodeInfo"][key].as_str().unwrap_or(""));
    }
    if !get(node, "/spec/podCIDR").is_empty() {
        out.field(0, "PodCIDR", get(node, "/spec/podCIDR"));
    }
    running(out, node, pods, now);
}

fn heartbeat(out: &mut Text, lease: &Value) {
    let or_unset = |text: &str| if text.is_empty() { "<unset>".to_owned() } else { text.to_owned() };
    let time = |key: &str| or_unset(&text::time(lease["spec"][key].as_str()));
    out.line(0, "Lease:");
    out.field(1, "HolderIdentity", &or_unset(get(lease, "/spec/holderIdentity")));
    out.field(1, "AcquireTime", &time("acquireTime"));
    out.field(1, "RenewTime", &time("renewTime"));
}

fn taint(taint: &Value) -> String {
    let value = get(taint, "/value");
    let value = if value.is_empty() { String::new() } else { format!("={value}") };
    format!("{}{value}:{}", get(taint, "/key"), get(taint, "/effect"))
}

fn conditions(out: &mut Text, node: &Value) {
    out.line(0, "Conditions:");
    out.cells(1, &["Type", "Status", "LastHeartbeatTime", "LastTransitionTime", "Reason", "Message"]);
    out.cells(1, &["----", "------", "-----------------", "------------------", "------", "-------"]);
    for c in node.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten() {
        let cells = [
            get(c, "/type").to_owned(),
            get(c, "/status").to_owned(),
            text::time(c["lastHeartbeatTime"].as_str()),
            text::time(c["lastTransitionTime"].as_str()),
            get(c, "/reason").to_owned(),
        ];
        // kubectl ends every cell but the last with a space of its own.
        let cells = cells.map(|cell| format!("{cell} "));
        let [kind, status, heartbeat, transition, reason] = &cells;
        out.cells(1, &[kind, status, heartbeat, transition, reason, get(c, "/message")]);
    }
}

fn sum(pods: &[Value], side: &str, resource: &str) -> Quantity {
    let containers = pods.iter().flat_map(|p| p["spec"]["containers"].as_array().into_iter().flatten());
    let amounts = containers.filter_map(|c| Quantity::parse(c["resources"][side][resource].as_str()?).ok());
    let format = if resource == "cpu" { Format::DecimalSi } else { Format::BinarySi };
    amounts.fold(Quantity::from_units(0, format), Quantity::plus)
}

fn share(amount: Quantity, node: &Value, resource: &str) -> String {
    let capacity = node["status"]["allocatable"][resource].as_str().and_then(|c| Quantity::parse(c).ok());
    let percent =
        capacity.filter(|c| !c.is_zero()).map_or(0, |c| (amount.as_f64() * 100.0 / c.as_f64()) as i64);
    format!("{amount} ({percent}%)")
}

fn running(out: &mut Text, node: &Value, pods: &[Value], now: Timestamp) {
    out.cells(0, &["Non-terminated Pods:", &format!("({} in total)", pods.len())]);
    out.cells(
        1,
        &["Namespace", "Name", "", "CPU Requests", "CPU Limits", "Memory Requests", "Memory Limits", "Age"],
    );
    out.cells(
        1,
        &["---------", "----", "", "------------", "----------", "---------------", "-------------", "---"],
    );
    for pod in pods {
        let one = std::slice::from_ref(pod);
        let cell = |side, resource| share(sum(one, side, resource), node, resource);
        let created = pod["metadata"]["creationTimestamp"].as_str().and_then(|t| t.parse::<Timestamp>().ok());
        let age = created.map_or_else(String::new, |t| human_duration((now - t).get_seconds().max(0)));
        out.cells(
            1,
            &[
                object::namespace(pod),
                object::name(pod),
                // An empty column between, as kubectl has it.
                "",
                &cell("requests", "cpu"),
                &cell("limits", "cpu"),
                &cell("requests", "memory"),
                &cell("limits", "memory"),
                &age,
            ],
        );
    }
    out.line(0, "Allocated resources:");
    out.line(1, "(Total limits may be over 100 percent, i.e., overcommitted.)");
    out.cells(1, &["Resource", "Requests", "Limits"]);
    out.cells(1, &["--------", "--------", "------"]);
    for resource in ["cpu", "memory", "ephemeral-storage"] {
        let cell = |side| share(sum(pods, side, resource), node, resource);
        out.cells(1, &[resource, &cell("requests"), &cell("limits")]);
    }
}

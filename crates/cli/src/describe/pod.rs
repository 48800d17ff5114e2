//! Pods, and the pod templates of workloads.

use amphipod_api::object;
use jiff::Timestamp;
use serde_json::Value;

use super::text::{self, Text, text as get};

pub fn describe(out: &mut Text, pod: &Value, _now: Timestamp) {
    text::name_and_namespace(out, pod);
    out.field(0, "Priority", &pod["spec"]["priority"].as_i64().unwrap_or(0).to_string());
    if !get(pod, "/spec/priorityClassName").is_empty() {
        out.field(0, "Priority Class Name", get(pod, "/spec/priorityClassName"));
    }
    out.field(0, "Service Account", get(pod, "/spec/serviceAccountName"));
    match get(pod, "/spec/nodeName") {
        "" => out.field(0, "Node", "<none>"),
        node => out.field(0, "Node", &format!("{node}/{}", get(pod, "/status/hostIP"))),
    }
    if let Some(started) = pod.pointer("/status/startTime").and_then(Value::as_str) {
        out.field(0, "Start Time", &text::time(Some(started)));
    }
    text::labels_and_annotations(out, pod);
    status(out, pod);
    if let Some(owner) = text::controlled_by(pod) {
        out.field(0, "Controlled By", &owner);
    }
    for (list, statuses, title) in [
        ("initContainers", "initContainerStatuses", "Init Containers"),
        ("containers", "containerStatuses", "Containers"),
        ("ephemeralContainers", "ephemeralContainerStatuses", "Ephemeral Containers"),
    ] {
        containers(out, 0, title, &pod["spec"][list], Some(&pod["status"][statuses]));
    }
    conditions(out, pod);
    volumes(out, 0, &pod["spec"]["volumes"]);
    out.field(0, "QoS Class", get(pod, "/status/qosClass"));
    text::label_list(out, 0, "Node-Selectors", &pod["spec"]["nodeSelector"]);
    out.list(0, "Tolerations", &tolerations(&pod["spec"]["tolerations"]));
}

fn status(out: &mut Text, pod: &Value) {
    match object::deletion_timestamp(pod) {
        Some(at) => {
            out.field(0, "Status", &format!("Terminating (lasts {})", text::time(Some(at))));
            let grace = pod["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
            out.field(0, "Termination Grace Period", &format!("{grace}s"));
        }
        None => out.field(0, "Status", get(pod, "/status/phase")),
    }
    for (name, pointer) in [("Reason", "/status/reason"), ("Message", "/status/message")] {
        if !get(pod, pointer).is_empty() {
            out.field(0, name, get(pod, pointer));
        }
    }
    out.field(0, "IP", get(pod, "/status/podIP"));
    let addresses = pod.pointer("/status/podIPs").and_then(Value::as_array);
    match addresses.filter(|a| !a.is_empty()) {
        None => out.field(0, "IPs", "<none>"),
        Some(addresses) => {
            out.line(0, "IPs:");
            for address in addresses {
                out.field(1, "IP", get(address, "/ip"));
            }
        }
    }
}

pub fn containers(out: &mut Text, indent: usize, title: &str, list: &Value, statuses: Option<&Value>) {
    let Some(list) = list.as_array().filter(|l| !l.is_empty()) else { return };
    out.line(indent, &format!("{title}:"));
    for container in list {
        let name = get(container, "/name");
        let status = statuses.and_then(Value::as_array).and_then(|s| s.iter().find(|s| s["name"] == name));
        // A template's containers stand one space deeper than their list, and no level.
        let deeper = if indent == 0 { "  " } else { " " };
        out.line(indent, &format!("{deeper}{name}:"));
        one_container(out, 2, container, status);
    }
}

fn one_container(out: &mut Text, indent: usize, container: &Value, status: Option<&Value>) {
    if let Some(status) = status {
        out.field(indent, "Container ID", get(status, "/containerID"));
    }
    out.field(indent, "Image", get(container, "/image"));
    if let Some(status) = status {
        out.field(indent, "Image ID", get(status, "/imageID"));
    }
    let ports: Vec<&Value> = container["ports"].as_array().into_iter().flatten().collect();
    let join = |key: &str| {
        let shown = ports.iter().map(|p| format!("{}/{}", p[key].as_i64().unwrap_or(0), get(p, "/protocol")));
        shown.collect::<Vec<_>>().join(", ")
    };
    let plural = if ports.len() > 1 { "s" } else { "" };
    let or_none = |text: String| if text.is_empty() { "<none>".to_owned() } else { text };
    out.field(indent, &format!("Port{plural}"), &or_none(join("containerPort")));
    out.field(indent, &format!("Host Port{plural}"), &or_none(join("hostPort")));
    for (title, key) in [("Command", "command"), ("Args", "args")] {
        if let Some(words) = container[key].as_array() {
            out.line(indent, &format!("{title}:"));
            for word in words {
                out.line(indent + 1, word.as_str().unwrap_or(""));
            }
        }
    }
    if let Some(status) = status {
        state(out, indent, "State", &status["state"]);
        if status["lastState"].as_object().is_some_and(|s| !s.is_empty()) {
            state(out, indent, "Last State", &status["lastState"]);
        }
        out.field(indent, "Ready", if status["ready"] == true { "True" } else { "False" });
        out.field(indent, "Restart Count", &status["restartCount"].as_i64().unwrap_or(0).to_string());
    }
    amounts(out, indent, "Limits", &container["resources"]["limits"]);
    amounts(out, indent, "Requests", &container["resources"]["requests"]);
    for (title, key) in
        [("Liveness", "livenessProbe"), ("Readiness", "readinessProbe"), ("Startup", "startupProbe")]
    {
        if container[key].is_object() {
            out.field(indent, title, &probe(&container[key]));
        }
    }
    environment(out, indent, container);
    mounts(out, indent, container);
}

fn amounts(out: &mut Text, indent: usize, title: &str, amounts: &Value) {
    let Some(amounts) = amounts.as_object().filter(|a| !a.is_empty()) else { return };
    out.line(indent, &format!("{title}:"));
    for (name, amount) in amounts {
        out.field(indent + 1, name, amount.as_str().unwrap_or(""));
    }
}

fn state(out: &mut Text, indent: usize, title: &str, state: &Value) {
    if let Some(running) = state.get("running") {
        out.field(indent, title, "Running");
        out.field(indent + 1, "Started", &text::time(running["startedAt"].as_str()));
    } else if let Some(ended) = state.get("terminated") {
        out.field(indent, title, "Terminated");
        for (name, pointer) in [("Reason", "/reason"), ("Message", "/message")] {
            if !get(ended, pointer).is_empty() {
                out.field(indent + 1, name, get(ended, pointer));
            }
        }
        out.field(indent + 1, "Exit Code", &ended["exitCode"].as_i64().unwrap_or(0).to_string());
        out.field(indent + 1, "Started", &text::time(ended["startedAt"].as_str()));
        out.field(indent + 1, "Finished", &text::time(ended["finishedAt"].as_str()));
    } else {
        out.field(indent, title, "Waiting");
        if !get(state, "/waiting/reason").is_empty() {
            out.field(indent + 1, "Reason", get(state, "/waiting/reason"));
        }
    }
}

fn probe(probe: &Value) -> String {
    let number = |name: &str| probe[name].as_i64().unwrap_or(0);
    let timing = format!(
        "delay={}s timeout={}s period={}s #success={} #failure={}",
        number("initialDelaySeconds"),
        number("timeoutSeconds"),
        number("periodSeconds"),
        number("successThreshold"),
        number("failureThreshold")
    );
    let port = |of: &Value| match &of["port"] {
        Value::String(name) => name.clone(),
        number => number.to_string(),
    };
    let what = if let Some(exec) = probe.get("exec") {
        let words: Vec<&str> =
            exec["command"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        format!("exec [{}]", words.join(" "))
    } else if let Some(http) = probe.get("httpGet") {
        let scheme = get(http, "/scheme").to_lowercase();
        format!("http-get {scheme}://{}:{}{}", get(http, "/host"), port(http), get(http, "/path"))
    } else if let Some(tcp) = probe.get("tcpSocket") {
        format!("tcp-socket {}:{}", get(tcp, "/host"), port(tcp))
    } else if let Some(grpc) = probe.get("grpc") {
        format!("grpc <pod>:{} {}", port(grpc), get(grpc, "/service"))
    } else {
        "unknown".to_owned()
    };
    format!("{what} {timing}")
}

fn environment(out: &mut Text, indent: usize, container: &Value) {
    let from: Vec<&Value> = container["envFrom"].as_array().into_iter().flatten().collect();
    if !from.is_empty() {
        out.line(indent, "Environment Variables from:");
        for source in from {
            let (kind, reference) = match source.get("configMapRef") {
                Some(map) => ("ConfigMap", map),
                None => ("Secret", &source["secretRef"]),
            };
            out.cells(
                indent + 1,
                &[get(reference, "/name"), &format!("{kind}  Optional: {}", reference["optional"] == true)],
            );
        }
    }
    let variables: Vec<&Value> = container["env"].as_array().into_iter().flatten().collect();
    if variables.is_empty() {
        return out.field(indent, "Environment", "<none>");
    }
    out.line(indent, "Environment:");
    for variable in variables {
        out.field(indent + 1, get(variable, "/name"), &variable_value(variable));
    }
}

fn variable_value(variable: &Value) -> String {
    let from = &variable["valueFrom"];
    if let Some(field) = from.get("fieldRef") {
        format!(" ({}:{})", get(field, "/apiVersion"), get(field, "/fieldPath"))
    } else if let Some(resource) = from.get("resourceFieldRef") {
        format!(" ({})", get(resource, "/resource"))
    } else if let Some(key) = from.get("secretKeyRef") {
        format!(
            "<set to the key '{}' in secret '{}'>  Optional: {}",
            get(key, "/key"),
            get(key, "/name"),
            key["optional"] == true
        )
    } else if let Some(key) = from.get("configMapKeyRef") {
        format!(
            "<set to the key '{}' of config map '{}'>  Optional: {}",
            get(key, "/key"),
            get(key, "/name"),
            key["optional"] == true
        )
    } else {
        get(variable, "/value").to_owned()
    }
}

fn mounts(out: &mut Text, indent: usize, container: &Value) {
    let mut mounts: Vec<&Value> = container["volumeMounts"].as_array().into_iter().flatten().collect();
    if mounts.is_empty() {
        return out.field(indent, "Mounts", "<none>");
    }
    mounts.sort_by_key(|m| get(m, "/mountPath"));
    out.line(indent, "Mounts:");
    for mount in mounts {
        let mode = if mount["readOnly"] == true { "ro" } else { "rw" };
        let path = get(mount, "/subPath");
        let path = if path.is_empty() { String::new() } else { format!(",path={path:?}") };
        out.line(
            indent + 1,
            &format!("{} from {} ({mode}{path})", get(mount, "/mountPath"), get(mount, "/name")),
        );
    }
}

fn conditions(out: &mut Text, pod: &Value) {
    let Some(conditions) = pod.pointer("/status/conditions").and_then(Value::as_array) else { return };
    out.line(0, "Conditions:");
    out.cells(1, &["Type", "Status"]);
    for condition in conditions {
        let cell = |key: &str| format!("{} ", get(condition, key));
        out.cells(1, &[&cell("/type"), &cell("/status")]);
    }
}

pub fn volumes(out: &mut Text, indent: usize, volumes: &Value) {
    let Some(volumes) = volumes.as_array().filter(|v| !v.is_empty()) else {
        return out.field(indent, "Volumes", "<none>");
    };
    out.line(indent, "Volumes:");
    for volume in volumes {
        out.line(indent + 1, &format!("{}:", get(volume, "/name")));
        let source = volume.as_object().into_iter().flatten().find(|(key, _)| *key != "name");
        let Some((kind, source)) = source else { continue };
        volume_source(out, indent + 2, kind, source);
    }
}

fn volume_source(out: &mut Text, indent: usize, kind: &str, source: &Value) {
    let optional = || if source["optional"] == true { "true" } else { "false" };
    match kind {
        "emptyDir" => {
            out.field(indent, "Type", "EmptyDir (a temporary directory that shares a pod's lifetime)");
            out.field(indent, "Medium", get(source, "/medium"));
            let limit = get(source, "/sizeLimit");
            out.field(indent, "SizeLimit", if limit.is_empty() { "<unset>" } else { limit });
        }
        "hostPath" => {
            out.field(indent, "Type", "HostPath (bare host directory volume)");
            out.field(indent, "Path", get(source, "/path"));
            out.field(indent, "HostPathType", get(source, "/type"));
        }
        "configMap" => {
            out.field(indent, "Type", "ConfigMap (a volume populated by a ConfigMap)");
            out.field(indent, "Name", get(source, "/name"));
            out.field(indent, "Optional", optional());
        }
        "secret" => {
            out.field(indent, "Type", "Secret (a volume populated by a Secret)");
            out.field(indent, "SecretName", get(source, "/secretName"));
            out.field(indent, "Optional", optional());
        }
        "persistentVolumeClaim" => {
            out.field(
                indent,
                "Type",
                "PersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)",
            );
            out.field(indent, "ClaimName", get(source, "/claimName"));
            out.field(indent, "ReadOnly", if source["readOnly"] == true { "true" } else { "false" });
        }
        "projected" => projected(out, indent, source),
        other => out.field(indent, "Type", other),
    }
}

fn projected(out: &mut Text, indent: usize, source: &Value) {
    out.field(indent, "Type", "Projected (a volume that contains injected data from multiple sources)");
    for part in source["sources"].as_array().into_iter().flatten() {
        if let Some(token) = part.get("serviceAccountToken") {
            let seconds = token["expirationSeconds"].as_i64().unwrap_or(3600);
            out.field(indent, "TokenExpirationSeconds", &seconds.to_string());
        } else if let Some(map) = part.get("configMap") {
            out.field(indent, "ConfigMapName", get(map, "/name"));
            out.field(indent, "Optional", if map["optional"] == true { "true" } else { "false" });
        } else if let Some(secret) = part.get("secret") {
            out.field(indent, "SecretName", get(secret, "/name"));
            out.field(indent, "Optional", if secret["optional"] == true { "true" } else { "false" });
        } else if part.get("downwardAPI").is_some() {
            out.field(indent, "DownwardAPI", "true");
        }
    }
}

fn tolerations(list: &Value) -> Vec<String> {
    let mut shown: Vec<String> = list.as_array().into_iter().flatten().map(toleration).collect();
    shown.sort();
    shown
}

fn toleration(toleration: &Value) -> String {
    let mut text = get(toleration, "/key").to_owned();
    if !get(toleration, "/value").is_empty() {
        text += &format!("={}", get(toleration, "/value"));
    }
    if !get(toleration, "/effect").is_empty() {
        text += &format!(":{}", get(toleration, "/effect"));
    }
    if get(toleration, "/operator") == "Exists" && get(toleration, "/value").is_empty() {
        text += if text.is_empty() { "op=Exists" } else { " op=Exists" };
    }
    if let Some(seconds) = toleration["tolerationSeconds"].as_i64() {
        text += &format!(" for {seconds}s");
    }
    text
}

/// The template of a workload.
pub fn template(out: &mut Text, template: &Value) {
    out.line(0, "Pod Template:");
    text::label_list(out, 1, "Labels", &template["metadata"]["labels"]);
    if !get(template, "/spec/serviceAccountName").is_empty() {
        out.field(1, "Service Account", get(template, "/spec/serviceAccountName"));
    }
    containers(out, 1, "Init Containers", &template["spec"]["initContainers"], None);
    containers(out, 1, "Containers", &template["spec"]["containers"], None);
    volumes(out, 1, &template["spec"]["volumes"]);
    text::label_list(out, 1, "Node-Selectors", &template["spec"]["nodeSelector"]);
    out.list(1, "Tolerations", &tolerations(&template["spec"]["tolerations"]));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn small_parts() {
        let http = json!({"httpGet": {"path": "/ready", "port": 8080, "scheme": "HTTP"}, "timeoutSeconds": 1,
            "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3});
        assert_eq!(
            probe(&http),
            "http-get http://:8080/ready delay=0s timeout=1s period=10s #success=1 #failure=3"
        );
        let not_ready = json!({"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
        assert_eq!(toleration(&not_ready), "node.kubernetes.io/not-ready:NoExecute op=Exists for 300s");
    }
}

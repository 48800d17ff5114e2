//! `log`, `exec`, `attach` and `portforward`: which container of which node, and the request as
//! the kubelet wants it. The bytes are the kubelet's and the client's business.

use amphipod_api::object;
use amphipod_api::status::Status;
use serde_json::Value;

use crate::http::path::Query;

/// What a node object says of its kubelet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubelet {
    pub host: String,
    pub port: u16,
}

/// Preferred first, as kube-apiserver's default order.
const ADDRESS_TYPES: [&str; 5] = ["Hostname", "InternalDNS", "InternalIP", "ExternalDNS", "ExternalIP"];
const DEFAULT_PORT: u16 = 10250;

/// Addresses that are IPs come first: nothing promises that this machine resolves node names.
pub fn kubelet(node: &Value) -> Result<Kubelet, Status> {
    let addresses = node.pointer("/status/addresses").and_then(Value::as_array);
    let of_type = |wanted: &str| {
        let mut all = addresses.into_iter().flatten();
        all.find(|a| a["type"] == wanted).and_then(|a| a["address"].as_str())
    };
    let preferred = ["InternalIP", "ExternalIP"].iter().chain(&ADDRESS_TYPES).find_map(|t| of_type(t));
    let host = preferred.ok_or_else(|| {
        Status::internal(format!(
            "no preferred addresses found; known addresses: [] of node {}",
            object::name(node)
        ))
    })?;
    let port = node.pointer("/status/daemonEndpoints/kubeletEndpoint/Port").and_then(Value::as_u64);
    let port = port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0).unwrap_or(DEFAULT_PORT);
    Ok(Kubelet { host: host.to_owned(), port })
}

fn containers(pod: &Value) -> (Vec<&str>, Vec<&str>) {
    let names = |list: &str| -> Vec<&str> {
        pod["spec"][list].as_array().into_iter().flatten().filter_map(|c| c["name"].as_str()).collect()
    };
    let mut others = names("initContainers");
    others.extend(names("ephemeralContainers"));
    (names("containers"), others)
}

/// The container meant: the named one, or the only one.
pub fn container<'a>(pod: &'a Value, named: &'a str) -> Result<&'a str, Status> {
    let (main, others) = containers(pod);
    let name = object::name(pod);
    if !named.is_empty() {
        if main.contains(&named) || others.contains(&named) {
            return Ok(named);
        }
        return Err(Status::bad_request(format!("container {named} is not valid for pod {name}")));
    }
    match main.as_slice() {
        [only] => Ok(only),
        [] => Err(Status::bad_request(format!("a container name must be specified for pod {name}"))),
        several => {
            let mut text = format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                several.join(" ")
            );
            if !others.is_empty() {
                text.push_str(&format!(" or one of the init containers: [{}]", others.join(" ")));
            }
            Err(Status::bad_request(text))
        }
    }
}

/// The node the pod is on; a pod without one cannot be reached yet.
pub fn node_of(pod: &Value) -> Result<&str, Status> {
    match pod.pointer("/spec/nodeName").and_then(Value::as_str) {
        Some(node) if !node.is_empty() => Ok(node),
        _ => Err(Status::bad_request(format!("pod {} does not have a host assigned", object::name(pod)))),
    }
}

fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn with_query(path: String, pairs: &[(&str, String)]) -> String {
    let query: Vec<String> = pairs.iter().map(|(key, value)| format!("{key}={}", encode(value))).collect();
    if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) }
}

/// The kubelet's path and query for a pod's `log`.
pub fn log_target(pod: &Value, query: &Query) -> Result<String, Status> {
    let container = container(pod, query.text("container"))?;
    let path = format!("/containerLogs/{}/{}/{container}", object::namespace(pod), object::name(pod));
    let mut pairs = Vec::new();
    for flag in ["follow", "previous", "timestamps"] {
        if query.flag(flag) {
            pairs.push((flag, "true".to_owned()));
        }
    }
    for name in ["sinceSeconds", "sinceTime", "tailLines", "limitBytes", "stream"] {
        if let Some(value) = query.get(name).filter(|v| !v.is_empty()) {
            check_number(name, value)?;
            pairs.push((name, value.to_owned()));
        }
    }
    if query.contains("sinceSeconds") && query.contains("sinceTime") {
        return Err(Status::bad_request("at most one of `sinceTime` or `sinceSeconds` may be specified"));
    }
    Ok(with_query(path, &pairs))
}

fn check_number(name: &str, value: &str) -> Result<(), Status> {
    let least = match name {
        "sinceSeconds" | "limitBytes" => 1,
        "tailLines" => 0,
        _ => return Ok(()),
    };
    match value.parse::<i64>() {
        Ok(number) if number >= least => Ok(()),
        Ok(number) => {
            let path = amphipod_api::field::Path::new(name);
            let detail = format!("must be greater than {}", if least == 1 { "0" } else { "or equal to 0" });
            let fault = amphipod_api::field::Error::invalid(&path, number, detail);
            Err(Status::invalid("", "PodLogOptions", "", &[fault]))
        }
        Err(_) => {
            Err(Status::bad_request(format!("strconv.ParseInt: parsing {value:?}: invalid syntax ({name})")))
        }
    }
}

/// The kubelet's path and query for `exec` and `attach`.
pub fn stream_target(pod: &Value, subresource: &str, query: &Query) -> Result<String, Status> {
    let container = container(pod, query.text("container"))?;
    let path = format!("/{subresource}/{}/{}/{container}", object::namespace(pod), object::name(pod));
    let flags = ["stdin", "stdout", "stderr", "tty"].map(|f| (f, query.flag(f)));
    if !flags[..3].iter().any(|(_, on)| *on) {
        return Err(Status::bad_request("you must specify at least one of stdin, stdout, stderr"));
    }
    if query.flag("tty") && query.flag("stderr") {
        return Err(Status::bad_request("tty and stderr cannot both be true"));
    }
    // The kubelet has names of its own for these.
    let kubelets = [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];
    let mut pairs: Vec<(&str, String)> = Vec::new();
    for (name, its) in kubelets {
        if query.flag(name) {
            pairs.push((its, "1".to_owned()));
        }
    }
    if subresource == "exec" {
        let words: Vec<&str> = query.all("command").collect();
        if words.is_empty() {
            return Err(Status::bad_request("you must specify at least 1 command for the container"));
        }
        pairs.extend(words.into_iter().map(|word| ("command", word.to_owned())));
    }
    Ok(with_query(path, &pairs))
}

pub fn port_forward_target(pod: &Value, query: &Query) -> String {
    let path = format!("/portForward/{}/{}", object::namespace(pod), object::name(pod));
    let pairs: Vec<(&str, String)> = query.all("ports").map(|ports| ("port", ports.to_owned())).collect();
    with_query(path, &pairs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Value {
        json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}})
    }

    #[test]
    fn the_container_is_found_or_asked_for() {
        let pod = pod();
        assert_eq!(container(&pod, "b").unwrap(), "b");
        let text = container(&pod, "").unwrap_err().message;
        assert_eq!(text, "a container name must be specified for pod p, choose one of: [a b]");
        assert_eq!(container(&pod, "x").unwrap_err().message, "container x is not valid for pod p");
        assert_eq!(node_of(&pod).unwrap_err().code, 400);
    }

    #[test]
    fn targets_are_the_kubelets() {
        let query = Query::parse(Some(
            "container=a&command=sh&command=-c&command=a%20b&stdin=true&stdout=true&tty=true",
        ));
        let target = stream_target(&pod(), "exec", &query).unwrap();
        assert_eq!(target, "/exec/n/p/a?input=1&output=1&tty=1&command=sh&command=-c&command=a%20b");
        let query = Query::parse(Some("container=a&follow=true&tailLines=5"));
        assert_eq!(log_target(&pod(), &query).unwrap(), "/containerLogs/n/p/a?follow=true&tailLines=5");
        let query = Query::parse(Some("container=a&limitBytes=0"));
        assert_eq!(log_target(&pod(), &query).unwrap_err().code, 422);
        let node = json!({"status": {
            "addresses": [{"type": "Hostname", "address": "h"}, {"type": "InternalIP", "address": "10.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 1234}},
        }});
        assert_eq!(kubelet(&node).unwrap(), Kubelet { host: "10.0.0.1".into(), port: 1234 });
    }
}

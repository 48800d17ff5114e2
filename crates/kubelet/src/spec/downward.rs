//! The downward API: a pod's own fields and resources as text.

use std::collections::BTreeMap;

use amphipod_api::quantity::Quantity;
use amphipod_client::Resource;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use crate::Error;
use crate::pod::resources::Amounts;
use crate::pod::{find_container, spec};

/// Addresses known only once the sandbox is there.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    pub pod_ips: Vec<String>,
    pub host_ips: Vec<String>,
}

/// The value of `fieldPath`, e.g. `metadata.labels['app']`.
pub fn field(pod: &Pod, addresses: &Addresses, path: &str) -> Result<String, Error> {
    let meta = &pod.metadata;
    if let Some((map, key)) = subscript(path) {
        let entries = match map {
            "metadata.labels" => meta.labels.as_ref(),
            "metadata.annotations" => meta.annotations.as_ref(),
            _ => return Err(Error::config(format!("fieldPath {path:?} does not support subscript"))),
        };
        return Ok(entries.and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    let first = |list: &[String]| list.first().cloned().unwrap_or_default();
    let value = match path {
        "metadata.name" => pod.name().to_owned(),
        "metadata.namespace" => pod.namespace().to_owned(),
        "metadata.uid" => pod.uid().to_owned(),
        "metadata.labels" => map_text(meta.labels.as_ref()),
        "metadata.annotations" => map_text(meta.annotations.as_ref()),
        "spec.nodeName" => spec(pod).node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => spec(pod).service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => first(&addresses.host_ips),
        "status.hostIPs" => addresses.host_ips.join(","),
        "status.podIP" => first(&addresses.pod_ips),
        "status.podIPs" => addresses.pod_ips.join(","),
        _ => return Err(Error::config(format!("unsupported fieldPath: {path}"))),
    };
    Ok(value)
}

fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, key) = path.split_once("['")?;
    Some((map, key.strip_suffix("']")?))
}

/// Sorted lines `key="value"`, the value quoted as Go does.
fn map_text(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(k, v)| format!("{k}={}", quoted(v))).collect();
    lines.join("\n")
}

fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The value of a `resourceFieldRef`; missing limits are the node's allocatable amounts.
pub fn resource(
    pod: &Pod,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
    allocatable: &Amounts,
) -> Result<String, Error> {
    let named = selector.container_name.as_deref().filter(|n| !n.is_empty());
    let container = match named {
        Some(name) => find_container(pod, name).map(|c| c.container.into_owned()),
        None => own.cloned(),
    };
    let container = container
        .ok_or_else(|| Error::config(format!("container {} not found", named.unwrap_or_default())))?;
    let (side, name) = selector
        .resource
        .split_once('.')
        .ok_or_else(|| Error::config(format!("unsupported container resource : {}", selector.resource)))?;
    let resources = container.resources.unwrap_or_default();
    let map = if side == "limits" { &resources.limits } else { &resources.requests };
    let written = map.as_ref().and_then(|m| m.get(name)).and_then(|q| Quantity::parse(&q.0).ok());
    let amount = match written.filter(|q| !q.is_zero()) {
        Some(amount) => amount,
        None if side == "limits" => allocatable.get(name).copied().unwrap_or_default(),
        None => Quantity::default(),
    };
    let divisor = selector.divisor.as_ref().and_then(|q| Quantity::parse(&q.0).ok()).filter(|q| !q.is_zero());
    let divisor = divisor.map_or(1_000_000_000, |q| q.nanos());
    let value = amount.nanos().div_euclid(divisor) + i128::from(amount.nanos().rem_euclid(divisor) != 0);
    Ok(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::testing::with_meta;
    use serde_json::json;

    #[test]
    fn fields() {
        let pod = with_meta(
            json!({"name": "p", "namespace": "ns", "labels": {"b": "2", "a": "x\"y"}}),
            json!({"nodeName": "n", "containers": []}),
        );
        let addresses =
            Addresses { pod_ips: vec!["1.2.3.4".into(), "::1".into()], host_ips: vec!["9.9.9.9".into()] };
        let cases = [
            ("metadata.name", "p"),
            ("metadata.labels", "a=\"x\\\"y\"\nb=\"2\""),
            ("metadata.labels['b']", "2"),
            ("metadata.annotations['none']", ""),
            ("status.podIP", "1.2.3.4"),
            ("status.podIPs", "1.2.3.4,::1"),
            ("status.hostIP", "9.9.9.9"),
            ("spec.nodeName", "n"),
        ];
        for (path, expected) in cases {
            assert_eq!(field(&pod, &addresses, path).unwrap(), expected, "{path}");
        }
        assert!(field(&pod, &addresses, "status.phase").is_err());
    }

    #[test]
    fn resources_are_rounded_up() {
        let pod = with_meta(
            json!({"name": "p"}),
            json!({"containers": [{"name": "a", "resources": {"limits": {"memory": "100Mi"}, "requests": {"cpu": "1250m"}}}]}),
        );
        let allocatable: Amounts = [("cpu".to_owned(), Quantity::parse("4").unwrap())].into();
        let own = &spec(&pod).containers[0];
        let cases = [
            ("limits.memory", None, "104857600"),
            ("limits.memory", Some("1Mi"), "100"),
            ("requests.cpu", None, "2"),
            ("requests.cpu", Some("1m"), "1250"),
            ("limits.cpu", None, "4"),
            ("requests.memory", None, "0"),
        ];
        for (name, divisor, expected) in cases {
            let selector = ResourceFieldSelector {
                resource: name.to_owned(),
                divisor: divisor
                    .map(|d: &str| k8s_openapi::apimachinery::pkg::api::resource::Quantity(d.to_owned())),
                container_name: None,
            };
            assert_eq!(
                resource(&pod, Some(own), &selector, &allocatable).unwrap(),
                expected,
                "{name} {divisor:?}"
            );
        }
    }
}

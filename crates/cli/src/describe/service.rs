//! Services and the endpoints behind them.

use serde_json::Value;

use super::text::{self, Text, text as get};

/// Endpoints shown per port; the rest is counted.
const SHOWN: usize = 3;

pub fn describe(out: &mut Text, service: &Value, slices: &[Value]) {
    text::name_and_namespace(out, service);
    text::labels_and_annotations(out, service);
    let selector: Vec<String> = service["spec"]["selector"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or("")))
        .collect();
    out.field(
        0,
        "Selector",
        if selector.is_empty() { "<none>".to_owned() } else { selector.join(",") }.as_str(),
    );
    out.field(0, "Type", get(service, "/spec/type"));
    let joined = |pointer: &str| {
        let list = service.pointer(pointer).and_then(Value::as_array);
        let words: Vec<&str> = list.into_iter().flatten().filter_map(Value::as_str).collect();
        if words.is_empty() { "<none>".to_owned() } else { words.join(",") }
    };
    out.field(0, "IP Family Policy", get(service, "/spec/ipFamilyPolicy"));
    out.field(0, "IP Families", &joined("/spec/ipFamilies"));
    out.field(0, "IP", get(service, "/spec/clusterIP"));
    out.field(0, "IPs", &joined("/spec/clusterIPs"));
    if !get(service, "/spec/externalName").is_empty() {
        out.field(0, "External Name", get(service, "/spec/externalName"));
    }
    for port in service.pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten() {
        one_port(out, port, slices);
    }
    out.field(0, "Session Affinity", get(service, "/spec/sessionAffinity"));
    if !get(service, "/spec/externalTrafficPolicy").is_empty() {
        out.field(0, "External Traffic Policy", get(service, "/spec/externalTrafficPolicy"));
    }
    out.field(0, "Internal Traffic Policy", get(service, "/spec/internalTrafficPolicy"));
}

fn one_port(out: &mut Text, port: &Value, slices: &[Value]) {
    let name = get(port, "/name");
    let label = if name.is_empty() { "<unset>" } else { name };
    let protocol = get(port, "/protocol");
    let target = port["targetPort"].as_str().map_or_else(|| port["targetPort"].to_string(), str::to_owned);
    out.cells(0, &["Port:", &format!("{label}  {}/{protocol}", port["port"])]);
    out.field(0, "TargetPort", &format!("{target}/{protocol}"));
    if let Some(number) = port["nodePort"].as_i64() {
        out.cells(0, &["NodePort:", &format!("{label}  {number}/{protocol}")]);
    }
    out.field(0, "Endpoints", &endpoints(name, slices));
}

fn endpoints(port_name: &str, slices: &[Value]) -> String {
    let mut found = Vec::new();
    for slice in slices {
        let ports = slice["ports"].as_array().into_iter().flatten();
        let numbers = ports.filter(|p| get(p, "/name") == port_name).filter_map(|p| p["port"].as_i64());
        for number in numbers {
            for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
                if endpoint.pointer("/conditions/ready") != Some(&false.into()) {
                    let addresses = endpoint["addresses"].as_array().into_iter().flatten();
                    found.extend(addresses.filter_map(Value::as_str).map(|a| format!("{a}:{number}")));
                }
            }
        }
    }
    let more = found.len().saturating_sub(SHOWN);
    found.truncate(SHOWN);
    let text = found.join(",");
    if more > 0 { format!("{text} + {more} more...") } else { text }
}

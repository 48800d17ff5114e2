//! Configuration, access and everything else of the cluster.

use serde_json::Value;

use super::cells::{NONE, Object, UNSET, str_of, strings};
use super::{Kind, columns, kind};
use crate::duration::human_duration;

const RBAC: &str = "rbac.authorization.k8s.io";
const ADMISSION: &str = "admissionregistration.k8s.io";
const FLOW: &str = "flowcontrol.apiserver.k8s.io";

pub(super) const KINDS: &[Kind] = &[
    kind("", "namespaces", columns::NAMESPACES, |o| vec![o.name(), o.cell("/status/phase"), o.age()]),
    kind("", "configmaps", columns::CONFIG_MAPS, |o| {
        vec![o.name(), (o.length("/data") + o.length("/binaryData")).into(), o.age()]
    }),
    kind("", "secrets", columns::SECRETS, |o| {
        vec![o.name(), o.cell("/type"), o.length("/data").into(), o.age()]
    }),
    kind("", "serviceaccounts", columns::SERVICE_ACCOUNTS, |o| {
        vec![o.name(), o.length("/secrets").into(), o.age()]
    }),
    kind("", "componentstatuses", columns::COMPONENT_STATUSES, component_status),
    kind("", "resourcequotas", columns::QUOTAS, quota),
    kind("", "limitranges", columns::PLAIN, created),
    kind(RBAC, "roles", columns::PLAIN, created),
    kind(RBAC, "clusterroles", columns::PLAIN, created),
    kind(RBAC, "rolebindings", columns::ROLE_BINDINGS, role_binding),
    kind(RBAC, "clusterrolebindings", columns::CLUSTER_ROLE_BINDINGS, role_binding),
    kind("coordination.k8s.io", "leases", columns::LEASES, |o| {
        vec![o.name(), o.cell("/spec/holderIdentity"), o.age()]
    }),
    kind("scheduling.k8s.io", "priorityclasses", columns::PRIORITY_CLASSES, |o| {
        vec![
            o.name(),
            o.number("/value"),
            o.flag("/globalDefault").into(),
            o.age(),
            o.cell("/preemptionPolicy"),
        ]
    }),
    kind("node.k8s.io", "runtimeclasses", columns::RUNTIME_CLASSES, |o| {
        vec![o.name(), o.cell("/handler"), o.age()]
    }),
    kind("certificates.k8s.io", "certificatesigningrequests", columns::SIGNING_REQUESTS, signing_request),
    kind(ADMISSION, "mutatingwebhookconfigurations", columns::WEBHOOKS, webhooks),
    kind(ADMISSION, "validatingwebhookconfigurations", columns::WEBHOOKS, webhooks),
    kind(ADMISSION, "validatingadmissionpolicies", columns::VALIDATING_POLICIES, admission_policy),
    kind(ADMISSION, "validatingadmissionpolicybindings", columns::POLICY_BINDINGS, policy_binding),
    kind("apiextensions.k8s.io", "customresourcedefinitions", columns::PLAIN, created),
    kind("apiregistration.k8s.io", "apiservices", columns::API_SERVICES, api_service),
    Kind { rank: Some(precedence), ..kind(FLOW, "flowschemas", columns::FLOW_SCHEMAS, flow_schema) },
    kind(FLOW, "prioritylevelconfigurations", columns::PRIORITY_LEVELS, priority_level),
    kind("resource.k8s.io", "deviceclasses", columns::AGED, aged),
    kind("resource.k8s.io", "resourceclaimtemplates", columns::AGED, aged),
    kind("resource.k8s.io", "resourceclaims", columns::RESOURCE_CLAIMS, resource_claim),
    kind("resource.k8s.io", "resourceslices", columns::RESOURCE_SLICES, |o| {
        vec![o.name(), o.cell("/spec/nodeName"), o.cell("/spec/driver"), o.cell("/spec/pool/name"), o.age()]
    }),
];

fn aged(object: &Object<'_>) -> Vec<Value> {
    vec![object.name(), object.age()]
}

fn created(object: &Object<'_>) -> Vec<Value> {
    vec![object.name(), object.created_at()]
}

fn webhooks(object: &Object<'_>) -> Vec<Value> {
    vec![object.name(), object.length("/webhooks").into(), object.age()]
}

fn component_status(object: &Object<'_>) -> Vec<Value> {
    let healthy = object.list("/conditions").iter().find(|c| str_of(c, "type") == "Healthy");
    let status = match healthy.map(|c| str_of(c, "status")) {
        Some("True") => "Healthy",
        Some(_) => "Unhealthy",
        None => "Unknown",
    };
    let part = |name: &str| healthy.map(|c| str_of(c, name)).unwrap_or_default();
    vec![object.name(), status.into(), part("message").into(), part("error").into()]
}

fn quota(object: &Object<'_>) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    let mut hard: Vec<_> = object.map("/status/hard").into_iter().flatten().collect();
    hard.sort_by_key(|(resource, _)| *resource);
    for (resource, hard) in hard {
        let used = object.map("/status/used").and_then(|u| u.get(resource)).and_then(Value::as_str);
        let text = format!("{resource}: {}/{}", used.unwrap_or("0"), hard.as_str().unwrap_or_default());
        if resource.starts_with("limits.") { limits.push(text) } else { requests.push(text) }
    }
    vec![object.name(), requests.join(", ").into(), limits.join(", ").into(), object.age()]
}

fn role_binding(object: &Object<'_>) -> Vec<Value> {
    let of_kind =
        |kind: &'static str| object.list("/subjects").iter().filter(move |s| str_of(s, "kind") == kind);
    let names = |kind: &'static str| of_kind(kind).map(|s| str_of(s, "name")).collect::<Vec<_>>().join(", ");
    let accounts =
        of_kind("ServiceAccount").map(|s| format!("{}/{}", str_of(s, "namespace"), str_of(s, "name")));
    let role = format!("{}/{}", object.text("/roleRef/kind"), object.text("/roleRef/name"));
    vec![
        object.name(),
        role.into(),
        object.age(),
        names("User").into(),
        names("Group").into(),
        accounts.collect::<Vec<_>>().join(", ").into(),
    ]
}

fn signing_request(object: &Object<'_>) -> Vec<Value> {
    let duration = object.at("/spec/expirationSeconds").and_then(Value::as_i64);
    vec![
        object.name(),
        object.age(),
        object.text_or("/spec/signerName", NONE),
        object.cell("/spec/username"),
        duration.map_or(NONE.to_owned(), human_duration).into(),
        request_condition(object).into(),
    ]
}

fn request_condition(object: &Object<'_>) -> String {
    let conditions = strings(object.list("/status/conditions"), "type");
    let mut shown = if conditions.contains(&"Denied") {
        "Denied".to_owned()
    } else if conditions.contains(&"Approved") {
        "Approved".to_owned()
    } else {
        "Pending".to_owned()
    };
    if conditions.contains(&"Failed") {
        shown.push_str(",Failed");
    }
    if !object.text("/status/certificate").is_empty() {
        shown.push_str(",Issued");
    }
    shown
}

fn admission_policy(object: &Object<'_>) -> Vec<Value> {
    let kind = match object.map("/spec/paramKind") {
        None => UNSET.to_owned(),
        Some(_) => {
            format!("{}/{}", object.text("/spec/paramKind/apiVersion"), object.text("/spec/paramKind/kind"))
        }
    };
    vec![object.name(), object.length("/spec/validations").into(), kind.into(), object.age()]
}

fn policy_binding(object: &Object<'_>) -> Vec<Value> {
    let part = |name: &str| object.text(&format!("/spec/paramRef/{name}"));
    let parameter = match (part("name"), part("namespace"), object.at("/spec/paramRef/selector")) {
        ("", _, Some(selector)) if selector.is_object() => go_selector(selector),
        ("", ..) => UNSET.to_owned(),
        // Whether the parameter has a namespace cannot be told from here.
        (name, "", _) => format!("*/{name}"),
        (name, namespace, _) => format!("{namespace}/{name}"),
    };
    vec![object.name(), object.cell("/spec/policyName"), parameter.into(), object.age()]
}

/// A label selector as Go's generated code prints the struct.
fn go_selector(selector: &Value) -> String {
    let labels = selector.get("matchLabels").and_then(Value::as_object);
    let mut labels: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}: {},", value.as_str().unwrap_or_default()))
        .collect();
    labels.sort();
    let expressions = selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten();
    let expressions: Vec<String> = expressions
        .map(|e| {
            let values = e.get("values").and_then(Value::as_array).into_iter().flatten();
            let values: Vec<&str> = values.filter_map(Value::as_str).collect();
            let (key, operator) = (str_of(e, "key"), str_of(e, "operator"));
            format!(
                "LabelSelectorRequirement{{Key:{key},Operator:{operator},Values:[{}],}},",
                values.join(" ")
            )
        })
        .collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{}}},MatchExpressions:[]LabelSelectorRequirement{{{}}},}}",
        labels.concat(),
        expressions.concat()
    )
}

fn api_service(object: &Object<'_>) -> Vec<Value> {
    let service = match object.text("/spec/service/name") {
        "" => "Local".to_owned(),
        name => format!("{}/{name}", object.text("/spec/service/namespace")),
    };
    let conditions = object.list("/status/conditions").iter();
    let available = conditions.into_iter().find(|c| str_of(c, "type") == "Available");
    let shown = match available {
        None => "Unknown".to_owned(),
        Some(c) if str_of(c, "status") == "True" => "True".to_owned(),
        Some(c) => format!("{} ({})", str_of(c, "status"), str_of(c, "reason")),
    };
    vec![object.name(), service.into(), shown.into(), object.age()]
}

/// Schemas are tried in this order.
fn precedence(schema: &Value) -> i64 {
    schema.pointer("/spec/matchingPrecedence").and_then(Value::as_i64).unwrap_or_default()
}

fn flow_schema(object: &Object<'_>) -> Vec<Value> {
    let dangling = object.condition("Dangling").unwrap_or("?");
    vec![
        object.name(),
        object.cell("/spec/priorityLevelConfiguration/name"),
        object.number("/spec/matchingPrecedence"),
        object.text_or("/spec/distinguisherMethod/type", NONE),
        object.age(),
        dangling.into(),
    ]
}

fn priority_level(object: &Object<'_>) -> Vec<Value> {
    let number = |name: &str| {
        let found = object.at(&format!("/spec/limited/{name}")).filter(|v| v.is_i64());
        found.cloned().unwrap_or(NONE.into())
    };
    vec![
        object.name(),
        object.cell("/spec/type"),
        number("nominalConcurrencyShares"),
        number("limitResponse/queuing/queues"),
        number("limitResponse/queuing/handSize"),
        number("limitResponse/queuing/queueLengthLimit"),
        object.age(),
    ]
}

fn resource_claim(object: &Object<'_>) -> Vec<Value> {
    let mut states = Vec::new();
    if object.deleted() {
        states.push("deleted");
    }
    if object.at("/status/allocation").is_none_or(Value::is_null) {
        if states.is_empty() {
            states.push("pending");
        }
    } else {
        states.push("allocated");
        if !object.list("/status/reservedFor").is_empty() {
            states.push("reserved");
        }
    }
    vec![object.name(), states.join(",").into(), object.age()]
}

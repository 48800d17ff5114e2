//! Configuration, access and everything else of the cluster.

use serde_json::Value;

use super::cells::{NONE, Object, UNSET, str_of, strings};
use super::{AGE, CREATED_AT, Column, Kind, NAME, boolean, integer, kind, text, wide};
use crate::duration::human_duration;

const PHASED: &[Column] = &[NAME, text("Status"), AGE];
const CONFIG_MAPS: &[Column] = &[NAME, integer("Data"), AGE];
const SECRETS: &[Column] = &[NAME, text("Type"), integer("Data"), AGE];
const ACCOUNTS: &[Column] = &[NAME, integer("Secrets"), AGE];
const COMPONENTS: &[Column] = &[NAME, text("Status"), text("Message"), text("Error")];
const QUOTAS: &[Column] = &[NAME, text("Request"), text("Limit"), AGE];
const CREATED: &[Column] = &[NAME, CREATED_AT];
const BINDINGS: &[Column] =
    &[NAME, text("Role"), AGE, wide("Users"), wide("Groups"), wide("ServiceAccounts")];
const LEASES: &[Column] = &[NAME, text("Holder"), AGE];
const PRIORITIES: &[Column] =
    &[NAME, integer("Value"), boolean("Global-Default"), AGE, text("PreemptionPolicy")];
const RUNTIMES: &[Column] = &[NAME, text("Handler"), AGE];
const REQUESTS: &[Column] =
    &[NAME, AGE, text("SignerName"), text("Requestor"), text("RequestedDuration"), text("Condition")];
const WEBHOOKS: &[Column] = &[NAME, integer("Webhooks"), AGE];
const POLICIES: &[Column] = &[NAME, integer("Validations"), text("ParamKind"), AGE];
const POLICY_BINDINGS: &[Column] = &[NAME, text("PolicyName"), text("ParamRef"), AGE];
const SERVICES: &[Column] = &[NAME, text("Service"), text("Available"), AGE];
const FLOW_SCHEMAS: &[Column] = &[
    NAME,
    text("PriorityLevel"),
    integer("MatchingPrecedence"),
    text("DistinguisherMethod"),
    AGE,
    text("MissingPL"),
];
const LEVELS: &[Column] = &[
    NAME,
    text("Type"),
    text("NominalConcurrencyShares"),
    text("Queues"),
    text("HandSize"),
    text("QueueLengthLimit"),
    AGE,
];
const CLAIMS: &[Column] = &[NAME, text("State"), AGE];
const SLICES: &[Column] = &[NAME, text("Node"), text("Driver"), text("Pool"), AGE];

const RBAC: &str = "rbac.authorization.k8s.io";
const ADMISSION: &str = "admissionregistration.k8s.io";
const FLOW: &str = "flowcontrol.apiserver.k8s.io";

pub(super) const KINDS: &[Kind] = &[
    kind("", "namespaces", PHASED, |o| vec![o.name(), o.cell("/status/phase"), o.age()]),
    kind("", "configmaps", CONFIG_MAPS, |o| {
        vec![o.name(), (o.length("/data") + o.length("/binaryData")).into(), o.age()]
    }),
    kind("", "secrets", SECRETS, |o| vec![o.name(), o.cell("/type"), o.length("/data").into(), o.age()]),
    kind("", "serviceaccounts", ACCOUNTS, |o| vec![o.name(), o.length("/secrets").into(), o.age()]),
    kind("", "componentstatuses", COMPONENTS, component_status),
    kind("", "resourcequotas", QUOTAS, quota),
    kind("", "limitranges", CREATED, created),
    kind(RBAC, "roles", CREATED, created),
    kind(RBAC, "clusterroles", CREATED, created),
    kind(RBAC, "rolebindings", BINDINGS, role_binding),
    kind(RBAC, "clusterrolebindings", BINDINGS, role_binding),
    kind("coordination.k8s.io", "leases", LEASES, |o| {
        vec![o.name(), o.cell("/spec/holderIdentity"), o.age()]
    }),
    kind("scheduling.k8s.io", "priorityclasses", PRIORITIES, |o| {
        vec![
            o.name(),
            o.number("/value"),
            o.flag("/globalDefault").into(),
            o.age(),
            o.cell("/preemptionPolicy"),
        ]
    }),
    kind("node.k8s.io", "runtimeclasses", RUNTIMES, |o| vec![o.name(), o.cell("/handler"), o.age()]),
    kind("certificates.k8s.io", "certificatesigningrequests", REQUESTS, signing_request),
    kind(ADMISSION, "mutatingwebhookconfigurations", WEBHOOKS, webhooks),
    kind(ADMISSION, "validatingwebhookconfigurations", WEBHOOKS, webhooks),
    kind(ADMISSION, "validatingadmissionpolicies", POLICIES, admission_policy),
    kind(ADMISSION, "validatingadmissionpolicybindings", POLICY_BINDINGS, policy_binding),
    kind("apiextensions.k8s.io", "customresourcedefinitions", CREATED, created),
    kind("apiregistration.k8s.io", "apiservices", SERVICES, api_service),
    kind(FLOW, "flowschemas", FLOW_SCHEMAS, flow_schema),
    kind(FLOW, "prioritylevelconfigurations", LEVELS, priority_level),
    kind("resource.k8s.io", "resourceclaims", CLAIMS, resource_claim),
    kind("resource.k8s.io", "resourceslices", SLICES, |o| {
        vec![
            o.name(),
            o.text_or("/spec/nodeName", NONE),
            o.cell("/spec/driver"),
            o.cell("/spec/pool/name"),
            o.age(),
        ]
    }),
];

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
        Some("False") => "Unhealthy",
        _ => "Unknown",
    };
    let part = |name: &str| healthy.map(|c| str_of(c, name)).unwrap_or_default();
    vec![object.name(), status.into(), part("message").into(), part("error").into()]
}

fn quota(object: &Object<'_>) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, hard) in object.map("/status/hard").into_iter().flatten() {
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
    let kind = match object.text("/spec/paramKind/kind") {
        "" => UNSET.to_owned(),
        kind => format!("{}/{kind}", object.text("/spec/paramKind/apiVersion")),
    };
    vec![object.name(), object.length("/spec/validations").into(), kind.into(), object.age()]
}

fn policy_binding(object: &Object<'_>) -> Vec<Value> {
    let name = object.text("/spec/paramRef/name");
    let parameter = match (object.at("/spec/paramRef"), object.text("/spec/paramRef/namespace")) {
        (None, _) => UNSET.to_owned(),
        (Some(_), "") => {
            if name.is_empty() {
                "*".to_owned()
            } else {
                name.to_owned()
            }
        }
        (Some(_), namespace) => format!("{namespace}/{}", if name.is_empty() { "*" } else { name }),
    };
    vec![object.name(), object.cell("/spec/policyName"), parameter.into(), object.age()]
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
    let limited = match object.text("/spec/type") {
        "Exempt" => "/spec/exempt",
        _ => "/spec/limited",
    };
    let part = |name: &str| object.int_or_text(&format!("{limited}/{name}"), NONE);
    let queuing = |name: &str| object.int_or_text(&format!("{limited}/limitResponse/queuing/{name}"), NONE);
    vec![
        object.name(),
        object.cell("/spec/type"),
        part("nominalConcurrencyShares"),
        queuing("queues"),
        queuing("handSize"),
        queuing("queueLengthLimit"),
        object.age(),
    ]
}

fn resource_claim(object: &Object<'_>) -> Vec<Value> {
    let mut states = Vec::new();
    if object.deleted() {
        states.push("deleted");
    }
    if object.at("/status/allocation").is_none_or(Value::is_null) {
        states.push("pending");
    } else {
        states.push("allocated");
        if !object.list("/status/reservedFor").is_empty() {
            states.push("reserved");
        }
    }
    vec![object.name(), states.join(",").into(), object.age()]
}

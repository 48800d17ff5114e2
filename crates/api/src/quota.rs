//! How much of a quota one object uses, and which quotas speak of it. Admission charges with this
//! and the controller counts with it, so that both come to the same sums.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::object::text;
use crate::pod_resources::{
    Amounts, amounts, has_pod_level, is_extended, is_huge_page, is_native, occupied, qos_class, quantity,
};
use crate::quantity::{Format, Quantity};

const POD_NAMES: [&str; 11] = [
    "count/pods",
    "pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];
/// Where a quota limits one of these, every container has to say how much it wants.
const DEMANDED: [&str; 6] =
    ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
const SERVICE_NAMES: [&str; 4] =
    ["count/services", "services", "services.nodeports", "services.loadbalancers"];
const CLAIM_NAMES: [&str; 2] = ["persistentvolumeclaims", "requests.storage"];
const CLAIM_COUNT: &str = "count/persistentvolumeclaims";
const CLASS_INFIX: &str = ".storageclass.storage.k8s.io/";
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
/// Kinds with a name in quotas from before `count/...`.
const PLAIN_COUNTS: [&str; 4] = ["configmaps", "secrets", "replicationcontrollers", "resourcequotas"];

/// A kind as quotas count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind<'a> {
    pub group: &'a str,
    pub plural: &'a str,
}

pub const PODS: Kind<'static> = Kind { group: "", plural: "pods" };
pub const SERVICES: Kind<'static> = Kind { group: "", plural: "services" };
pub const CLAIMS: Kind<'static> = Kind { group: "", plural: "persistentvolumeclaims" };

fn one() -> Quantity {
    Quantity::from_units(1, Format::DecimalSi)
}
fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

impl Kind<'_> {
    /// `jobs.batch`
    fn qualified(self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// The kind's objects count towards this name.
    pub fn counts(self, name: &str) -> bool {
        match self {
            PODS => {
                let extended = !is_native(name) && name.starts_with("requests.");
                POD_NAMES.contains(&name)
                    || is_huge_page(name.strip_prefix("requests.").unwrap_or(name))
                    || extended
            }
            SERVICES => SERVICE_NAMES.contains(&name),
            CLAIMS => {
                let own = name.split_once(CLASS_INFIX).map_or(name, |(_, own)| own);
                name == CLAIM_COUNT || CLAIM_NAMES.contains(&own)
            }
            _ => {
                name.strip_prefix("count/").is_some_and(|counted| counted == self.qualified())
                    || (self.group.is_empty() && self.plural == name && PLAIN_COUNTS.contains(&name))
            }
        }
    }

    /// What one object takes up at this time.
    pub fn usage(self, object: &Value, now: Timestamp) -> Amounts {
        match self {
            PODS => pod(object, now),
            SERVICES => service(object),
            CLAIMS => claim(object),
            _ => {
                let mut usage = Amounts::from([(format!("count/{}", self.qualified()), one())]);
                if self.group.is_empty() && PLAIN_COUNTS.contains(&self.plural) {
                    usage.insert(self.plural.to_owned(), one());
                }
                usage
            }
        }
    }

    /// The quota's scopes, all of them, take this object in. Kinds without scopes are in none.
    pub fn is_covered(self, quota: &Value, object: &Value) -> bool {
        scopes(quota).iter().all(|scope| match self {
            PODS => pod_in_scope(object, scope),
            CLAIMS => claim_in_scope(object, scope),
            _ => false,
        })
    }

    /// What an object must say before a quota with these names lets it in.
    pub fn omission<'a>(self, names: impl Iterator<Item = &'a str>, object: &Value) -> Option<String> {
        let spec = &object["spec"];
        if self != PODS || has_pod_level(spec) {
            return None;
        }
        let demanded: BTreeSet<&str> = names.filter(|name| DEMANDED.contains(name)).collect();
        let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for container in items(&spec["containers"]).chain(items(&spec["initContainers"])) {
            let said = |name: &str| {
                let (kind, resource) = name.split_once('.').unwrap_or(("requests", name));
                !container["resources"][kind][resource].is_null()
            };
            for name in demanded.iter().filter(|name| !said(name)) {
                missing.entry(name).or_default().insert(text(container, "/name"));
            }
        }
        let list = |names: &BTreeSet<&str>| names.iter().copied().collect::<Vec<_>>().join(",");
        let parts: Vec<String> =
            missing.iter().map(|(name, containers)| format!("{name} for: {}", list(containers))).collect();
        (!parts.is_empty()).then(|| format!("must specify {}", parts.join("; ")))
    }
}

/// A pod that ended, or that outlived its grace, uses nothing but its place in the store.
fn pod(pod: &Value, now: Timestamp) -> Amounts {
    let mut usage = Amounts::from([("count/pods".to_owned(), one())]);
    if matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") || is_overdue(pod, now) {
        return usage;
    }
    usage.insert("pods".to_owned(), one());
    for (name, amount) in occupied(pod, "requests") {
        let is_compute = is_compute(&name);
        if is_compute || is_huge_page(&name) {
            usage.insert(name.clone(), amount);
        }
        if is_compute || is_huge_page(&name) || is_extended(&name) {
            usage.insert(format!("requests.{name}"), amount);
        }
    }
    let limits = occupied(pod, "limits").into_iter().filter(|(name, _)| is_compute(name));
    usage.extend(limits.map(|(name, amount)| (format!("limits.{name}"), amount)));
    usage
}

fn is_compute(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage")
}

fn is_overdue(pod: &Value, now: Timestamp) -> bool {
    let deleted: Option<Timestamp> =
        pod.pointer("/metadata/deletionTimestamp").and_then(Value::as_str).and_then(|t| t.parse().ok());
    let grace = pod.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
    match (deleted, grace) {
        (Some(deleted), Some(grace)) => {
            deleted.checked_add(SignedDuration::from_secs(grace)).is_ok_and(|end| now > end)
        }
        _ => false,
    }
}

fn service(service: &Value) -> Amounts {
    let mut usage = Amounts::from([("services".to_owned(), one()), ("count/services".to_owned(), one())]);
    let spec = &service["spec"];
    let ports = match text(spec, "/type") {
        "NodePort" => items(&spec["ports"]).count(),
        // Without allocation only the ports that were asked for by number are node ports.
        "LoadBalancer" if spec["allocateLoadBalancerNodePorts"] == false => {
            items(&spec["ports"]).filter(|port| port["nodePort"].as_i64().is_some_and(|n| n != 0)).count()
        }
        "LoadBalancer" => items(&spec["ports"]).count(),
        _ => 0,
    };
    let balancers = i64::from(text(spec, "/type") == "LoadBalancer");
    let number = |n: i64| Quantity::from_units(n, Format::DecimalSi);
    usage.insert("services.nodeports".to_owned(), number(i64::try_from(ports).unwrap_or(i64::MAX)));
    usage.insert("services.loadbalancers".to_owned(), number(balancers));
    usage
}

fn claim(claim: &Value) -> Amounts {
    let mut usage = Amounts::from([(CLAIM_COUNT.to_owned(), one()), (CLAIM_NAMES[0].to_owned(), one())]);
    let requested = quantity(&claim["spec"]["resources"]["requests"]["storage"]);
    let allocated = quantity(&claim["status"]["allocatedResources"]["storage"]);
    if let Some(requested) = requested {
        let larger = allocated.map_or(requested, |allocated| allocated.max(requested));
        // Whole bytes: a quota's sums are integers.
        usage.insert(CLAIM_NAMES[1].to_owned(), Quantity::from_units(larger.units(), larger.format()));
    }
    let class = match claim["metadata"]["annotations"][CLASS_ANNOTATION].as_str() {
        Some(class) => class,
        None => text(claim, "/spec/storageClassName"),
    };
    if !class.is_empty() {
        for name in CLAIM_NAMES {
            if let Some(amount) = usage.get(name).copied() {
                usage.insert(format!("{class}{CLASS_INFIX}{name}"), amount);
            }
        }
    }
    usage
}

/// The quota's scopes as requirements, plain ones first.
fn scopes(quota: &Value) -> Vec<Value> {
    let spec = &quota["spec"];
    let plain = items(&spec["scopes"]).map(|name| json!({"scopeName": name, "operator": "Exists"}));
    plain.chain(items(&spec["scopeSelector"]["matchExpressions"]).cloned()).collect()
}

/// A quota with scopes leaves out what no scope speaks of.
pub fn has_scopes(quota: &Value) -> bool {
    !scopes(quota).is_empty()
}

fn pod_in_scope(pod: &Value, scope: &Value) -> bool {
    let spec = &pod["spec"];
    let terminating = spec["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0);
    let is_best_effort = || {
        let class = text(pod, "/status/qosClass");
        (if class.is_empty() { qos_class(spec) } else { class }) == "BestEffort"
    };
    match text(scope, "/scopeName") {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => is_best_effort(),
        "NotBestEffort" => !is_best_effort(),
        "CrossNamespacePodAffinity" => crosses_namespaces(spec),
        "PriorityClass" => {
            let class = text(spec, "/priorityClassName");
            selects(scope, if class.is_empty() { &[] } else { std::slice::from_ref(&class) })
        }
        _ => false,
    }
}

/// A selector over the names an object refers to: it is enough that one of them fits.
fn selects(scope: &Value, names: &[&str]) -> bool {
    let listed = |name: &str| items(&scope["values"]).any(|value| value == name);
    match text(scope, "/operator") {
        "Exists" => !names.is_empty(),
        "In" => names.iter().any(|name| listed(name)),
        "NotIn" => names.is_empty() || names.iter().any(|name| !listed(name)),
        _ => names.is_empty(),
    }
}

fn crosses_namespaces(spec: &Value) -> bool {
    ["podAffinity", "podAntiAffinity"].into_iter().any(|kind| {
        let affinity = &spec["affinity"][kind];
        let required = items(&affinity["requiredDuringSchedulingIgnoredDuringExecution"]);
        let preferred = items(&affinity["preferredDuringSchedulingIgnoredDuringExecution"]);
        required
            .chain(preferred.map(|weighted| &weighted["podAffinityTerm"]))
            .any(|term| items(&term["namespaces"]).next().is_some() || !term["namespaceSelector"].is_null())
    })
}

fn claim_in_scope(claim: &Value, scope: &Value) -> bool {
    let places =
        ["/spec/volumeAttributesClassName", "/status/currentVolumeAttributesClassName", TARGET_CLASS];
    let names: Vec<&str> =
        places.into_iter().map(|place| text(claim, place)).filter(|name| !name.is_empty()).collect();
    text(scope, "/scopeName") == "VolumeAttributesClass" && selects(scope, &names)
}

const TARGET_CLASS: &str = "/status/modifyVolumeStatus/targetVolumeAttributesClassName";

/// A resource name that only a count of this kind can answer: `jobs.batch` for `count/jobs.batch`.
/// Pods, services and claims are no such kinds.
pub fn plain_kind(name: &str) -> Option<&str> {
    let kind =
        name.strip_prefix("count/").or_else(|| PLAIN_COUNTS.into_iter().find(|plain| *plain == name))?;
    (![PODS, SERVICES, CLAIMS].iter().any(|counted| counted.plural == kind)).then_some(kind)
}

/// The limits as quantities.
pub fn hard(quota: &Value, part: &str) -> Amounts {
    amounts(&quota[part]["hard"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(usage: &Amounts) -> Vec<String> {
        usage.iter().map(|(name, amount)| format!("{name}={amount}")).collect()
    }
    fn at(time: &str) -> Timestamp {
        time.parse().expect("a time")
    }
    const NOW: &str = "2026-01-01T00:01:00Z";

    #[test]
    fn pods_count_what_they_ask_for() {
        let mut pod = json!({"spec": {
        "initContainers": [{"name": "i", "resources": {"requests": {"cpu": "2"}}}],
        "containers": [
            {"name": "a", "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": "1"}}},
            {"name": "b", "resources": {"requests": {"cpu": "1", "example.com/x": "3", "hugepages-2Mi": "2Mi"},
                "limits": {"example.com/x": "3"}}},
        ]}});
        assert_eq!(
            texts(&PODS.usage(&pod, at(NOW))),
            [
                "count/pods=1",
                "cpu=2",
                "hugepages-2Mi=2Mi",
                "limits.cpu=1",
                "memory=1Gi",
                "pods=1",
                "requests.cpu=2",
                "requests.example.com/x=3",
                "requests.hugepages-2Mi=2Mi",
                "requests.memory=1Gi",
            ]
        );
        let names = ["cpu", "limits.cpu", "requests.memory", "pods"];
        assert_eq!(
            PODS.omission(names.into_iter(), &pod).as_deref(),
            Some("must specify limits.cpu for: b,i; requests.memory for: b,i")
        );
        pod["metadata"] =
            json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30});
        assert_eq!(texts(&PODS.usage(&pod, at(NOW))), ["count/pods=1"]);
        assert!(PODS.usage(&pod, at("2026-01-01T00:00:30Z")).contains_key("pods"));
        pod["metadata"] = json!({});
        pod["status"] = json!({"phase": "Failed"});
        assert_eq!(texts(&PODS.usage(&pod, at(NOW))), ["count/pods=1"]);
    }

    #[test]
    fn services_and_claims() {
        let mut balancer =
            json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 1, "nodePort": 30001}, {"port": 2}]}});
        let usage = SERVICES.usage(&balancer, at(NOW));
        assert_eq!(
            texts(&usage),
            ["count/services=1", "services=1", "services.loadbalancers=1", "services.nodeports=2"]
        );
        balancer["spec"]["allocateLoadBalancerNodePorts"] = false.into();
        assert_eq!(SERVICES.usage(&balancer, at(NOW))["services.nodeports"].units(), 1);
        let claim = json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "5Gi"}}},
            "status": {"allocatedResources": {"storage": "6Gi"}}});
        let usage = CLAIMS.usage(&claim, at(NOW));
        assert_eq!(usage["gold.storageclass.storage.k8s.io/requests.storage"].to_string(), "6Gi");
        assert_eq!(usage["requests.storage"].to_string(), "6Gi");
        assert!(CLAIMS.counts("gold.storageclass.storage.k8s.io/persistentvolumeclaims"));
        assert!(!CLAIMS.counts("pods") && !PODS.counts("requests.storage"));
    }

    #[test]
    fn plain_objects() {
        let jobs = Kind { group: "batch", plural: "jobs" };
        assert!(jobs.counts("count/jobs.batch") && !jobs.counts("count/jobs") && !jobs.counts("jobs"));
        assert_eq!(texts(&jobs.usage(&Value::Null, at(NOW))), ["count/jobs.batch=1"]);
        let secrets = Kind { group: "", plural: "secrets" };
        assert!(secrets.counts("secrets") && secrets.counts("count/secrets"));
        assert_eq!(plain_kind("secrets"), Some("secrets"));
        assert_eq!((plain_kind("pods"), plain_kind("count/pods")), (None, None));
    }

    #[test]
    fn scopes_take_objects_in() {
        let pod = json!({"spec": {"containers": [], "priorityClassName": "high"}});
        let priority = |operator: &str, values: Value| {
            json!({"scopeSelector": {"matchExpressions": [
                {"scopeName": "PriorityClass", "operator": operator, "values": values}]}})
        };
        for (spec, expected) in [
            (json!({}), true),
            (json!({"scopes": ["BestEffort", "NotTerminating"]}), true),
            (json!({"scopes": ["Terminating"]}), false),
            (json!({"scopes": ["NotBestEffort"]}), false),
            (json!({"scopes": ["CrossNamespacePodAffinity"]}), false),
            (json!({"scopes": ["VolumeAttributesClass"]}), false),
            (priority("In", json!(["high"])), true),
            (priority("NotIn", json!(["high"])), false),
            (priority("Exists", json!([])), true),
            (priority("DoesNotExist", json!([])), false),
        ] {
            assert_eq!(PODS.is_covered(&json!({"spec": spec.clone()}), &pod), expected, "{spec}");
        }
        let scoped = json!({"spec": {"scopes": ["VolumeAttributesClass"]}});
        assert!(CLAIMS.is_covered(&scoped, &json!({"spec": {"volumeAttributesClassName": "fast"}})));
        assert!(!CLAIMS.is_covered(&scoped, &json!({"spec": {}})));
        assert!(!SERVICES.is_covered(&scoped, &json!({})));
    }
}

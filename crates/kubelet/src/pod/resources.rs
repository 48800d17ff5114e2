//! Requests and limits: quality of service, what a pod adds up to, and what cgroups make of it.

use std::collections::BTreeMap;

use amphipod_api::quantity::Quantity;
use amphipod_cri::v1::LinuxContainerResources;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use super::{Kind, app_containers, containers, init_containers, spec};

pub type Amounts = BTreeMap<String, Quantity>;

const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
const SHARES_PER_CPU: i64 = 1024;
const QUOTA_PERIOD_MICROS: i64 = 100_000;
const MIN_QUOTA_MICROS: i64 = 1000;
/// Pods from this priority on are as safe from the OOM killer as guaranteed ones.
const SYSTEM_CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// The amounts that can be read; the API server has refused all others.
pub fn amounts(map: Option<&BTreeMap<String, Text>>) -> Amounts {
    let parsed =
        map.into_iter().flatten().filter_map(|(k, v)| Some((k.clone(), Quantity::parse(&v.0).ok()?)));
    parsed.collect()
}

fn requests(resources: Option<&ResourceRequirements>) -> Amounts {
    let limits = amounts(resources.and_then(|r| r.limits.as_ref()));
    let mut found = amounts(resources.and_then(|r| r.requests.as_ref()));
    for (name, limit) in limits {
        found.entry(name).or_insert(limit);
    }
    found
}

fn limits(resources: Option<&ResourceRequirements>) -> Amounts {
    amounts(resources.and_then(|r| r.limits.as_ref()))
}

fn add(total: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = total.get(name).map_or(*amount, |t| t.plus(*amount));
        total.insert(name.clone(), sum);
    }
}

fn raise(total: &mut Amounts, least: &Amounts) {
    for (name, amount) in least {
        if total.get(name).is_none_or(|t| t < amount) {
            total.insert(name.clone(), *amount);
        }
    }
}

/// What the pod needs at its most demanding moment: sidecars stay, init containers pass.
fn aggregate(pod: &Pod, of: fn(Option<&ResourceRequirements>) -> Amounts) -> Amounts {
    let mut total = Amounts::new();
    for c in app_containers(pod) {
        add(&mut total, &of(c.container.resources.as_ref()));
    }
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for c in init_containers(pod) {
        let own = of(c.container.resources.as_ref());
        if c.kind == Kind::Sidecar {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            raise(&mut peak, &sidecars);
        } else {
            let mut moment = sidecars.clone();
            add(&mut moment, &own);
            raise(&mut peak, &moment);
        }
    }
    raise(&mut total, &peak);
    let at_pod = spec(pod).resources.as_ref();
    for (name, amount) in of(at_pod) {
        total.insert(name, amount);
    }
    total
}

/// The pod's requests with its overhead: what it takes from a node.
pub fn pod_requests(pod: &Pod) -> Amounts {
    let mut total = aggregate(pod, requests);
    add(&mut total, &amounts(spec(pod).overhead.as_ref()));
    total
}

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub fn qos_class(pod: &Pod) -> &'static str {
    if let Some(own) = spec(pod).resources.as_ref().filter(|r| r.requests.is_some() || r.limits.is_some()) {
        return class_of(&[(requests(Some(own)), limits(Some(own)))]);
    }
    let all: Vec<(Amounts, Amounts)> = containers(pod)
        .filter(|c| c.kind != Kind::Ephemeral)
        .map(|c| (requests(c.container.resources.as_ref()), limits(c.container.resources.as_ref())))
        .collect();
    class_of(&all)
}

fn class_of(all: &[(Amounts, Amounts)]) -> &'static str {
    let set = |amounts: &Amounts, name: &str| amounts.get(name).is_some_and(|a| !a.is_zero());
    let names = ["cpu", "memory"];
    if !all.iter().any(|(r, l)| names.iter().any(|n| set(r, n) || set(l, n))) {
        return "BestEffort";
    }
    let exact = |(r, l): &(Amounts, Amounts)| names.iter().all(|n| set(l, n) && r.get(*n) == l.get(*n));
    if all.iter().all(exact) { "Guaranteed" } else { "Burstable" }
}

pub fn milli(amounts: &Amounts, name: &str) -> i64 {
    amounts.get(name).map_or(0, |a| a.milli())
}

pub fn units(amounts: &Amounts, name: &str) -> i64 {
    amounts.get(name).map_or(0, |a| a.units())
}

/// Weight of a cgroup for a CPU request.
pub fn cpu_shares(milli: i64) -> i64 {
    if milli == 0 { MIN_SHARES } else { (milli * SHARES_PER_CPU / 1000).clamp(MIN_SHARES, MAX_SHARES) }
}

/// Quota per period for a CPU limit; none without a limit.
pub fn cpu_quota(milli: i64) -> Option<i64> {
    (milli > 0).then(|| (milli * QUOTA_PERIOD_MICROS / 1000).max(MIN_QUOTA_MICROS))
}

/// Larger dies sooner when memory runs out.
pub fn oom_score_adj(pod: &Pod, container: &Container, node_memory_bytes: i64) -> i64 {
    if spec(pod).priority.is_some_and(|p| p >= SYSTEM_CRITICAL_PRIORITY) {
        return -997;
    }
    match qos_class(pod) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let request = units(&requests(container.resources.as_ref()), "memory");
            let share = i128::from(request) * 1000 / i128::from(node_memory_bytes.max(1));
            let score = 1000 - i64::try_from(share).unwrap_or(1000);
            score.clamp(3, 999)
        }
    }
}

pub fn container_resources(
    pod: &Pod,
    container: &Container,
    node_memory_bytes: i64,
) -> LinuxContainerResources {
    let (requests, limits) = (requests(container.resources.as_ref()), limits(container.resources.as_ref()));
    let quota = cpu_quota(milli(&limits, "cpu"));
    LinuxContainerResources {
        cpu_shares: cpu_shares(milli(&requests, "cpu")),
        cpu_period: if quota.is_some() { QUOTA_PERIOD_MICROS } else { 0 },
        cpu_quota: quota.unwrap_or(0),
        memory_limit_in_bytes: units(&limits, "memory"),
        oom_score_adj: oom_score_adj(pod, container, node_memory_bytes),
        ..LinuxContainerResources::default()
    }
}

/// What the cgroup around all of a pod's containers is set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PodCgroup {
    pub cpu_shares: i64,
    pub cpu_quota: Option<i64>,
    pub cpu_period: i64,
    pub memory_limit: Option<i64>,
}

pub fn pod_cgroup(pod: &Pod) -> PodCgroup {
    let requests = pod_requests(pod);
    let mut caps = aggregate(pod, limits);
    add(&mut caps, &amounts(spec(pod).overhead.as_ref()));
    // A limit holds for the pod only when every container has one (or the pod itself).
    let limited = |name: &str| {
        limits(spec(pod).resources.as_ref()).contains_key(name)
            || containers(pod)
                .filter(|c| c.kind != Kind::Ephemeral)
                .all(|c| limits(c.container.resources.as_ref()).get(name).is_some_and(|l| !l.is_zero()))
    };
    PodCgroup {
        cpu_shares: cpu_shares(milli(&requests, "cpu")),
        cpu_quota: limited("cpu").then(|| cpu_quota(milli(&caps, "cpu"))).flatten(),
        cpu_period: QUOTA_PERIOD_MICROS,
        memory_limit: limited("memory").then(|| units(&caps, "memory")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::pod;
    use super::*;
    use serde_json::json;

    #[test]
    fn classes() {
        let cases = [
            (json!({"containers": [{"name": "a"}]}), "BestEffort"),
            (json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}]}), "Burstable"),
            (
                json!({"containers": [{"name": "a", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]}),
                "Guaranteed",
            ),
            (
                json!({"containers": [{"name": "a", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}, {"name": "b"}]}),
                "Burstable",
            ),
            (
                json!({"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}, "containers": [{"name": "a"}]}),
                "Guaranteed",
            ),
        ];
        for (spec, expected) in cases {
            assert_eq!(qos_class(&pod(spec.clone())), expected, "{spec}");
        }
    }

    #[test]
    fn a_pod_asks_for_its_peak() {
        let request = |cpu: &str| json!({"requests": {"cpu": cpu}});
        let pod = pod(json!({
            "overhead": {"cpu": "10m"},
            "initContainers": [
                {"name": "s", "restartPolicy": "Always", "resources": request("100m")},
                {"name": "i", "resources": request("500m")}],
            "containers": [{"name": "a", "resources": request("200m")}, {"name": "b", "resources": request("50m")}]}));
        assert_eq!(milli(&pod_requests(&pod), "cpu"), 610);
    }

    #[test]
    fn cgroup_values() {
        assert_eq!(
            [cpu_shares(0), cpu_shares(1), cpu_shares(500), cpu_shares(9_000_000)],
            [2, 2, 512, 262_144]
        );
        assert_eq!([cpu_quota(0), cpu_quota(1), cpu_quota(1500)], [None, Some(1000), Some(150_000)]);
        let spec = json!({"containers": [{"name": "a", "resources": {"limits": {"memory": "64Mi"}}}]});
        assert_eq!(pod_cgroup(&pod(spec.clone())).memory_limit, Some(64 << 20));
        let burstable = pod(spec);
        let container = &super::spec(&burstable).containers[0];
        assert_eq!(oom_score_adj(&burstable, container, 128 << 20), 500);
    }
}

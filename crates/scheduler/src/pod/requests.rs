//! What a pod takes of a node: its containers and sidecars together, or the largest moment while it
//! starts, or what it says for itself as a whole; plus overhead. While a container is resized in
//! place the larger of what it shall have, has been given and has counts.

use amphipod_api::pod_resources::HUGE_PAGES;
use amphipod_api::quantity::{Format, Quantity};
use amphipod_client::CachedPod;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, PodSpec};

use crate::amounts::{Amounts, ResourceId, Resources, Sums};

/// What a container that asks for nothing is taken to use, for scoring only (upstream's figures).
const DEFAULT_CPU_MILLI: i64 = 100;
const DEFAULT_MEMORY_BYTES: i64 = 200 << 20;

/// What it asks for, and CPU and memory of that as scores count them.
pub fn requests(resources: &mut Resources, pod: &CachedPod) -> (Amounts, [i64; 2]) {
    let Some(spec) = &pod.spec else { return Default::default() };
    let sums = total(resources, pod, spec, &[]);
    let cpu = (ResourceId::CPU, Quantity::from_milli(DEFAULT_CPU_MILLI, Format::DecimalSi));
    let memory = (ResourceId::MEMORY, Quantity::from_units(DEFAULT_MEMORY_BYTES, Format::BinarySi));
    let whole_pod = pod_level(resources, spec).iter().next().is_some();
    // A pod that speaks for itself as a whole is only filled in where it and its containers are silent.
    let defaults: Vec<(ResourceId, Quantity)> =
        [cpu, memory].into_iter().filter(|(id, _)| !whole_pod || sums.is_zero(*id)).collect();
    let nonzero = total(resources, pod, spec, &defaults).rounded();
    (sums.rounded(), [nonzero.get(ResourceId::CPU), nonzero.get(ResourceId::MEMORY)])
}

/// What it asks for, exactly: what decisions count of it is bounded.
pub fn written(resources: &mut Resources, pod: &CachedPod) -> Sums {
    let Some(spec) = &pod.spec else { return Sums::default() };
    total(resources, pod, spec, &[])
}

fn total(
    resources: &mut Resources,
    pod: &CachedPod,
    spec: &PodSpec,
    defaults: &[(ResourceId, Quantity)],
) -> Sums {
    let mut running = Sums::default();
    for container in &spec.containers {
        running.add(&of_container(resources, pod, container, defaults));
    }
    let (mut sidecars, mut starting) = (Sums::default(), Sums::default());
    for container in spec.init_containers.iter().flatten() {
        let own = of_container(resources, pod, container, defaults);
        let mut moment = sidecars.clone();
        moment.add(&own);
        if is_sidecar(container) {
            running.add(&own);
            sidecars = moment.clone();
        }
        starting.raise_to(&moment);
    }
    running.raise_to(&starting);
    for (id, amount) in pod_level(resources, spec).iter() {
        running.set(id, amount);
    }
    running.add(&resources.from_wire(spec.overhead.as_ref()));
    running
}

/// What may be asked for by the pod as a whole: CPU, memory and huge pages.
fn pod_level(resources: &mut Resources, spec: &PodSpec) -> Sums {
    let mut sums = Sums::default();
    let all = resources.from_wire(spec.resources.as_ref().and_then(|r| r.requests.as_ref()));
    for (id, amount) in all.iter() {
        let plain = id == ResourceId::CPU || id == ResourceId::MEMORY;
        if plain || resources.name(id).starts_with(HUGE_PAGES) {
            sums.set(id, amount);
        }
    }
    sums
}

fn of_container(
    resources: &mut Resources,
    pod: &CachedPod,
    container: &Container,
    defaults: &[(ResourceId, Quantity)],
) -> Sums {
    let mut sums = resources.from_wire(container.resources.as_ref().and_then(|r| r.requests.as_ref()));
    if let Some(status) = resizable_status(pod, container) {
        // What the node will never give does not count.
        if is_infeasible(pod) {
            sums = Sums::default();
        }
        let had = status.resources.as_ref().and_then(|r| r.requests.as_ref());
        sums.raise_to(&resources.from_wire(had));
        sums.raise_to(&resources.from_wire(status.allocated_resources.as_ref()));
    }
    for (id, amount) in defaults {
        if !sums.has(*id) {
            sums.set(*id, *amount);
        }
    }
    sums
}

pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Of a container that can be resized, an app or a sidecar, once its node has reported resources.
fn resizable_status<'a>(pod: &'a CachedPod, container: &Container) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let apps = status.container_statuses.iter().flatten();
    let sidecars = status.init_container_statuses.iter().flatten().filter(|_| is_sidecar(container));
    apps.chain(sidecars).find(|s| s.name == container.name && s.resources.is_some())
}

fn is_infeasible(pod: &CachedPod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "PodResizePending" && c.reason.as_deref() == Some("Infeasible"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use amphipod_client::Resource;
    use serde_json::{Value, json};

    fn of(pod: Value) -> (i64, i64, [i64; 2]) {
        let mut resources = Resources::default();
        let (requests, nonzero) =
            requests(&mut resources, &CachedPod::decode(pod.to_string().as_bytes()).unwrap());
        (requests.get(ResourceId::CPU), requests.get(ResourceId::MEMORY), nonzero)
    }
    fn container(name: &str, requests: Value) -> Value {
        json!({"name": name, "resources": {"requests": requests}})
    }

    #[test]
    fn init_containers_sidecars_overhead_and_the_pod_as_a_whole() {
        let mut sidecar = container("side", json!({"cpu": "50m"}));
        sidecar["restartPolicy"] = "Always".into();
        let init = container("init", json!({"cpu": "1"}));
        let apps = json!([container("a", json!({"cpu": "200m"})), container("b", json!({}))]);
        let spec = json!({"containers": apps, "initContainers": [sidecar, init], "overhead": {"cpu": "10m"}});
        let megabytes = 1 << 20;
        let cases = [
            // While starting: sidecar 50 + init 1000; running: 200 + 50.
            ("starting", json!({"spec": spec}), (1060, 0, [1060, 600 * megabytes])),
            ("nothing", json!({"spec": {"containers": [{"name": "a"}]}}), (0, 0, [100, 200 * megabytes])),
            (
                "an explicit zero is no silence",
                json!({"spec": {"containers": [container("a", json!({"cpu": "0", "memory": "0"}))]}}),
                (0, 0, [0, 0]),
            ),
            (
                "the pod as a whole",
                json!({"spec": {"containers": apps, "resources": {"requests": {"cpu": "3", "example.com/x": "1"}}}}),
                (3000, 0, [3000, 400 * megabytes]),
            ),
        ];
        for (name, pod, expected) in cases {
            assert_eq!(of(pod), expected, "{name}");
        }
    }

    #[test]
    fn a_pod_being_resized_counts_with_the_larger_amount() {
        let never = json!([{"type": "PodResizePending", "status": "True", "reason": "Infeasible"}]);
        let cases = [
            ("grows", "300m", "200m", json!([]), 300),
            ("shrinks", "100m", "200m", json!([]), 200),
            ("never fits", "300m", "200m", never, 200),
        ];
        for (name, wanted, had, conditions, expected) in cases {
            let status = json!({"name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "resources": {"requests": {"cpu": had}}, "allocatedResources": {"cpu": had}});
            let pod = json!({"spec": {"containers": [container("a", json!({"cpu": wanted}))]},
                "status": {"containerStatuses": [status], "conditions": conditions}});
            assert_eq!(of(pod).0, expected, "{name}");
        }
    }
}

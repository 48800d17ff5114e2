//! An explanation is held to the same oracle: what it says of nodes, scores and reasons is what the
//! slow scheduler says, and what it says would help does help.

use std::collections::BTreeMap;
use std::sync::Arc;

use amphipod_api::scheduling_review::{Group, NearMiss, Status};
use amphipod_scheduler::why::{Asked, Cluster, explain};
use k8s_openapi::api::core::v1::Pod;

use crate::oracle::{Oracle, Settings};
use crate::profile;
use crate::world::World;

/// How often something was told that can be checked only where it is told.
#[derive(Default)]
pub struct Told {
    pub near_misses: usize,
    pub evictions: usize,
}

fn cluster(world: &World) -> Cluster {
    let waiting = world.nominated.values().map(|(pod, node)| {
        let mut pod = pod.clone();
        pod.status.get_or_insert_default().nominated_node_name = Some(node.clone());
        pod
    });
    let pods = world.pods.values().cloned().chain(waiting);
    Cluster {
        nodes: world.nodes.values().cloned().map(Arc::new).collect(),
        pods: pods.map(|pod| Arc::new(pod.into())).collect(),
        namespaces: world.namespaces.values().cloned().map(Arc::new).collect(),
        services: world.services.values().cloned().map(Arc::new).collect(),
        replica_sets: world.replica_sets.values().cloned().map(Arc::new).collect(),
        budgets: world.budgets.values().cloned().map(Arc::new).collect(),
        claims: world.storage.claims.values().cloned().map(Arc::new).collect(),
        volumes: world.storage.volumes.values().cloned().map(Arc::new).collect(),
        storage_classes: world.storage.classes.values().cloned().map(Arc::new).collect(),
        csi_nodes: world.storage.limits.values().cloned().map(Arc::new).collect(),
        csi_drivers: world.storage.drivers.values().cloned().map(Arc::new).collect(),
        capacities: world.storage.capacities.values().cloned().map(Arc::new).collect(),
        attachments: world.storage.attachments.values().cloned().map(Arc::new).collect(),
        resource_claims: world.devices.claims.values().cloned().map(Arc::new).collect(),
        resource_slices: world.devices.slices.values().cloned().map(Arc::new).collect(),
        device_classes: world.devices.classes.values().cloned().map(Arc::new).collect(),
        ..Cluster::default()
    }
}

fn explained(world: &World, settings: Settings, pod: &Pod) -> Status {
    let mut snapshot = cluster(world).snapshot();
    let info = Arc::new(snapshot.catalogue.pod(&pod.clone().into()));
    explain(&mut snapshot, vec![profile(settings)], &info, Asked::default())
}

/// How many nodes are refused for what, if the first that refuses speaks.
fn first_reasons(groups: &[Group]) -> BTreeMap<String, usize> {
    let mut counted = BTreeMap::new();
    for group in groups {
        let refusing = || group.plugins.iter().filter(|plugin| !plugin.passes);
        // Nodes that are not among those a pod names are not shown to the filters at all.
        let beforehand =
            refusing().find(|p| p.reasons.iter().any(|reason| reason.contains("satisfy plugin(s)")));
        let first = beforehand.or_else(|| refusing().next());
        for reason in first.into_iter().flat_map(|plugin| &plugin.reasons) {
            *counted.entry(reason.clone()).or_insert(0) += group.nodes;
        }
    }
    counted
}

/// Where pods wait for room, a node has to do with them and without: a plugin that refuses it may be the
/// first to do so in one of the two only.
fn check_reasons(oracle: &Oracle, pod: &Pod, status: &Status) {
    for group in &status.groups {
        let told: Vec<&String> = group.plugins.iter().flat_map(|plugin| &plugin.reasons).collect();
        for name in &group.names {
            let reasons = oracle.refusal(pod, name);
            assert!(reasons.iter().all(|reason| told.contains(&reason)), "{name}: {reasons:?}, {status:#?}");
        }
    }
}

pub fn check(when: &str, world: &World, settings: Settings, pod: &Pod, told: &mut Told) {
    let oracle = Oracle::new(world, settings);
    let expected = oracle.scores(pod);
    let status = explained(world, settings, pod);
    let about = || format!("{when}: {status:#?}");
    assert_eq!(
        status.nodes_not_shown + status.groups.iter().map(|g| g.nodes).sum::<usize>(),
        world.nodes.len()
    );
    let fitting = status.groups.iter().filter(|group| group.fits).map(|group| group.nodes);
    assert_eq!(
        (fitting.sum::<usize>(), status.feasible_nodes),
        (expected.len(), expected.len()),
        "{}",
        about()
    );
    if expected.is_empty() {
        let all = |reason| BTreeMap::from([(reason, world.nodes.len())]);
        let mut reasons = oracle.before(pod).map_or_else(|| oracle.reasons(pod), all);
        reasons.retain(|_, nodes| *nodes > 0);
        match world.nominated.is_empty() {
            true => assert_eq!(first_reasons(&status.groups), reasons, "{}", about()),
            false => check_reasons(&oracle, pod, &status),
        }
    }
    for scored in &status.ranking {
        let sum: i64 = scored.plugins.iter().map(|plugin| plugin.weight * plugin.score).sum();
        assert_eq!(
            (Some(&scored.score), sum),
            (expected.get(&scored.node_name), scored.score),
            "{}",
            about()
        );
    }
    let best = status.ranking.first().map(|scored| &scored.score);
    assert_eq!(best, expected.values().max(), "{}", about());
    if let Some(miss) = &status.nearest_miss {
        told.near_misses += 1;
        told.evictions += usize::from(miss.without.is_some());
        check_eviction(when, world, settings, pod, miss);
    }
}

/// Without the pods it names, and without those that wait, the node takes the pod.
fn check_eviction(when: &str, world: &World, settings: Settings, pod: &Pod, miss: &NearMiss) {
    let Some(eviction) = &miss.without else { return };
    let mut changed = world.clone();
    changed.nominated.clear();
    for victim in &eviction.pods {
        changed.pods.remove(&format!("{}/{}", victim.namespace, victim.name)).expect("a pod that is there");
    }
    let takers = Oracle::new(&changed, settings).scores(pod);
    assert!(takers.contains_key(&miss.node_name), "{when}: {miss:#?} does not help");
}

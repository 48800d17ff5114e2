//! What a ServiceCIDR needs next.

use std::net::IpAddr;
use std::sync::Arc;

use amphipod_client::Resource;
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

pub const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const READY: &str = "Kubernetes Service CIDR is ready";
const HELD: &str =
    "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
const MANAGED_BY_LABEL: &str = "ipaddress.kubernetes.io/managed-by";
const MANAGED_BY: &str = "ipallocator.k8s.io";
/// A deleted range is kept for so long, in case a server that has not heard of the deletion gives an
/// address of it.
const DELETION_GRACE: SignedDuration = SignedDuration::from_secs(10);

#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Nothing,
    AddFinalizer,
    RemoveFinalizer,
    /// The Ready condition: status, reason, message.
    Condition(&'static str, &'static str, &'static str),
    Again(SignedDuration),
}

pub fn step(
    cidr: &ServiceCIDR,
    all: &[Arc<ServiceCIDR>],
    addresses: &[Arc<IPAddress>],
    now: Timestamp,
) -> Step {
    let has_finalizer = cidr.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER);
    let Some(deleted) = &cidr.metadata.deletion_timestamp else {
        return if has_finalizer { condition(cidr, "True", "", READY) } else { Step::AddFinalizer };
    };
    if !has_finalizer {
        return Step::Nothing;
    }
    let others: Vec<IpNet> = all
        .iter()
        .filter(|other| other.uid() != cidr.uid() && !other.is_terminating())
        .flat_map(|other| blocks(other))
        .collect();
    if is_needed(&blocks(cidr), &others, addresses) {
        return condition(cidr, "False", "Terminating", HELD);
    }
    let left = DELETION_GRACE - now.duration_since(deleted.0);
    if left.is_positive() { Step::Again(left) } else { Step::RemoveFinalizer }
}

pub fn ready_condition(cidr: &ServiceCIDR) -> Option<&Condition> {
    let conditions = cidr.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == "Ready")
}

fn condition(cidr: &ServiceCIDR, status: &'static str, reason: &'static str, message: &'static str) -> Step {
    let stands = ready_condition(cidr).is_some_and(|c| c.status == status && c.message == message);
    if stands { Step::Nothing } else { Step::Condition(status, reason, message) }
}

fn blocks(cidr: &ServiceCIDR) -> Vec<IpNet> {
    let blocks = cidr.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    blocks.filter_map(|block| block.parse().ok()).collect()
}

/// Whether an address that services were given lies in none of the other blocks.
fn is_needed(own: &[IpNet], others: &[IpNet], addresses: &[Arc<IPAddress>]) -> bool {
    let gives = |block: &IpNet, address: &IpAddr| block.contains(address) && *address != block.network();
    let given = addresses.iter().filter(|address| {
        let label = address.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY_LABEL));
        label.is_some_and(|by| by == MANAGED_BY)
    });
    given.filter_map(|address| address.name().parse::<IpAddr>().ok()).any(|address| {
        own.iter().any(|block| gives(block, &address)) && !others.iter().any(|block| gives(block, &address))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{at, object};

    fn cidr(name: &str, block: &str, deleted: Option<i64>) -> Arc<ServiceCIDR> {
        let mut value = json!({"metadata": {"name": name, "uid": name, "finalizers": [FINALIZER]},
            "spec": {"cidrs": [block]}});
        if let Some(seconds) = deleted {
            value["metadata"]["deletionTimestamp"] = at(seconds).to_string().into();
        }
        Arc::new(object(value))
    }

    fn address(name: &str) -> Arc<IPAddress> {
        Arc::new(object(json!({"metadata": {"name": name, "labels": {MANAGED_BY_LABEL: MANAGED_BY}},
            "spec": {"parentRef": {"resource": "services", "name": "s"}}})))
    }

    #[test]
    fn a_range_is_guarded_and_ready() {
        let mut plain = cidr("a", "10.0.0.0/24", None).as_ref().clone();
        let ready = Step::Condition("True", "", READY);
        assert_eq!(step(&plain, &[], &[], at(0)), ready);
        plain.metadata.finalizers = None;
        assert_eq!(step(&plain, &[], &[], at(0)), Step::AddFinalizer);
        let done: ServiceCIDR =
            object(json!({"metadata": {"finalizers": [FINALIZER]}, "spec": {"cidrs": []},
            "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "", "message": READY,
                "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}));
        assert_eq!(step(&done, &[], &[], at(0)), Step::Nothing);
    }

    #[test]
    fn a_range_goes_when_nothing_needs_it() {
        let going = cidr("a", "10.0.0.0/24", Some(100));
        let alone = std::slice::from_ref(&going);
        let one = [address("10.0.0.9")];
        let held = Step::Condition("False", "Terminating", HELD);
        assert_eq!(step(&going, alone, &one, at(200)), held);
        // Outside, or another's.
        assert_eq!(step(&going, alone, &[address("10.0.1.9")], at(200)), Step::RemoveFinalizer);
        let mut foreign = one[0].as_ref().clone();
        foreign.metadata.labels = None;
        assert_eq!(step(&going, alone, &[Arc::new(foreign)], at(200)), Step::RemoveFinalizer);
        // Covered by another range, unless that is going too.
        let wider = cidr("b", "10.0.0.0/16", None);
        assert_eq!(step(&going, &[going.clone(), wider], &one, at(200)), Step::RemoveFinalizer);
        let wider = cidr("b", "10.0.0.0/16", Some(100));
        assert_eq!(step(&going, &[going.clone(), wider], &one, at(200)), held);
        assert_eq!(step(&going, alone, &[], at(103)), Step::Again(SignedDuration::from_secs(7)));
    }
}

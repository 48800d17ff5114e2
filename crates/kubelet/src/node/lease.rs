//! The heartbeat: a Lease in `kube-node-lease`, renewed every ten seconds, owned by the node so
//! that it goes with it.

use std::time::Duration;

use amphipod_client::{Api, Client, Error, Resource};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

pub const NAMESPACE: &str = "kube-node-lease";
/// A node is given up after four of these at the earliest.
const RENEW_EVERY: Duration = Duration::from_secs(10);
const DURATION_SECONDS: i32 = 40;
const RETRY: Duration = Duration::from_millis(500);
/// Failures in a row before people hear of it.
const QUIET_FAILURES: u32 = 5;

/// The lease as it should be at `now`.
pub fn renewed(base: Option<Lease>, node: &str, node_uid: Option<&str>, now: Timestamp) -> Lease {
    let mut lease = base.unwrap_or_default();
    lease.metadata.name = Some(node.to_owned());
    lease.metadata.namespace = Some(NAMESPACE.to_owned());
    let owned = lease.metadata.owner_references.as_ref().is_some_and(|o| !o.is_empty());
    if let Some(uid) = node_uid.filter(|_| !owned) {
        lease.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: node.to_owned(),
            uid: uid.to_owned(),
            ..OwnerReference::default()
        }]);
    }
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    spec.holder_identity = Some(node.to_owned());
    spec.lease_duration_seconds = Some(DURATION_SECONDS);
    spec.renew_time = Some(MicroTime(now));
    lease
}

/// Writes the lease once, on top of what was written before where that is known.
pub async fn renew(
    client: &Client,
    node: &str,
    uid: Option<&str>,
    last: Option<Lease>,
) -> Result<Lease, Error> {
    let api = Api::<Lease>::namespaced(client.clone(), NAMESPACE);
    let base = match last {
        Some(lease) => Some(lease),
        None => api.get_opt(node).await?,
    };
    let exists = base.as_ref().is_some_and(|l| !l.resource_version().is_empty());
    let wanted = renewed(base, node, uid, Timestamp::now());
    if exists { api.update(&wanted).await } else { api.create(&wanted).await }
}

/// Renews until cancelled.
pub async fn keep(client: Client, node: String, uid: Option<String>, cancel: CancellationToken) {
    let mut last = None;
    let mut failures = 0;
    loop {
        let pause = match renew(&client, &node, uid.as_deref(), last.take()).await {
            Ok(lease) => {
                last = Some(lease);
                failures = 0;
                RENEW_EVERY
            }
            Err(error) => {
                failures += 1;
                if failures == QUIET_FAILURES {
                    warn!(%error, "the node's lease cannot be renewed");
                }
                debug!(%error, "renewing the node's lease");
                RETRY.saturating_mul(failures).min(RENEW_EVERY)
            }
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_set_once() {
        let first = renewed(None, "n", Some("u1"), Timestamp::UNIX_EPOCH);
        assert_eq!(first.metadata.owner_references.as_ref().unwrap()[0].uid, "u1");
        let second = renewed(Some(first), "n", Some("u2"), Timestamp::UNIX_EPOCH);
        assert_eq!(second.metadata.owner_references.unwrap()[0].uid, "u1");
        assert_eq!(second.spec.unwrap().lease_duration_seconds, Some(40));
    }
}

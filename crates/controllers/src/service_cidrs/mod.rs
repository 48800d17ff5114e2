//! ServiceCIDRs: guarded by a finalizer, shown ready, and let go only when no service's address would
//! be left without a range.

mod core;

use std::sync::Arc;
use std::time::Duration;

use amphipod_client::workqueue::WorkQueue;
use amphipod_client::{Api, Informer, Resource};
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use self::core::{FINALIZER, Step, ready_condition, step};
use crate::Error;
use crate::harness::{Controller, Scope, now};

struct ServiceCidrs {
    scope: Scope,
    cidrs: Informer<ServiceCIDR>,
    addresses: Informer<IPAddress>,
}

pub async fn run(scope: Scope) {
    let cidrs = scope.informers.get::<ServiceCIDR>();
    let addresses = scope.informers.get::<IPAddress>();
    if !(scope.synced(&cidrs).await && scope.synced(&addresses).await) {
        return;
    }
    let queue = WorkQueue::new();
    let (all, enqueue) = (cidrs.clone(), queue.clone());
    // One may cover another; there are few.
    cidrs.on_change(move |change| {
        enqueue.add(change.object().name());
        all.list().iter().for_each(|cidr| enqueue.add(cidr.name()));
    });
    let (all, enqueue) = (cidrs.clone(), queue.clone());
    // Addresses matter to ranges that are to go.
    addresses.on_change(move |_| {
        for cidr in all.list().iter().filter(|cidr| cidr.is_terminating()) {
            enqueue.add(cidr.name());
        }
    });
    let controller = ServiceCidrs { scope: scope.clone(), cidrs, addresses };
    scope.work(queue, 1, Arc::new(controller)).await;
}

impl Controller for ServiceCidrs {
    const QUEUE: &'static str = "ipaddresses";
    async fn sync(&self, key: &str) -> Result<Option<Duration>, Error> {
        let Some(cidr) = self.cidrs.get(key) else { return Ok(None) };
        let api = Api::<ServiceCIDR>::all(self.scope.client.clone());
        let mut changed = cidr.as_ref().clone();
        match step(&cidr, &self.cidrs.list(), &self.addresses.list(), now()) {
            Step::Nothing => {}
            Step::Again(left) => return Ok(Some(left.unsigned_abs())),
            Step::AddFinalizer => {
                changed.metadata.finalizers.get_or_insert_default().push(FINALIZER.to_owned());
                api.update(&changed).await?;
            }
            Step::RemoveFinalizer => {
                changed.metadata.finalizers.get_or_insert_default().retain(|f| f != FINALIZER);
                match api.update(&changed).await {
                    Err(error) if error.is_not_found() => {}
                    other => drop(other?),
                }
            }
            Step::Condition(status, reason, message) => {
                set_ready(&mut changed, status, reason, message);
                api.update_status(&changed).await?;
            }
        }
        Ok(None)
    }
}

fn set_ready(cidr: &mut ServiceCIDR, status: &str, reason: &str, message: &str) {
    let since = ready_condition(cidr).filter(|c| c.status == status).map(|c| c.last_transition_time.clone());
    let condition = Condition {
        type_: "Ready".to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: since.unwrap_or(Time(now())),
        observed_generation: None,
    };
    let conditions = cidr.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.retain(|c| c.type_ != "Ready");
    conditions.push(condition);
}

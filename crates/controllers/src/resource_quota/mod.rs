//! ResourceQuota status: what a namespace uses of what it may. (Refusing what would exceed it is
//! admission's part; this keeps the books true when objects go or change.)

mod usage;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use amphipod_client::dynamic::{self, ApiKind, Dynamic};
use amphipod_client::workqueue::WorkQueue;
use amphipod_client::{Api, Change, Informer, ListParams, Resource};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaStatus, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;

use self::usage::Usage;
use crate::harness::{Controller, Scope};
use crate::{Error, pods};

/// Objects of kinds that no cache holds are counted again this often, where a quota limits them.
const RECOUNT: Duration = Duration::from_secs(10);
/// Changes of many objects at once are counted together.
const GATHER: Duration = Duration::from_millis(200);
const PAGE: u32 = 500;

struct QuotaController {
    scope: Scope,
    quotas: Informer<ResourceQuota>,
    pods: Informer<Pod>,
    services: Informer<Service>,
    claims: Informer<PersistentVolumeClaim>,
}

pub async fn run(scope: Scope) {
    let quotas = scope.informers.get::<ResourceQuota>();
    let pods = scope.informers.get::<Pod>();
    let services = scope.informers.get::<Service>();
    let claims = scope.informers.get::<PersistentVolumeClaim>();
    let synced = scope.synced(&quotas).await
        && scope.synced(&pods).await
        && scope.synced(&services).await
        && scope.synced(&claims).await;
    if !synced {
        return;
    }
    let queue = WorkQueue::new();
    let changed = queue.clone();
    quotas.on_change(move |change| {
        let spec = |quota: &ResourceQuota| quota.spec.clone();
        // Only a new limit calls for a count; our own status writes do not.
        match change {
            Change::Updated { old, new } if spec(old) == spec(new) && old.status == new.status => {}
            Change::Deleted(_) => {}
            other => changed.add(&other.object().key()),
        }
    });
    // A creation is counted by admission; what frees or alters usage is counted here.
    watch(&pods, &quotas, &queue, |old, new| pods::is_terminal(old) != pods::is_terminal(new));
    watch(&services, &quotas, &queue, |old, new| usage::of_service(old) != usage::of_service(new));
    watch(&claims, &quotas, &queue, |old, new| usage::of_claim(old) != usage::of_claim(new));
    let controller = QuotaController { scope: scope.clone(), quotas, pods, services, claims };
    scope.work(queue, scope.config.workers, Arc::new(controller)).await;
}

fn watch<T: Resource>(
    informer: &Informer<T>,
    quotas: &Informer<ResourceQuota>,
    queue: &WorkQueue,
    matters: fn(&T, &T) -> bool,
) {
    let (quotas, queue) = (quotas.clone(), queue.clone());
    informer.on_change(move |change| {
        if matches!(change, Change::Updated { old, new } if !matters(old, new)) {
            return;
        }
        for quota in quotas.list_namespace(change.object().namespace()) {
            queue.add_after(&quota.key(), GATHER);
        }
    });
}

impl Controller for QuotaController {
    async fn sync(&self, key: &str) -> Result<Option<Duration>, Error> {
        let Some(quota) = self.quotas.get(key).filter(|quota| !quota.is_terminating()) else {
            return Ok(None);
        };
        let hard = usage::hard(&quota);
        let total = self.total(&quota, &hard).await?;
        let wire = |usage: &Usage| -> BTreeMap<String, WireQuantity> {
            usage.iter().map(|(name, amount)| (name.clone(), WireQuantity(amount.to_string()))).collect()
        };
        let zero = amphipod_api::quantity::Quantity::from_units(0, amphipod_api::quantity::Format::DecimalSi);
        let used: Usage =
            hard.keys().map(|name| (name.clone(), total.get(name).copied().unwrap_or(zero))).collect();
        let limits = quota.spec.as_ref().and_then(|spec| spec.hard.clone());
        let status = ResourceQuotaStatus { hard: limits, used: Some(wire(&used)) };
        if quota.status.as_ref() != Some(&status) {
            let mut changed = quota.as_ref().clone();
            changed.status = Some(status);
            let api = Api::<ResourceQuota>::of(self.scope.client.clone(), quota.as_ref());
            api.update_status(&changed).await?;
        }
        let uncached = !usage::has_scopes(&quota) && hard.keys().any(|name| other_kind(name).is_some());
        Ok(uncached.then_some(RECOUNT))
    }
}

/// The kind a limit's name counts, where no cache holds that kind.
fn other_kind(name: &str) -> Option<&str> {
    let kind = name.strip_prefix("count/").or_else(|| usage::plain_count(name))?;
    (!["pods", "services", "persistentvolumeclaims"].contains(&kind)).then_some(kind)
}

impl QuotaController {
    async fn total(&self, quota: &ResourceQuota, hard: &Usage) -> Result<Usage, Error> {
        let namespace = quota.namespace();
        let mut total = Usage::new();
        let mut sum = |usage: Usage| {
            usage.into_iter().for_each(|(name, amount)| usage::add(&mut total, &name, amount));
        };
        let covered = self.pods.list_namespace(namespace).into_iter().filter(|p| usage::covers_pod(quota, p));
        covered.for_each(|pod| sum(usage::of_pod(&pod)));
        if usage::has_scopes(quota) {
            return Ok(total);
        }
        self.services.list_namespace(namespace).iter().for_each(|service| sum(usage::of_service(service)));
        self.claims.list_namespace(namespace).iter().for_each(|claim| sum(usage::of_claim(claim)));
        self.count_others(namespace, hard, &mut total).await?;
        Ok(total)
    }

    /// Counts of kinds nobody keeps in memory: asked for only where a quota limits them.
    async fn count_others(&self, namespace: &str, hard: &Usage, total: &mut Usage) -> Result<(), Error> {
        let wanted: Vec<(&String, &str)> = hard
            .keys()
            .filter(|name| !total.contains_key(*name))
            .filter_map(|name| Some((name, other_kind(name)?)))
            .collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let discovery = dynamic::discover(&self.scope.client).await?;
        for (name, resource) in wanted {
            let kind = discovery.kinds.iter().find(|kind| kind.namespaced && kind.qualified() == resource);
            let Some(kind) = kind else { continue };
            let count = self.count(kind, namespace).await?;
            let amount = amphipod_api::quantity::Quantity::from_units(
                count,
                amphipod_api::quantity::Format::DecimalSi,
            );
            usage::add(total, name, amount);
        }
        Ok(())
    }

    async fn count(&self, kind: &ApiKind, namespace: &str) -> Result<i64, Error> {
        let api = Dynamic::new(self.scope.client.clone(), kind, namespace);
        let mut page = ListParams { limit: Some(PAGE), ..ListParams::default() };
        let mut count = 0;
        loop {
            let (_, next, objects) = api.list(&page).await?;
            count += i64::try_from(objects.len()).unwrap_or(0);
            match next {
                Some(token) => page.continue_token = Some(token),
                None => return Ok(count),
            }
        }
    }
}

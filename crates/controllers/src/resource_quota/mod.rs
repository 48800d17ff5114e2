//! ResourceQuota status: what a namespace uses of what it may. Admission charges an object before
//! it is stored; this counts what is there, and so gives back what went and heals what was charged
//! for nothing.

mod counters;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use amphipod_api::pod_resources::{Amounts, add};
use amphipod_api::quantity::{Format, Quantity};
use amphipod_api::quota::{self, CLAIMS, Kind, PODS, SERVICES};
use amphipod_client::workqueue::WorkQueue;
use amphipod_client::{Api, Change, Informer, Resource};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaStatus, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;

use self::counters::{Count, Counters};
use crate::harness::{self, Controller, Scope};
use crate::{Error, pods};

/// Changes of many objects at once are counted together.
const GATHER: Duration = Duration::from_millis(200);
/// A charge is written before the object it pays for, so usage is lowered only where the quota has
/// stood unchanged this long: longer than a write takes to be stored and told.
const SETTLE: Duration = Duration::from_millis(200);
/// A charge whose object did not come is given back after this.
const CHARGE_CHECKED: Duration = Duration::from_secs(2);
/// Everything is counted again this often, as upstream: time ends the grace of pods.
const RESYNC: Duration = Duration::from_secs(300);

struct QuotaController {
    scope: Scope,
    quotas: Informer<ResourceQuota>,
    pods: Informer<Pod>,
    services: Informer<Service>,
    claims: Informer<PersistentVolumeClaim>,
    counters: Counters,
    /// By key: the version a count would have lowered, and since when it stands.
    lowering: Mutex<HashMap<String, (String, Instant)>>,
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
    quotas.on_change(move |change| match change {
        // Who writes usage is admission, and its object is not there yet.
        Change::Updated { old, new } if old.spec == new.spec && limits(old) == limits(new) => {
            changed.add_after(&new.key(), CHARGE_CHECKED);
        }
        other => changed.add(&other.object().key()),
    });
    watch(&pods, &quotas, &queue, is_other_usage);
    watch(&services, &quotas, &queue, |old, new| old.spec != new.spec);
    watch(&claims, &quotas, &queue, |old, new| (&old.spec, &old.status) != (&new.spec, &new.status));
    let counters = Counters::new(scope.clone(), recount(&quotas, &queue));
    let lowering = Mutex::default();
    let controller =
        QuotaController { scope: scope.clone(), quotas, pods, services, claims, counters, lowering };
    scope.work(queue, scope.config.workers, Arc::new(controller)).await;
}

/// The limits that usage was last counted against.
fn limits(quota: &ResourceQuota) -> Option<&BTreeMap<String, WireQuantity>> {
    quota.status.as_ref().and_then(|status| status.hard.as_ref())
}

fn is_other_usage(old: &Pod, new: &Pod) -> bool {
    let resized = |pod: &Pod| -> Vec<_> {
        let statuses = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
        statuses.map(|s| (s.resources.clone(), s.allocated_resources.clone())).collect()
    };
    pods::is_terminal(old) != pods::is_terminal(new) || old.spec != new.spec || resized(old) != resized(new)
}

/// Puts a namespace's quotas on the queue, soon.
fn recount(quotas: &Informer<ResourceQuota>, queue: &WorkQueue) -> impl Fn(&str) + Send + Sync + use<> {
    let (quotas, queue) = (quotas.clone(), queue.clone());
    move |namespace| {
        for quota in quotas.list_namespace(namespace) {
            queue.add_after(&quota.key(), GATHER);
        }
    }
}

fn watch<T: Resource>(
    informer: &Informer<T>,
    quotas: &Informer<ResourceQuota>,
    queue: &WorkQueue,
    matters: fn(&T, &T) -> bool,
) {
    let recount = recount(quotas, queue);
    informer.on_change(move |change| {
        if !matches!(change, Change::Updated { old, new } if !matters(old, new)) {
            recount(change.object().namespace());
        }
    });
}

fn json<T: Resource>(object: &T) -> Result<Value, Error> {
    serde_json::from_slice(&object.encode())
        .map_err(|error| Error::Invalid { what: object.key(), why: error.to_string() })
}

impl Controller for QuotaController {
    async fn sync(&self, key: &str) -> Result<Option<Duration>, Error> {
        let Some(quota) = self.quotas.get(key).filter(|quota| !quota.is_terminating()) else {
            self.lowering.lock().remove(key);
            self.counters.keep_only(&self.wanted());
            return Ok(None);
        };
        let Some(used) = self.used(&quota).await? else {
            return Ok(Some(GATHER)); // a list is still coming in
        };
        let limits = quota.spec.as_ref().and_then(|spec| spec.hard.clone());
        let wire = |usage: &Amounts| -> BTreeMap<String, WireQuantity> {
            usage.iter().map(|(name, amount)| (name.clone(), WireQuantity(amount.to_string()))).collect()
        };
        let status = ResourceQuotaStatus { hard: limits, used: Some(wire(&used)) };
        if quota.status.as_ref() == Some(&status) {
            self.lowering.lock().remove(key);
            return Ok(Some(RESYNC));
        }
        if let Some(wait) = self.unsettled(&quota, &used) {
            return Ok(Some(wait));
        }
        let mut changed = quota.as_ref().clone();
        changed.status = Some(status);
        let api = Api::<ResourceQuota>::of(self.scope.client.clone(), quota.as_ref());
        api.update_status(&changed).await?;
        Ok(Some(RESYNC))
    }
}

impl QuotaController {
    /// Kinds that some quota counts and no cache holds.
    fn wanted(&self) -> HashSet<String> {
        let quotas = self.quotas.list();
        let names =
            quotas.iter().filter_map(|quota| quota.spec.as_ref()?.hard.as_ref()).flat_map(|h| h.keys());
        names.filter_map(|name| quota::plain_kind(name)).map(str::to_owned).collect()
    }

    /// How long a count that lowers usage has to wait, because someone may just have been charged.
    fn unsettled(&self, quota: &ResourceQuota, used: &Amounts) -> Option<Duration> {
        let before = quota.status.as_ref().and_then(|status| status.used.as_ref())?;
        let lowers = used.iter().any(|(name, amount)| {
            let charged = before.get(name).and_then(|charged| Quantity::parse(&charged.0).ok());
            charged.is_some_and(|charged| *amount < charged)
        });
        let mut lowering = self.lowering.lock();
        if !lowers {
            lowering.remove(&quota.key());
            return None;
        }
        let fresh = (quota.resource_version().to_owned(), Instant::now());
        let seen = lowering.entry(quota.key()).or_insert_with(|| fresh.clone());
        if seen.0 != fresh.0 {
            *seen = fresh;
        }
        SETTLE.checked_sub(seen.1.elapsed()).filter(|rest| !rest.is_zero())
    }

    /// What is used of each limited name that can be counted; `None` while that is not known yet.
    async fn used(&self, quota: &ResourceQuota) -> Result<Option<Amounts>, Error> {
        let value = json(quota)?;
        let hard = quota::hard(&value, "spec");
        let mut total = Amounts::new();
        self.count(&mut total, &hard, PODS, &value, &self.pods)?;
        self.count(&mut total, &hard, SERVICES, &value, &self.services)?;
        self.count(&mut total, &hard, CLAIMS, &value, &self.claims)?;
        for name in hard.keys().filter(|name| !total.contains_key(*name)).cloned().collect::<Vec<_>>() {
            let Some(kind) = quota::plain_kind(&name) else { continue };
            let count = match self.counters.count(kind, quota.namespace()).await? {
                Count::Unknown => return Ok(None),
                Count::NotServed => continue,
                // Scopes take none of them in.
                Count::Objects(_) if quota::has_scopes(&value) => 0,
                Count::Objects(count) => i64::try_from(count).unwrap_or(i64::MAX),
            };
            total.insert(name, Quantity::from_units(count, Format::DecimalSi));
        }
        Ok(Some(total))
    }

    /// Adds up what the cached objects of one kind use.
    fn count<T: Resource>(
        &self,
        total: &mut Amounts,
        hard: &Amounts,
        kind: Kind<'_>,
        quota: &Value,
        informer: &Informer<T>,
    ) -> Result<(), Error> {
        let names: HashSet<&String> = hard.keys().filter(|name| kind.counts(name)).collect();
        if names.is_empty() {
            return Ok(());
        }
        let zero = Quantity::from_units(0, Format::DecimalSi);
        names.iter().for_each(|name| add(total, name, zero));
        let now = harness::now();
        for object in informer.list_namespace(amphipod_api::object::namespace(quota)) {
            let object = json(object.as_ref())?;
            if kind.is_covered(quota, &object) {
                let usage = kind.usage(&object, now).into_iter().filter(|(name, _)| names.contains(name));
                usage.for_each(|(name, amount)| add(total, &name, amount));
            }
        }
        Ok(())
    }
}

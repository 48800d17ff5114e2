//! ResourceQuota status: what a namespace uses of what it may. Admission charges an object before
//! it is stored; this counts what is there, and so gives back what went and heals what was charged
//! for nothing.

mod charges;
mod counters;
mod tally;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use amphipod_api::object;
use amphipod_api::pod_resources::{Amounts, add, amounts};
use amphipod_api::quantity::{Format, Quantity};
use amphipod_api::quota::{self, CLAIMS, Kind, PODS, SERVICES};
use amphipod_client::workqueue::WorkQueue;
use amphipod_client::{Api, CachedPod, Change, Informer, Resource, Writable};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, ResourceQuota, ResourceQuotaSpec, ResourceQuotaStatus, Service,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;

use self::charges::Charges;
use self::counters::{Count, Counters, REDISCOVERY};
use self::tally::Tally;
use crate::harness::{self, Controller, Scope};
use crate::{Error, pods};

/// Changes of many objects at once are counted together.
const GATHER: Duration = Duration::from_millis(200);
/// A charge whose object did not come is given back after this.
const CHARGE_CHECKED: Duration = Duration::from_secs(2);
/// Everything is counted again this often, as upstream: time ends the grace of pods.
const RESYNC: Duration = Duration::from_secs(300);

struct QuotaController {
    scope: Scope,
    quotas: Informer<ResourceQuota>,
    pods: Informer<CachedPod>,
    services: Informer<Service>,
    claims: Informer<PersistentVolumeClaim>,
    counters: Counters,
    /// By the quota's key.
    known: Mutex<HashMap<String, Known>>,
}

/// What is remembered of one quota from count to count.
#[derive(Default)]
struct Known {
    uid: String,
    spec: Option<ResourceQuotaSpec>,
    charges: Charges,
    pods: Tally,
    services: Tally,
    claims: Tally,
}

impl Known {
    /// Forgets what was another quota's, or counted by other rules.
    fn of(self, quota: &ResourceQuota) -> Self {
        if self.uid == quota.uid() && self.spec == quota.spec {
            return self;
        }
        Known { uid: quota.uid().to_owned(), spec: quota.spec.clone(), ..Known::default() }
    }
}

/// What is there of each limited name, and when to look again though nothing changes.
struct Counted {
    amounts: Amounts,
    again: Duration,
}

pub async fn run(scope: Scope) {
    let quotas = scope.informers.get::<ResourceQuota>();
    let pods = scope.informers.get::<CachedPod>();
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
    let known = Mutex::default();
    let controller =
        QuotaController { scope: scope.clone(), quotas, pods, services, claims, counters, known };
    scope.work(queue, scope.config.workers, Arc::new(controller)).await;
}

/// The limits that usage was last counted against.
fn limits(quota: &ResourceQuota) -> Option<&BTreeMap<String, WireQuantity>> {
    quota.status.as_ref().and_then(|status| status.hard.as_ref())
}

fn is_other_usage(old: &CachedPod, new: &CachedPod) -> bool {
    let resized = |pod: &CachedPod| -> Vec<_> {
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

/// As quotas are judged.
fn json<T: Writable>(object: &T) -> Result<Value, Error> {
    serde_json::from_slice(&object.encode())
        .map_err(|error| Error::Invalid { what: object.key(), why: error.to_string() })
}

fn pod_json(pod: &CachedPod) -> Result<Value, Error> {
    json(&pod.to_pod())
}

impl Controller for QuotaController {
    const QUEUE: &'static str = "resourcequota_primary";
    async fn sync(&self, key: &str) -> Result<Option<Duration>, Error> {
        let Some(quota) = self.quotas.get(key).filter(|quota| !quota.is_terminating()) else {
            self.known.lock().remove(key);
            self.counters.keep_only(&self.wanted());
            return Ok(None);
        };
        let mut known = self.known.lock().remove(key).unwrap_or_default().of(&quota);
        let outcome = self.settle(&quota, &mut known).await;
        self.known.lock().insert(key.to_owned(), known);
        outcome.map(Some)
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

    /// Counts, and says what came of it; when to come back.
    async fn settle(&self, quota: &ResourceQuota, known: &mut Known) -> Result<Duration, Error> {
        let value = json(quota)?;
        let charged = amounts(&value["status"]["used"]);
        known.charges.look(&charged, Instant::now());
        let Some(counted) = self.count(&value, known).await? else {
            return Ok(GATHER); // a list is still coming in
        };
        let used = known.charges.used(&counted.amounts, &charged);
        let wire = |(name, amount): (&String, &Quantity)| (name.clone(), WireQuantity(amount.to_string()));
        let hard = quota.spec.as_ref().and_then(|spec| spec.hard.clone());
        let status = ResourceQuotaStatus { hard, used: Some(used.iter().map(wire).collect()) };
        if quota.status.as_ref() != Some(&status) {
            let mut changed = quota.clone();
            changed.status = Some(status);
            Api::<ResourceQuota>::of(self.scope.client.clone(), quota).update_status(&changed).await?;
            known.charges.wrote(used.clone(), Instant::now());
        }
        let due = known.charges.due(&used, &counted.amounts, Instant::now());
        Ok(due.unwrap_or(counted.again))
    }

    /// What is there of each limited name that can be counted; `None` while that is not known yet.
    async fn count(&self, quota: &Value, known: &mut Known) -> Result<Option<Counted>, Error> {
        let hard = quota::hard(quota, "spec");
        let mut total = Amounts::new();
        cached(&mut total, &hard, PODS, quota, &self.pods, pod_json, &mut known.pods)?;
        cached(&mut total, &hard, SERVICES, quota, &self.services, json, &mut known.services)?;
        cached(&mut total, &hard, CLAIMS, quota, &self.claims, json, &mut known.claims)?;
        let mut again = RESYNC;
        for name in hard.into_keys().filter(|name| !total.contains_key(name)).collect::<Vec<_>>() {
            let Some(kind) = quota::plain_kind(&name) else { continue };
            let count = match self.counters.count(kind, object::namespace(quota)).await? {
                Count::Unknown => return Ok(None),
                Count::NotServed => {
                    again = REDISCOVERY;
                    continue;
                }
                // Scopes take none of them in.
                Count::Objects(_) if quota::has_scopes(quota) => 0,
                Count::Objects(count) => i64::try_from(count).unwrap_or(i64::MAX),
            };
            total.insert(name, Quantity::from_units(count, Format::DecimalSi));
        }
        Ok(Some(Counted { amounts: total, again }))
    }
}

/// Adds up what the cached objects of one kind use.
fn cached<T: Resource>(
    total: &mut Amounts,
    hard: &Amounts,
    kind: Kind<'_>,
    quota: &Value,
    informer: &Informer<T>,
    json: fn(&T) -> Result<Value, Error>,
    tally: &mut Tally,
) -> Result<(), Error> {
    let names: Vec<&str> = hard.keys().map(String::as_str).filter(|name| kind.counts(name)).collect();
    if names.is_empty() {
        return Ok(());
    }
    let zero = Quantity::from_units(0, Format::DecimalSi);
    names.iter().for_each(|name| add(total, name, zero));
    let now = harness::now();
    tally.add_up(&informer.list_namespace(object::namespace(quota)), &names, total, |object: &T| {
        let object = json(object)?;
        Ok(if kind.is_covered(quota, &object) { kind.usage(&object, now) } else { Amounts::new() })
    })
}

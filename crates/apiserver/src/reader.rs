//! The watch cache as policy reads it, and the one thing policy writes.

use std::collections::HashMap;
use std::sync::Arc;

use amphipod_api::apply;
use amphipod_api::object;
use amphipod_api::resource::Resource;
use amphipod_api::status::Status;
use amphipod_store::{Compare, Op, Text, Txn};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::{Map, Value};

use crate::cache::{Cache, Entry, storage_status, within};
use crate::catalog::Catalog;
use crate::context::time_text;
use crate::registry::{encode, object_key, server_writer};
use crate::seams::{Listing, QuotaLedger, Reader};

/// Objects whose value is kept for the next who reads them. They are the namespaces, accounts, classes
/// and quotas of a moment's writes; where there are more, all are forgotten at once.
const MAX_KEPT_VALUES: usize = 256;
/// Larger ones (pods, nodes) are read once, not again and again.
const MAX_KEPT_BYTES: usize = 4 << 10;

pub struct CacheReader {
    cache: Arc<Cache>,
    catalog: Arc<ArcSwap<Catalog>>,
    /// By where the text stands, which is kept with them: as long as it is, nothing else stands there.
    values: Mutex<HashMap<usize, (Text, Arc<Value>)>>,
}

impl CacheReader {
    pub fn new(cache: Arc<Cache>, catalog: Arc<ArcSwap<Catalog>>) -> Self {
        CacheReader { cache, catalog, values: Mutex::default() }
    }
    fn resource(&self, group: &str, plural: &str) -> Result<Arc<Resource>, Status> {
        self.catalog.load().stored(group, plural).ok_or_else(Status::no_such_path)
    }
}

impl CacheReader {
    /// How many fields its collection extracts stands beside an entry.
    async fn entry(
        &self,
        group: &str,
        plural: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<(Arc<Entry>, usize)>, Status> {
        let resource = self.resource(group, plural)?;
        let collection = self.cache.collection(&resource).await?;
        let key = object_key(&resource, namespace, name);
        self.cache.settled().await?;
        let read = || collection.get(&key).map_err(storage_status);
        let mut found = read()?;
        if found.is_none() {
            // Another server may have made it a moment ago: whoever it told must not hear otherwise here.
            self.cache.fresh().await?;
            found = read()?;
        }
        Ok(found.map(|entry| (entry, collection.pointers.len())))
    }
}

#[async_trait]
impl Reader for CacheReader {
    async fn get(
        &self,
        group: &str,
        plural: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Text>, Status> {
        let found = self.entry(group, plural, namespace, name).await?;
        Ok(found.map(|(entry, _)| entry.text.clone()))
    }

    async fn labels(
        &self,
        group: &str,
        plural: &str,
        namespace: &str,
        name: &str,
        keys: &[&str],
    ) -> Result<Option<Vec<Option<String>>>, Status> {
        let found = self.entry(group, plural, namespace, name).await?;
        let values = |(entry, fields): (Arc<Entry>, usize)| {
            keys.iter().map(|key| entry.label(fields, key).map(str::to_owned)).collect()
        };
        Ok(found.map(values))
    }

    async fn list(&self, group: &str, plural: &str, namespace: &str) -> Result<Listing, Status> {
        let resource = self.resource(group, plural)?;
        let collection = self.cache.collection(&resource).await?;
        let revision = self.cache.settled().await?;
        let scope = match namespace {
            "" => collection.prefix.clone(),
            namespace => format!("{}{namespace}/", collection.prefix),
        };
        let snapshot = collection.snapshot();
        Ok(Listing { revision, items: within(&snapshot, &scope, &scope).map(|e| e.text.clone()).collect() })
    }

    async fn last_change(&self, group: &str, plural: &str) -> Result<u64, Status> {
        let resource = self.resource(group, plural)?;
        let collection = self.cache.collection(&resource).await?;
        self.cache.settled().await?;
        Ok(collection.last_change())
    }

    /// Writes read the same few objects again and again, which are parsed once per version.
    fn value(&self, text: &Text) -> Result<Arc<Value>, Status> {
        let place = text.place();
        if let Some((_, value)) = self.values.lock().get(&place) {
            return Ok(value.clone());
        }
        let value = Arc::new(encode::decode(&text.contiguous())?);
        if text.len() <= MAX_KEPT_BYTES {
            let mut values = self.values.lock();
            if values.len() >= MAX_KEPT_VALUES {
                values.clear();
            }
            values.insert(place, (text.clone(), value.clone()));
        }
        Ok(value)
    }
}

/// The field manager of what the server itself writes.
const MANAGER: &str = "kube-apiserver";

#[async_trait]
impl QuotaLedger for CacheReader {
    async fn record(&self, old: &Value, used: Map<String, Value>) -> Result<bool, Status> {
        let resource = self.resource("", "resourcequotas")?;
        let key = object_key(&resource, object::namespace(old), object::name(old));
        let revision = object::resource_version(old).parse().map_err(Status::internal)?;
        let mut quota = old.clone();
        object::child_mut(&mut quota, "status").insert("used".into(), used.into());
        let (version, now) = (resource.api_version(), time_text(jiff::Timestamp::now()));
        let writer = server_writer(&resource, "status", MANAGER, &version, &now);
        apply::update_managers(Some(old), &mut quota, &writer);
        let encoded = encode::object(&quota)?;
        let put = Op::Put { key: key.clone(), value: encoded.bytes, stamp: Some(encoded.stamp), lease: None };
        let compare = vec![Compare::ModRevision { key, equals: revision }];
        let outcome =
            self.cache.store().txn(Txn { compare, then: vec![put] }).await.map_err(storage_status)?;
        if outcome.succeeded {
            self.cache.note_written(outcome.revision);
        } else {
            // Another server may have written: its version must be readable before the next attempt.
            self.cache.fresh().await?;
        }
        Ok(outcome.succeeded)
    }
}

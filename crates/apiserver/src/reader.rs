//! The watch cache as policy reads it.

use std::sync::Arc;

use amphipod_api::resource::Resource;
use amphipod_api::status::Status;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;

use crate::cache::{Cache, within};
use crate::catalog::Catalog;
use crate::registry::object_key;
use crate::seams::{Listing, Reader};

pub struct CacheReader {
    cache: Arc<Cache>,
    catalog: Arc<ArcSwap<Catalog>>,
}

impl CacheReader {
    pub fn new(cache: Arc<Cache>, catalog: Arc<ArcSwap<Catalog>>) -> Self {
        CacheReader { cache, catalog }
    }
    fn resource(&self, group: &str, plural: &str) -> Result<Arc<Resource>, Status> {
        self.catalog.load().stored(group, plural).ok_or_else(Status::no_such_path)
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
    ) -> Result<Option<Bytes>, Status> {
        let resource = self.resource(group, plural)?;
        let collection = self.cache.collection(&resource).await?;
        self.cache.settled().await?;
        Ok(collection.get(&object_key(&resource, namespace, name)).map(|entry| entry.bytes.clone()))
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
        Ok(Listing { revision, items: within(&snapshot, &scope, &scope).map(|e| e.bytes.clone()).collect() })
    }

    async fn last_change(&self, group: &str, plural: &str) -> Result<u64, Status> {
        let resource = self.resource(group, plural)?;
        let collection = self.cache.collection(&resource).await?;
        self.cache.settled().await?;
        Ok(collection.last_change())
    }
}

//! A store whose reads tests count, and make fail or hang.

use amphipod_api::resource::{Resource, builtin};
use amphipod_store::{
    EmbeddedStore, Error, LeaseId, Op, Range, RangeResult, Revision, Store, Txn, TxnResult, WatchStream,
};
use async_trait::async_trait;
use parking_lot::Mutex;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    Work,
    Fail,
    Hang,
}

pub struct ProbedStore {
    inner: EmbeddedStore,
    pub reads: Mutex<Reads>,
    /// How many items each read gave.
    pub read: Mutex<Vec<usize>>,
}

impl Default for ProbedStore {
    fn default() -> Self {
        let inner = EmbeddedStore::memory().expect("a store");
        ProbedStore { inner, reads: Mutex::new(Reads::Work), read: Mutex::default() }
    }
}

pub fn config_maps() -> std::sync::Arc<Resource> {
    let mut maps = builtin().iter().filter(|resource| &*resource.plural == "configmaps");
    std::sync::Arc::new(maps.next().expect("a built-in resource").clone())
}

/// A map of this label `n`.
pub async fn put_map(store: &dyn Store, name: &str, n: &str) -> Revision {
    let head = format!(
        r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"{name}","namespace":"default","labels":{{"n":"{n}"}},"resourceVersion":""#
    );
    let op = Op::Put {
        key: format!("/registry/configmaps/default/{name}"),
        value: format!(r#"{head}"}}}}"#).into(),
        stamp: Some(head.len()),
        lease: None,
    };
    store.txn(Txn { compare: vec![], then: vec![op] }).await.expect("the write is taken").revision
}

#[async_trait]
impl Store for ProbedStore {
    async fn range(&self, range: Range) -> Result<RangeResult, Error> {
        let reads = *self.reads.lock();
        match reads {
            Reads::Work => {}
            Reads::Fail => return Err(Error::Unavailable("a test".to_owned())),
            Reads::Hang => std::future::pending().await,
        }
        let result = self.inner.range(range).await?;
        self.read.lock().push(result.items.len());
        Ok(result)
    }
    async fn txn(&self, txn: Txn) -> Result<TxnResult, Error> {
        self.inner.txn(txn).await
    }
    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, Error> {
        self.inner.watch(prefix, after).await
    }
    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.inner.compact(revision).await
    }
    async fn lease_grant(&self, ttl_seconds: u64) -> Result<LeaseId, Error> {
        self.inner.lease_grant(ttl_seconds).await
    }
    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        self.inner.lease_keep_alive(lease).await
    }
    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.inner.lease_revoke(lease).await
    }
    async fn revision(&self) -> Result<Revision, Error> {
        self.inner.revision().await
    }
    async fn oldest_revision(&self) -> Result<Revision, Error> {
        self.inner.oldest_revision().await
    }
    async fn size_bytes(&self) -> Result<u64, Error> {
        self.inner.size_bytes().await
    }
    async fn close(&self) -> Result<(), Error> {
        self.inner.close().await
    }
}

//! A store whose reads tests count, and make fail or hang, and whose writes they meddle with.

use amphipod_api::resource::{Resource, builtin};
use amphipod_store::{
    EmbeddedStore, Error, LeaseId, Op, Range, RangeResult, Revision, Store, Txn, TxnResult, WatchStream,
};
use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::Value;

use crate::registry::encode;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    Work,
    Fail,
    Hang,
}

/// Is shown each write; what it gives is written before it, and what it fails with is the write's end.
pub type Meddler = Box<dyn FnMut(&Txn) -> Result<Vec<Op>, Error> + Send>;

pub struct ProbedStore {
    inner: EmbeddedStore,
    pub reads: Mutex<Reads>,
    /// How many items each read gave.
    pub read: Mutex<Vec<usize>>,
    pub meddler: Mutex<Option<Meddler>>,
}

impl Default for ProbedStore {
    fn default() -> Self {
        let inner = EmbeddedStore::memory().expect("a store");
        ProbedStore {
            inner,
            reads: Mutex::new(Reads::Work),
            read: Mutex::default(),
            meddler: Mutex::default(),
        }
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

pub fn put_op(key: &str, object: &Value) -> Op {
    let encoded = encode::object(object).expect("an object");
    Op::Put { key: key.to_owned(), value: encoded.bytes, stamp: Some(encoded.stamp), lease: None }
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
        let before = self.meddler.lock().as_mut().map_or(Ok(Vec::new()), |meddle| meddle(&txn))?;
        for op in before {
            self.inner.txn(Txn { compare: vec![], then: vec![op] }).await?;
        }
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

//! The one generic registry: every kind's create, read, update, patch, delete and watch go through
//! here; what is special about a kind is in its row and its strategy.

pub mod beside;
pub mod create;
pub mod delete;
pub mod delete_options;
pub mod encode;
pub mod list;
mod message_list;
pub mod options;
mod ownership;
pub mod patch;
pub mod render;
pub mod sketch;
pub mod update;
pub mod view;
pub mod watch;

use amphipod_api::resource::Resource;
use amphipod_api::status::Status;
use amphipod_store::{Compare, Error as StoreError, KeyValue, Op, Revision, Text, Txn, TxnResult};
use serde_json::Value;

pub use beside::Beside;
pub use ownership::{server_writer, writer};
use sketch::Sketch;

use crate::cache::{ROOT, storage_status};
use crate::context::Context;
use crate::metrics::Step;
use crate::seams::{AdmissionRequest, Operation};
use crate::server::ApiServer;

/// What one object may take in the store: etcd's limit for a request, so that objects move between
/// the engines.
const MAX_OBJECT_BYTES: usize = 1536 << 10;

/// The key of an object.
pub fn object_key(resource: &Resource, namespace: &str, name: &str) -> String {
    let prefix = resource.storage.as_ref().map_or("", |s| s.prefix.as_ref());
    if resource.namespaced {
        [ROOT, prefix, "/", namespace, "/", name].concat()
    } else {
        [ROOT, prefix, "/", name].concat()
    }
}

/// The key this request names.
pub fn key(cx: &Context) -> String {
    object_key(&cx.resource, cx.namespace(), cx.name())
}

/// An object as it is stored.
#[derive(Clone, Debug)]
pub struct Existing {
    pub text: Text,
    pub revision: Revision,
}

impl Existing {
    /// In the request's version.
    pub fn value(&self, resource: &Resource) -> Result<Value, Status> {
        view::served(resource, &self.text.contiguous())
    }
}

/// Reads what is stored now; it reflects every acknowledged write.
pub async fn existing(
    server: &ApiServer,
    resource: &Resource,
    key: &str,
) -> Result<Option<Existing>, Status> {
    let collection = server.cache.collection(resource).await?;
    server.cache.fresh().await?;
    let found = collection.get(key).map_err(storage_status)?;
    Ok(found.map(|e| Existing { text: e.text.clone(), revision: e.revision }))
}

/// Why a write did not happen.
pub enum Lost {
    /// Someone was faster: what is stored now (`None`: nothing). Where that is what was expected, they
    /// were so at what the write does beside its object, which must then be worked out anew.
    Race(Option<Existing>),
    Failed(Box<Status>),
}

impl From<Status> for Lost {
    fn from(status: Status) -> Self {
        Lost::Failed(Box::new(status))
    }
}

/// Why a write for another incarnation (or version) of the object does not happen, in the words of
/// upstream's storage.
pub fn precondition_failed(key: &str, what: &str, given: &str, stored: &str) -> String {
    format!(
        "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition \
         failed: {what} in precondition: {given}, {what} in object meta: {stored}"
    )
}

/// Writes an object (in the request's version) where the key is still at `expected` (0: absent).
pub async fn put(
    server: &ApiServer,
    resource: &Resource,
    key: &str,
    value: Value,
    expected: Revision,
) -> Result<Existing, Lost> {
    put_with(server, resource, key, value, expected, Beside::default()).await
}

/// `put`, and what goes with it.
pub async fn put_with(
    server: &ApiServer,
    resource: &Resource,
    key: &str,
    mut value: Value,
    expected: Revision,
    beside: Beside,
) -> Result<Existing, Lost> {
    view::to_stored(resource, &mut value);
    put_encoded(server, resource, key, storable(&mut value)?, expected, beside).await
}

/// Writes the part of an object that a caller has changed, with the rest of it.
pub async fn put_sketch(
    server: &ApiServer,
    resource: &Resource,
    key: &str,
    (value, rest): (&Value, &Sketch),
    expected: Revision,
) -> Result<Existing, Lost> {
    let encoded = rest.encode(value)?;
    if encoded.bytes.len() > MAX_OBJECT_BYTES {
        return put(server, resource, key, encode::decode(&encoded.bytes)?, expected).await;
    }
    put_encoded(server, resource, key, encoded, expected, Beside::default()).await
}

async fn put_encoded(
    server: &ApiServer,
    resource: &Resource,
    key: &str,
    encoded: encode::Encoded,
    expected: Revision,
    beside: Beside,
) -> Result<Existing, Lost> {
    let lease = server.event_lease(resource).await?;
    let op = Op::Put { key: key.to_owned(), value: encoded.bytes, stamp: Some(encoded.stamp), lease };
    let operation = if expected == 0 { "create" } else { "update" };
    commit(server, resource, operation, expected, op, beside)
        .await?
        .ok_or_else(|| Lost::from(Status::internal("nothing was written")))
}

/// Encodes an object for the store. One that is too large is tried again without its
/// managedFields, as upstream does it: they can be given up, the object cannot.
fn storable(value: &mut Value) -> Result<encode::Encoded, Status> {
    let encoded = encode::object(value)?;
    if encoded.bytes.len() <= MAX_OBJECT_BYTES {
        return Ok(encoded);
    }
    amphipod_api::object::metadata_mut(value).remove("managedFields");
    let encoded = encode::object(value)?;
    if encoded.bytes.len() <= MAX_OBJECT_BYTES {
        return Ok(encoded);
    }
    Err(Status::failure(500, "", "etcdserver: request is too large"))
}

/// Deletes the object where the key is still at `expected`, and what goes with it.
pub async fn remove(
    server: &ApiServer,
    resource: &Resource,
    key: &str,
    expected: Revision,
    beside: Beside,
) -> Result<(), Lost> {
    let op = Op::Delete { key: key.to_owned() };
    commit(server, resource, "delete", expected, op, beside).await.map(drop)
}

async fn commit(
    server: &ApiServer,
    resource: &Resource,
    operation: &'static str,
    expected: Revision,
    op: Op,
    beside: Beside,
) -> Result<Option<Existing>, Lost> {
    let started = std::time::Instant::now();
    let mut compare = vec![Compare::ModRevision { key: op.key().to_owned(), equals: expected }];
    compare.extend(beside.compare);
    let mut then = vec![op];
    then.extend(beside.then);
    let outcome = transact(server, resource, Txn { compare, then }).await;
    server.metrics.stored(operation, resource, started.elapsed(), outcome.is_err());
    let outcome = outcome?;
    if outcome.succeeded {
        server.cache.note_written(outcome.revision);
        let written = outcome.written.into_iter().next();
        return Ok(written.map(|item| Existing { text: item.value, revision: item.mod_revision }));
    }
    let current = outcome.current.into_iter().next().flatten();
    Err(Lost::Race(current.map(|item| as_found(server, item)).transpose()?))
}

/// Runs a transaction. A lease can end before its time, with a store restored from a backup for one:
/// where it is gone, the same is tried once under a new one.
async fn transact(server: &ApiServer, resource: &Resource, mut txn: Txn) -> Result<TxnResult, Status> {
    let store = server.cache.store();
    let leased = txn.then.iter().any(|op| matches!(op, Op::Put { lease: Some(_), .. }));
    if leased {
        match store.txn(txn.clone()).await {
            Err(StoreError::LeaseNotFound(_)) => {}
            other => return other.map_err(storage_status),
        }
        for op in &mut txn.then {
            if let Op::Put { lease: Some(lease), .. } = op {
                server.forget_event_lease(*lease);
                *lease = server.event_lease(resource).await?.unwrap_or(*lease);
            }
        }
    }
    store.txn(txn).await.map_err(storage_status)
}

/// What stands in the store, whoever wrote it.
fn as_found(server: &ApiServer, item: KeyValue) -> Result<Existing, Status> {
    let revision = item.mod_revision;
    Ok(Existing { text: server.cache.readable(item)?, revision })
}

/// The stored object again, with the revision of another write: what a dry run answers.
pub fn unwritten(resource: &Resource, mut value: Value, revision: Revision) -> Result<Text, Status> {
    let metadata = amphipod_api::object::metadata_mut(&mut value);
    if revision > 0 {
        metadata.insert("resourceVersion".into(), revision.to_string().into());
    } else {
        metadata.remove("resourceVersion");
    }
    view::to_stored(resource, &mut value);
    Ok(serde_json::to_vec(&value).map_err(Status::internal)?.into())
}

/// Runs mutating admission; the object that comes out is the one to write.
pub async fn admit(
    server: &ApiServer,
    cx: &Context,
    operation: Operation,
    object: Value,
    old: Option<&Value>,
    dry_run: bool,
) -> Result<Value, Status> {
    let started = std::time::Instant::now();
    let mut request = admission_request(cx, operation, object, old, dry_run);
    let outcome = server.policy.admission.admit(&mut request).await;
    server.metrics.access.admitted(Step::Admit, operation, outcome.is_err(), started.elapsed());
    finish_admission(cx, request, outcome)
}

/// Runs validating admission.
pub async fn validate_admission(
    server: &ApiServer,
    cx: &Context,
    operation: Operation,
    object: Value,
    old: Option<&Value>,
    dry_run: bool,
) -> Result<Value, Status> {
    let started = std::time::Instant::now();
    let mut request = admission_request(cx, operation, object, old, dry_run);
    let outcome = server.policy.admission.validate(&mut request).await;
    server.metrics.access.admitted(Step::Validate, operation, outcome.is_err(), started.elapsed());
    finish_admission(cx, request, outcome)
}

fn admission_request<'a>(
    cx: &'a Context,
    operation: Operation,
    object: Value,
    old: Option<&'a Value>,
    dry_run: bool,
) -> AdmissionRequest<'a> {
    AdmissionRequest {
        attributes: &cx.attributes,
        operation,
        resource: &cx.resource,
        object,
        old,
        dry_run,
        warnings: Vec::new(),
    }
}

fn finish_admission(
    cx: &Context,
    request: AdmissionRequest<'_>,
    outcome: Result<(), Status>,
) -> Result<Value, Status> {
    for text in request.warnings {
        cx.warn(text);
    }
    outcome.map(|()| request.object)
}

/// 422 with all faults, if there are any.
pub fn refuse_faults(
    cx: &Context,
    object: &Value,
    faults: &[amphipod_api::field::Error],
) -> Result<(), Status> {
    if faults.is_empty() {
        return Ok(());
    }
    let name = amphipod_api::object::name(object);
    Err(Status::invalid(&cx.resource.group, &cx.resource.kind, name, faults))
}

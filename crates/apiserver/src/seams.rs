//! The seams between the generic server and the policy that governs it: who is asking
//! (`authn`), whether they may (`authz`), what is done to the object on its way in (`admission`),
//! and the reads from the watch cache those three need. The server calls these traits and knows
//! nothing else about policy.

use std::collections::BTreeMap;
use std::sync::Arc;

use amphipod_api::resource::Resource;
use amphipod_api::scheduling_review::Changes;
use amphipod_api::status::Status;
use amphipod_store::Text;
use async_trait::async_trait;
use http::HeaderMap;
use serde_json::Value;

use crate::authn::certificate::Peer;

/// An authenticated identity. Put one into a request's extensions only for in-process callers:
/// the server removes whatever a network peer could have put there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    pub fn new(name: &str, groups: &[&str]) -> Self {
        let groups = groups.iter().map(|g| (*g).to_owned()).collect();
        UserInfo { name: name.to_owned(), groups, ..UserInfo::default() }
    }
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// What a request asks to do, as authorization and admission see it.
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    pub user: UserInfo,
    /// For resources: get list watch create update patch delete deletecollection, and `proxy` is
    /// not special; for other paths the lower-case HTTP method.
    pub verb: String,
    pub group: String,
    pub version: String,
    /// The plural.
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    /// The URL path as sent.
    pub path: String,
    /// False for `/healthz`, `/version`, discovery, OpenAPI and the like.
    pub resource_request: bool,
}

/// What a request brings along to prove who it is.
#[derive(Clone, Copy, Debug)]
pub struct Credentials<'a> {
    pub headers: &'a HeaderMap,
    /// Of the TLS peer's certificate, already verified against the client CA by TLS.
    pub peer: Option<&'a Peer>,
    /// The identity an in-process caller was given; `None` for network requests.
    pub in_process: Option<&'a UserInfo>,
}

#[async_trait]
pub trait Authenticator: Send + Sync {
    /// `Err` is a 401; nobody recognised means the anonymous user (`system:anonymous`,
    /// `system:unauthenticated`), whom RBAC gives next to nothing. Impersonation headers are the
    /// server's job: it asks the authorizer and swaps the user.
    async fn authenticate(&self, credentials: &Credentials<'_>) -> Result<UserInfo, Status>;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow {
        reason: String,
    },
    /// Nobody allowed it: refused, as `Deny` is, but a later authorizer could still allow.
    NoOpinion {
        reason: String,
    },
    Deny {
        reason: String,
    },
}

#[async_trait]
pub trait Authorizer: Send + Sync {
    async fn authorize(&self, attributes: &Attributes) -> Decision;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    /// As AdmissionReview writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// One object on its way into the store, in the version of the request.
#[derive(Debug)]
pub struct AdmissionRequest<'a> {
    pub attributes: &'a Attributes,
    pub operation: Operation,
    pub resource: &'a Resource,
    /// The object to be written; `Null` for deletes. For subresources with a kind of their own
    /// (Eviction, Binding, Scale, TokenRequest, PodExecOptions) that kind's object.
    pub object: Value,
    /// The stored object; `None` for creates.
    pub old: Option<&'a Value>,
    pub dry_run: bool,
    /// Texts for `Warning: 299` headers; admission may add.
    pub warnings: Vec<String>,
}

/// Runs for create, update, delete and connect, in this order: `admit`, defaulting, `validate`.
#[async_trait]
pub trait Admission: Send + Sync {
    /// May change `request.object`.
    async fn admit(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status>;
    /// May only refuse (or warn).
    async fn validate(&self, request: &mut AdmissionRequest<'_>) -> Result<(), Status>;
}

/// The create-only kinds without storage: TokenReview, SelfSubjectReview and the
/// SubjectAccessReview family.
#[async_trait]
pub trait Reviews: Send + Sync {
    /// Answers the review: the object with its `status` filled.
    async fn review(
        &self,
        attributes: &Attributes,
        resource: &Resource,
        object: Value,
    ) -> Result<Value, Status>;
}

/// Answers PodSchedulingReviews: what the scheduler would do with a pod, and why.
#[async_trait]
pub trait SchedulingExplainer: Send + Sync {
    /// `pod` is the pod as JSON, `changes` what to assume that is not so. The answer is the review's
    /// `status`.
    async fn explain(&self, pod: &[u8], changes: &Changes) -> Result<Value, Status>;
}

/// Signs service-account tokens (`serviceaccounts/<name>/token`) and publishes the keys.
#[async_trait]
pub trait TokenIssuer: Send + Sync {
    /// A TokenRequest as it was sent, completed and found valid.
    fn prepare(&self, service_account: &Value, request: Value) -> Result<Value, Status>;
    /// `request` was prepared; the answer is the same with `status.token` and
    /// `status.expirationTimestamp`. Bound objects (`spec.boundObjectRef`) are looked up here.
    async fn issue(&self, service_account: &Value, request: Value) -> Result<Value, Status>;
    /// `/.well-known/openid-configuration`
    fn openid_configuration(&self) -> Value;
    /// `/openid/v1/jwks`
    fn jwks(&self) -> Value;
}

/// A collection read at one point in time.
#[derive(Clone, Debug)]
pub struct Listing {
    pub revision: u64,
    /// Stored JSON objects (in the storage version), in key order.
    pub items: Vec<Text>,
}

/// Lookups in the watch cache, by group and plural of a built-in (or custom) resource. Every read
/// reflects all writes this server acknowledged before it was called; `get` finds nothing only where no
/// server had acknowledged it.
#[async_trait]
pub trait Reader: Send + Sync {
    /// `namespace` is empty for cluster-scoped kinds.
    async fn get(
        &self,
        group: &str,
        plural: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Text>, Status>;
    /// Empty `namespace` lists all namespaces.
    async fn list(&self, group: &str, plural: &str, namespace: &str) -> Result<Listing, Status>;
    /// Revision of the newest change in this collection: an index derived from it is stale when
    /// this has moved. Cheap; also waits for acknowledged writes.
    async fn last_change(&self, group: &str, plural: &str) -> Result<u64, Status>;
    /// The values of these labels of an object, where it has them; `None` if there is no such object.
    async fn labels(
        &self,
        group: &str,
        plural: &str,
        namespace: &str,
        name: &str,
        keys: &[&str],
    ) -> Result<Option<Vec<Option<String>>>, Status>;
    /// What an object that was read says.
    fn value(&self, text: &Text) -> Result<Arc<Value>, Status> {
        serde_json::from_slice(&text.contiguous()).map(Arc::new).map_err(Status::internal)
    }
}

/// The one write policy makes: what a namespace uses, before the object that uses it is stored.
#[async_trait]
pub trait QuotaLedger: Send + Sync {
    /// Writes `status.used` of a quota as it was read; false if it has changed since.
    async fn record(&self, quota: &Value, used: serde_json::Map<String, Value>) -> Result<bool, Status>;
}

/// Everything the server asks of policy. `policy::build` (made of `authn`, `authz` and
/// `admission`) makes one from the configuration, a [`Reader`] and a [`QuotaLedger`].
#[derive(Clone)]
pub struct Policy {
    pub authenticator: Arc<dyn Authenticator>,
    pub authorizer: Arc<dyn Authorizer>,
    pub admission: Arc<dyn Admission>,
    pub reviews: Arc<dyn Reviews>,
    pub tokens: Arc<dyn TokenIssuer>,
    /// Objects that must exist from the first start (RBAC roles and bindings), created when
    /// missing and reconciled as upstream does.
    pub bootstrap_objects: fn() -> Vec<Value>,
}

//! The engine for clusters that have an etcd: every call is etcd's own v3 API over gRPC.
//!
//! `docs/etcd.md` says how keys and values stand there, what a lost connection means for a write, and
//! which options there are.

mod connect;
mod keys;
mod stamp;
mod txn;
mod watch;

/// Generated from `proto/etcd.proto` by `cargo xtask etcd`.
#[path = "generated/etcdserverpb.rs"]
#[allow(clippy::all, clippy::pedantic, clippy::too_many_lines)] // generated
mod v3;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use tonic::transport::Channel;

pub use self::connect::TlsFiles;
use self::connect::{Failure, Members, Refusal, Repeat, request};
use self::keys::Keys;
use self::v3::kv_client::KvClient;
use self::v3::lease_client::LeaseClient;
use self::v3::maintenance_client::MaintenanceClient;
use self::v3::watch_client::WatchClient;
use crate::contract::{
    Error, KeyValue, LeaseId, Range, RangeResult, Revision, Store, Txn, TxnResult, WatchStream,
};

/// Keys read at once: bounds the size of one answer.
const PAGE_KEYS: usize = 500;
/// How often a long read begins again because history passed it by.
const RANGE_ATTEMPTS: usize = 3;

/// Where etcd is, and which of its keys are ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdOptions {
    /// `host:port`, at least one; any member of the cluster.
    pub endpoints: Vec<String>,
    pub tls: TlsFiles,
    /// What the contract's keys begin with; other keys are refused.
    pub root: String,
    /// What stands in etcd in place of `root`.
    pub prefix: String,
}

#[derive(Debug)]
pub struct EtcdStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    members: Members,
    keys: Keys,
    closed: tokio::sync::watch::Sender<bool>,
}

impl EtcdStore {
    /// Connects, and fails where no member answers.
    pub async fn connect(options: EtcdOptions) -> Result<Self, Error> {
        let members = Members::new(options.endpoints, &options.tls)?;
        let keys = Keys { ours: options.root, theirs: options.prefix };
        let closed = tokio::sync::watch::Sender::new(false);
        let store = EtcdStore { shared: Arc::new(Shared { members, keys, closed }) };
        store.revision().await?;
        Ok(store)
    }
}

impl Shared {
    fn check_open(&self) -> Result<(), Error> {
        if *self.closed.borrow() { Err(Error::Closed) } else { Ok(()) }
    }

    async fn read(&self, message: v3::RangeRequest) -> Result<v3::RangeResponse, Failure> {
        let read = |channel: Channel| {
            let message = message.clone();
            async move { kv(channel).range(request(message)).await }
        };
        self.members.call(Repeat::Always, read).await
    }

    /// Reads nothing at this revision, which tells whether it can be read; 0 is the newest.
    async fn probe(&self, at: Revision) -> Result<Revision, Failure> {
        let key = Bytes::from(format!("{}/", self.keys.theirs));
        let message = v3::RangeRequest { key, revision: at as i64, count_only: true, ..Default::default() };
        let response = self.read(message).await?;
        Ok(header_revision(response.header.as_ref()))
    }

    async fn newest(&self) -> Result<Revision, Error> {
        self.probe(0).await.map_err(|failure| self.failed(failure))
    }

    async fn oldest(&self) -> Result<Revision, Error> {
        match self.probe(1).await {
            Ok(_) => Ok(0),
            Err(Failure::Refused(Refusal::Compacted)) => self.ask_oldest().await,
            Err(failure) => Err(self.failed(failure)),
        }
    }

    /// Nothing in etcd's API tells this, but for the refusal of a watch that begins too early.
    async fn ask_oldest(&self) -> Result<Revision, Error> {
        let early = |channel: Channel| async move {
            let key = Bytes::from_static(b"\0");
            let create = v3::WatchCreateRequest { key, start_revision: 1, ..Default::default() };
            let union = v3::watch_request::RequestUnion::CreateRequest(create);
            let create = v3::WatchRequest { request_union: Some(union) };
            let requests =
                futures::stream::once(std::future::ready(create)).chain(futures::stream::pending());
            let mut answers = WatchClient::new(channel).watch(request(requests)).await?.into_inner();
            while let Some(answer) = answers.message().await? {
                if answer.canceled && answer.compact_revision == 0 {
                    return Err(tonic::Status::failed_precondition(answer.cancel_reason));
                }
                if answer.canceled {
                    return Ok(tonic::Response::new(revision(answer.compact_revision)));
                }
            }
            Err(tonic::Status::unavailable("the watch ended without an answer"))
        };
        self.members.call(Repeat::Always, early).await.map_err(|failure| self.failed(failure))
    }

    /// Refusals about revisions get their numbers.
    async fn at_revision(&self, requested: Revision, failure: Failure) -> Error {
        let numbered = match &failure {
            Failure::Refused(Refusal::Compacted) => {
                self.oldest().await.map(|oldest| Error::Compacted { requested, oldest })
            }
            Failure::Refused(Refusal::Future) => {
                self.newest().await.map(|newest| Error::Future { requested, newest })
            }
            _ => Ok(self.failed(failure)),
        };
        numbered.unwrap_or_else(|error| error)
    }

    fn failed(&self, failure: Failure) -> Error {
        match failure {
            Failure::Refused(refusal) => self.refused(refusal),
            Failure::Store(error) => error,
        }
    }

    fn refused(&self, refusal: Refusal) -> Error {
        match refusal {
            Refusal::TooLarge(why) => Error::TooLarge(format!(
                "{why}; etcd takes up to 1.5 MiB unless it runs with a greater --max-request-bytes"
            )),
            Refusal::TooManyOperations => Error::TooLarge(
                "more operations in one transaction than etcd takes; it takes 128 unless it runs with a \
                 greater --max-txn-ops"
                    .to_owned(),
            ),
            Refusal::NoSpace => Error::NoSpace(
                "etcd's database has reached its quota; compact and defragment it or raise \
                 --quota-backend-bytes, then run `etcdctl alarm disarm`"
                    .to_owned(),
            ),
            Refusal::Invalid(why) => Error::Invalid(why),
            Refusal::LeaseNotFound => Error::LeaseNotFound(0),
            Refusal::Compacted => Error::Backend("the revision has been compacted".to_owned()),
            Refusal::Future => Error::Backend("the revision lies in the future".to_owned()),
            Refusal::Other(why) => Error::Backend(format!("etcd refuses: {why}")),
        }
    }

    fn lease_failed(&self, lease: LeaseId, failure: Failure) -> Error {
        match failure {
            Failure::Refused(Refusal::LeaseNotFound) => Error::LeaseNotFound(lease),
            other => self.failed(other),
        }
    }

    async fn range_once(&self, range: &Range) -> Result<RangeResult, Failure> {
        let (mut key, range_end) = self.keys.range_to_etcd(&range.start, &range.end);
        let mut result = RangeResult { revision: 0, items: Vec::new(), more: 0 };
        let limit = if range.limit == 0 { usize::MAX } else { range.limit };
        // In etcd 0 is the newest; before the first write there was nothing, as at 1.
        let mut at = range.revision.map_or(0, |revision| revision.max(1) as i64);
        let mut first = true;
        loop {
            let page = (limit - result.items.len()).min(PAGE_KEYS) as i64;
            let message = v3::RangeRequest {
                key,
                range_end: range_end.clone(),
                limit: page,
                revision: at,
                ..Default::default()
            };
            let response = self.read(message).await?;
            if first {
                result.revision = header_revision(response.header.as_ref());
                result.more = usize::try_from(response.count).unwrap_or(0);
                // All pages show one state.
                at = if at == 0 { result.revision as i64 } else { at };
                first = false;
            }
            result.more = result.more.saturating_sub(response.kvs.len());
            let last = response.kvs.last().map(|kv| kv.key.clone());
            result.items.extend(response.kvs.into_iter().filter_map(|kv| item(&self.keys, kv)));
            match last {
                Some(last) if response.more && result.items.len() < limit => {
                    key = [last.as_ref(), b"\0"].concat().into();
                }
                _ => return Ok(result),
            }
        }
    }
}

fn kv(channel: Channel) -> KvClient<Channel> {
    KvClient::new(channel).max_decoding_message_size(usize::MAX)
}

/// etcd's numbers are signed, but never below 0.
fn revision(number: i64) -> Revision {
    Revision::try_from(number).unwrap_or(0)
}

fn header_revision(header: Option<&v3::ResponseHeader>) -> Revision {
    header.map_or(0, |header| revision(header.revision))
}

fn item(keys: &Keys, kv: v3::KeyValue) -> Option<KeyValue> {
    let mod_revision = revision(kv.mod_revision);
    Some(KeyValue {
        key: keys.our_key(&kv.key)?,
        value: stamp::filled(&kv.value, mod_revision),
        create_revision: revision(kv.create_revision),
        mod_revision,
        version: revision(kv.version),
        lease: Some(kv.lease).filter(|lease| *lease != 0),
    })
}

#[async_trait]
impl Store for EtcdStore {
    async fn range(&self, range: Range) -> Result<RangeResult, Error> {
        self.shared.check_open()?;
        let mut attempt = 1;
        loop {
            match self.shared.range_once(&range).await {
                Ok(result) => return Ok(result),
                // Between two pages the state that they show was compacted.
                Err(Failure::Refused(Refusal::Compacted))
                    if range.revision.is_none() && attempt < RANGE_ATTEMPTS =>
                {
                    attempt += 1;
                }
                Err(failure) => {
                    return Err(self.shared.at_revision(range.revision.unwrap_or(0), failure).await);
                }
            }
        }
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, Error> {
        self.shared.check_open()?;
        txn::run(&self.shared, txn).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, Error> {
        self.shared.check_open()?;
        let newest = match self.shared.probe(after.max(1)).await {
            Ok(newest) => Some(newest),
            Err(Failure::Refused(Refusal::Future)) => None,
            Err(failure) => return Err(self.shared.at_revision(after, failure).await),
        };
        watch::stream(self.shared.clone(), prefix, after, newest).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.shared.check_open()?;
        let message = v3::CompactionRequest { revision: revision as i64, physical: false };
        let compact = |channel: Channel| async move { kv(channel).compact(request(message)).await };
        let Err(failure) = self.shared.members.call(Repeat::Always, compact).await else { return Ok(()) };
        match self.shared.at_revision(revision, failure).await {
            // Done already: by an attempt whose answer was lost, or by another server.
            Error::Compacted { oldest, .. } if oldest == revision => Ok(()),
            error => Err(error),
        }
    }

    async fn lease_grant(&self, ttl_seconds: u64) -> Result<LeaseId, Error> {
        self.shared.check_open()?;
        let ttl = i64::try_from(ttl_seconds).ok().filter(|ttl| *ttl > 0);
        let ttl = ttl.ok_or_else(|| Error::Invalid(format!("a lease of {ttl_seconds} seconds")))?;
        let message = v3::LeaseGrantRequest { ttl, id: 0 };
        let grant =
            |channel: Channel| async move { LeaseClient::new(channel).lease_grant(request(message)).await };
        // A lease that nobody heard of ends by itself, so asking twice does no harm.
        let granted = self.shared.members.call(Repeat::Always, grant).await;
        granted.map(|lease| lease.id).map_err(|failure| self.shared.failed(failure))
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        self.shared.check_open()?;
        let renew = |channel: Channel| async move {
            let asked = futures::stream::once(std::future::ready(v3::LeaseKeepAliveRequest { id: lease }));
            let mut answers = LeaseClient::new(channel).lease_keep_alive(request(asked)).await?.into_inner();
            let answer = answers.message().await?;
            let answer = answer.ok_or_else(|| tonic::Status::unavailable("no answer about the lease"))?;
            Ok(tonic::Response::new(answer.ttl))
        };
        match self.shared.members.call(Repeat::Always, renew).await {
            Ok(ttl) if ttl > 0 => Ok(()),
            Ok(_) => Err(Error::LeaseNotFound(lease)),
            Err(failure) => Err(self.shared.lease_failed(lease, failure)),
        }
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.shared.check_open()?;
        let message = v3::LeaseRevokeRequest { id: lease };
        let revoke =
            |channel: Channel| async move { LeaseClient::new(channel).lease_revoke(request(message)).await };
        let revoked = self.shared.members.call(Repeat::NotSent, revoke).await;
        revoked.map(drop).map_err(|failure| self.shared.lease_failed(lease, failure))
    }

    async fn revision(&self) -> Result<Revision, Error> {
        self.shared.check_open()?;
        self.shared.newest().await
    }

    async fn oldest_revision(&self) -> Result<Revision, Error> {
        self.shared.check_open()?;
        self.shared.oldest().await
    }

    /// Of the member that is asked: each holds everything.
    async fn size_bytes(&self) -> Result<u64, Error> {
        self.shared.check_open()?;
        let ask = |channel: Channel| async move {
            MaintenanceClient::new(channel).status(request(v3::StatusRequest {})).await
        };
        let status = self.shared.members.call(Repeat::Always, ask).await;
        status.map(|status| revision(status.db_size)).map_err(|failure| self.shared.failed(failure))
    }

    async fn close(&self) -> Result<(), Error> {
        self.shared.check_open()?;
        self.shared.closed.send_replace(true);
        Ok(())
    }
}

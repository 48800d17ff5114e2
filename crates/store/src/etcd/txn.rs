//! Transactions in etcd's words.

use std::collections::HashSet;

use tonic::transport::Channel;

use super::connect::{Failure, Refusal, Repeat, request};
use super::v3::request_op::Request as Ask;
use super::v3::response_op::Response as Answer;
use super::v3::{self, RequestOp, compare};
use super::{Shared, header_revision, item, kv, revision, stamp};
use crate::contract::{Compare, Error, KeyValue, LeaseId, Op, Range, Txn, TxnResult};

pub(super) async fn run(shared: &Shared, txn: Txn) -> Result<TxnResult, Error> {
    txn.check()?;
    let message = encode(shared, &txn)?;
    let send = |channel: Channel| {
        let message = message.clone();
        async move { kv(channel).txn(request(message)).await }
    };
    // Without operations nothing can be written twice.
    let repeat = if txn.then.is_empty() { Repeat::Always } else { Repeat::NotSent };
    match shared.members.call(repeat, send).await {
        Ok(response) => decode(shared, &txn, response),
        Err(Failure::Refused(Refusal::NoSpace)) => Err(full(shared, &txn).await),
        Err(failure) => Err(shared.lease_failed(first_lease(&txn), failure)),
    }
}

fn encode(shared: &Shared, txn: &Txn) -> Result<v3::TxnRequest, Error> {
    let mut message = v3::TxnRequest::default();
    for Compare::ModRevision { key, equals } in &txn.compare {
        let key = shared.keys.to_etcd(key)?;
        message
            .failure
            .push(ask(Ask::RequestRange(v3::RangeRequest { key: key.clone(), ..Default::default() })));
        message.compare.push(v3::Compare {
            result: compare::CompareResult::Equal.into(),
            target: compare::CompareTarget::Mod.into(),
            key,
            target_union: Some(compare::TargetUnion::ModRevision(*equals as i64)),
        });
    }
    let absent = absent(txn);
    let mut written = Vec::new();
    for op in &txn.then {
        match op {
            Op::Put { key, value, stamp, lease } => {
                if stamp.is_some() && stamp::hole(value) != *stamp {
                    let why =
                        format!("the revision's place in {key} is not an empty metadata.resourceVersion");
                    return Err(Error::Invalid(why));
                }
                let creates = absent.contains(key.as_str());
                let key = shared.keys.to_etcd(key)?;
                let (value, lease) = (value.clone(), lease.unwrap_or(0));
                message.success.push(ask(Ask::RequestPut(v3::PutRequest { key: key.clone(), value, lease })));
                if !creates {
                    // Tells what etcd alone knows of the new item, without sending the value back.
                    let read = v3::RangeRequest { key, keys_only: true, ..Default::default() };
                    written.push(ask(Ask::RequestRange(read)));
                }
            }
            Op::Delete { key } => {
                let key = shared.keys.to_etcd(key)?;
                let delete = v3::DeleteRangeRequest { key, ..Default::default() };
                message.success.push(ask(Ask::RequestDeleteRange(delete)));
            }
        }
    }
    message.success.append(&mut written);
    Ok(message)
}

/// Keys that are not there where the transaction succeeds: all about an item put there is known, and
/// etcd, which counts operations, need not be asked.
fn absent(txn: &Txn) -> HashSet<&str> {
    let absent = txn.compare.iter().filter(|Compare::ModRevision { equals, .. }| *equals == 0);
    absent.map(|Compare::ModRevision { key, .. }| key.as_str()).collect()
}

fn ask(request: Ask) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn decode(shared: &Shared, txn: &Txn, response: v3::TxnResponse) -> Result<TxnResult, Error> {
    let newest = header_revision(response.header.as_ref());
    let mut reads = response.responses.into_iter().filter_map(|answer| match answer.response {
        Some(Answer::ResponseRange(range)) => Some(range.kvs.into_iter().next()),
        _ => None,
    });
    if !response.succeeded {
        let current = reads.map(|kv| kv.and_then(|kv| item(&shared.keys, kv))).collect();
        return Ok(TxnResult { succeeded: false, revision: newest, current, written: Vec::new() });
    }
    let absent = absent(txn);
    let mut written = Vec::new();
    for op in &txn.then {
        let Op::Put { key, value, lease, .. } = op else { continue };
        let (create_revision, version) = if absent.contains(key.as_str()) {
            (newest, 1)
        } else {
            let kv = reads.next().flatten();
            let kv = kv.ok_or_else(|| Error::Backend(format!("etcd does not show {key}, just written")))?;
            (revision(kv.create_revision), revision(kv.version))
        };
        written.push(KeyValue {
            key: key.as_str().into(),
            value: stamp::filled(value, newest),
            create_revision,
            mod_revision: newest,
            version,
            lease: lease.filter(|lease| *lease != 0),
        });
    }
    Ok(TxnResult { succeeded: true, revision: newest, current: Vec::new(), written })
}

/// The write that exceeds the quota is done and yet refused; later ones are only refused. What was
/// compared tells one from the other.
async fn full(shared: &Shared, txn: &Txn) -> Error {
    let full = shared.refused(Refusal::NoSpace);
    if txn.compare.is_empty() && !txn.then.is_empty() {
        return Error::Unknown(full.to_string());
    }
    for Compare::ModRevision { key, equals } in &txn.compare {
        let read = shared.range_once(&Range::key(key)).await;
        let found = read.map(|read| read.items.first().map_or(0, |item| item.mod_revision));
        if !found.is_ok_and(|found| found == *equals) {
            return Error::Unknown(full.to_string());
        }
    }
    full
}

/// The transaction's first lease: etcd does not say which one it misses, and writes here have one.
fn first_lease(txn: &Txn) -> LeaseId {
    let lease = |op: &Op| match op {
        Op::Put { lease, .. } => *lease,
        Op::Delete { .. } => None,
    };
    txn.then.iter().find_map(lease).unwrap_or(0)
}

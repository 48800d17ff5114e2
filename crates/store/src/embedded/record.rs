//! Records: what a frame's body says happened. `docs/store-format.md` shows the bytes.

use super::state::Commit;
use crate::contract::{LeaseId, Revision};
use crate::text::Text;

const TXN: u8 = 1;
const LEASE_GRANT: u8 = 2;
const LEASE_REVOKE: u8 = 3;
const COMPACT: u8 = 4;
const OP_PUT: u8 = 1;
const OP_DELETE: u8 = 2;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record<'a> {
    Txn { revision: Revision, ops: Vec<RecordOp<'a>> },
    LeaseGrant { id: LeaseId, ttl_seconds: u64 },
    LeaseRevoke { id: LeaseId },
    Compact { revision: Revision },
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum RecordOp<'a> {
    Put { key: &'a str, value: &'a [u8], lease: Option<LeaseId> },
    Delete { key: &'a str },
}

pub(super) fn encode_commit(commit: &Commit, out: &mut Vec<u8>) {
    out.push(TXN);
    out.extend_from_slice(&commit.revision.to_le_bytes());
    put_len(out, commit.changes.len());
    for change in &commit.changes {
        match (&change.current, &change.previous) {
            (Some(item), _) => {
                out.push(OP_PUT);
                out.extend_from_slice(&item.lease.unwrap_or(0).to_le_bytes());
                put_bytes(out, item.key.as_bytes());
                put_text(out, &item.value);
            }
            (None, previous) => {
                out.push(OP_DELETE);
                put_bytes(out, previous.as_ref().map_or(b"", |item| item.key.as_bytes()));
            }
        }
    }
}

pub(super) fn encode_lease_grant(id: LeaseId, ttl_seconds: u64, out: &mut Vec<u8>) {
    out.push(LEASE_GRANT);
    out.extend_from_slice(&id.to_le_bytes());
    out.extend_from_slice(&ttl_seconds.to_le_bytes());
}

pub(super) fn encode_lease_revoke(id: LeaseId, out: &mut Vec<u8>) {
    out.push(LEASE_REVOKE);
    out.extend_from_slice(&id.to_le_bytes());
}

pub(super) fn encode_compact(revision: Revision, out: &mut Vec<u8>) {
    out.push(COMPACT);
    out.extend_from_slice(&revision.to_le_bytes());
}

/// All records of a body, or why they cannot be read.
pub(super) fn decode(body: &[u8]) -> Result<Vec<Record<'_>>, String> {
    let mut reader = Reader(body);
    let mut records = Vec::new();
    while !reader.is_empty() {
        records.push(decode_one(&mut reader)?);
    }
    Ok(records)
}

fn decode_one<'a>(reader: &mut Reader<'a>) -> Result<Record<'a>, String> {
    Ok(match reader.u8()? {
        TXN => {
            let revision = reader.u64()?;
            let count = reader.u32()?;
            let mut ops = Vec::new();
            for _ in 0..count {
                ops.push(decode_op(reader)?);
            }
            Record::Txn { revision, ops }
        }
        LEASE_GRANT => Record::LeaseGrant { id: reader.i64()?, ttl_seconds: reader.u64()? },
        LEASE_REVOKE => Record::LeaseRevoke { id: reader.i64()? },
        COMPACT => Record::Compact { revision: reader.u64()? },
        kind => return Err(format!("a record of unknown kind {kind}")),
    })
}

fn decode_op<'a>(reader: &mut Reader<'a>) -> Result<RecordOp<'a>, String> {
    Ok(match reader.u8()? {
        OP_PUT => {
            let lease = reader.lease()?;
            RecordOp::Put { key: reader.str()?, value: reader.bytes()?, lease }
        }
        OP_DELETE => RecordOp::Delete { key: reader.str()? },
        kind => return Err(format!("an operation of unknown kind {kind}")),
    })
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.extend_from_slice(bytes);
}

pub(super) fn put_text(out: &mut Vec<u8>, text: &Text) {
    put_len(out, text.len());
    text.chunks().for_each(|chunk| out.extend_from_slice(chunk));
}

/// Lengths are bounded by the largest transaction, far below 4 GiB.
fn put_len(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice(&(len as u32).to_le_bytes());
}

/// Reads little-endian fields off the front of a slice.
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let (head, tail) = self.0.split_at_checked(len).ok_or("a record that ends too early")?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or("a record that ends too early")?;
        self.0 = tail;
        Ok(*head)
    }

    pub fn u8(&mut self) -> Result<u8, String> {
        Ok(self.array::<1>()?[0])
    }

    pub fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub fn i64(&mut self) -> Result<i64, String> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    /// 0 stands for no lease.
    pub fn lease(&mut self) -> Result<Option<LeaseId>, String> {
        Ok(Some(self.i64()?).filter(|id| *id != 0))
    }

    pub fn bytes(&mut self) -> Result<&'a [u8], String> {
        let len = self.u32()?;
        self.take(len as usize)
    }

    pub fn str(&mut self) -> Result<&'a str, String> {
        std::str::from_utf8(self.bytes()?).map_err(|_| "a key that is not UTF-8".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::State;
    use super::*;
    use crate::contract::Op;
    use bytes::Bytes;

    #[test]
    fn what_is_encoded_is_decoded() {
        let mut state = State::default();
        state.grant(7, 30);
        let put = |key: &str, lease| Op::Put {
            key: key.into(),
            value: Bytes::from_static(b"v"),
            stamp: None,
            lease,
        };
        state.apply(&[put("/gone", None)]);
        let commit = state.apply(&[put("/a", Some(7)), put("/b", None), Op::Delete { key: "/gone".into() }]);
        let mut out = Vec::new();
        encode_commit(&commit.unwrap(), &mut out);
        encode_lease_grant(8, 9, &mut out);
        encode_lease_revoke(8, &mut out);
        encode_compact(1, &mut out);
        let ops = vec![
            RecordOp::Put { key: "/a", value: b"v", lease: Some(7) },
            RecordOp::Put { key: "/b", value: b"v", lease: None },
            RecordOp::Delete { key: "/gone" },
        ];
        let want = vec![
            Record::Txn { revision: 2, ops },
            Record::LeaseGrant { id: 8, ttl_seconds: 9 },
            Record::LeaseRevoke { id: 8 },
            Record::Compact { revision: 1 },
        ];
        assert_eq!(decode(&out).unwrap(), want);
        for cut in 1..out.len() {
            // Cut anywhere, a body is refused or shorter, never misread.
            if let Ok(records) = decode(&out[..cut]) {
                assert_eq!(records[..], want[..records.len()]);
            }
        }
        assert!(decode(&[99]).unwrap_err().contains("unknown kind 99"));
    }
}

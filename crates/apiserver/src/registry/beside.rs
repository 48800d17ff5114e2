//! What a write does to other keys of the store, in the same transaction as its object: all of it
//! happens or none.

use amphipod_store::{Compare, Op, Revision};

use super::encode::Encoded;

/// Each key is named once, with the revision it was seen at.
#[derive(Clone, Debug, Default)]
pub struct Beside {
    pub compare: Vec<Compare>,
    pub then: Vec<Op>,
}

impl Beside {
    /// The write holds only while `key` is still as it was seen (0: absent).
    pub fn expect(&mut self, key: &str, seen: Revision) {
        let known = self.compare.iter().any(|Compare::ModRevision { key: other, .. }| other == key);
        if !known {
            self.compare.push(Compare::ModRevision { key: key.to_owned(), equals: seen });
        }
    }

    pub fn put(&mut self, key: &str, seen: Revision, value: Encoded) {
        self.expect(key, seen);
        self.then.push(Op::Put {
            key: key.to_owned(),
            value: value.bytes,
            stamp: Some(value.stamp),
            lease: None,
        });
    }

    pub fn delete(&mut self, key: &str, seen: Revision) {
        self.expect(key, seen);
        self.then.push(Op::Delete { key: key.to_owned() });
    }
}

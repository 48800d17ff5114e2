//! Where the contract's keys stand in etcd: one prefix in place of another, so that several clusters
//! can share one etcd, and keys outside of the prefix are never seen.

use bytes::Bytes;

use crate::contract::{Error, Key, prefix_end};

/// Keys that begin with `ours` here begin with `theirs` in etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Keys {
    pub ours: String,
    pub theirs: String,
}

impl Keys {
    pub fn to_etcd(&self, key: &str) -> Result<Bytes, Error> {
        match key.strip_prefix(self.ours.as_str()) {
            Some(rest) => Ok(Bytes::from(format!("{}{rest}", self.theirs))),
            None => Err(Error::Invalid(format!("the key {key} does not begin with {}", self.ours))),
        }
    }

    /// Bounds of a range of keys, cut to what lies below the prefix.
    pub fn range_to_etcd(&self, start: &str, end: &str) -> (Bytes, Bytes) {
        (self.bound(start), self.bound(end))
    }

    /// The first key in etcd that is not before `key` here.
    fn bound(&self, key: &str) -> Bytes {
        match key.strip_prefix(self.ours.as_str()) {
            Some(rest) => Bytes::from(format!("{}{rest}", self.theirs)),
            None if key < self.ours.as_str() => Bytes::from(self.theirs.clone()),
            None => Bytes::from(prefix_end(&self.theirs)),
        }
    }

    /// `None` for keys of others, and for those that no text can hold.
    pub fn our_key(&self, key: &[u8]) -> Option<Key> {
        let rest = std::str::from_utf8(key).ok()?.strip_prefix(self.theirs.as_str())?;
        Some(Key::from(format!("{}{rest}", self.ours)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_there_and_back() {
        let keys = Keys { ours: "/registry".into(), theirs: "/clusters/a".into() };
        let there = keys.to_etcd("/registry/pods/x").expect("below the prefix");
        assert_eq!(there, "/clusters/a/pods/x");
        assert_eq!(keys.our_key(&there).as_deref(), Some("/registry/pods/x"));
        assert_eq!(keys.our_key(b"/clusters/b/pods/x"), None);
        assert_eq!(keys.our_key(b"/clusters/a/\xff"), None);
        assert!(keys.to_etcd("/other").is_err());
    }

    #[test]
    fn ranges_are_cut_to_the_prefix() {
        let keys = Keys { ours: "/registry".into(), theirs: "/a".into() };
        for (start, end, want) in [
            ("/registry/pods/", "/registry/pods0", ("/a/pods/", "/a/pods0")),
            ("/", "0", ("/a", "/b")),
            ("/x", "/z", ("/b", "/b")),
        ] {
            assert_eq!(keys.range_to_etcd(start, end), (Bytes::from(want.0), Bytes::from(want.1)));
        }
    }
}

//! How many watches a write concerns. Watches are counted by what they watch: a resource, a namespace
//! of it, one object.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

use parking_lot::RwLock;

use crate::seams::Attributes;

/// By a hash of what is watched: looked up with every write, so that nothing is copied for it. Should
/// two hashes ever be the same, an estimate is too high.
type Counts = HashMap<u64, u32>;

#[derive(Debug, Default)]
pub struct Watches(RwLock<Counts>);

fn scope(group: &str, resource: &str, namespace: &str, name: &str) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one((group, resource, namespace, name))
}

/// Counted as long as it lives.
#[derive(Debug)]
pub struct Watching {
    watches: Arc<Watches>,
    scope: u64,
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut counts = self.watches.0.write();
        if let Some(count) = counts.get_mut(&self.scope) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.scope);
            }
        }
    }
}

impl Watches {
    pub fn register(self: &Arc<Self>, watched: &Attributes) -> Watching {
        let scope = scope(&watched.group, &watched.resource, &watched.namespace, &watched.name);
        *self.0.write().entry(scope).or_default() += 1;
        Watching { watches: self.clone(), scope }
    }

    /// Watches that are told of this write.
    pub fn interested_in(&self, written: &Attributes) -> u32 {
        let Attributes { group, resource, namespace, name, .. } = written;
        let counts = self.0.read();
        if counts.is_empty() {
            return 0;
        }
        let count = |namespace: &str, name: &str| {
            counts.get(&scope(group, resource, namespace, name)).copied().unwrap_or(0)
        };
        let mut all = count("", "");
        if !namespace.is_empty() {
            all += count(namespace, "");
        }
        if !name.is_empty() {
            all += count(namespace, name);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_concerns_who_watches_it_its_namespace_or_everything() {
        let of = |namespace: &str, name: &str| Attributes {
            resource: "pods".into(),
            namespace: namespace.into(),
            name: name.into(),
            ..Attributes::default()
        };
        let watches = Arc::new(Watches::default());
        assert_eq!(watches.interested_in(&of("n", "a")), 0);
        let held =
            [("", ""), ("", ""), ("n", ""), ("n", "a"), ("m", "a")].map(|(n, a)| watches.register(&of(n, a)));
        assert_eq!(watches.interested_in(&of("n", "a")), 4);
        assert_eq!(watches.interested_in(&of("n", "")), 3, "its name is not known yet");
        assert_eq!(watches.interested_in(&of("o", "a")), 2);
        let other = Attributes { resource: "nodes".into(), ..of("", "a") };
        assert_eq!(watches.interested_in(&other), 0);
        drop(held);
        assert!(watches.0.read().is_empty());
    }
}

//! Counts of kinds that no shared cache holds (secrets, jobs, custom resources): one metadata watch
//! per kind, from the first quota that limits it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use amphipod_client::dynamic::{self, ApiKind, Dynamic, Observed};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::harness::Scope;

/// Names of one kind's objects by namespace.
#[derive(Default)]
struct Objects {
    known: HashMap<String, HashSet<String>>,
    /// The list that is coming in; what it lacks is gone.
    listing: Option<HashMap<String, HashSet<String>>>,
    synced: bool,
}

impl Objects {
    /// Takes a change in and names the namespaces whose counts it may have changed.
    fn observe(&mut self, observed: &Observed) -> Vec<String> {
        match observed {
            Observed::Listing => {
                self.listing = Some(HashMap::new());
                Vec::new()
            }
            Observed::Listed => {
                let before = std::mem::replace(&mut self.known, self.listing.take().unwrap_or_default());
                self.synced = true;
                before.into_keys().chain(self.known.keys().cloned()).collect()
            }
            Observed::Put(object) => {
                let is_listing = self.listing.is_some();
                let into = self.listing.as_mut().unwrap_or(&mut self.known);
                let is_new = into.entry(object.namespace.clone()).or_default().insert(object.name.clone());
                if is_new && !is_listing { vec![object.namespace.clone()] } else { Vec::new() }
            }
            Observed::Deleted(object) => {
                let Some(names) = self.known.get_mut(&object.namespace) else { return Vec::new() };
                let was_known = names.remove(&object.name);
                if names.is_empty() {
                    self.known.remove(&object.namespace);
                }
                if was_known { vec![object.namespace.clone()] } else { Vec::new() }
            }
        }
    }
}

struct Counter {
    objects: Arc<Mutex<Objects>>,
    cancel: CancellationToken,
}

type Notify = Arc<dyn Fn(&str) + Send + Sync>;

/// What can be said about a kind in a namespace.
#[derive(Debug, PartialEq)]
pub enum Count {
    Objects(usize),
    /// Its first list is still coming in; `changed` is called when it is there.
    Unknown,
    /// No such kind is served.
    NotServed,
}

pub struct Counters {
    scope: Scope,
    /// Called with the namespace whose objects changed.
    changed: Notify,
    kinds: Mutex<HashMap<String, Counter>>,
}

impl Counters {
    pub fn new(scope: Scope, changed: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Counters { scope, changed: Arc::new(changed), kinds: Mutex::default() }
    }

    /// How many objects of the kind (`jobs.batch`) there are.
    pub async fn count(&self, kind: &str, namespace: &str) -> Result<Count, Error> {
        let counter = self.kinds.lock().get(kind).map(|counter| counter.objects.clone());
        let counter = match counter {
            Some(counter) => counter,
            None => match self.served(kind).await? {
                Some(served) => self.start(kind, &served),
                None => return Ok(Count::NotServed),
            },
        };
        let objects = counter.lock();
        if !objects.synced {
            return Ok(Count::Unknown);
        }
        Ok(Count::Objects(objects.known.get(namespace).map_or(0, HashSet::len)))
    }

    async fn served(&self, kind: &str) -> Result<Option<ApiKind>, Error> {
        let discovery = dynamic::discover(&self.scope.client).await?;
        Ok(discovery.kinds.into_iter().find(|found| found.namespaced && found.qualified() == kind))
    }

    fn start(&self, name: &str, kind: &ApiKind) -> Arc<Mutex<Objects>> {
        let mut kinds = self.kinds.lock();
        if let Some(started) = kinds.get(name) {
            return started.objects.clone();
        }
        let objects: Arc<Mutex<Objects>> = Arc::default();
        let cancel = self.scope.cancel.child_token();
        kinds.insert(name.to_owned(), Counter { objects: objects.clone(), cancel: cancel.clone() });
        let api = Dynamic::new(self.scope.client.clone(), kind, "");
        let (changed, seen) = (self.changed.clone(), objects.clone());
        tokio::spawn(async move {
            let observe = |observed| {
                let namespaces = seen.lock().observe(&observed);
                namespaces.iter().for_each(|namespace| changed(namespace));
            };
            api.reflect(&cancel, observe).await;
        });
        objects
    }

    /// Ends the watches over kinds that no quota limits any more.
    pub fn keep_only(&self, wanted: &HashSet<String>) {
        self.kinds.lock().retain(|kind, counter| {
            let keep = wanted.contains(kind);
            if !keep {
                counter.cancel.cancel();
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use amphipod_client::dynamic::Metadata;

    use super::*;

    fn object(namespace: &str, name: &str) -> Metadata {
        Metadata { namespace: namespace.into(), name: name.into(), ..Metadata::default() }
    }

    #[test]
    fn only_what_comes_and_goes_is_told() {
        let mut objects = Objects::default();
        assert!(objects.observe(&Observed::Listing).is_empty());
        assert!(objects.observe(&Observed::Put(object("a", "1"))).is_empty());
        assert!(!objects.synced);
        assert_eq!(objects.observe(&Observed::Listed), ["a"]);
        assert!(objects.observe(&Observed::Put(object("a", "1"))).is_empty(), "an update");
        assert_eq!(objects.observe(&Observed::Put(object("b", "1"))), ["b"]);
        assert_eq!(objects.observe(&Observed::Deleted(object("b", "1"))), ["b"]);
        assert!(objects.observe(&Observed::Deleted(object("b", "1"))).is_empty());
        // A new list from which `a/1` is missing.
        objects.observe(&Observed::Listing);
        assert_eq!(objects.observe(&Observed::Listed), ["a"]);
        assert!(objects.known.is_empty());
    }
}

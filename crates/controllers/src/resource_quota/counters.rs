//! Counts of kinds that no shared cache holds (secrets, jobs, custom resources): one metadata watch
//! per kind, from the first quota that limits it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use amphipod_client::dynamic::{self, ApiKind, Dynamic, Observed};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::harness::Scope;

/// A kind that is not served is asked for again after this, as the garbage collector looks for new
/// ones: discovery is dozens of requests.
pub const REDISCOVERY: Duration = Duration::from_secs(30);

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

enum Counter {
    Watching {
        objects: Arc<Mutex<Objects>>,
        cancel: CancellationToken,
    },
    /// No such kind was served at that time.
    NotServed(Instant),
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
        let known = match self.kinds.lock().get(kind) {
            Some(Counter::Watching { objects, .. }) => Some(objects.clone()),
            Some(Counter::NotServed(since)) if since.elapsed() < REDISCOVERY => return Ok(Count::NotServed),
            _ => None,
        };
        let objects = match known {
            Some(objects) => objects,
            None => match self.served(kind).await? {
                Some(served) => self.start(kind, &served),
                None => return Ok(self.not_served(kind)),
            },
        };
        let objects = objects.lock();
        if !objects.synced {
            return Ok(Count::Unknown);
        }
        Ok(Count::Objects(objects.known.get(namespace).map_or(0, HashSet::len)))
    }

    async fn served(&self, kind: &str) -> Result<Option<ApiKind>, Error> {
        let discovery = dynamic::discover(&self.scope.client).await?;
        Ok(discovery.kinds.into_iter().find(|found| found.namespaced && found.qualified() == kind))
    }

    fn not_served(&self, kind: &str) -> Count {
        let mut kinds = self.kinds.lock();
        // Another worker may have found it meanwhile.
        if !matches!(kinds.get(kind), Some(Counter::Watching { .. })) {
            kinds.insert(kind.to_owned(), Counter::NotServed(Instant::now()));
        }
        Count::NotServed
    }

    fn start(&self, name: &str, kind: &ApiKind) -> Arc<Mutex<Objects>> {
        let mut kinds = self.kinds.lock();
        if let Some(Counter::Watching { objects, .. }) = kinds.get(name) {
            return objects.clone();
        }
        let objects: Arc<Mutex<Objects>> = Arc::default();
        let cancel = self.scope.cancel.child_token();
        let counter = Counter::Watching { objects: objects.clone(), cancel: cancel.clone() };
        kinds.insert(name.to_owned(), counter);
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
            if let (false, Counter::Watching { cancel, .. }) = (keep, counter) {
                cancel.cancel();
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use amphipod_client::dynamic::Metadata;
    use amphipod_client::{Client, SharedInformers};
    use http::{Request, Response};
    use http_body_util::Full;

    use super::*;
    use crate::Config;

    #[tokio::test]
    async fn a_kind_that_is_not_served_is_looked_for_once() {
        let asked = Arc::new(AtomicUsize::new(0));
        let requests = asked.clone();
        let client = Client::local(tower::service_fn(move |request: Request<_>| {
            requests.fetch_add(1, Ordering::Relaxed);
            let body =
                if request.uri().path() == "/apis" { r#"{"groups":[]}"# } else { r#"{"resources":[]}"# };
            async move { Ok::<_, std::convert::Infallible>(Response::new(Full::from(body))) }
        }));
        let cancel = CancellationToken::new();
        let informers = SharedInformers::new(client.clone(), cancel.clone());
        let scope = Scope { name: "test", client, informers, config: Arc::new(Config::new("")), cancel };
        let counters = Counters::new(scope, |_| {});
        for _ in 0..3 {
            assert_eq!(counters.count("things.example.com", "ns").await.unwrap(), Count::NotServed);
        }
        assert_eq!(asked.load(Ordering::Relaxed), 2, "one discovery: the groups, and the one there is");
    }

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

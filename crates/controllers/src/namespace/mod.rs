//! Deletes what is in a terminating namespace, pods first, then everything else discovery knows,
//! and lets the namespace go when nothing is left.

mod core;

use std::sync::Arc;
use std::time::Duration;

use amphipod_client::dynamic::{self, ApiKind, Dynamic};
use amphipod_client::workqueue::WorkQueue;
use amphipod_client::{Api, CachedPod, Change, DeleteParams, Informer, ListParams, Resource};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Namespace;

use self::core::Findings;
use crate::Error;
use crate::harness::{Controller, Scope, enqueue_all, now};

const FINALIZER: &str = "kubernetes";
/// Many namespaces end at once after a test run or a demo: they must not wait for one another.
const WORKERS: usize = 10;
/// Kinds deleted at once in one namespace.
const KINDS_AT_ONCE: usize = 8;
const PAGE: u32 = 500;
/// How soon to look again at content that gave no time of its own.
const SOON: Duration = Duration::from_millis(500);
const LATEST: Duration = Duration::from_secs(15);

struct NamespaceController {
    scope: Scope,
    namespaces: Informer<Namespace>,
}

pub async fn run(scope: Scope) {
    let namespaces = scope.informers.get::<Namespace>();
    let pods = scope.informers.get::<CachedPod>();
    if !(scope.synced(&namespaces).await && scope.synced(&pods).await) {
        return;
    }
    let queue = WorkQueue::new();
    enqueue_all(&namespaces, &queue);
    // The last pod's end is what most namespaces wait for.
    let (ended, known) = (queue.clone(), namespaces.clone());
    pods.on_change(move |change| {
        if let Change::Deleted(pod) = change
            && known.get(pod.namespace()).is_some_and(|namespace| namespace.is_terminating())
        {
            ended.add(pod.namespace());
        }
    });
    let controller = NamespaceController { scope: scope.clone(), namespaces };
    scope.work(queue, WORKERS, Arc::new(controller)).await;
}

impl Controller for NamespaceController {
    const QUEUE: &'static str = "namespace";
    async fn sync(&self, key: &str) -> Result<Option<Duration>, Error> {
        let Some(namespace) = self.namespaces.get(key).filter(|n| n.is_terminating()) else {
            return Ok(None);
        };
        let finalizers = namespace.spec.as_ref().and_then(|s| s.finalizers.as_deref()).unwrap_or_default();
        if finalizers.is_empty() {
            return Ok(None); // on its way; only metadata finalizers of others hold it now
        }
        let findings = self.empty(key).await?;
        let namespace = self.write_status(&namespace, &findings).await?;
        if findings.is_empty() {
            self.finalize(&namespace).await?;
            return Ok(None);
        }
        if let Some((_, why)) = findings.failures.first() {
            return Err(Error::Invalid { what: format!("namespace {key}"), why: why.clone() });
        }
        let grace = u64::try_from(findings.grace_seconds).unwrap_or(0);
        let wait = match grace {
            0 if findings.remaining.is_empty() => LATEST, // a group that does not answer
            0 => SOON,
            grace => Duration::from_secs(grace / 2 + 1),
        };
        Ok(Some(wait.min(LATEST)))
    }
}

/// What deleting one kind's objects left.
struct Left {
    kind: ApiKind,
    count: usize,
    finalizers: Vec<String>,
    grace_seconds: i64,
}

impl NamespaceController {
    async fn empty(&self, namespace: &str) -> Result<Findings, Error> {
        let discovery = dynamic::discover(&self.scope.client).await?;
        let mut findings = Findings { undiscovered: discovery.failed, ..Findings::default() };
        let deletable = |kind: &ApiKind| kind.namespaced && kind.has_verb("delete") && kind.has_verb("list");
        let is_pods = |kind: &ApiKind| kind.group.is_empty() && kind.plural == "pods";
        let (pods, rest): (Vec<_>, Vec<_>) = discovery.kinds.into_iter().filter(deletable).partition(is_pods);
        // Pods go before what they use: their ends may need their secrets, claims and policies.
        for kinds in [pods, rest] {
            self.empty_kinds(namespace, kinds, &mut findings).await;
            if !findings.remaining.is_empty() || !findings.failures.is_empty() {
                break;
            }
        }
        Ok(findings)
    }

    async fn empty_kinds(&self, namespace: &str, kinds: Vec<ApiKind>, findings: &mut Findings) {
        let work = kinds.into_iter().map(|kind| async move {
            let name = kind.qualified();
            (name, self.empty_kind(namespace, kind).await)
        });
        let mut running = futures::stream::iter(work).buffer_unordered(KINDS_AT_ONCE);
        while let Some((name, outcome)) = running.next().await {
            match outcome {
                Ok(left) if left.count == 0 => {}
                Ok(left) => {
                    let name = format!("{}.{}", left.kind.plural, left.kind.group);
                    findings.remaining.insert(name, left.count);
                    for finalizer in left.finalizers {
                        *findings.finalizers.entry(finalizer).or_default() += 1;
                    }
                    findings.grace_seconds = findings.grace_seconds.max(left.grace_seconds);
                }
                Err(error) => findings.failures.push((name, error.to_string())),
            }
        }
    }

    async fn empty_kind(&self, namespace: &str, kind: ApiKind) -> Result<Left, Error> {
        let api = Dynamic::new(self.scope.client.clone(), &kind, namespace);
        let background = DeleteParams { propagation: Some("Background"), ..DeleteParams::default() };
        let mut left = Left { kind, count: 0, finalizers: Vec::new(), grace_seconds: 0 };
        // Most kinds have nothing in most namespaces; one look spares the deletion.
        if self.count(&api, &mut left).await? == 0 {
            return Ok(left);
        }
        if left.kind.has_verb("deletecollection") {
            match api.delete_collection(&background).await {
                Err(error) if error.is_not_found() => {}
                other => other?,
            }
        } else {
            self.delete_each(&api, &background).await?;
        }
        self.count(&api, &mut left).await?;
        Ok(left)
    }

    async fn delete_each(&self, api: &Dynamic, params: &DeleteParams) -> Result<(), Error> {
        let mut page = ListParams { limit: Some(PAGE), ..ListParams::default() };
        loop {
            let (_, next, objects) = api.list(&page).await?;
            for object in objects {
                match api.delete(&object.name, params).await {
                    Err(error) if error.is_not_found() => {}
                    other => other?,
                }
            }
            match next {
                Some(token) => page.continue_token = Some(token),
                None => return Ok(()),
            }
        }
    }

    async fn count(&self, api: &Dynamic, left: &mut Left) -> Result<usize, Error> {
        (left.count, left.grace_seconds) = (0, 0);
        left.finalizers.clear();
        let mut page = ListParams { limit: Some(PAGE), ..ListParams::default() };
        loop {
            let (_, next, objects) = api.list(&page).await?;
            for object in objects {
                left.count += 1;
                left.grace_seconds =
                    left.grace_seconds.max(object.deletion_grace_period_seconds.unwrap_or(0));
                left.finalizers.extend(object.finalizers);
            }
            match next {
                Some(token) => page.continue_token = Some(token),
                None => return Ok(left.count),
            }
        }
    }

    async fn write_status(&self, namespace: &Namespace, findings: &Findings) -> Result<Namespace, Error> {
        let current = namespace.status.clone().unwrap_or_default();
        let status = core::status(&current, findings, now());
        if status == current {
            return Ok(namespace.clone());
        }
        let mut changed = namespace.clone();
        changed.status = Some(status);
        Ok(Api::<Namespace>::all(self.scope.client.clone()).update_status(&changed).await?)
    }

    /// Nothing is left: the namespace's own finalizer goes, and the namespace with it.
    async fn finalize(&self, namespace: &Namespace) -> Result<(), Error> {
        let mut changed = namespace.clone();
        if let Some(finalizers) = changed.spec.as_mut().and_then(|s| s.finalizers.as_mut()) {
            finalizers.retain(|f| f != FINALIZER);
        }
        let api = Api::<Namespace>::all(self.scope.client.clone());
        match api.update_subresource(&changed, "finalize").await {
            Err(error) if error.is_not_found() => Ok(()),
            other => Ok(other.map(drop)?),
        }
    }
}

//! Static pods: manifests in a folder, run without asking the API, shown there by mirror pods.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use amphipod_client::{Api, DeleteParams, Resource};
use k8s_openapi::api::core::v1::{Pod, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use notify::Watcher;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::context::Context;
use crate::pod::{CONFIG_HASH, CONFIG_MIRROR, CONFIG_SEEN, CONFIG_SOURCE, annotation, is_mirror};
use crate::pods::Pods;

/// The folder is read again this often, also without a sign of change (upstream's interval).
const RESCAN: Duration = Duration::from_secs(20);
/// Editors write in several steps; one reading after the last is enough.
const SETTLE: Duration = Duration::from_millis(100);
/// Larger files are no manifests.
const MAX_MANIFEST_BYTES: u64 = 10 << 20;

type Known = BTreeMap<String, Arc<Pod>>;

/// Reads the folder once. This comes before anything that ends containers nobody asked for.
pub fn start(context: &Context, pods: &Arc<Pods>, folder: &Path) -> Known {
    apply(context, pods, folder, &Known::new())
}

fn apply(context: &Context, pods: &Arc<Pods>, folder: &Path, known: &Known) -> Known {
    let found = read_folder(folder, &context.config.node_name);
    for pod in known.values().filter(|p| !found.contains_key(p.uid())) {
        pods.remove(pod);
    }
    for pod in found.values().filter(|p| !known.contains_key(p.uid())) {
        pods.set(pod.clone());
    }
    found
}

/// Follows the folder until cancelled.
pub async fn run(
    context: Arc<Context>,
    pods: Arc<Pods>,
    folder: PathBuf,
    mut known: Known,
    cancel: CancellationToken,
) {
    let (sender, mut changes) = tokio::sync::mpsc::channel(1);
    let watcher = notify::recommended_watcher(move |_| {
        let _ = sender.try_send(()); // a full queue is a sign already given
    });
    let _watcher = watcher.ok().and_then(|mut w| {
        w.watch(&folder, notify::RecursiveMode::NonRecursive).ok()?;
        Some(w)
    });
    loop {
        known = apply(&context, &pods, &folder, &known);
        mirror(&context, &pods, &known).await;
        tokio::select! {
            () = cancel.cancelled() => return,
            Some(()) = changes.recv() => tokio::time::sleep(SETTLE).await,
            () = tokio::time::sleep(RESCAN) => {}
        }
    }
}

fn read_folder(folder: &Path, node: &str) -> BTreeMap<String, Arc<Pod>> {
    let mut pods = BTreeMap::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        let fits = entry.metadata().is_ok_and(|m| m.is_file() && m.len() <= MAX_MANIFEST_BYTES);
        if hidden || !fits {
            continue;
        }
        match std::fs::read_to_string(&path).map_err(|e| e.to_string()).and_then(|text| parse(&text, node)) {
            Ok(pod) => {
                pods.insert(pod.uid().to_owned(), Arc::new(pod));
            }
            Err(error) => warn!(file = %path.display(), error, "a static pod manifest could not be used"),
        }
    }
    pods
}

/// A manifest as a pod of this node: its identity follows from its contents.
fn parse(text: &str, node: &str) -> Result<Pod, String> {
    let value: Value = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
    if value["kind"] != "Pod" {
        return Err(format!("expected kind Pod, not {}", value["kind"]));
    }
    let mut pod = Pod::decode(value.to_string().as_bytes()).map_err(|e| e.to_string())?;
    let name = pod.metadata.name.clone().filter(|n| !n.is_empty()).ok_or("metadata.name is missing")?;
    let mut hasher = crate::pod::Fnv::default();
    hasher.write(value.to_string().as_bytes());
    hasher.write(node.as_bytes());
    let (a, b) = (hasher.finish(), {
        hasher.write(b"second half");
        hasher.finish()
    });
    let hash = format!("{a:016x}{b:016x}");
    pod.metadata.name = Some(format!("{name}-{node}"));
    pod.metadata.namespace.get_or_insert_with(|| "default".to_owned());
    pod.metadata.uid.get_or_insert_with(|| hash.clone());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(CONFIG_SOURCE.to_owned(), "file".to_owned());
    annotations.insert(CONFIG_HASH.to_owned(), hash);
    let spec = pod.spec.as_mut().ok_or("spec is missing")?;
    spec.node_name = Some(node.to_owned());
    spec.tolerations.get_or_insert_default().push(Toleration {
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        ..Toleration::default()
    });
    Ok(pod)
}

/// Makes the API show exactly the static pods that are.
async fn mirror(context: &Context, pods: &Arc<Pods>, statics: &BTreeMap<String, Arc<Pod>>) {
    let selector = amphipod_client::ListParams {
        field_selector: Some(format!("spec.nodeName={}", context.config.node_name)),
        ..Default::default()
    };
    let Ok((_, all)) = Api::<Pod>::all(context.client.clone()).list(&selector).await else { return };
    let mut mirrors: BTreeMap<String, Pod> =
        all.into_iter().filter(is_mirror).map(|p| (p.key(), p)).collect();
    for pod in statics.values() {
        let hash = annotation(pod, CONFIG_HASH).unwrap_or_default();
        let found = mirrors.remove(&pod.key());
        let right =
            found.as_ref().is_some_and(|m| annotation(m, CONFIG_MIRROR) == Some(hash) && !m.is_terminating());
        if let Some(mirror) = found {
            if right {
                pods.set(Arc::new(mirror));
                continue;
            }
            delete(context, &mirror).await;
        }
        let api = Api::<Pod>::namespaced(context.client.clone(), pod.namespace());
        match api.create(&mirror_of(context, pod, hash)).await {
            Ok(made) => pods.set(Arc::new(made)),
            Err(error) => debug!(%error, pod = pod.name(), "a mirror pod could not be made"),
        }
    }
    for stale in mirrors.values() {
        delete(context, stale).await;
    }
}

async fn delete(context: &Context, mirror: &Pod) {
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        uid: Some(mirror.uid().to_owned()),
        ..DeleteParams::default()
    };
    let api = Api::<Pod>::namespaced(context.client.clone(), mirror.namespace());
    if let Err(error) = api.delete(mirror.name(), &params).await {
        debug!(%error, pod = mirror.name(), "a mirror pod could not be deleted");
    }
}

fn mirror_of(context: &Context, pod: &Pod, hash: &str) -> Pod {
    let mut mirror = pod.clone();
    mirror.metadata.uid = None;
    mirror.metadata.resource_version = None;
    let annotations = mirror.metadata.annotations.get_or_insert_default();
    annotations.insert(CONFIG_MIRROR.to_owned(), hash.to_owned());
    annotations.insert(CONFIG_SEEN.to_owned(), jiff::Timestamp::now().to_string());
    let node = context.node.get(&context.config.node_name);
    mirror.metadata.owner_references = node.map(|node| {
        vec![OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: node.name().to_owned(),
            uid: node.uid().to_owned(),
            controller: Some(true),
            ..OwnerReference::default()
        }]
    });
    mirror
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_follows_contents() {
        let text = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  containers:\n  - name: a\n    image: x\n";
        let pod = parse(text, "n1").unwrap();
        assert_eq!((pod.name(), pod.namespace()), ("web-n1", "default"));
        assert_eq!(annotation(&pod, CONFIG_SOURCE), Some("file"));
        assert_eq!(parse(text, "n1").unwrap().uid(), pod.uid());
        assert_ne!(parse(&text.replace("image: x", "image: z"), "n1").unwrap().uid(), pod.uid());
        assert!(parse("kind: Service", "n1").is_err());
    }
}

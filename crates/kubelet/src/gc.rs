//! Housekeeping: images nobody uses when the disk fills, logs that grow, within bounds.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use amphipod_cri::v1::Image;
use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::context::Context;
use crate::events;
use crate::node::machine::disk;
use crate::pods::Pods;

const IMAGE_CHECK: Duration = Duration::from_secs(300);
/// A young image may be about to be used.
const MIN_IMAGE_AGE: SignedDuration = SignedDuration::from_secs(120);
const LOG_CHECK: Duration = Duration::from_secs(10);
/// Upstream's defaults for container logs.
const MAX_LOG_BYTES: u64 = 10 << 20;
const MAX_LOG_FILES: usize = 5;

#[derive(Clone, Copy, Debug)]
struct Seen {
    first: Timestamp,
    used: Timestamp,
}

/// Images to remove, least recently used first, until `to_free` bytes are reached.
fn choose(
    images: &[Image],
    seen: &BTreeMap<String, (Timestamp, Timestamp)>,
    in_use: &HashSet<String>,
    to_free: u64,
    now: Timestamp,
) -> Vec<String> {
    let free = |image: &&Image| {
        let named = |name: &String| in_use.contains(name);
        !image.pinned
            && !in_use.contains(&image.id)
            && !image.repo_tags.iter().any(named)
            && !image.repo_digests.iter().any(named)
            && seen.get(&image.id).is_some_and(|(first, _)| now.duration_since(*first) > MIN_IMAGE_AGE)
    };
    let mut candidates: Vec<&Image> = images.iter().filter(free).collect();
    candidates.sort_by_key(|i| seen.get(&i.id).map(|(_, used)| *used));
    let mut freed = 0;
    let mut chosen = Vec::new();
    for image in candidates {
        if freed >= to_free {
            break;
        }
        freed += image.size;
        chosen.push(image.id.clone());
    }
    chosen
}

/// Removes unused images whenever the disk is fuller than the high mark.
pub async fn images(context: Arc<Context>, pods: Arc<Pods>, cancel: CancellationToken) {
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(IMAGE_CHECK) => {}
        }
        let Ok(all) = context.images.list().await else { continue };
        let now = Timestamp::now();
        let in_use = used_images(&context, &pods);
        for image in &all {
            let entry =
                seen.entry(image.id.clone()).or_insert(Seen { first: now, used: Timestamp::UNIX_EPOCH });
            if in_use.contains(&image.id) || image.repo_tags.iter().any(|t| in_use.contains(t)) {
                entry.used = now;
            }
        }
        seen.retain(|id, _| all.iter().any(|i| i.id == *id));
        let disk = disk(&context.config.root_dir).unwrap_or_default();
        if disk.total == 0 {
            context.node_event(events::invalid_disk_capacity(disk.total));
            continue;
        }
        let used_percent = 100 - disk.available * 100 / disk.total;
        if used_percent < u64::from(context.config.image_gc_high_percent) {
            continue;
        }
        let target = disk.total / 100 * u64::from(100 - context.config.image_gc_low_percent);
        let wanted = target.saturating_sub(disk.available);
        let times = seen.iter().map(|(id, s)| (id.clone(), (s.first, s.used))).collect();
        let mut freed = 0;
        for id in choose(&all, &times, &in_use, wanted, now) {
            info!(image = id, used_percent, "removing an unused image");
            match context.images.remove(&id).await {
                Ok(()) => freed += all.iter().find(|i| i.id == id).map_or(0, |i| i.size),
                Err(error) => debug!(%error, image = id, "an image could not be removed"),
            }
        }
        if freed < wanted {
            context.node_event(events::disk_not_freed(wanted, freed));
        }
    }
}

fn used_images(context: &Context, pods: &Pods) -> HashSet<String> {
    let mut used: HashSet<String> = context.config.pinned_images.iter().cloned().collect();
    for pod in pods.list() {
        let written = crate::pod::containers(&pod).filter_map(|c| c.container.image.clone());
        used.extend(written.map(|i| crate::runtime::images::with_default_tag(&i)));
        let status = pod.status.clone().unwrap_or_default();
        let lists =
            [status.init_container_statuses, status.container_statuses, status.ephemeral_container_statuses];
        for container in lists.into_iter().flatten().flatten() {
            used.extend([container.image, container.image_id]);
        }
    }
    used
}

/// Moves logs aside that have grown too large, keeping a few.
pub async fn logs(context: Arc<Context>, pods: Arc<Pods>, cancel: CancellationToken) {
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(LOG_CHECK) => {}
        }
        for pod in pods.list() {
            let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.clone()).unwrap_or_default();
            for status in statuses.iter().filter(|s| s.state.as_ref().is_some_and(|s| s.running.is_some())) {
                let dir = {
                    use amphipod_client::Resource;
                    context.config.pod_log_dir(pod.namespace(), pod.name(), pod.uid()).join(&status.name)
                };
                let path = dir.join(format!("{}.log", status.restart_count));
                let id = status.container_id.as_deref().and_then(|id| id.split_once("://")).map(|(_, id)| id);
                if let Some(id) =
                    id.filter(|_| std::fs::metadata(&path).is_ok_and(|m| m.len() > MAX_LOG_BYTES))
                {
                    rotate(&context, &path, id).await;
                }
            }
        }
    }
}

async fn rotate(context: &Context, path: &Path, id: &str) {
    let aside = PathBuf::from(format!("{}.{}", path.display(), Timestamp::now().strftime("%Y%m%d-%H%M%S")));
    if std::fs::rename(path, &aside).is_err() {
        return;
    }
    if let Err(error) = context.runtime.reopen_log(id).await {
        debug!(%error, "a log could not be reopened");
        let _ = std::fs::rename(&aside, path); // the runtime still writes to it
        return;
    }
    for old in surplus(path) {
        let _ = std::fs::remove_file(old);
    }
}

/// Rotated files beyond the newest few.
fn surplus(path: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return Vec::new();
    };
    let prefix = format!("{name}.");
    let mut rotated: Vec<PathBuf> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with(&prefix))
        .map(|e| e.path())
        .collect();
    rotated.sort();
    rotated.truncate(rotated.len().saturating_sub(MAX_LOG_FILES - 1));
    rotated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unused_go_first_and_the_used_stay() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let image = |id: &str, size, pinned| Image { id: id.into(), size, pinned, ..Image::default() };
        let images = [
            image("a", 10, false),
            image("b", 10, false),
            image("c", 10, false),
            image("p", 10, true),
            image("y", 10, false),
        ];
        let seen = [("a", (0, 50)), ("b", (0, 20)), ("c", (0, 30)), ("p", (0, 0)), ("y", (990, 0))]
            .map(|(id, (first, used))| (id.to_owned(), (at(first), at(used))))
            .into();
        let in_use = HashSet::from(["c".to_owned()]);
        assert_eq!(choose(&images, &seen, &in_use, 11, at(1000)), ["b", "a"]);
        assert_eq!(choose(&images, &seen, &in_use, 5, at(1000)), ["b"]);
        assert!(choose(&images, &seen, &in_use, 0, at(1000)).is_empty());
    }

    #[test]
    fn few_rotated_logs_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        for n in 0..7 {
            std::fs::write(dir.path().join(format!("0.log.2024-{n}")), "").unwrap();
        }
        let names: Vec<_> = surplus(&path).into_iter().map(|p| p.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["0.log.2024-0", "0.log.2024-1", "0.log.2024-2"]);
    }
}

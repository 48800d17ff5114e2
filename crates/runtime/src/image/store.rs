//! Which images are here, under which names, and where their layers are.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{
    oci::ImageConfig,
    reference::Reference,
    unpack::{Unpacked, unpack_layer},
};
use crate::{
    config::Paths,
    error::Error,
    shim::{read_json, write_json},
};

const INDEX_FILE: &str = "images.json";
/// Hexadecimal digits of a layer's digest in its directory name: short paths, 128 bits.
const LAYER_NAME_DIGITS: usize = 32;
/// Digits of an image ID from which it may be abbreviated.
const MIN_ID_PREFIX: usize = 8;

/// One image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageRecord {
    /// `sha256:...` of the configuration.
    pub id: String,
    pub config: ImageConfig,
    /// Bytes of all layers, unpacked.
    pub size_bytes: u64,
    /// `registry/repository:tag`.
    pub tags: BTreeSet<String>,
    /// `registry/repository@digest`.
    pub digests: BTreeSet<String>,
    /// Part of the runtime; not to be collected as garbage.
    #[serde(default)]
    pub pinned: bool,
}

impl ImageRecord {
    /// The most precise public name: a digest if one is known.
    pub fn image_ref(&self) -> String {
        self.digests.first().cloned().unwrap_or_else(|| self.id.clone())
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct LayerRecord {
    size_bytes: u64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Index {
    images: BTreeMap<String, ImageRecord>,
    /// Unpacked layers by diff ID.
    layers: BTreeMap<String, LayerRecord>,
}

/// All images of this machine.
#[derive(Debug)]
pub struct ImageStore {
    paths: Paths,
    index: Mutex<Index>,
    /// Makes names of temporary directories unique.
    counter: std::sync::atomic::AtomicU64,
    /// One pull or import per image at a time.
    pub pulls: tokio::sync::Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl ImageStore {
    /// Reads the index and removes what an interrupted pull left behind.
    pub fn open(paths: Paths) -> Result<ImageStore, Error> {
        let file = paths.images().join(INDEX_FILE);
        let index = match read_json(&file) {
            Ok(index) => index,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Index::default(),
            Err(source) => return Err(Error::Io { what: "read", path: file, source }),
        };
        let store = ImageStore {
            paths,
            index: Mutex::new(index),
            counter: std::sync::atomic::AtomicU64::new(0),
            pulls: tokio::sync::Mutex::default(),
        };
        store.sweep();
        Ok(store)
    }

    /// Removes layer directories nobody refers to.
    fn sweep(&self) {
        let mut index = self.index.lock();
        let used: BTreeSet<String> =
            index.images.values().flat_map(|image| image.config.rootfs.diff_ids.clone()).collect();
        index.layers.retain(|diff_id, _| used.contains(diff_id));
        let names: BTreeSet<String> = index.layers.keys().map(|diff_id| layer_name(diff_id)).collect();
        let Ok(entries) = std::fs::read_dir(self.paths.layers()) else { return };
        for entry in entries.flatten() {
            if !names.contains(entry.file_name().to_string_lossy().as_ref())
                && let Err(error) = std::fs::remove_dir_all(entry.path())
            {
                tracing::warn!(path = %entry.path().display(), %error, "cannot remove an unused layer");
            }
        }
    }

    fn save(&self, index: &Index) -> Result<(), Error> {
        let file = self.paths.images().join(INDEX_FILE);
        write_json(&file, index).map_err(Error::io("write", file))
    }

    /// A file for downloads; the caller removes it.
    pub fn temporary(&self) -> PathBuf {
        let number = self.counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.paths.images().join(format!("tmp-{}-{number}", std::process::id()))
    }

    /// Every image.
    pub fn list(&self) -> Vec<ImageRecord> {
        self.index.lock().images.values().cloned().collect()
    }

    /// Finds an image by ID (full or abbreviated) or by any reference a person may write.
    pub fn find(&self, name: &str) -> Option<ImageRecord> {
        let index = self.index.lock();
        if let Some(image) = index.images.get(name) {
            return Some(image.clone());
        }
        if let Ok(reference) = Reference::parse(name) {
            let text = reference.to_string();
            let named = |image: &&ImageRecord| image.tags.contains(&text) || image.digests.contains(&text);
            if let Some(image) = index.images.values().find(named) {
                return Some(image.clone());
            }
        }
        let prefix = name.strip_prefix("sha256:").unwrap_or(name);
        if prefix.len() < MIN_ID_PREFIX || !prefix.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let full = format!("sha256:{prefix}");
        let mut matching = index.images.iter().filter(|(id, _)| id.starts_with(&full));
        match (matching.next(), matching.next()) {
            (Some((_, image)), None) => Some(image.clone()),
            _ => None,
        }
    }

    /// Like [`Self::find`], with the error CRI wants.
    pub fn get(&self, name: &str) -> Result<ImageRecord, Error> {
        self.find(name).ok_or_else(|| Error::NotFound { kind: "image", id: name.into() })
    }

    /// Whether a layer is unpacked already.
    pub fn has_layer(&self, diff_id: &str) -> bool {
        self.index.lock().layers.contains_key(diff_id)
    }

    /// Directories of an image's layers, lowest first.
    pub fn layer_directories(&self, image: &ImageRecord) -> Vec<PathBuf> {
        image.config.rootfs.diff_ids.iter().map(|diff_id| self.layer_directory(diff_id)).collect()
    }

    fn layer_directory(&self, diff_id: &str) -> PathBuf {
        self.paths.layers().join(layer_name(diff_id))
    }

    /// Unpacks a layer that must turn out to be `diff_id`. Blocking.
    pub fn add_layer(&self, reader: impl Read, diff_id: &str) -> Result<(), Error> {
        let staging = self.staging()?;
        let outcome = unpack_layer(reader, &staging).map_err(Error::io("unpack layer into", &staging));
        let outcome = outcome.and_then(|unpacked| {
            if unpacked.diff_id == diff_id {
                self.adopt_layer(&staging, &unpacked)
            } else {
                Err(Error::Archive(format!("layer is {}, its image says {diff_id}", unpacked.diff_id)))
            }
        });
        if outcome.is_err() {
            drop(std::fs::remove_dir_all(&staging));
        }
        outcome
    }

    /// An empty directory on the same file system as the layers.
    pub fn staging(&self) -> Result<PathBuf, Error> {
        use std::os::unix::fs::PermissionsExt;
        let number = self.counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let staging = self.paths.layers().join(format!("new-{}-{number}", std::process::id()));
        std::fs::create_dir(&staging).map_err(Error::io("create", &staging))?;
        std::fs::set_permissions(&staging, std::fs::Permissions::from_mode(0o755))
            .map_err(Error::io("set mode of", &staging))?;
        Ok(staging)
    }

    /// Makes a staged directory the layer it turned out to be.
    pub fn adopt_layer(&self, staging: &Path, unpacked: &Unpacked) -> Result<(), Error> {
        let mut index = self.index.lock();
        if index.layers.contains_key(&unpacked.diff_id) {
            drop(std::fs::remove_dir_all(staging));
            return Ok(());
        }
        let target = self.layer_directory(&unpacked.diff_id);
        if target.exists() {
            std::fs::remove_dir_all(&target).map_err(Error::io("remove", &target))?;
        }
        std::fs::rename(staging, &target).map_err(Error::io("rename to", &target))?;
        index.layers.insert(unpacked.diff_id.clone(), LayerRecord { size_bytes: unpacked.size_bytes });
        self.save(&index)
    }

    /// Registers an image whose layers are all there, or adds names to one that is known.
    pub fn add_image(
        &self,
        id: &str,
        config: ImageConfig,
        tag: Option<String>,
        digest: Option<String>,
        pinned: bool,
    ) -> Result<ImageRecord, Error> {
        let mut index = self.index.lock();
        let size_bytes = config
            .rootfs
            .diff_ids
            .iter()
            .filter_map(|diff_id| index.layers.get(diff_id))
            .map(|layer| layer.size_bytes)
            .sum();
        if let Some(tag) = &tag {
            for image in index.images.values_mut() {
                image.tags.remove(tag);
            }
        }
        let image = index.images.entry(id.to_string()).or_insert_with(|| ImageRecord {
            id: id.to_string(),
            config,
            size_bytes,
            tags: BTreeSet::new(),
            digests: BTreeSet::new(),
            pinned,
        });
        image.tags.extend(tag);
        image.digests.extend(digest);
        image.pinned |= pinned;
        let image = image.clone();
        self.save(&index)?;
        Ok(image)
    }

    /// Forgets built-in images that are built in no longer, so that an upgraded binary replaces its own.
    pub fn retain_pinned(&self, current: &BTreeSet<String>) -> Result<(), Error> {
        let stale: Vec<String> = {
            let index = self.index.lock();
            let pinned = index.images.values().filter(|image| image.pinned && !current.contains(&image.id));
            pinned.map(|image| image.id.clone()).collect()
        };
        for id in stale {
            let mut index = self.index.lock();
            if let Some(image) = index.images.get_mut(&id) {
                // Containers may still run from it: only the mark goes, garbage collection does the rest.
                image.pinned = false;
                self.save(&index)?;
            }
        }
        Ok(())
    }

    /// Removes an image under all its names, and the layers only it had. Unknown names are fine. Containers
    /// that run from it keep their mounted layers: `in_use` lists the layers of existing containers.
    pub fn remove(&self, name: &str, in_use: &BTreeSet<String>) -> Result<(), Error> {
        let Some(image) = self.find(name) else { return Ok(()) };
        let mut index = self.index.lock();
        index.images.remove(&image.id);
        let used: BTreeSet<&String> =
            index.images.values().flat_map(|image| &image.config.rootfs.diff_ids).chain(in_use).collect();
        let unused: Vec<String> =
            image.config.rootfs.diff_ids.iter().filter(|diff_id| !used.contains(diff_id)).cloned().collect();
        for diff_id in &unused {
            index.layers.remove(diff_id);
        }
        self.save(&index)?;
        for diff_id in unused {
            let directory = self.layer_directory(&diff_id);
            if let Err(error) = std::fs::remove_dir_all(&directory) {
                tracing::warn!(path = %directory.display(), %error, "cannot remove a layer");
            }
        }
        Ok(())
    }

    /// Bytes of all unpacked layers, and where they are.
    pub fn usage(&self) -> (u64, PathBuf) {
        let bytes = self.index.lock().layers.values().map(|layer| layer.size_bytes).sum();
        (bytes, self.paths.layers())
    }
}

fn layer_name(diff_id: &str) -> String {
    diff_id.trim_start_matches("sha256:").chars().take(LAYER_NAME_DIGITS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn store(dir: &Path) -> ImageStore {
        let paths = Paths::new(&Config::new(dir, "/bin/true".into()));
        for path in paths.all() {
            std::fs::create_dir_all(path).unwrap();
        }
        ImageStore::open(paths).unwrap()
    }

    fn add(store: &ImageStore, id: &str, tag: &str) {
        store.add_image(id, ImageConfig::default(), Some(tag.into()), None, false).unwrap();
    }

    #[test]
    fn images_are_found_by_every_name_and_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let id = format!("sha256:{}", "ab".repeat(32));
        add(&store(dir.path()), &id, "docker.io/library/busybox:1");
        let again = store(dir.path());
        for name in ["busybox:1", "docker.io/library/busybox:1", &id, &"ab".repeat(6)] {
            assert_eq!(again.find(name).map(|image| image.id).as_ref(), Some(&id), "{name}");
        }
        assert!(again.find("busybox").is_none());
        again.remove("busybox:1", &BTreeSet::new()).unwrap();
        again.remove("busybox:1", &BTreeSet::new()).unwrap();
        assert!(again.list().is_empty());
    }

    #[test]
    fn a_tag_moves_to_the_newest_image() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        add(&store, "sha256:old", "docker.io/library/a:1");
        add(&store, "sha256:new", "docker.io/library/a:1");
        assert_eq!(store.find("a:1").unwrap().id, "sha256:new");
        assert!(store.find("sha256:old").unwrap().tags.is_empty());
    }
}

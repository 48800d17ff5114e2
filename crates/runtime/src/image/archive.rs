//! Archives written by `docker save` and by OCI tools.
//!
//! An archive is a tar file whose members refer to each other in any order, so it is indexed first (name,
//! offset, length) and members are then read in place.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use serde::Deserialize;

use super::{
    oci::{Descriptor, ImageConfig, Manifest},
    reference::Reference,
    store::{ImageRecord, ImageStore},
    unpack::{decompress, digest},
};
use crate::error::Error;

/// Indexes, manifests and configurations are small.
const MAX_DOCUMENT_BYTES: u64 = 8 << 20;
/// Manifests nested in indexes; real archives need two.
const MAX_INDEX_DEPTH: u32 = 4;
const MAX_MEMBERS: usize = 100_000;
const MAX_LINK_HOPS: u32 = 8;
const REFERENCE_ANNOTATIONS: &[&str] = &["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// One entry of docker's `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Registers every image of the archive at `path`; `fallback` names images that carry no name. Blocking.
pub fn import(store: &ImageStore, path: &Path, fallback: Option<&str>) -> Result<Vec<String>, Error> {
    let mut archive = ArchiveFile::open(store, path)?;
    let names = if archive.has("index.json") {
        import_oci(store, &mut archive, fallback)
    } else if archive.has("manifest.json") {
        import_docker(store, &mut archive, fallback)
    } else {
        Err(Error::Archive("neither index.json (OCI) nor manifest.json (docker) is in it".into()))
    };
    archive.close();
    names
}

fn import_docker(
    store: &ImageStore,
    archive: &mut ArchiveFile,
    fallback: Option<&str>,
) -> Result<Vec<String>, Error> {
    let images: Vec<DockerImage> = archive.document("manifest.json")?;
    let mut names = Vec::new();
    for image in images {
        let bytes = archive.bytes(&image.config)?;
        let members: Vec<String> = image.layers;
        let id = digest(&bytes);
        let config = add_layers(store, archive, &bytes, &members)?;
        let mut tags: Vec<String> = image.repo_tags.unwrap_or_default();
        if tags.is_empty() {
            tags.extend(fallback.map(str::to_string));
        }
        names.extend(register(store, &id, &config, &tags, None)?);
    }
    Ok(names)
}

fn import_oci(
    store: &ImageStore,
    archive: &mut ArchiveFile,
    fallback: Option<&str>,
) -> Result<Vec<String>, Error> {
    let index: Manifest = archive.document("index.json")?;
    let mut names = Vec::new();
    for descriptor in &index.manifests {
        let annotated = REFERENCE_ANNOTATIONS.iter().find_map(|key| descriptor.annotations.get(*key));
        let name = match (annotated, fallback) {
            // A bare tag is all that some tools write; it needs a repository to go with.
            (Some(name), _) if name.contains('/') || name.contains(':') => Some(name.clone()),
            (_, Some(name)) => Some(name.to_string()),
            (Some(name), None) => Some(name.clone()),
            (None, None) => None,
        };
        let manifest = resolve(archive, descriptor, MAX_INDEX_DEPTH)?;
        let config_digest = manifest
            .config
            .as_ref()
            .map(|config| config.digest.clone())
            .ok_or_else(|| Error::Archive("a manifest names no configuration".into()))?;
        let bytes = archive.bytes(&blob(&config_digest))?;
        if digest(&bytes) != config_digest {
            return Err(Error::Archive(format!("{config_digest} is damaged")));
        }
        let members: Vec<String> = manifest.layers.iter().map(|layer| blob(&layer.digest)).collect();
        let config = add_layers(store, archive, &bytes, &members)?;
        let tags: Vec<String> = name.into_iter().collect();
        names.extend(register(store, &config_digest, &config, &tags, Some(&descriptor.digest))?);
    }
    Ok(names)
}

/// Follows indexes down to this machine's manifest.
fn resolve(archive: &mut ArchiveFile, descriptor: &Descriptor, depth: u32) -> Result<Manifest, Error> {
    let manifest: Manifest = archive.document(&blob(&descriptor.digest))?;
    if manifest.manifests.is_empty() {
        return Ok(manifest);
    }
    let next = manifest.for_this_machine().filter(|_| depth > 0).cloned();
    let next = next.ok_or_else(|| Error::Archive("it holds no image for this machine".into()))?;
    resolve(archive, &next, depth - 1)
}

fn blob(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

fn add_layers(
    store: &ImageStore,
    archive: &mut ArchiveFile,
    config: &[u8],
    members: &[String],
) -> Result<ImageConfig, Error> {
    let config: ImageConfig =
        serde_json::from_slice(config).map_err(|error| Error::Archive(format!("configuration: {error}")))?;
    if config.rootfs.diff_ids.len() != members.len() {
        return Err(Error::Archive("the configuration does not fit the layers".into()));
    }
    for (member, diff_id) in members.iter().zip(&config.rootfs.diff_ids) {
        if !store.has_layer(diff_id) {
            store.add_layer(archive.member(member)?, diff_id)?;
        }
    }
    Ok(config)
}

/// Registers under each tag, or only by ID; returns what it can be called now.
fn register(
    store: &ImageStore,
    id: &str,
    config: &ImageConfig,
    tags: &[String],
    manifest_digest: Option<&str>,
) -> Result<Vec<String>, Error> {
    if tags.is_empty() {
        let image = store.add_image(id, config.clone(), None, None, false)?;
        return Ok(vec![image.id]);
    }
    let mut names = Vec::new();
    for tag in tags {
        let reference = Reference::parse(tag)?;
        let with_digest = manifest_digest.map(|digest| reference.with_digest(digest));
        let _: ImageRecord = store.add_image(id, config.clone(), reference.tagged(), with_digest, false)?;
        names.push(reference.to_string());
    }
    Ok(names)
}

enum Member {
    Bytes { offset: u64, length: u64 },
    Link(String),
}

/// An indexed archive.
struct ArchiveFile {
    file: File,
    members: BTreeMap<String, Member>,
    temporary: Option<std::path::PathBuf>,
}

impl ArchiveFile {
    fn open(store: &ImageStore, path: &Path) -> Result<ArchiveFile, Error> {
        let mut file = File::open(path).map_err(Error::io("open", path))?;
        let mut magic = [0u8; 4];
        let read = file.read(&mut magic).map_err(Error::io("read", path))?;
        file.rewind().map_err(Error::io("read", path))?;
        let compressed = read >= 2 && (magic[..2] == [0x1f, 0x8b] || magic == [0x28, 0xb5, 0x2f, 0xfd]);
        let mut temporary = None;
        if compressed {
            // Members are read at their offsets, which only a plain file has.
            let plain = store.temporary();
            let mut target = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(&plain)
                .map_err(Error::io("create", &plain))?;
            temporary = Some(plain.clone());
            let copied = decompress(&file).and_then(|mut reader| io::copy(&mut reader, &mut target));
            copied.map_err(Error::io("decompress into", plain))?;
            file = target;
        }
        let members = index(&mut file).map_err(Error::io("read archive", path))?;
        Ok(ArchiveFile { file, members, temporary })
    }

    fn close(self) {
        if let Some(path) = &self.temporary {
            drop(std::fs::remove_file(path));
        }
    }

    fn has(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    fn member(&mut self, name: &str) -> Result<io::Take<&mut File>, Error> {
        let mut name = name.to_string();
        for _ in 0..MAX_LINK_HOPS {
            match self.members.get(&name) {
                None => break,
                Some(Member::Link(target)) => name = target.clone(),
                Some(Member::Bytes { offset, length }) => {
                    let (offset, length) = (*offset, *length);
                    self.file.seek(SeekFrom::Start(offset)).map_err(|e| Error::Archive(e.to_string()))?;
                    return Ok((&mut self.file).take(length));
                }
            }
        }
        Err(Error::Archive(format!("{name} is missing")))
    }

    fn bytes(&mut self, name: &str) -> Result<Vec<u8>, Error> {
        let member = self.member(name)?;
        if member.limit() > MAX_DOCUMENT_BYTES {
            return Err(Error::Archive(format!("{name} is too large")));
        }
        let mut bytes = Vec::new();
        let mut member = member;
        member.read_to_end(&mut bytes).map_err(|error| Error::Archive(format!("{name}: {error}")))?;
        Ok(bytes)
    }

    fn document<T: serde::de::DeserializeOwned>(&mut self, name: &str) -> Result<T, Error> {
        serde_json::from_slice(&self.bytes(name)?).map_err(|error| Error::Archive(format!("{name}: {error}")))
    }
}

fn index(file: &mut File) -> io::Result<BTreeMap<String, Member>> {
    file.rewind()?;
    let mut members = BTreeMap::new();
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let path = entry.path()?.display().to_string();
        let name = path.trim_start_matches("./").to_string();
        match entry.header().entry_type() {
            tar::EntryType::Symlink | tar::EntryType::Link => {
                let target = entry.link_name()?.map(|target| target.to_path_buf()).unwrap_or_default();
                let hard = entry.header().entry_type() == tar::EntryType::Link;
                let base =
                    if hard { Path::new("") } else { Path::new(&name).parent().unwrap_or(Path::new("")) };
                members.insert(name.clone(), Member::Link(join(base, &target)));
            }
            kind if kind.is_file() => {
                let member = Member::Bytes { offset: entry.raw_file_position(), length: entry.size() };
                members.insert(name, member);
            }
            _ => {}
        }
        if members.len() > MAX_MEMBERS {
            return Err(io::Error::other("too many members"));
        }
    }
    Ok(members)
}

/// `base/target` with `..` resolved; docker links layers as `../<id>/layer.tar`.
fn join(base: &Path, target: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in base.join(target).components() {
        match part {
            std::path::Component::ParentDir => {
                parts.pop();
            }
            std::path::Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            _ => {}
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_inside_archives_resolve() {
        for (base, target, want) in
            [("a", "../b/layer.tar", "b/layer.tar"), ("", "x/y", "x/y"), ("a/b", "c", "a/b/c")]
        {
            assert_eq!(join(Path::new(base), Path::new(target)), want);
        }
    }

    #[test]
    fn digests_name_blobs() {
        assert_eq!(blob("sha256:abc"), "blobs/sha256/abc");
    }
}

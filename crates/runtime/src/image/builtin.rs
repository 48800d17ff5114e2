//! Images that come with the binary, so that a machine without a registry has something to run.

use std::{
    collections::BTreeSet,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use sha2::{Digest, Sha256};

use super::{
    oci::{ImageConfig, ProcessDefaults, RootFs, machine},
    reference::Reference,
    store::ImageStore,
    unpack::{Unpacked, digest, hex},
};
use crate::{
    config::{BuiltinFile, BuiltinImage, FileContent},
    error::Error,
};

/// Bytes copied and hashed at a time.
const COPY_CHUNK_BYTES: usize = 256 * 1024;

/// Registers `images`; layers that are there already are not written again. Blocking.
pub fn install(store: &ImageStore, images: &[BuiltinImage]) -> Result<(), Error> {
    let mut current = BTreeSet::new();
    for image in images {
        current.insert(install_one(store, image)?);
    }
    store.retain_pinned(&current)
}

fn install_one(store: &ImageStore, image: &BuiltinImage) -> Result<String, Error> {
    let reference = Reference::parse(&image.reference)?;
    let layer =
        identity(&image.files).map_err(|error| Error::Internal(format!("built-in image: {error}")))?;
    if !store.has_layer(&layer) {
        let staging = store.staging()?;
        let mut size_bytes = 0;
        for file in &image.files {
            size_bytes += write(&staging, file).map_err(Error::io("write built-in file into", &staging))?;
        }
        store.adopt_layer(&staging, &Unpacked { diff_id: layer.clone(), size_bytes })?;
    }
    let config = config(image, RootFs { diff_ids: vec![layer] });
    let bytes = serde_json::to_vec(&config).map_err(|error| Error::Internal(error.to_string()))?;
    // Two versions may have equal content and must still be two images: the name is part of the identity.
    let id = digest(&[bytes.as_slice(), image.reference.as_bytes()].concat());
    let with_digest = reference.with_digest(&id);
    store.add_image(&id, config, reference.tagged(), Some(with_digest), true)?;
    Ok(id)
}

/// The image document of a built-in image.
pub fn config(image: &BuiltinImage, rootfs: RootFs) -> ImageConfig {
    ImageConfig {
        architecture: machine().into(),
        os: "linux".into(),
        config: ProcessDefaults {
            user: image.user.clone(),
            env: image.env.clone(),
            entrypoint: image.entrypoint.clone(),
            cmd: image.cmd.clone(),
            working_dir: image.working_dir.clone(),
            stop_signal: String::new(),
        },
        rootfs,
    }
}

/// What the layer is known by. Copies of large files are recognised by size and time instead of content,
/// so that starting does not read them.
fn identity(files: &[BuiltinFile]) -> io::Result<String> {
    use std::os::unix::fs::MetadataExt;
    let mut hash = Sha256::new();
    for file in files {
        hash.update(file.path.as_bytes());
        hash.update(file.mode.to_be_bytes());
        match &file.content {
            FileContent::Bytes(bytes) => hash.update(Sha256::digest(bytes)),
            FileContent::Link(target) => hash.update(target.as_bytes()),
            FileContent::CopyOf(source) => {
                let metadata = source.metadata()?;
                hash.update(metadata.len().to_be_bytes());
                hash.update(metadata.mtime().to_be_bytes());
                hash.update(metadata.mtime_nsec().to_be_bytes());
            }
        }
    }
    Ok(format!("sha256:{}", hex(&hash.finalize())))
}

fn write(root: &Path, file: &BuiltinFile) -> io::Result<u64> {
    let target = root.join(file.path.trim_start_matches('/'));
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let size = match &file.content {
        FileContent::Link(link) => {
            std::os::unix::fs::symlink(link, &target)?;
            return Ok(0);
        }
        FileContent::Bytes(bytes) => {
            std::fs::write(&target, bytes)?;
            bytes.len() as u64
        }
        FileContent::CopyOf(source) => copy(source, &target)?,
    };
    std::fs::set_permissions(&target, std::fs::Permissions::from_mode(file.mode))?;
    Ok(size)
}

fn copy(source: &Path, target: &Path) -> io::Result<u64> {
    let mut from = std::fs::File::open(source)?;
    let mut to = std::fs::File::create(target)?;
    if rustix::fs::ioctl_ficlone(&to, &from).is_ok() {
        return Ok(from.metadata()?.len());
    }
    let mut buffer = vec![0u8; COPY_CHUNK_BYTES];
    let mut size = 0;
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return Ok(size);
        }
        io::Write::write_all(&mut to, &buffer[..length])?;
        size += length as u64;
    }
}

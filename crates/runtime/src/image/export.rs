//! Built-in images as an archive, so that a runtime of another make can import them.
//!
//! The format is that of `docker save`: every runtime's import reads it.

use std::{collections::BTreeSet, fs::File, io, path::Path};

use serde_json::json;

use super::{builtin, oci::RootFs, unpack::digest};
use crate::{
    config::{BuiltinFile, BuiltinImage, FileContent},
    error::Error,
};

/// Writes `images` into a new archive at `path`. Equal images give equal bytes. Blocking.
pub fn export(images: &[BuiltinImage], path: &Path) -> Result<(), Error> {
    let file = File::create(path).map_err(Error::io("create", path))?;
    write(images, file).map_err(Error::io("write", path))
}

fn write(images: &[BuiltinImage], file: File) -> io::Result<()> {
    let mut archive = tar::Builder::new(file);
    let mut manifest = Vec::new();
    let mut written = BTreeSet::new();
    for image in images {
        let layer = layer(&image.files)?;
        let layer_name = format!("{}.tar", hex_digest(&layer));
        let config = builtin::config(image, RootFs { diff_ids: vec![digest(&layer)] });
        let mut config = serde_json::to_value(&config)?;
        // OCI knows one type and demands its name.
        config["rootfs"]["type"] = "layers".into();
        let config = config.to_string().into_bytes();
        let config_name = format!("{}.json", hex_digest(&config));
        for (name, bytes) in [(&layer_name, &layer), (&config_name, &config)] {
            if written.insert(name.clone()) {
                append(&mut archive, name, 0o644, bytes)?;
            }
        }
        manifest
            .push(json!({ "Config": config_name, "RepoTags": [image.reference], "Layers": [layer_name] }));
    }
    append(&mut archive, "manifest.json", 0o644, &serde_json::to_vec(&manifest)?)?;
    archive.into_inner()?.sync_all()
}

fn hex_digest(bytes: &[u8]) -> String {
    digest(bytes).trim_start_matches("sha256:").to_owned()
}

fn layer(files: &[BuiltinFile]) -> io::Result<Vec<u8>> {
    let mut layer = tar::Builder::new(Vec::new());
    for file in files {
        let path = file.path.trim_start_matches('/');
        match &file.content {
            FileContent::Bytes(bytes) => append(&mut layer, path, file.mode, bytes)?,
            FileContent::CopyOf(source) => append(&mut layer, path, file.mode, &std::fs::read(source)?)?,
            FileContent::Link(target) => {
                let mut header = header(file.mode, 0);
                header.set_entry_type(tar::EntryType::Symlink);
                layer.append_link(&mut header, path, target)?;
            }
        }
    }
    layer.into_inner()
}

fn append<W: io::Write>(
    archive: &mut tar::Builder<W>,
    path: &str,
    mode: u32,
    bytes: &[u8],
) -> io::Result<()> {
    archive.append_data(&mut header(mode, bytes.len() as u64), path, bytes)
}

fn header(mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn image(reference: &str, version: &str) -> BuiltinImage {
        let file = |path: &str, content| BuiltinFile { path: path.to_owned(), mode: 0o755, content };
        BuiltinImage {
            reference: reference.to_owned(),
            files: vec![
                file("/demo", FileContent::Bytes(b"program")),
                file("/bin/sh", FileContent::Link("/demo".into())),
            ],
            entrypoint: vec!["/demo".to_owned()],
            cmd: Vec::new(),
            env: vec![format!("VERSION={version}")],
            working_dir: "/".to_owned(),
            user: String::new(),
        }
    }

    #[test]
    fn images_share_their_layer_and_keep_their_names() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("images.tar");
        export(&[image("a.test/x:1", "1"), image("a.test/x:2", "2")], &path).unwrap();
        let mut members = std::collections::BTreeMap::new();
        for entry in tar::Archive::new(File::open(&path).unwrap()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            assert!(members.insert(name, bytes).is_none(), "no member twice");
        }
        let manifest: serde_json::Value = serde_json::from_slice(&members["manifest.json"]).unwrap();
        assert_eq!(members.len(), 4, "one layer, two configurations, one manifest");
        for (index, version) in ["1", "2"].into_iter().enumerate() {
            let entry = &manifest[index];
            assert_eq!(entry["RepoTags"][0], format!("a.test/x:{version}"));
            let config = &members[entry["Config"].as_str().unwrap()];
            let config: serde_json::Value = serde_json::from_slice(config).unwrap();
            assert_eq!(config["config"]["Env"][0], format!("VERSION={version}"));
            let layer = &members[entry["Layers"][0].as_str().unwrap()];
            assert_eq!(config["rootfs"]["diff_ids"][0], digest(layer));
            assert_eq!(config["rootfs"]["type"], "layers");
        }
    }
}

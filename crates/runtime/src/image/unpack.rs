//! From a layer archive to a directory overlayfs can use.
//!
//! Layers say "deleted" with files named `.wh.<name>`; overlayfs says it with a character device 0/0, and
//! "nothing below shows through" with an extended attribute. Each layer is translated once and shared by
//! every image that has it.

use std::{
    io::{self, BufReader, Read},
    os::unix::fs::PermissionsExt,
    path::{Component, Path, PathBuf},
};

use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat};
use sha2::{Digest, Sha256};
use tar::{Archive, EntryType};

const WHITEOUT_PREFIX: &str = ".wh.";
const OPAQUE_MARKER: &str = ".wh..wh..opq";
const OPAQUE_ATTRIBUTE: &str = "trusted.overlay.opaque";
/// A layer that unpacks to more than this is refused (a small archive can describe petabytes).
const MAX_LAYER_BYTES: u64 = 64 << 30;
/// So many entries no sane layer has.
const MAX_LAYER_ENTRIES: u64 = 4_000_000;

/// What unpacking found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// `sha256:...` of the uncompressed archive.
    pub diff_id: String,
    /// Bytes of all regular files.
    pub size_bytes: u64,
}

/// Unpacks a layer (plain, gzip or zstd, told apart by its first bytes) into `target`, which must be empty.
pub fn unpack_layer(reader: impl Read, target: &Path) -> io::Result<Unpacked> {
    let mut hashing = HashingReader { inner: decompress(reader)?, hash: Sha256::new(), bytes: 0 };
    let mut size_bytes = 0;
    {
        let mut archive = Archive::new(&mut hashing);
        archive.set_preserve_permissions(true);
        archive.set_preserve_ownerships(true);
        archive.set_unpack_xattrs(true);
        archive.set_overwrite(true);
        let mut count = 0u64;
        for entry in archive.entries()? {
            let mut entry = entry?;
            count += 1;
            size_bytes += entry.size();
            if count > MAX_LAYER_ENTRIES || size_bytes > MAX_LAYER_BYTES {
                return Err(io::Error::other("the layer is too large"));
            }
            unpack_entry(&mut entry, target)?;
        }
    }
    // The archive ends before its padding does, and the digest covers everything.
    io::copy(&mut hashing, &mut io::sink())?;
    let diff_id = format!("sha256:{}", hex(&hashing.hash.finalize()));
    Ok(Unpacked { diff_id, size_bytes })
}

fn unpack_entry<R: Read>(entry: &mut tar::Entry<'_, R>, target: &Path) -> io::Result<()> {
    let path = clean(&entry.path()?);
    let Some(name) = path.file_name().and_then(|name| name.to_str()).map(str::to_string) else {
        return Ok(());
    };
    let parent = path.parent().map(Path::to_path_buf).unwrap_or_default();
    if let Some(hidden) = name.strip_prefix(WHITEOUT_PREFIX) {
        let directory = contained_directory(target, &parent)?;
        return if name == OPAQUE_MARKER { mark_opaque(&directory) } else { white_out(&directory, hidden) };
    }
    match entry.header().entry_type() {
        EntryType::Char | EntryType::Block | EntryType::Fifo => make_node(entry, &path, target),
        EntryType::XGlobalHeader => Ok(()),
        _ => {
            contained_directory(target, &parent)?;
            entry.unpack_in(target)?;
            Ok(())
        }
    }
}

/// A relative path without `.` and `..`.
fn clean(path: &Path) -> PathBuf {
    path.components().filter(|part| matches!(part, Component::Normal(_))).collect()
}

/// `target/parent`, created if absent, with every symbolic link resolved and still inside `target`.
fn contained_directory(target: &Path, parent: &Path) -> io::Result<PathBuf> {
    let directory = target.join(parent);
    if !directory.exists() {
        let mut at = target.to_path_buf();
        for part in parent.components() {
            at.push(part);
            if !at.exists() {
                std::fs::create_dir(&at)?;
                std::fs::set_permissions(&at, std::fs::Permissions::from_mode(0o755))?;
            }
            inside(&at, target)?;
        }
    }
    inside(&directory, target)
}

fn inside(path: &Path, target: &Path) -> io::Result<PathBuf> {
    let resolved = path.canonicalize()?;
    if resolved.starts_with(target.canonicalize()?) {
        Ok(resolved)
    } else {
        Err(io::Error::other(format!("the layer leaves its directory at {}", path.display())))
    }
}

fn mark_opaque(directory: &Path) -> io::Result<()> {
    Ok(rustix::fs::setxattr(directory, OPAQUE_ATTRIBUTE, b"y", XattrFlags::empty())?)
}

fn white_out(directory: &Path, name: &str) -> io::Result<()> {
    let path = directory.join(name);
    if path.symlink_metadata().is_ok() {
        return Ok(());
    }
    Ok(mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), 0)?)
}

fn make_node<R: Read>(entry: &mut tar::Entry<'_, R>, path: &Path, target: &Path) -> io::Result<()> {
    let parent = path.parent().map(Path::to_path_buf).unwrap_or_default();
    let place = contained_directory(target, &parent)?.join(path.file_name().unwrap_or_default());
    let header = entry.header();
    let kind = match header.entry_type() {
        EntryType::Char => FileType::CharacterDevice,
        EntryType::Block => FileType::BlockDevice,
        _ => FileType::Fifo,
    };
    let device = rustix::fs::makedev(
        header.device_major()?.unwrap_or_default(),
        header.device_minor()?.unwrap_or_default(),
    );
    let mode = header.mode()?;
    mknodat(CWD, &place, kind, Mode::from_raw_mode(mode), device)?;
    let (user, group) = (header.uid()? as u32, header.gid()? as u32);
    std::os::unix::fs::lchown(&place, Some(user), Some(group))?;
    std::fs::set_permissions(&place, std::fs::Permissions::from_mode(mode & 0o7777))
}

/// Undoes gzip or zstd compression, whatever the media type claimed.
pub fn decompress<'a>(reader: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut buffered = BufReader::with_capacity(128 * 1024, reader);
    let head = io::BufRead::fill_buf(&mut buffered)?;
    Ok(match head {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(buffered)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::stream::read::Decoder::with_buffer(buffered)?),
        _ => Box::new(buffered),
    })
}

struct HashingReader<R> {
    inner: R,
    hash: Sha256,
    bytes: u64,
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hash.update(&buffer[..length]);
        self.bytes += length as u64;
        if self.bytes > MAX_LAYER_BYTES {
            return Err(io::Error::other("the layer is too large"));
        }
        Ok(length)
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `sha256:...` of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn layer(entries: &[(&str, EntryType, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, data) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_size(data.len() as u64);
            header.set_mode(0o755);
            header.set_uid(u64::from(rustix::process::getuid().as_raw()));
            header.set_gid(u64::from(rustix::process::getgid().as_raw()));
            header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            builder.append(&header, *data).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn compressed_and_plain_layers_have_one_identity() {
        let plain = layer(&[("bin/", EntryType::Directory, b""), ("bin/sh", EntryType::Regular, b"#!")]);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let want = digest(&plain);
        for bytes in [plain.clone(), gzip.finish().unwrap(), zstd::encode_all(&plain[..], 1).unwrap()] {
            let dir = tempfile::tempdir().unwrap();
            let unpacked = unpack_layer(&bytes[..], dir.path()).unwrap();
            assert_eq!(unpacked.diff_id, want);
            assert_eq!(unpacked.size_bytes, 2);
            assert_eq!(std::fs::read(dir.path().join("bin/sh")).unwrap(), b"#!");
        }
    }

    #[test]
    fn a_layer_cannot_leave_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("layer");
        std::fs::create_dir(&target).unwrap();
        let bytes = layer(&[("../evil", EntryType::Regular, b"x"), ("/abs", EntryType::Regular, b"y")]);
        drop(unpack_layer(&bytes[..], &target));
        assert!(!dir.path().join("evil").exists());
        std::os::unix::fs::symlink(dir.path(), target.join("out")).unwrap();
        let bytes = layer(&[("out/evil", EntryType::Regular, b"x")]);
        assert!(unpack_layer(&bytes[..], &target).is_err());
        assert!(!dir.path().join("evil").exists());
    }

    #[test]
    fn whiteouts_become_overlay_marks() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: device nodes and trusted attributes need root");
            assert!(std::env::var_os("CI").is_none(), "in CI this test must run");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let bytes = layer(&[
            ("a/", EntryType::Directory, b""),
            ("a/.wh.gone", EntryType::Regular, b""),
            ("b/", EntryType::Directory, b""),
            ("b/.wh..wh..opq", EntryType::Regular, b""),
        ]);
        unpack_layer(&bytes[..], dir.path()).unwrap();
        let meta = dir.path().join("a/gone").symlink_metadata().unwrap();
        use std::os::unix::fs::{FileTypeExt, MetadataExt};
        assert!(meta.file_type().is_char_device() && meta.rdev() == 0);
        let mut value = [0u8; 4];
        assert_eq!(rustix::fs::getxattr(dir.path().join("b"), OPAQUE_ATTRIBUTE, &mut value[..]), Ok(1));
    }
}

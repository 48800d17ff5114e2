//! The root filesystem of a container: a writable overlay over the image's layers.
//!
//! The image's content is not trusted: paths inside it are opened with the kernel refusing to leave the
//! root, whatever symbolic links say.

use std::{
    fs::File,
    io::{self, Read},
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, mkdirat, open, openat2},
    io::Errno,
};

use super::user::UserFiles;
use crate::{error::Error, mounts};

/// `/etc/passwd` and `/etc/group` larger than this are cut.
const MAX_USER_FILE_BYTES: u64 = 4 << 20;
const UPPER: &str = "upper";
const WORK: &str = "work";
const ROOTFS: &str = "rootfs";

/// Mount point of the container in `directory`.
pub fn path(directory: &Path) -> PathBuf {
    directory.join(ROOTFS)
}

/// Directory with what the container has written.
pub fn upper(directory: &Path) -> PathBuf {
    directory.join(UPPER)
}

/// Mounts the root filesystem. Blocking.
pub fn mount(directory: &Path, layers: &[PathBuf]) -> Result<(), Error> {
    let (upper, work, rootfs) = (directory.join(UPPER), directory.join(WORK), path(directory));
    for one in [&upper, &work, &rootfs] {
        std::fs::create_dir_all(one).map_err(Error::io("create", one))?;
    }
    std::fs::set_permissions(&upper, std::fs::Permissions::from_mode(0o755))
        .map_err(Error::io("set mode of", &upper))?;
    // An image without layers still needs something below.
    let empty = [directory.join("empty")];
    let layers = if layers.is_empty() {
        std::fs::create_dir_all(&empty[0]).map_err(Error::io("create", &empty[0]))?;
        &empty
    } else {
        layers
    };
    mounts::mount_overlay(layers, &upper, &work, &rootfs)
}

/// The image's user database.
pub fn user_files(directory: &Path) -> Result<UserFiles, Error> {
    let root = path(directory);
    let read = |name: &str| read_inside(&root, name).map_err(Error::io("read", root.join(name)));
    Ok(UserFiles { passwd: read("etc/passwd")?, group: read("etc/group")? })
}

fn open_root(root: &Path) -> io::Result<OwnedFd> {
    Ok(open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn read_inside(root: &Path, name: &str) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match openat2(open_root(root)?, name, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(String::new()),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = Vec::new();
    file.take(MAX_USER_FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Makes the working directory if the image has none by that name. Blocking.
pub fn ensure_directory(directory: &Path, inside: &Path) -> Result<(), Error> {
    let root = path(directory);
    create_inside(&root, inside).map_err(Error::io("create", root.join(inside)))
}

fn create_inside(root: &Path, inside: &Path) -> io::Result<()> {
    let root = open_root(root)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut so_far = PathBuf::from("/");
    let mut parent = root.try_clone()?;
    for part in inside.components() {
        let Component::Normal(part) = part else { continue };
        so_far.push(part);
        let next = match openat2(&root, &so_far, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
            Err(Errno::NOENT) => {
                mkdirat(&parent, part, Mode::from_raw_mode(0o755))?;
                openat2(&root, &so_far, flags, Mode::empty(), ResolveFlags::IN_ROOT)
            }
            found => found,
        };
        parent = next?;
    }
    Ok(())
}

/// Bytes and files below a directory, symbolic links not followed. Blocking.
pub fn disk_usage(directory: &Path) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    /// A pod that writes more files than this gets an estimate that stops here.
    const MAX_ENTRIES: u64 = 1_000_000;
    let (mut bytes, mut inodes) = (0, 0);
    let mut pending = vec![directory.to_path_buf()];
    while let Some(next) = pending.pop() {
        let Ok(entries) = std::fs::read_dir(&next) else { continue };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.path().symlink_metadata() else { continue };
            bytes += metadata.blocks() * 512;
            inodes += 1;
            if metadata.is_dir() && inodes < MAX_ENTRIES {
                pending.push(entry.path());
            }
        }
    }
    (bytes, inodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_in_the_image_cannot_lead_outside() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::create_dir_all(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/passwd"), "outside").unwrap();
        std::os::unix::fs::symlink("../../etc/passwd", root.join("etc/passwd")).unwrap();
        // Resolved within the root, the link points at itself.
        assert_eq!(read_inside(&root, "etc/passwd").unwrap(), "");
        std::os::unix::fs::symlink("/data", root.join("work")).unwrap();
        std::fs::create_dir(root.join("data")).unwrap();
        create_inside(&root, Path::new("/work/a/b")).unwrap();
        assert!(root.join("data/a/b").is_dir());
        create_inside(&root, Path::new("/work/a/b")).unwrap();
    }
}

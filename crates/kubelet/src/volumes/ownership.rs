//! Giving a volume to the pod's fsGroup.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::Gid;

use crate::Error;
use crate::error::IoContext;

/// Folders deeper than this are not walked: no volume of a sane program is.
const MAX_DEPTH: usize = 128;

/// Owns everything by `gid`, group-writable, new files inheriting the group. With
/// `only_if_different` (`fsGroupChangePolicy: OnRootMismatch`) a matching root is trusted.
pub fn give(path: &Path, gid: u32, only_if_different: bool) -> Result<(), Error> {
    let root = fs::symlink_metadata(path).context(|| format!("stat {}", path.display()))?;
    let fits = root.gid() == gid && root.permissions().mode() & 0o2070 == 0o2070;
    if only_if_different && fits {
        return Ok(());
    }
    walk(path, gid, 0)
}

fn walk(path: &Path, gid: u32, depth: usize) -> Result<(), Error> {
    let meta = fs::symlink_metadata(path).context(|| format!("stat {}", path.display()))?;
    let group = Some(Gid::from_raw(gid));
    rustix::fs::chownat(rustix::fs::CWD, path, None, group, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
        .context(|| format!("chown {}", path.display()))?;
    if meta.file_type().is_symlink() {
        return Ok(());
    }
    let extra = if meta.is_dir() { 0o2770 } else { 0o660 };
    let mode = meta.permissions().mode() & 0o7777 | extra;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .context(|| format!("chmod {}", path.display()))?;
    if meta.is_dir() && depth < MAX_DEPTH {
        for entry in fs::read_dir(path).context(|| format!("read {}", path.display()))? {
            walk(&entry.context(|| format!("read {}", path.display()))?.path(), gid, depth + 1)?;
        }
    }
    Ok(())
}

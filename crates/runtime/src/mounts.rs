//! Mounts the runtime makes in its own namespace: container root filesystems and read-only binds.

use std::{
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, mount, mount_bind, mount_remount, move_mount, unmount,
};

use crate::error::Error;

/// Longest option string `mount(2)` takes: one page, less the terminator.
const MAX_OPTION_BYTES: usize = 4095;

/// Mounts an overlay of `layers` (lowest first) with a writable top at `target`.
pub fn mount_overlay(layers: &[PathBuf], upper: &Path, work: &Path, target: &Path) -> Result<(), Error> {
    let lower: Vec<String> = layers.iter().rev().map(|layer| layer.display().to_string()).collect();
    let options =
        format!("lowerdir={},upperdir={},workdir={}", lower.join(":"), upper.display(), work.display());
    let outcome = if options.len() <= MAX_OPTION_BYTES {
        let options = std::ffi::CString::new(options)
            .map_err(|_| Error::Internal("an overlay path contains a zero byte".into()))?;
        mount("overlay", target, "overlay", MountFlags::empty(), Some(options.as_c_str()))
    } else {
        mount_overlay_by_parts(&lower, upper, work, target)
    };
    outcome.map_err(|error| Error::Io { what: "mount overlay at", path: target.into(), source: error.into() })
}

/// The same, one layer at a time, for images with more layers than fit into a page (kernel 6.8 and later).
fn mount_overlay_by_parts(
    lower: &[String],
    upper: &Path,
    work: &Path,
    target: &Path,
) -> rustix::io::Result<()> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let context = context.as_fd();
    for layer in lower {
        fsconfig_set_string(context, "lowerdir+", layer.as_str())?;
    }
    fsconfig_set_string(context, "upperdir", upper)?;
    fsconfig_set_string(context, "workdir", work)?;
    fsconfig_create(context)?;
    let mounted = fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    move_mount(mounted, "", rustix::fs::CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Mounts a tmpfs of at most `size_bytes`.
pub fn mount_tmpfs(target: &Path, size_bytes: u64) -> Result<(), Error> {
    let options = std::ffi::CString::new(format!("mode=1777,size={size_bytes}"))
        .map_err(|_| Error::Internal("impossible mount option".into()))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("shm", target, "tmpfs", flags, Some(options.as_c_str())).map_err(|error| Error::Io {
        what: "mount tmpfs at",
        path: target.into(),
        source: error.into(),
    })
}

/// Makes `source` visible at `target`, read-only.
pub fn bind_read_only(source: &Path, target: &Path) -> Result<(), Error> {
    mount_bind(source, target)
        .and_then(|()| mount_remount(target, MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID, ""))
        .map_err(|error| Error::Io { what: "bind", path: target.into(), source: error.into() })
}

/// Bind mounts one file over another.
pub fn bind(source: &Path, target: &Path) -> std::io::Result<()> {
    Ok(mount_bind(source, target)?)
}

/// Unmounts everything at `target`, also when it is in use; not being mounted is fine.
pub fn detach(target: &Path) {
    /// More mounts on one point than this are not ours.
    const MAX_STACKED: u32 = 8;
    for _ in 0..MAX_STACKED {
        if unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_err() {
            return;
        }
    }
}

/// Mount points at or below `directory`, deepest first.
pub fn mounted_below(directory: &Path) -> Vec<PathBuf> {
    let Ok(me) = procfs::process::Process::myself() else { return Vec::new() };
    let Ok(mounts) = me.mountinfo() else { return Vec::new() };
    let mut points: Vec<PathBuf> =
        mounts.into_iter().map(|one| one.mount_point).filter(|point| point.starts_with(directory)).collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    points
}

/// Shows an image's content at `target`, read-only and without executables.
pub fn mount_image(layers: &[PathBuf], target: &Path) -> Result<(), Error> {
    let fail = |error: rustix::io::Errno| Error::Io {
        what: "mount image at",
        path: target.into(),
        source: error.into(),
    };
    match layers {
        [] => Ok(()),
        [single] => {
            mount_bind(single, target).map_err(fail)?;
            let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOEXEC | MountFlags::NOSUID;
            mount_remount(target, flags, "").map_err(fail)
        }
        several => {
            let lower: Vec<String> = several.iter().rev().map(|layer| layer.display().to_string()).collect();
            let options = std::ffi::CString::new(format!("lowerdir={}", lower.join(":")))
                .map_err(|_| Error::Internal("an overlay path contains a zero byte".into()))?;
            let flags = MountFlags::RDONLY | MountFlags::NOEXEC | MountFlags::NOSUID | MountFlags::NODEV;
            mount("overlay", target, "overlay", flags, Some(options.as_c_str())).map_err(fail)
        }
    }
}

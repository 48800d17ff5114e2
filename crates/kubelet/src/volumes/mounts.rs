//! The kernel's side of volumes: what is mounted where, memory file systems, and paths below a
//! volume that a container might try to redirect.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::Error;
use crate::error::IoContext;

/// Mount points at or below `path`, innermost first.
pub fn below(path: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut points: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(unescaped(point)))
        .filter(|point| point.starts_with(path))
        .collect();
    points.sort_by_key(|p| std::cmp::Reverse(p.as_os_str().len()));
    points
}

fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

pub fn is_mount_point(path: &Path) -> bool {
    below(path).iter().any(|p| p == path)
}

pub fn mount_tmpfs(path: &Path, size_bytes: Option<i64>) -> Result<(), Error> {
    if is_mount_point(path) {
        return Ok(());
    }
    let options = size_bytes.map_or_else(|| "mode=0777".to_owned(), |size| format!("mode=0777,size={size}"));
    let data = CString::new(options).map_err(|e| Error::config(e.to_string()))?;
    rustix::mount::mount("tmpfs", path, "tmpfs", MountFlags::empty(), Some(data.as_c_str()))
        .context(|| format!("mount tmpfs on {}", path.display()))
}

/// Unmounts everything at or below `path`.
pub fn unmount_below(path: &Path) -> Result<(), Error> {
    for point in below(path) {
        rustix::mount::unmount(&point, UnmountFlags::DETACH)
            .context(|| format!("unmount {}", point.display()))?;
    }
    Ok(())
}

/// Opens `relative` below `base`, never leaving it through links; what is missing is made as a
/// folder. The returned handle stays on the thing found, whatever happens to its name.
pub fn open_below(base: &Path, relative: &str) -> Result<OwnedFd, Error> {
    let path = Path::new(relative);
    if path.components().any(|c| matches!(c, Component::ParentDir | Component::RootDir)) {
        return Err(Error::config(format!("subPath {relative:?} must not leave the volume")));
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(base, flags | OFlags::DIRECTORY, Mode::empty())
        .context(|| format!("open {}", base.display()))?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve) {
        Ok(found) => Ok(found),
        Err(rustix::io::Errno::NOENT) => make_below(root, path, resolve, relative),
        Err(errno) => Err(errno).context(|| format!("open subPath {relative:?}")),
    }
}

fn make_below(root: OwnedFd, path: &Path, resolve: ResolveFlags, shown: &str) -> Result<OwnedFd, Error> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::DIRECTORY;
    let mut at = root;
    let mode = rustix::fs::fstat(at.as_fd()).map_or(0o750, |s| s.st_mode & 0o7777);
    for part in path.components() {
        let Component::Normal(part) = part else { continue };
        match rustix::fs::mkdirat(&at, part, Mode::from_raw_mode(mode)) {
            Ok(()) => {
                let made = PathBuf::from(format!("/proc/self/fd/{}", at.as_raw_fd())).join(part);
                let _ = fs::set_permissions(made, fs::Permissions::from_mode(mode)); // undo the umask
            }
            Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(errno).context(|| format!("create subPath {shown:?}")),
        }
        at = rustix::fs::openat2(&at, part, flags, Mode::empty(), resolve)
            .context(|| format!("open subPath {shown:?}"))?;
    }
    Ok(at)
}

/// Binds what `source` is open on to `target`, made as a file or folder to match.
pub fn bind(source: &OwnedFd, target: &Path) -> Result<(), Error> {
    let stat = rustix::fs::fstat(source).context(|| "stat subPath".to_owned())?;
    let is_dir = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory;
    if is_mount_point(target) {
        // A container that starts again gets what the path names now.
        rustix::mount::unmount(target, UnmountFlags::DETACH)
            .context(|| format!("unmount {}", target.display()))?;
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).context(|| format!("create {}", parent.display()))?;
    }
    if is_dir {
        fs::create_dir_all(target).context(|| format!("create {}", target.display()))?;
    } else {
        fs::File::create(target).context(|| format!("create {}", target.display()))?;
    }
    let from = format!("/proc/self/fd/{}", source.as_raw_fd());
    rustix::mount::mount_bind(&from, target).context(|| format!("bind {}", target.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sub_paths_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("volume");
        fs::create_dir(&base).unwrap();
        std::os::unix::fs::symlink("/etc", base.join("out")).unwrap();
        std::os::unix::fs::symlink("in", base.join("link")).unwrap();
        fs::create_dir(base.join("in")).unwrap();
        for (path, allowed) in [
            ("a/b", true),
            ("link", true),
            ("out", false),
            ("out/x", false),
            ("../x", false),
            ("/etc", false),
        ] {
            assert_eq!(open_below(&base, path).is_ok(), allowed, "{path}");
        }
        assert!(base.join("a/b").is_dir());
    }
}

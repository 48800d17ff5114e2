//! The data directory: file names, the lock against a second process, and what disk errors mean.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FallocateFlags;

use crate::contract::Error;

const LOCK_FILE: &str = "LOCK";
const SEGMENT: (&str, &str) = ("segment-", ".log");
const SNAPSHOT: (&str, &str) = ("snapshot-", ".snap");
const UNFINISHED: &str = ".tmp";

pub(super) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{}{number:020}{}", SEGMENT.0, SEGMENT.1))
}

pub(super) fn snapshot_path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("{}{sequence:020}{}", SNAPSHOT.0, SNAPSHOT.1))
}

pub(super) fn unfinished_snapshot_path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("{}{sequence:020}{}{UNFINISHED}", SNAPSHOT.0, SNAPSHOT.1))
}

/// The store's files by ascending number.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub segments: Vec<(u64, PathBuf)>,
    pub snapshots: Vec<(u64, PathBuf)>,
    pub unfinished: Vec<PathBuf>,
}

pub(super) fn list(dir: &Path) -> Result<Files, Error> {
    let mut files = Files::default();
    for entry in fs::read_dir(dir).map_err(|e| io_error("list", dir, e))? {
        let path = entry.map_err(|e| io_error("list", dir, e))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(number) = number(name, SEGMENT) {
            files.segments.push((number, path));
        } else if let Some(number) = number(name, SNAPSHOT) {
            files.snapshots.push((number, path));
        } else if name.starts_with(SNAPSHOT.0) && name.ends_with(UNFINISHED) {
            files.unfinished.push(path);
        }
    }
    files.segments.sort();
    files.snapshots.sort();
    Ok(files)
}

fn number(name: &str, (prefix, suffix): (&str, &str)) -> Option<u64> {
    name.strip_prefix(prefix)?.strip_suffix(suffix)?.parse().ok()
}

/// Bytes that the store's files occupy.
pub(super) fn size_bytes(dir: &Path) -> Result<u64, Error> {
    let files = list(dir)?;
    let paths = files.segments.iter().chain(&files.snapshots).map(|(_, path)| path);
    // A file that a finished snapshot removes meanwhile counts as nothing.
    Ok(paths.filter_map(|path| fs::metadata(path).ok()).map(|meta| meta.len()).sum())
}

/// One step that changes what is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    Create,
    Write,
    Sync,
    /// Shortening a file, to take a write back.
    Cut,
    Rename,
    SyncDirectory,
    Remove,
}

type Fault = dyn Fn(Step) -> io::Result<()> + Send + Sync;

/// Disks that fail, for tests: asked before each step, which fails with the error returned.
#[derive(Clone, Default)]
pub struct Faults(Option<Arc<Fault>>);

impl Faults {
    pub fn new(before: impl Fn(Step) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Faults(Some(Arc::new(before)))
    }

    pub(super) fn before(&self, step: Step) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |fault| fault(step))
    }
}

impl std::fmt::Debug for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Faults" } else { "no faults" })
    }
}

/// Creates the directory, its name and those of its parents safe on disk: without them nothing in it is.
/// They may be new also where the directory was there already: whoever made it need not have synced it.
pub(super) fn create_dir(dir: &Path) -> Result<(), Error> {
    fs::create_dir_all(dir).map_err(|e| io_error("create", dir, e))?;
    for above in all_above(dir).map_err(|e| io_error("find", dir, e))? {
        match File::open(&above).and_then(|f| f.sync_all()) {
            Err(e) if !needs_no_sync(&e) => return Err(io_error("sync", &above, e)),
            _ => {}
        }
    }
    Ok(())
}

/// Every directory on the way to this one, which may be named from here or through links.
fn all_above(dir: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(fs::canonicalize(dir)?.ancestors().skip(1).map(Path::to_owned).collect())
}

/// Directories of others, which may be closed to us, and file systems that keep nothing or are read only.
fn needs_no_sync(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput | io::ErrorKind::ReadOnlyFilesystem
    )
}

/// Held for as long as the store is open; the kernel lets go of it when the process ends in any way.
#[derive(Debug)]
pub(super) struct DirLock(File);

impl Drop for DirLock {
    /// Closing would do, but for a child that was forked and has not yet closed its copy by `exec`.
    fn drop(&mut self) {
        // On failure, closing still does.
        let _ = self.0.unlock();
    }
}

pub(super) fn lock(dir: &Path) -> Result<DirLock, Error> {
    let path = dir.join(LOCK_FILE);
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = open.map_err(|e| io_error("open", &path, e))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // The number is a courtesy: without it the message only says less.
            let _ = file.read_to_string(&mut pid);
            let holder = match pid.trim() {
                "" => "another process".to_owned(),
                pid => format!("process {pid}"),
            };
            return Err(Error::Locked { path: dir.display().to_string(), holder });
        }
        Err(TryLockError::Error(e)) => return Err(io_error("lock", &path, e)),
    }
    // On a full disk the number cannot be written; the lock holds all the same.
    let _ = file.set_len(0).and_then(|()| file.rewind());
    let _ = write!(file, "{}", std::process::id());
    Ok(DirLock(file))
}

pub(super) fn sync_dir(dir: &Path, faults: &Faults) -> io::Result<()> {
    faults.before(Step::SyncDirectory)?;
    File::open(dir)?.sync_all()
}

pub(super) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path, e)),
        _ => Ok(()),
    }
}

/// Makes sure that the first `bytes` of the file have a place on the disk. File systems that cannot
/// promise that get the length only; there a write may still find the disk full.
pub(super) fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
            if file.metadata()?.len() < bytes {
                file.set_len(bytes)
            } else {
                Ok(())
            }
        }
        Err(e) => Err(e.into()),
    }
}

/// Creates a segment of zeros, safe on disk with its name, or leaves nothing behind. Never touches a
/// file that is there already.
pub(super) fn create_segment(dir: &Path, number: u64, bytes: u64, faults: &Faults) -> io::Result<File> {
    faults.before(Step::Create)?;
    let path = segment_path(dir, number);
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    let made = reserve(&file, bytes).and_then(|()| file.sync_all()).and_then(|()| sync_dir(dir, faults));
    if let Err(e) = made {
        drop(file);
        // Whatever stays is zeros, which recovery takes for an unused segment.
        let _ = fs::remove_file(&path);
        return Err(e);
    }
    Ok(file)
}

pub(super) fn io_error(what: &str, path: &Path, e: io::Error) -> Error {
    let context = format!("cannot {what} {}", path.display());
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Error::NoSpace(format!("{context}: {e}; free space on the data directory's disk"))
        }
        _ => Error::Io { context, source: Arc::new(e) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_directory_above_is_found() {
        let top = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(top.path()).unwrap().join("a/b/store");
        create_dir(&real).unwrap();
        let link = top.path().join("link");
        std::os::unix::fs::symlink(real.parent().unwrap(), &link).unwrap();
        let want: Vec<_> = real.ancestors().skip(1).map(Path::to_owned).collect();
        for path in [real.clone(), link.join("store"), real.join("../store")] {
            assert_eq!(all_above(&path).unwrap(), want, "{}", path.display());
        }
        let here = std::env::current_dir().unwrap();
        assert!(all_above(Path::new("src")).unwrap().contains(&fs::canonicalize(here).unwrap()));
    }
}

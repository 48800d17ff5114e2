//! Writing a set of files so that readers see either the old set or the new one: a fresh folder,
//! and one rename of the `..data` link to it (upstream's layout, which programs rely on).

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Uid};

use super::payload::Payload;
use crate::Error;
use crate::error::IoContext;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// Readable for the group when the volume has an fsGroup.
const GROUP_READ: u32 = 0o440;

/// Makes `target` hold exactly `payload`; true if anything changed. `stamp` names the new folder.
pub fn write(target: &Path, payload: &Payload, fs_group: Option<u32>, stamp: &str) -> Result<bool, Error> {
    let data = target.join(DATA);
    let old = fs::read_link(&data).ok();
    let current = old.as_ref().is_some_and(|old| holds(&target.join(old), payload));
    if current && links_complete(target, payload) {
        return Ok(false);
    }
    let folder = format!("..{stamp}");
    write_files(&target.join(&folder), payload, fs_group)?;
    let new = target.join(DATA_NEW);
    let _ = fs::remove_file(&new); // left by a crash in the middle
    symlink(&folder, &new).context(|| format!("link {}", new.display()))?;
    fs::rename(&new, &data).context(|| format!("rename {}", new.display()))?;
    link_entries(target, payload)?;
    remove_stale(target, payload)?;
    if let Some(old) = old.filter(|old| old != Path::new(&folder)) {
        let _ = fs::remove_dir_all(target.join(old)); // a reader may still hold files in it open
    }
    Ok(true)
}

fn holds(folder: &Path, payload: &Payload) -> bool {
    let mut found = BTreeSet::new();
    if list(folder, Path::new(""), &mut found).is_err() || found.len() != payload.len() {
        return false;
    }
    payload.iter().all(|(path, file)| {
        let at = folder.join(path);
        found.contains(path)
            && fs::read(&at).is_ok_and(|data| data == file.data)
            && fs::metadata(&at).is_ok_and(|m| {
                m.permissions().mode() & 0o777 & !GROUP_READ == file.mode & 0o777 & !GROUP_READ
            })
    })
}

fn list(base: &Path, below: &Path, found: &mut BTreeSet<String>) -> std::io::Result<()> {
    for entry in fs::read_dir(base.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            list(base, &path, found)?;
        } else {
            found.insert(path.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

fn write_files(folder: &Path, payload: &Payload, fs_group: Option<u32>) -> Result<(), Error> {
    let gid = fs_group.map(Gid::from_raw);
    make_dir(folder, gid)?;
    for (path, file) in payload {
        let at = folder.join(path);
        let mut parents: Vec<&Path> =
            Path::new(path).ancestors().skip(1).filter(|p| *p != Path::new("")).collect();
        parents.reverse();
        for parent in parents {
            make_dir(&folder.join(parent), gid)?;
        }
        fs::write(&at, &file.data).context(|| format!("write {}", at.display()))?;
        let uid = file.uid.map(Uid::from_raw);
        if uid.is_some() || gid.is_some() {
            rustix::fs::chown(&at, uid, gid).context(|| format!("chown {}", at.display()))?;
        }
        let mode = if gid.is_some() { file.mode | GROUP_READ } else { file.mode };
        set_mode(&at, mode)?;
    }
    Ok(())
}

fn make_dir(path: &Path, gid: Option<Gid>) -> Result<(), Error> {
    match fs::create_dir(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(error).context(|| format!("create {}", path.display())),
    }
    if gid.is_some() {
        rustix::fs::chown(path, None, gid).context(|| format!("chown {}", path.display()))?;
    }
    set_mode(path, if gid.is_some() { 0o2755 } else { 0o755 })
}

fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .context(|| format!("chmod {}", path.display()))
}

/// First components of all paths: what the user sees.
fn entries(payload: &Payload) -> BTreeSet<&str> {
    payload.keys().map(|path| path.split('/').next().unwrap_or(path)).collect()
}

fn links_complete(target: &Path, payload: &Payload) -> bool {
    entries(payload).into_iter().all(|entry| target.join(entry).is_symlink())
}

fn link_entries(target: &Path, payload: &Payload) -> Result<(), Error> {
    for entry in entries(payload) {
        let link = target.join(entry);
        if !link.is_symlink() {
            symlink(PathBuf::from(DATA).join(entry), &link).context(|| format!("link {}", link.display()))?;
        }
    }
    Ok(())
}

fn remove_stale(target: &Path, payload: &Payload) -> Result<(), Error> {
    let wanted = entries(payload);
    for entry in fs::read_dir(target).context(|| format!("read {}", target.display()))? {
        let entry = entry.context(|| format!("read {}", target.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !wanted.contains(name.as_str()) {
            fs::remove_file(entry.path()).context(|| format!("remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::payload::File;
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |text: &str| File { data: text.into(), mode: 0o644, uid: None };
        files.iter().map(|(path, text)| ((*path).to_owned(), file(text))).collect()
    }
    fn visible(target: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(target).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.starts_with(".."));
        names.sort();
        names
    }

    #[test]
    fn contents_change_at_once_and_only_when_needed() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path();
        let first = payload(&[("a", "1"), ("d/e", "2")]);
        assert!(write(target, &first, None, "1").unwrap());
        assert!(!write(target, &first, None, "2").unwrap());
        assert_eq!(fs::read_to_string(target.join("d/e")).unwrap(), "2");
        assert_eq!(fs::read_link(target.join(DATA)).unwrap(), Path::new("..1"));
        assert!(write(target, &payload(&[("a", "3"), ("b", "4")]), None, "3").unwrap());
        assert_eq!(visible(target), ["a", "b"]);
        assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "3");
        assert!(!target.join("..1").exists());
        let mode = fs::metadata(target.join("a")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        assert!(write(target, &payload(&[]), None, "4").unwrap());
        assert_eq!(visible(target), [""; 0]);
    }
}

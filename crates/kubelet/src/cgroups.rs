//! The cgroups around pods: `kubepods[/burstable|/besteffort]/pod<uid>`, on cgroup v2 and on v1
//! (also hybrid) hosts, written straight to the file system.

use std::fs;
use std::path::{Path, PathBuf};

use tracing::debug;

use crate::Error;
use crate::config::CgroupConfig;
use crate::error::IoContext;
use crate::pod::resources::PodCgroup;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

pub struct Cgroups {
    mount: PathBuf,
    root: String,
    version: Version,
    enabled: bool,
}

/// v1 hierarchies in which pod cgroups are made; the runtime makes its own in the others.
const V1_CONTROLLERS: [&str; 4] = ["cpu", "cpuacct", "memory", "pids"];
const V2_CONTROLLERS: &str = "+cpu +memory +pids +cpuset +io";

impl Cgroups {
    pub fn new(config: &CgroupConfig) -> Self {
        let version =
            if config.mount.join("cgroup.controllers").exists() { Version::V2 } else { Version::V1 };
        Cgroups {
            mount: config.mount.clone(),
            root: config.root.trim_end_matches('/').to_owned(),
            version,
            enabled: config.enabled,
        }
    }

    /// The parent the runtime puts the pod's containers below; empty when cgroups are off.
    pub fn parent(&self, uid: &str, qos: &str) -> String {
        if self.enabled { format!("{}{}", self.root, pod_path(uid, qos)) } else { String::new() }
    }

    /// Makes the pod's cgroup and sets its limits.
    pub fn create(&self, uid: &str, qos: &str, limits: &PodCgroup) -> Result<(), Error> {
        if !self.enabled {
            return Ok(());
        }
        let parent = self.parent(uid, qos);
        match self.version {
            Version::V1 => self.create_v1(&parent, limits),
            Version::V2 => self.create_v2(&parent, limits),
        }
    }

    /// Sets the limits of a pod's cgroup anew (after a resize).
    pub fn update(&self, uid: &str, qos: &str, limits: &PodCgroup) -> Result<(), Error> {
        self.create(uid, qos, limits)
    }

    fn create_v1(&self, parent: &str, limits: &PodCgroup) -> Result<(), Error> {
        for controller in V1_CONTROLLERS {
            let base = self.mount.join(controller);
            if !base.is_dir() {
                continue;
            }
            let path = base.join(parent.trim_start_matches('/'));
            fs::create_dir_all(&path).context(|| format!("create cgroup {}", path.display()))?;
            match controller {
                "cpu" => {
                    set(&path, "cpu.shares", limits.cpu_shares)?;
                    set(&path, "cpu.cfs_period_us", limits.cpu_period)?;
                    set(&path, "cpu.cfs_quota_us", limits.cpu_quota.unwrap_or(-1))?;
                }
                "memory" => set(&path, "memory.limit_in_bytes", limits.memory_limit.unwrap_or(-1))?,
                _ => {}
            }
        }
        Ok(())
    }

    fn create_v2(&self, parent: &str, limits: &PodCgroup) -> Result<(), Error> {
        let mut path = self.mount.clone();
        for part in parent.split('/').filter(|p| !p.is_empty()) {
            enable_controllers(&path);
            path.push(part);
            if !path.is_dir() {
                fs::create_dir(&path).context(|| format!("create cgroup {}", path.display()))?;
            }
        }
        enable_controllers(&path);
        set(&path, "cpu.weight", weight(limits.cpu_shares))?;
        let quota = limits.cpu_quota.map_or("max".to_owned(), |q| q.to_string());
        set(&path, "cpu.max", format!("{quota} {}", limits.cpu_period))?;
        set(&path, "memory.max", limits.memory_limit.map_or("max".to_owned(), |l| l.to_string()))
    }

    /// Removes what is left of a pod's cgroups; its processes are gone by now.
    pub fn remove(&self, uid: &str) {
        if !self.enabled {
            return;
        }
        for base in self.hierarchies() {
            for qos in ["Guaranteed", "Burstable", "BestEffort"] {
                remove_tree(&base.join(self.parent(uid, qos).trim_start_matches('/')));
            }
        }
    }

    /// Removes the folders above pods' cgroups where nothing is left in them, when a node is taken
    /// down: another kubelet's pods keep theirs.
    pub fn remove_root(config: &CgroupConfig) {
        let cgroups = Cgroups::new(config);
        if !cgroups.enabled {
            return;
        }
        let root = format!("{}/kubepods", cgroups.root);
        for base in cgroups.hierarchies() {
            remove_tree(&base.join(root.trim_start_matches('/')));
        }
    }

    fn hierarchies(&self) -> Vec<PathBuf> {
        match self.version {
            Version::V2 => vec![self.mount.clone()],
            Version::V1 => fs::read_dir(&self.mount)
                .map(|entries| entries.flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect())
                .unwrap_or_default(),
        }
    }

    /// Bytes of memory in use by everything below the root, without reclaimable file cache.
    pub fn memory_working_set(&self) -> Option<u64> {
        let base = match self.version {
            Version::V1 => self.mount.join("memory"),
            Version::V2 => return None,
        };
        let usage: u64 = fs::read_to_string(base.join("memory.usage_in_bytes")).ok()?.trim().parse().ok()?;
        let stat = fs::read_to_string(base.join("memory.stat")).ok()?;
        let inactive = stat.lines().find_map(|l| l.strip_prefix("total_inactive_file ")?.parse::<u64>().ok());
        Some(usage.saturating_sub(inactive.unwrap_or(0)))
    }
}

fn pod_path(uid: &str, qos: &str) -> String {
    match qos {
        "Guaranteed" => format!("/kubepods/pod{uid}"),
        other => format!("/kubepods/{}/pod{uid}", other.to_lowercase()),
    }
}

/// Best effort: a controller the kernel lacks cannot be had.
fn enable_controllers(path: &Path) {
    for controller in V2_CONTROLLERS.split(' ') {
        let _ = fs::write(path.join("cgroup.subtree_control"), controller);
    }
}

fn set(path: &Path, file: &str, value: impl std::fmt::Display) -> Result<(), Error> {
    let at = path.join(file);
    if !at.exists() {
        debug!(file = %at.display(), "no such cgroup setting on this kernel");
        return Ok(());
    }
    fs::write(&at, value.to_string()).context(|| format!("write {value} to {}", at.display()))
}

/// v1 shares (2..262144) on v2's scale (1..10000).
fn weight(shares: i64) -> i64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn remove_tree(path: &Path) {
    let Ok(entries) = fs::read_dir(path) else { return };
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        remove_tree(&entry.path());
    }
    if let Err(error) = fs::remove_dir(path) {
        debug!(path = %path.display(), %error, "a cgroup could not be removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_goes_in_every_hierarchy() {
        let mount = tempfile::tempdir().unwrap();
        for path in ["cpu/kubepods/burstable/podx/c", "memory/kubepods/besteffort", "memory/other"] {
            fs::create_dir_all(mount.path().join(path)).unwrap();
        }
        let config = CgroupConfig { mount: mount.path().into(), root: String::new(), enabled: true };
        Cgroups::remove_root(&config);
        assert!(
            !mount.path().join("cpu/kubepods").exists() && !mount.path().join("memory/kubepods").exists()
        );
        assert!(mount.path().join("memory/other").exists());
    }

    #[test]
    fn paths_and_weights() {
        assert_eq!(pod_path("u", "Guaranteed"), "/kubepods/podu");
        assert_eq!(pod_path("u", "BestEffort"), "/kubepods/besteffort/podu");
        assert_eq!([weight(2), weight(1024), weight(262_144)], [1, 39, 10_000]);
        let config = CgroupConfig { mount: "/nowhere".into(), root: "/x/".into(), enabled: true };
        assert_eq!(Cgroups::new(&config).parent("u", "Burstable"), "/x/kubepods/burstable/podu");
    }
}

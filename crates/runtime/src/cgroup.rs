//! Control groups of containers and pods, on cgroup v1, v2 and hybrid hosts.
//!
//! libcontainer creates a container's cgroup and puts the first limits on it; reading statistics, changing
//! limits, counting OOM kills and cleaning up happen here, on the files directly.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use amphipod_cri::v1::LinuxContainerResources;

/// Where cgroup hierarchies are mounted.
const MOUNT_POINT: &str = "/sys/fs/cgroup";
/// Sweeps over a dying cgroup before giving up; forking processes may need a second look.
const KILL_SWEEPS: u32 = 5;
/// Deepest nesting below a container's cgroup that is cleaned up.
const MAX_DEPTH: u32 = 16;

/// How the host's hierarchies are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One unified hierarchy.
    Unified,
    /// One hierarchy per controller, perhaps with an extra v2 one without controllers.
    PerController,
}

impl Layout {
    /// Looks at the host.
    pub fn detect() -> Layout {
        let unified = Path::new(MOUNT_POINT).join("cgroup.controllers").exists();
        if unified { Layout::Unified } else { Layout::PerController }
    }
}

/// One cgroup, by its path below the hierarchies' roots.
#[derive(Debug, Clone)]
pub struct Cgroup {
    layout: Layout,
    path: PathBuf,
}

/// What a cgroup has used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    pub cpu_nanos: u64,
    pub memory_bytes: u64,
    pub working_set_bytes: u64,
    pub rss_bytes: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
    /// Limit in bytes; `None` when unlimited.
    pub memory_limit_bytes: Option<u64>,
    pub swap_bytes: u64,
    pub processes: u64,
}

impl Cgroup {
    /// The cgroup at `path` (absolute within each hierarchy).
    pub fn find(path: &str) -> Cgroup {
        Cgroup { layout: Layout::detect(), path: PathBuf::from(path.trim_start_matches('/')) }
    }

    /// Directories of this cgroup that exist.
    fn directories(&self) -> Vec<PathBuf> {
        let root = Path::new(MOUNT_POINT);
        if self.layout == Layout::Unified {
            return vec![root.join(&self.path)];
        }
        let Ok(hierarchies) = std::fs::read_dir(root) else { return Vec::new() };
        let mut seen = Vec::new();
        for hierarchy in hierarchies.flatten() {
            // Controllers mounted together have symbolic links for each name.
            if hierarchy.file_type().is_ok_and(|kind| kind.is_dir()) {
                seen.push(hierarchy.path().join(&self.path));
            }
        }
        seen.retain(|directory| directory.is_dir());
        seen
    }

    fn controller(&self, name: &str) -> PathBuf {
        match self.layout {
            Layout::Unified => Path::new(MOUNT_POINT).join(&self.path),
            Layout::PerController => Path::new(MOUNT_POINT).join(name).join(&self.path),
        }
    }

    /// Processes the kernel has killed in it for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let file = match self.layout {
            Layout::Unified => self.controller("memory").join("memory.events"),
            Layout::PerController => self.controller("memory").join("memory.oom_control"),
        };
        read_pairs(&file).get("oom_kill").copied().unwrap_or_default()
    }

    /// Processes in it and below.
    pub fn processes(&self) -> Vec<i32> {
        // Every process is in every hierarchy; pids and memory are there on all hosts that run containers.
        let first = self.directories().into_iter().next();
        let mut found = Vec::new();
        if let Some(directory) = first {
            collect_processes(&directory, MAX_DEPTH, &mut found);
        }
        found
    }

    /// Kills every process in it.
    pub fn kill_all(&self) {
        let kill_file = self.controller("pids").join("cgroup.kill");
        if self.layout == Layout::Unified && std::fs::write(&kill_file, "1").is_ok() {
            return;
        }
        for _ in 0..KILL_SWEEPS {
            let processes = self.processes();
            if processes.is_empty() {
                return;
            }
            for pid in processes {
                if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
        }
    }

    /// Removes it and everything below. Fails while processes are in it.
    pub fn remove(&self) -> io::Result<()> {
        let mut outcome = Ok(());
        for directory in self.directories() {
            if let Err(error) = remove_tree(&directory, MAX_DEPTH)
                && error.kind() != io::ErrorKind::NotFound
            {
                outcome = Err(error);
            }
        }
        outcome
    }

    /// Reads what it has used; absent controllers count as zero.
    pub fn usage(&self) -> Usage {
        match self.layout {
            Layout::Unified => self.unified_usage(),
            Layout::PerController => self.per_controller_usage(),
        }
    }

    fn unified_usage(&self) -> Usage {
        let directory = self.controller("");
        let memory = read_pairs(&directory.join("memory.stat"));
        let of = |key: &str| memory.get(key).copied().unwrap_or_default();
        let memory_bytes = read_number(&directory.join("memory.current")).unwrap_or_default();
        Usage {
            cpu_nanos: read_pairs(&directory.join("cpu.stat")).get("usage_usec").copied().unwrap_or_default()
                * 1000,
            memory_bytes,
            working_set_bytes: memory_bytes.saturating_sub(of("inactive_file")),
            rss_bytes: of("anon"),
            page_faults: of("pgfault"),
            major_page_faults: of("pgmajfault"),
            memory_limit_bytes: read_number(&directory.join("memory.max")),
            swap_bytes: read_number(&directory.join("memory.swap.current")).unwrap_or_default(),
            processes: read_number(&directory.join("pids.current")).unwrap_or_default(),
        }
    }

    fn per_controller_usage(&self) -> Usage {
        let directory = self.controller("memory");
        let memory = read_pairs(&directory.join("memory.stat"));
        let of = |key: &str| memory.get(key).copied().unwrap_or_default();
        let memory_bytes = read_number(&directory.join("memory.usage_in_bytes")).unwrap_or_default();
        /// v1 has no word for "unlimited", only a number no machine reaches.
        const UNLIMITED: u64 = 1 << 60;
        let limit = read_number(&directory.join("memory.limit_in_bytes")).filter(|limit| *limit < UNLIMITED);
        Usage {
            cpu_nanos: read_number(&self.controller("cpuacct").join("cpuacct.usage")).unwrap_or_default(),
            memory_bytes,
            working_set_bytes: memory_bytes.saturating_sub(of("total_inactive_file")),
            rss_bytes: of("total_rss"),
            page_faults: of("total_pgfault"),
            major_page_faults: of("total_pgmajfault"),
            memory_limit_bytes: limit,
            swap_bytes: of("total_swap"),
            processes: read_number(&self.controller("pids").join("pids.current")).unwrap_or_default(),
        }
    }

    /// Changes limits of a running container; fields at zero stay as they are.
    pub fn update(&self, resources: &LinuxContainerResources) -> io::Result<()> {
        let changes = match self.layout {
            Layout::Unified => unified_changes(resources),
            Layout::PerController => per_controller_changes(resources),
        };
        for (controller, file, value) in changes {
            let path = self.controller(controller).join(&file);
            if let Err(error) = std::fs::write(&path, &value) {
                // Memory and swap limits constrain each other; the caller's order may be the wrong one.
                let retry = file.contains("memsw") || file == "memory.limit_in_bytes";
                if !retry || self.swap_limits(resources).is_err() {
                    return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display())));
                }
            }
        }
        Ok(())
    }

    fn swap_limits(&self, resources: &LinuxContainerResources) -> io::Result<()> {
        let directory = self.controller("memory");
        let limit = resources.memory_limit_in_bytes;
        let swap = resources.memory_swap_limit_in_bytes.max(limit);
        std::fs::write(directory.join("memory.memsw.limit_in_bytes"), swap.to_string())?;
        std::fs::write(directory.join("memory.limit_in_bytes"), limit.to_string())
    }
}

type Change = (&'static str, String, String);

fn unified_changes(resources: &LinuxContainerResources) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut set = |file: &str, value: String| changes.push(("", file.to_string(), value));
    if resources.cpu_shares > 0 {
        set("cpu.weight", cpu_weight(resources.cpu_shares).to_string());
    }
    if resources.cpu_quota != 0 {
        let period = if resources.cpu_period > 0 { resources.cpu_period } else { 100_000 };
        let quota = if resources.cpu_quota < 0 { "max".into() } else { resources.cpu_quota.to_string() };
        set("cpu.max", format!("{quota} {period}"));
    }
    if resources.memory_limit_in_bytes != 0 {
        set("memory.max", or_max(resources.memory_limit_in_bytes));
    }
    if !resources.cpuset_cpus.is_empty() {
        set("cpuset.cpus", resources.cpuset_cpus.clone());
    }
    if !resources.cpuset_mems.is_empty() {
        set("cpuset.mems", resources.cpuset_mems.clone());
    }
    for (file, value) in &resources.unified {
        set(file, value.clone());
    }
    changes
}

fn per_controller_changes(resources: &LinuxContainerResources) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut set = |controller: &'static str, file: &str, value: String| {
        changes.push((controller, file.to_string(), value));
    };
    if resources.cpu_shares > 0 {
        set("cpu", "cpu.shares", resources.cpu_shares.to_string());
    }
    if resources.cpu_period > 0 {
        set("cpu", "cpu.cfs_period_us", resources.cpu_period.to_string());
    }
    if resources.cpu_quota != 0 {
        set("cpu", "cpu.cfs_quota_us", resources.cpu_quota.to_string());
    }
    if resources.memory_limit_in_bytes != 0 {
        set("memory", "memory.limit_in_bytes", resources.memory_limit_in_bytes.to_string());
    }
    if !resources.cpuset_cpus.is_empty() {
        set("cpuset", "cpuset.cpus", resources.cpuset_cpus.clone());
    }
    if !resources.cpuset_mems.is_empty() {
        set("cpuset", "cpuset.mems", resources.cpuset_mems.clone());
    }
    changes
}

fn or_max(value: i64) -> String {
    if value < 0 { "max".into() } else { value.to_string() }
}

/// Maps v1 CPU shares (2 to 262144) to v2 weights (1 to 10000).
pub fn cpu_weight(shares: i64) -> i64 {
    1 + ((shares.clamp(2, 262_144) - 2) * 9999) / 262_142
}

fn collect_processes(directory: &Path, depth: u32, found: &mut Vec<i32>) {
    if let Ok(text) = std::fs::read_to_string(directory.join("cgroup.procs")) {
        found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    }
    if depth > 0 {
        for child in children(directory) {
            collect_processes(&child, depth - 1, found);
        }
    }
}

fn remove_tree(directory: &Path, depth: u32) -> io::Result<()> {
    if depth > 0 {
        for child in children(directory) {
            remove_tree(&child, depth - 1)?;
        }
    }
    std::fs::remove_dir(directory)
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let directories = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.map(|entry| entry.path()).collect()
}

fn read_number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn read_pairs(path: &Path) -> BTreeMap<String, u64> {
    parse_pairs(&std::fs::read_to_string(path).unwrap_or_default())
}

fn parse_pairs(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_string(), value.trim().parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_map_to_weights() {
        for (shares, weight) in [(2, 1), (0, 1), (1024, 39), (262_144, 10_000), (1 << 30, 10_000)] {
            assert_eq!(cpu_weight(shares), weight, "{shares}");
        }
    }

    #[test]
    fn changes_name_the_right_files() {
        let resources = LinuxContainerResources {
            cpu_shares: 1024,
            cpu_quota: 50_000,
            cpu_period: 100_000,
            memory_limit_in_bytes: 1 << 20,
            ..Default::default()
        };
        let unified: Vec<String> = unified_changes(&resources)
            .into_iter()
            .map(|(_, file, value)| format!("{file}={value}"))
            .collect();
        assert_eq!(unified, ["cpu.weight=39", "cpu.max=50000 100000", "memory.max=1048576"]);
        let split: Vec<String> = per_controller_changes(&resources)
            .into_iter()
            .map(|(controller, file, value)| format!("{controller}/{file}={value}"))
            .collect();
        assert_eq!(
            split,
            [
                "cpu/cpu.shares=1024",
                "cpu/cpu.cfs_period_us=100000",
                "cpu/cpu.cfs_quota_us=50000",
                "memory/memory.limit_in_bytes=1048576"
            ]
        );
    }

    #[test]
    fn flat_files_parse() {
        let pairs = parse_pairs("oom_kill_disable 0\nunder_oom 0\noom_kill 3\nbroken\n");
        assert_eq!(pairs.get("oom_kill"), Some(&3));
        assert_eq!(pairs.len(), 3);
    }
}

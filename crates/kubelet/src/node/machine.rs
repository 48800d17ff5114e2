//! The machine: what it is and what it has.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use amphipod_api::quantity::{Format, Quantity};
use k8s_openapi::api::core::v1::{NodeSwapStatus, NodeSystemInfo};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use crate::Config;
use crate::pod::resources::Amounts;

/// Level of the API this kubelet implements, with our own mark.
pub const KUBELET_VERSION: &str = concat!("v1.35.0+amphipod.", env!("CARGO_PKG_VERSION"));
/// Share of the disk below which it counts as full (upstream's hard eviction threshold).
pub const DISK_AVAILABLE_PERCENT: u64 = 10;
/// A disk with this much space left is never full, however small a share of it that is: a tenth
/// of a large disk is far more than a cluster on one machine needs.
pub const DISK_AVAILABLE_BYTES: u64 = 5 << 30;
/// Share of the inodes below which a disk counts as full.
const INODES_AVAILABLE_PERCENT: u64 = 5;
/// Memory below which the node is under pressure, likewise.
pub const MEMORY_AVAILABLE_BYTES: u64 = 100 << 20;

#[derive(Clone, Debug)]
pub struct Machine {
    pub memory_bytes: i64,
    pub capacity: Amounts,
    pub allocatable: Amounts,
    pub info: NodeSystemInfo,
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// Kubernetes calls architectures as Go does.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

impl Machine {
    pub fn inspect(config: &Config, runtime: &str) -> Self {
        let memory_kib = meminfo("MemTotal");
        let memory_bytes = i64::try_from(memory_kib * 1024).unwrap_or(i64::MAX);
        let mut capacity = Amounts::new();
        let cpus = std::thread::available_parallelism().map_or(1, |n| i64::try_from(n.get()).unwrap_or(1));
        capacity.insert("cpu".into(), Quantity::from_units(cpus, Format::DecimalSi));
        capacity.insert("memory".into(), Quantity::from_units(memory_bytes, Format::BinarySi));
        let disk = disk(&config.root_dir).map_or(0, |d| d.total);
        let disk = i64::try_from(disk).unwrap_or(i64::MAX);
        capacity
            .insert("ephemeral-storage".into(), Quantity::from_units(disk / 1024 * 1024, Format::BinarySi));
        capacity.insert("pods".into(), Quantity::from_units(i64::from(config.max_pods), Format::DecimalSi));
        capacity.extend(huge_pages());
        let allocatable = allocatable(&capacity, &config.reserved);
        Machine { memory_bytes, capacity, allocatable, info: info(runtime) }
    }
}

/// Capacity without what is held back: by configuration, and the disk's eviction threshold.
fn allocatable(capacity: &Amounts, reserved: &BTreeMap<String, String>) -> Amounts {
    let mut left = capacity.clone();
    let mut take = |name: &str, amount: Quantity| {
        if let Some(have) = left.get_mut(name) {
            let rest = have.minus(amount);
            *have = if rest.is_negative() { Quantity::from_units(0, have.format()) } else { rest };
        }
    };
    for (name, amount) in reserved {
        if let Ok(amount) = Quantity::parse(amount) {
            take(name, amount);
        }
    }
    let memory = i64::try_from(MEMORY_AVAILABLE_BYTES).unwrap_or(0);
    take("memory", Quantity::from_units(memory, Format::BinarySi));
    if let Some(disk) = capacity.get("ephemeral-storage") {
        let held = disk.units() / 100 * i64::try_from(DISK_AVAILABLE_PERCENT).unwrap_or(0);
        take("ephemeral-storage", Quantity::from_units(held, Format::BinarySi));
        if let Some(have) = left.get_mut("ephemeral-storage") {
            *have = Quantity::from_units(have.units(), Format::DecimalSi);
        }
    }
    left
}

pub fn texts(amounts: &Amounts) -> BTreeMap<String, Text> {
    amounts.iter().map(|(name, amount)| (name.clone(), Text(written(name, *amount)))).collect()
}

/// Memory is told in Ki, as upstream does, whatever larger unit would fit.
fn written(name: &str, amount: Quantity) -> String {
    let bytes = amount.units();
    let in_ki = (name == "memory" || name == "ephemeral-storage") && amount.format() == Format::BinarySi;
    if in_ki && bytes % 1024 == 0 && bytes > 0 { format!("{}Ki", bytes / 1024) } else { amount.to_string() }
}

fn huge_pages() -> Amounts {
    let mut found = Amounts::new();
    for entry in fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let size = name
            .strip_prefix("hugepages-")
            .and_then(|n| n.strip_suffix("kB"))
            .and_then(|n| n.parse::<i64>().ok());
        let count = read(&entry.path().join("nr_hugepages").display().to_string()).parse::<i64>();
        if let (Some(kib), Ok(count)) = (size, count) {
            let bytes = Quantity::from_units(kib.saturating_mul(1024), Format::BinarySi);
            found.insert(
                format!("hugepages-{bytes}"),
                Quantity::from_units(kib * 1024 * count, Format::BinarySi),
            );
        }
    }
    found
}

/// A line of /proc/meminfo, in KiB.
pub fn meminfo(key: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Disk {
    pub total: u64,
    pub available: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

impl Disk {
    pub fn is_low(&self) -> bool {
        let below = |left: u64, whole: u64, percent: u64| {
            u128::from(left) * 100 < u128::from(whole) * u128::from(percent)
        };
        let few_bytes = self.available < DISK_AVAILABLE_BYTES
            && below(self.available, self.total, DISK_AVAILABLE_PERCENT);
        few_bytes || below(self.inodes_free, self.inodes, INODES_AVAILABLE_PERCENT)
    }
}

/// The file system that holds `path` (or the nearest folder above that exists).
pub fn disk(path: &Path) -> Option<Disk> {
    let found = path.ancestors().find_map(|p| rustix::fs::statvfs(p).ok())?;
    Some(Disk {
        total: found.f_blocks * found.f_frsize,
        available: found.f_bavail * found.f_frsize,
        inodes: found.f_files,
        inodes_free: found.f_favail,
    })
}

fn info(runtime: &str) -> NodeSystemInfo {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let pretty = release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    let machine_id = read("/etc/machine-id");
    let uuid = read("/sys/class/dmi/id/product_uuid");
    let swap = i64::try_from(meminfo("SwapTotal") * 1024).unwrap_or(0);
    NodeSystemInfo {
        architecture: architecture().to_owned(),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: runtime.to_owned(),
        kernel_version: read("/proc/sys/kernel/osrelease"),
        kube_proxy_version: String::new(),
        kubelet_version: KUBELET_VERSION.to_owned(),
        system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid },
        machine_id,
        operating_system: "linux".to_owned(),
        os_image: pretty.map_or("Linux", |p| p.trim_matches('"')).to_owned(),
        swap: (swap > 0).then_some(NodeSwapStatus { capacity: Some(swap) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_full_by_share_and_by_amount() {
        let disk = |total, available, inodes, inodes_free| Disk { total, available, inodes, inodes_free };
        for (disk, low) in [
            (Disk::default(), false),
            (disk(250 << 30, 13 << 30, 100, 90), false),
            (disk(250 << 30, 4 << 30, 100, 90), true),
            (disk(3 << 30, 1 << 30, 100, 90), false),
            (disk(3 << 30, 200 << 20, 100, 90), true),
            (disk(250 << 30, 100 << 30, 100, 4), true),
            (disk(250 << 30, 100 << 30, 0, 0), false),
        ] {
            assert_eq!(disk.is_low(), low, "{disk:?}");
        }
    }

    #[test]
    fn what_is_held_back_is_not_allocatable() {
        let amount = |text: &str| Quantity::parse(text).unwrap();
        let capacity: Amounts =
            [("cpu", "4"), ("memory", "8Gi"), ("ephemeral-storage", "1000Ki"), ("pods", "110")]
                .map(|(k, v)| (k.to_owned(), amount(v)))
                .into();
        let reserved = BTreeMap::from([("cpu".to_owned(), "500m".to_owned())]);
        let texts = texts(&allocatable(&capacity, &reserved));
        let get = |name: &str| texts[name].0.as_str();
        assert_eq!((get("cpu"), get("memory"), get("pods")), ("3500m", "8286208Ki", "110"));
        assert_eq!(get("ephemeral-storage"), "921600");
    }
}

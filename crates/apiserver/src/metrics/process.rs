//! What every Prometheus client says of its process, read from `/proc`.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The kernel counts processor time for programs in these, on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Default)]
pub struct Process {
    cpu_seconds: Counter<f64, AtomicU64>,
    start_time_seconds: Gauge<f64, AtomicU64>,
    resident_bytes: Gauge,
    virtual_bytes: Gauge,
    open_fds: Gauge,
    max_fds: Gauge,
}

impl Process {
    pub fn new(registry: &mut Registry) -> Self {
        let process = Process::default();
        registry.register("process_cpu_seconds", "Processor time used", process.cpu_seconds.clone());
        registry.register(
            "process_start_time_seconds",
            "When the process began, since the epoch",
            process.start_time_seconds.clone(),
        );
        registry.register("process_resident_memory_bytes", "Memory in use", process.resident_bytes.clone());
        registry.register("process_virtual_memory_bytes", "Memory mapped", process.virtual_bytes.clone());
        registry.register("process_open_fds", "Open file descriptors", process.open_fds.clone());
        registry.register("process_max_fds", "File descriptors allowed", process.max_fds.clone());
        process
    }

    /// What cannot be read stays as it was.
    pub fn refresh(&self) {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        if let Some((used, started)) = times(&read("/proc/self/stat")) {
            self.cpu_seconds.inner().store(used.to_bits(), Ordering::Relaxed);
            let boot = read("/proc/stat");
            if let Some(boot) = number_after(&boot, "btime ") {
                self.start_time_seconds.set(boot as f64 + started);
            }
        }
        let status = read("/proc/self/status");
        for (gauge, name) in [(&self.resident_bytes, "VmRSS:"), (&self.virtual_bytes, "VmSize:")] {
            if let Some(kilobytes) = number_after(&status, name) {
                gauge.set(kilobytes << 10);
            }
        }
        if let Some(most) = number_after(&read("/proc/self/limits"), "Max open files") {
            self.max_fds.set(most);
        }
        if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
            self.open_fds.set(i64::try_from(entries.count()).unwrap_or(i64::MAX));
        }
    }
}

/// Processor time used, and the start after boot, in seconds.
fn times(stat: &str) -> Option<(f64, f64)> {
    // The name before may hold anything, parentheses too.
    let rest = stat.rsplit_once(')')?.1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
    Some(((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND, ticks(19)? / TICKS_PER_SECOND))
}

fn number_after(text: &str, name: &str) -> Option<i64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lines_are_read() {
        let stat = "7 (a) b) S 1 1 1 0 -1 0 9 9 9 9 150 50 0 0 20 0 3 0 12345 9 9";
        assert_eq!(times(stat), Some((2.0, 123.45)));
        assert_eq!(times("broken"), None);
        assert_eq!(number_after("VmPeak: 1 kB\nVmRSS:\t 42 kB\n", "VmRSS:"), Some(42));
        assert_eq!(number_after("Max open files   1024   4096  files\n", "Max open files"), Some(1024));
    }
}

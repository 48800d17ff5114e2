//! What the kernel says of a process's memory and time.

use crate::Outcome;

/// User and system time of the process in clock ticks.
pub fn cpu_ticks(pid: u32) -> Outcome<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = stat.rsplit(')').next().unwrap_or("");
    let field =
        |index: usize| rest.split_whitespace().nth(index).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    Ok(field(11) + field(12))
}

/// How long the calling thread has had a processor.
pub fn thread_seconds() -> Outcome<f64> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos: u64 = stat.split_whitespace().next().unwrap_or("").parse()?;
    Ok(nanos as f64 / 1e9)
}

pub fn resident_mb(pid: u32) -> Outcome<f64> {
    status_mb(pid, "VmRSS:")
}

fn status_mb(pid: u32, field: &str) -> Outcome<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let missing = || format!("the process's status has no {field}");
    let line = status.lines().find_map(|l| l.strip_prefix(field)).ok_or_else(missing)?;
    let kib: u64 = line.split_whitespace().next().ok_or_else(missing)?.parse()?;
    Ok(kib as f64 / 1024.0)
}

/// The highest resident memory between its start and the reading, over the memory at its start.
pub struct Peak(Option<(u32, f64)>);

impl Peak {
    pub fn start(pid: Option<u32>) -> Outcome<Self> {
        let Some(pid) = pid else { return Ok(Peak(None)) };
        // Resets the kernel's high-water mark to what is resident now.
        std::fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
        Ok(Peak(Some((pid, resident_mb(pid)?))))
    }
    pub fn grown_mb(&self) -> Outcome<Option<f64>> {
        let Some((pid, before)) = self.0 else { return Ok(None) };
        Ok(Some((status_mb(pid, "VmHWM:")? - before).max(0.0)))
    }
}

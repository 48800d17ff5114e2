//! What the kernel says of a process's memory and time.

use crate::Outcome;
use crate::report::Report;

/// The kernel's unit of CPU time on every common configuration.
const TICKS_PER_SECOND: f64 = 100.0;

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
    // The kernel books it when the thread lets go, otherwise only at its ticks, milliseconds apart.
    std::thread::sleep(std::time::Duration::from_micros(1));
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
        let Some((_, before)) = self.0 else { return Ok(None) };
        Ok(self.highest_mb()?.map(|highest| (highest - before).max(0.0)))
    }
    pub fn highest_mb(&self) -> Outcome<Option<f64>> {
        self.0.map(|(pid, _)| status_mb(pid, "VmHWM:")).transpose()
    }
}

/// What processes use while something is measured.
pub struct Usage {
    processes: Vec<Process>,
}

struct Process {
    pid: u32,
    name: String,
    ticks: u64,
    peak: Peak,
}

impl Usage {
    pub fn start(pids: &[u32]) -> Outcome<Self> {
        let process = |pid: &u32| -> Outcome<Process> {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm"))?.trim().to_owned();
            Ok(Process { pid: *pid, name, ticks: cpu_ticks(*pid)?, peak: Peak::start(Some(*pid))? })
        };
        // The load's own share belongs beside what it takes from the server.
        let own = std::process::id();
        let processes = pids.iter().chain([&own]).map(process).collect::<Outcome<_>>()?;
        Ok(Usage { processes })
    }

    pub fn report(&self, report: &mut Report, what: &str) -> Outcome<()> {
        for Process { pid, name, ticks, peak } in &self.processes {
            let seconds = (cpu_ticks(*pid)? - ticks) as f64 / TICKS_PER_SECOND;
            report.add(&format!("{what}, CPU of {name}"), seconds, "s");
            if *pid != std::process::id() {
                report.add(&format!("{what}, resident memory of {name}"), resident_mb(*pid)?, "MB");
                let highest = peak.highest_mb()?.unwrap_or(0.0);
                report.add(&format!("{what}, highest memory of {name}"), highest, "MB");
            }
        }
        Ok(())
    }
}

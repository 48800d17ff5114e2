//! `up --detach`, `down` and `status`: what is done from outside a running instance.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use amphipod_cluster::{Files, instance};

use crate::compose::Failure;
use crate::node;
use crate::options::{DataDir, DownOptions, UpOptions};

/// An instance that has not stopped by itself after this long is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// Starts this same command in a session of its own, passes its progress on, and returns when it
/// is ready or has failed.
pub fn detach(options: &UpOptions) -> Result<ExitCode, Failure> {
    let files = Files::new(&options.data.data_dir);
    // A failing check is told here, before anything is started.
    crate::up::preflight(options)?;
    files.create()?;
    let log = std::fs::File::options().create(true).append(true).open(files.log());
    let log = log.map_err(amphipod_cluster::Error::file(&files.log()))?;
    let told_before = log.metadata()?.len();
    let mut command = Command::new(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1).filter(|arg| arg != "--detach")).arg("--detached");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    // SAFETY: setsid is async-signal-safe and touches nothing of the parent's.
    unsafe {
        command.pre_exec(|| rustix::process::setsid().map(|_| ()).map_err(Into::into));
    }
    let mut child = command.spawn()?;
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines() {
            println!("{}", line?);
        }
    }
    // The child closes its output when it is ready, or when it ends.
    if instance::read(&files).is_some_and(|i| i.ready && i.pid == child.id() as i32) {
        return Ok(ExitCode::SUCCESS);
    }
    let status = child.wait()?;
    let told = std::fs::read(files.log()).unwrap_or_default();
    let reason = reason_of(told.get(told_before as usize..).unwrap_or_default());
    let reason = reason.unwrap_or_else(|| format!("the cluster did not come up ({status})"));
    Err(Failure::new(format!("{reason} (see {})", files.log().display())))
}

/// The last error an instance told before it ended.
fn reason_of(log: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(log);
    text.lines().rev().find_map(|line| line.strip_prefix("error: ")).map(str::to_owned)
}

pub fn down(options: &DownOptions) -> Result<ExitCode, Failure> {
    let files = Files::new(&options.data.data_dir);
    if !files.root().exists() {
        println!("nothing to stop: {} does not exist", files.root().display());
        return Ok(ExitCode::SUCCESS);
    }
    let record = instance::read(&files);
    let stopped = instance::stop(&files, STOP_PATIENCE)?;
    println!(
        "{}",
        if stopped { "  ok  control plane and node stopped" } else { "  ok  nothing was running" }
    );
    let mut left = Vec::new();
    if record.is_none_or(|r| r.owns_node) && rustix::process::geteuid().is_root() {
        // The bridge and the rules are this machine's: while another cluster has its node here,
        // they are that one's.
        let machine = instance::Lock::acquire_node(&files).ok();
        left = node::tear_down(&files, machine.is_some())?;
        let what = if machine.is_some() { "pods, mounts and network" } else { "pods and mounts" };
        println!("  ok  {what} removed");
    }
    // The record says where pods are that another `down` is to remove.
    if left.is_empty() {
        instance::forget(&files);
    }
    if options.purge {
        std::fs::remove_dir_all(files.root()).map_err(amphipod_cluster::Error::file(files.root()))?;
        println!("  ok  {} deleted", files.root().display());
    }
    left_behind(&left, options.purge)
}

/// The failure of an end that left pods in external runtimes.
fn left_behind(left: &[String], purged: bool) -> Result<ExitCode, Failure> {
    let advice = match (left, purged) {
        ([], _) => return Ok(ExitCode::SUCCESS),
        (_, true) => "remove them with that runtime's own tools",
        (_, false) => "run `amphipod down` again once that has changed",
    };
    let told: Vec<String> = left.iter().map(|what| format!("{what}; {advice}")).collect();
    Err(Failure::new(told.join("\n")))
}

pub fn status(options: &DataDir) -> Result<ExitCode, Failure> {
    let files = Files::new(&options.data_dir);
    let running = files.root().exists() && instance::Lock::is_held(&files);
    let Some(record) = instance::read(&files).filter(|_| running) else {
        println!("amphipod is not running on {}; start it with `amphipod up`", files.root().display());
        return Ok(ExitCode::from(3));
    };
    println!("process     {} since {}", record.pid, record.started_at);
    println!("API server  {}", record.server);
    println!("kubeconfig  {}", record.kubeconfig);
    println!("data        {}", files.root().display());
    println!("pods        {}   services {}", record.pod_cidr, record.service_cidr);
    if let Some(kib) = resident_kib(record.pid) {
        println!("memory      {} MB resident", kib / 1024);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(crate::compose::report_health(&files))?;
    Ok(ExitCode::SUCCESS)
}

fn resident_kib(pid: i32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_last_error_is_the_reason() {
        for (log, reason) in [
            ("", None),
            ("WARN something\n", None),
            ("error: first\nINFO x\nerror: no space\n", Some("no space")),
        ] {
            assert_eq!(super::reason_of(log.as_bytes()).as_deref(), reason);
        }
    }
}

//! The first process of a PID namespace that the containers of a pod share: it reaps orphans and waits.
//!
//! Containers can look at it through `/proc/1`, so it lives in an empty read-only root of its own and keeps
//! no descriptor of the host.

use std::{
    io::{Read, Write},
    path::Path,
    process::{Command, Stdio},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::{
        signal::{SigSet, Signal},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, chdir, fork, pivot_root, setsid},
};

/// Creates the namespace, prints the pause process's pid on standard output, and leaves it running.
pub fn run(root: &Path) -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWPID).map_err(|error| format!("unshare: {error}"))?;
    // SAFETY: this process has one thread, so the child may use the allocator and everything else.
    match unsafe { fork() }.map_err(|error| format!("fork: {error}"))? {
        ForkResult::Parent { child } => {
            let mut stdout = std::io::stdout();
            writeln!(stdout, "{child}").and_then(|()| stdout.flush()).map_err(|error| error.to_string())
        }
        ForkResult::Child => {
            setsid().map_err(|error| format!("setsid: {error}"))?;
            isolate(root)?;
            wait_forever()
        }
    }
}

/// Moves into an empty tmpfs and lets go of all inherited descriptors.
fn isolate(root: &Path) -> Result<(), String> {
    let text = |what: &'static str| move |error: nix::errno::Errno| format!("{what}: {error}");
    const NONE: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS).map_err(text("unshare mounts"))?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).map_err(text("private mounts"))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    mount(Some("tmpfs"), root, Some("tmpfs"), flags, Some("size=4k")).map_err(text("mount root"))?;
    let null = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|error| error.to_string())?;
    chdir(root).map_err(text("chdir"))?;
    pivot_root(".", ".").map_err(text("pivot_root"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(text("leave the old root"))?;
    rustix::stdio::dup2_stdin(&null)
        .and_then(|()| rustix::stdio::dup2_stdout(&null))
        .and_then(|()| rustix::stdio::dup2_stderr(&null))
        .map_err(|error| error.to_string())?;
    drop(null);
    Ok(())
}

/// Reaps whatever becomes our child until told to end.
fn wait_forever() -> Result<(), String> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
        signals.add(signal);
    }
    signals.thread_block().map_err(|error| error.to_string())?;
    loop {
        match signals.wait() {
            Ok(Signal::SIGCHLD) => reap(),
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.to_string()),
        }
    }
}

fn reap() {
    while let Ok(status) = waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}

/// Starts a pause process with `executable` and returns its pid.
pub fn spawn(executable: &Path, root: &Path) -> std::io::Result<i32> {
    let mut child = Command::new(executable)
        .arg(super::PAUSE_COMMAND)
        .arg(root)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut text = String::new();
    if let Some(stdout) = &mut child.stdout {
        // Ends when parent and pause process have both let go: the namespace is then complete.
        stdout.read_to_string(&mut text)?;
    }
    child.wait()?;
    text.trim().parse().map_err(|_| std::io::Error::other("the pause process did not start"))
}

//! A short-lived helper: one more process in a running container.
//!
//! Without a terminal the process gets the helper's own standard streams. With one, the helper copies
//! between the terminal and its streams. Commands and reports travel over the socket at descriptor
//! [`CONTROL_FD`]; when the runtime goes away, so does the process.

use std::{
    io::{Read, Write},
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
};

use libcontainer::{container::builder::ContainerBuilder, syscall::syscall::SyscallType};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signalfd::SignalFd,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::{
    chain,
    executor::ContainerExecutor,
    io::{
        Outgoing, READ_CHUNK_BYTES, ReadOutcome, bind_socket, child_signals, read_some, receive_terminal,
        resize_terminal, set_nonblocking, unblock_signals,
    },
    protocol::{ExecCommand, ExecReport, ExecRequest, MAX_REQUEST_BYTES, OCI_CONTAINER_ID, OCI_STATE_DIR},
    start_failure,
};

/// Descriptor on which the runtime passes the control socket.
pub const CONTROL_FD: i32 = 3;
/// Input for the terminal beyond which more is not read.
const MAX_INPUT_BACKLOG_BYTES: usize = 64 * 1024;

/// Serves the one request on the control socket.
pub fn run() -> Result<(), String> {
    // SAFETY: the runtime passes an open socket at CONTROL_FD and nothing else in this process owns it.
    let control = unsafe { OwnedFd::from_raw_fd(CONTROL_FD) };
    rustix::io::fcntl_setfd(&control, rustix::io::FdFlags::CLOEXEC).map_err(|error| error.to_string())?;
    let mut control = UnixStream::from(control);
    nix::unistd::setsid().map_err(|error| format!("setsid: {error}"))?;
    let line = read_line(&mut control)?;
    let request: ExecRequest = serde_json::from_slice(&line).map_err(|error| error.to_string())?;
    unblock_signals().map_err(|error| error.to_string())?;
    match start(&request) {
        Ok((pid, terminal)) => {
            send(&mut control, &ExecReport::Started { pid: pid.as_raw() })?;
            let helper = Helper::new(control, pid, terminal)?;
            helper.serve()
        }
        Err(message) => send(&mut control, &ExecReport::Failed { message }),
    }
}

fn read_line(control: &mut UnixStream) -> Result<Vec<u8>, String> {
    let mut line = Vec::new();
    let mut byte = [0u8; 1];
    while line.len() < MAX_REQUEST_BYTES {
        match control.read(&mut byte) {
            Ok(0) => return Err("the control socket closed before a request".into()),
            Ok(_) if byte[0] == b'\n' => return Ok(line),
            Ok(_) => line.push(byte[0]),
            Err(error) => return Err(error.to_string()),
        }
    }
    Err("the request is too long".into())
}

fn send(control: &mut UnixStream, report: &ExecReport) -> Result<(), String> {
    let mut line = serde_json::to_vec(report).map_err(|error| error.to_string())?;
    line.push(b'\n');
    control.write_all(&line).map_err(|error| error.to_string())
}

fn start(request: &ExecRequest) -> Result<(Pid, Option<OwnedFd>), String> {
    let directory = Path::new(&request.container_dir);
    let tty = request.process.get("terminal").and_then(serde_json::Value::as_bool).unwrap_or_default();
    let executor = ContainerExecutor::new(request.confinement.as_ref())?;
    let process = process_file(&request.process)?;
    let console_path = directory.join(format!("exec-{}.sock", std::process::id()));
    let console = if tty { Some(bind_socket(&console_path).map_err(|e| e.to_string())?) } else { None };
    let mut builder = ContainerBuilder::new(OCI_CONTAINER_ID.into(), SyscallType::default())
        .with_root_path(directory.join(OCI_STATE_DIR))
        .map_err(|error| chain(&error))?
        .with_executor(executor);
    if tty {
        builder = builder.with_console_socket(Some(&console_path));
    } else {
        builder = builder
            .with_stdin(duplicate(std::io::stdin())?)
            .with_stdout(duplicate(std::io::stdout())?)
            .with_stderr(duplicate(std::io::stderr())?);
    }
    let process_path = format!("/proc/self/fd/{}", process.as_raw_fd());
    let built = builder.as_tenant().with_detach(true).with_process(Some(process_path)).build();
    if tty {
        drop(std::fs::remove_file(&console_path));
    }
    let pid = built.map_err(|error| start_failure(&error))?;
    let terminal = console
        .map(|listener| receive_terminal(&listener))
        .transpose()
        .map_err(|error| format!("terminal: {error}"))?;
    Ok((Pid::from_raw(pid.as_raw()), terminal))
}

/// libcontainer reads the process from a file; this one never touches a disk.
fn process_file(process: &serde_json::Value) -> Result<std::fs::File, String> {
    let fd = rustix::fs::memfd_create("process.json", rustix::fs::MemfdFlags::CLOEXEC)
        .map_err(|error| error.to_string())?;
    let mut file = std::fs::File::from(fd);
    let bytes = serde_json::to_vec(process).map_err(|error| error.to_string())?;
    file.write_all(&bytes).map_err(|error| error.to_string())?;
    Ok(file)
}

fn duplicate(fd: impl AsFd) -> Result<OwnedFd, String> {
    fd.as_fd().try_clone_to_owned().map_err(|error| error.to_string())
}

/// The terminal of the process and what is on its way into and out of it.
struct Terminal {
    fd: Option<OwnedFd>,
    input: Outgoing,
    input_open: bool,
    output: Outgoing,
}

struct Helper {
    control: UnixStream,
    commands: Vec<u8>,
    runtime_gone: bool,
    pid: Pid,
    signals: SignalFd,
    terminal: Option<Terminal>,
    exit_code: Option<i32>,
}

#[derive(Clone, Copy)]
enum Slot {
    Control,
    Signals,
    Input,
    Output,
    Terminal,
}

impl Helper {
    fn new(control: UnixStream, pid: Pid, terminal: Option<OwnedFd>) -> Result<Helper, String> {
        let text = |error: std::io::Error| error.to_string();
        set_nonblocking(&control).map_err(text)?;
        let signals = child_signals().map_err(text)?;
        let terminal = match terminal {
            Some(fd) => {
                set_nonblocking(&fd).map_err(text)?;
                set_nonblocking(std::io::stdin()).map_err(text)?;
                set_nonblocking(std::io::stdout()).map_err(text)?;
                let (input, output) = (Outgoing::default(), Outgoing::default());
                Some(Terminal { fd: Some(fd), input, input_open: true, output })
            }
            None => {
                release_streams()?;
                None
            }
        };
        Ok(Helper {
            control,
            commands: Vec::new(),
            runtime_gone: false,
            pid,
            signals,
            terminal,
            exit_code: None,
        })
    }

    fn serve(mut self) -> Result<(), String> {
        self.reap();
        while !self.is_over() {
            for (slot, events) in self.poll() {
                self.handle(slot, events);
            }
        }
        let Some(exit_code) = self.exit_code.filter(|_| !self.runtime_gone) else { return Ok(()) };
        rustix::io::ioctl_fionbio(&self.control, false).map_err(|error| error.to_string())?;
        send(&mut self.control, &ExecReport::Exited { exit_code })
    }

    fn is_over(&self) -> bool {
        let drained =
            self.terminal.as_ref().is_none_or(|terminal| terminal.fd.is_none() && terminal.output.is_empty());
        self.exit_code.is_some() && (drained || self.runtime_gone)
    }

    fn poll(&self) -> Vec<(Slot, PollFlags)> {
        let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
        let mut slots = vec![Slot::Signals];
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        if !self.runtime_gone {
            slots.push(Slot::Control);
            fds.push(PollFd::new(self.control.as_fd(), PollFlags::POLLIN));
        }
        if let Some(terminal) = &self.terminal {
            if terminal.input_open && terminal.input.len() < MAX_INPUT_BACKLOG_BYTES {
                slots.push(Slot::Input);
                fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
            }
            if !terminal.output.is_empty() {
                slots.push(Slot::Output);
                fds.push(PollFd::new(stdout.as_fd(), PollFlags::POLLOUT));
            }
            if let Some(fd) = &terminal.fd {
                let mut events = PollFlags::empty();
                events.set(PollFlags::POLLIN, terminal.output.is_empty());
                events.set(PollFlags::POLLOUT, !terminal.input.is_empty());
                slots.push(Slot::Terminal);
                fds.push(PollFd::new(fd.as_fd(), events));
            }
        }
        if poll(&mut fds, PollTimeout::NONE).is_err() {
            return Vec::new();
        }
        let ready = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        slots.into_iter().zip(ready).filter(|(_, events)| !events.is_empty()).collect()
    }

    fn handle(&mut self, slot: Slot, events: PollFlags) {
        match slot {
            Slot::Signals => self.reap(),
            Slot::Control => self.read_commands(),
            Slot::Input | Slot::Output | Slot::Terminal => {
                let runtime_gone = &mut self.runtime_gone;
                if let Some(terminal) = &mut self.terminal
                    && !terminal.handle(slot, events)
                {
                    *runtime_gone = true;
                }
            }
        }
        if self.runtime_gone {
            self.kill();
        }
    }

    fn reap(&mut self) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        loop {
            match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == self.pid => self.exit_code = Some(code),
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == self.pid => {
                    self.exit_code = Some(128 + signal as i32);
                }
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    fn read_commands(&mut self) {
        let mut buffer = [0u8; 4096];
        match read_some(self.control.as_fd(), &mut buffer) {
            ReadOutcome::Data(length) => self.commands.extend_from_slice(&buffer[..length]),
            ReadOutcome::WouldBlock => return,
            ReadOutcome::Ended => self.runtime_gone = true,
        }
        while let Some(end) = self.commands.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.commands.drain(..=end).collect();
            match serde_json::from_slice(&line) {
                Ok(ExecCommand::Kill) => self.kill(),
                Ok(ExecCommand::Resize { width, height }) => {
                    if let Some(fd) = self.terminal.as_ref().and_then(|terminal| terminal.fd.as_ref()) {
                        resize_terminal(fd.as_fd(), width, height);
                    }
                }
                Err(_) => self.runtime_gone = true,
            }
        }
    }

    /// Ends the process and its process group (it leads its own session).
    fn kill(&self) {
        if self.exit_code.is_none()
            && let Some(pid) = rustix::process::Pid::from_raw(self.pid.as_raw())
        {
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

impl Terminal {
    /// Moves bytes; false when the runtime's end is gone.
    fn handle(&mut self, slot: Slot, events: PollFlags) -> bool {
        let mut buffer = [0u8; READ_CHUNK_BYTES];
        match slot {
            Slot::Input => match read_some(std::io::stdin().as_fd(), &mut buffer) {
                ReadOutcome::Data(length) => self.input.push(&buffer[..length]),
                ReadOutcome::WouldBlock => {}
                ReadOutcome::Ended => {
                    const END_OF_TRANSMISSION: &[u8] = &[4];
                    self.input.push(END_OF_TRANSMISSION);
                    self.input_open = false;
                }
            },
            Slot::Output => return self.output.flush(std::io::stdout().as_fd()).is_ok(),
            _ => return self.exchange(events, &mut buffer),
        }
        true
    }

    fn exchange(&mut self, events: PollFlags, buffer: &mut [u8]) -> bool {
        let Some(fd) = &self.fd else { return true };
        if events.contains(PollFlags::POLLOUT) && self.input.flush(fd.as_fd()).is_err() {
            self.input.clear();
        }
        if events.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
            match read_some(fd.as_fd(), buffer) {
                ReadOutcome::Data(length) => {
                    self.output.push(&buffer[..length]);
                    return self.output.flush(std::io::stdout().as_fd()).is_ok();
                }
                ReadOutcome::WouldBlock => {}
                ReadOutcome::Ended => self.fd = None,
            }
        }
        true
    }
}

/// The process has its own copies of the streams; ours would keep them from ending.
fn release_streams() -> Result<(), String> {
    let null = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|error| error.to_string())?;
    rustix::stdio::dup2_stdin(&null)
        .and_then(|()| rustix::stdio::dup2_stdout(&null))
        .and_then(|()| rustix::stdio::dup2_stderr(&null))
        .map_err(|error| error.to_string())
}

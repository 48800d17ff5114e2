//! One container, from create to its exit record, in one thread.

use std::{
    io::Write,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use libcontainer::{
    container::{Container, builder::ContainerBuilder},
    syscall::syscall::SyscallType,
};
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
    control::{Client, Mode},
    executor::ContainerExecutor,
    files::{read_json, write_json},
    io::{
        Outgoing, READ_CHUNK_BYTES, ReadOutcome, bind_socket, child_signals, pipe, read_some,
        receive_terminal, resize_terminal, set_nonblocking, unblock_signals,
    },
    log::{LineCutter, LogFile, Stream},
    now_nanos,
    protocol::{
        EXIT_FILE, ExitRecord, Frame, FrameKind, OCI_CONTAINER_ID, OCI_STATE_DIR, Reply, Request,
        SHIM_CONFIG_FILE, ShimConfig, StartReport, decode_size,
    },
    start_failure, timestamp,
};
use crate::cgroup::Cgroup;

/// The kernel should kill a container before the process that records its end.
const SHIM_OOM_SCORE_ADJUST: &str = "-998";
const OOM_SCORE_FILE: &str = "/proc/self/oom_score_adj";
/// How long output may still trickle in, and clients may still read, after the container has ended.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Standard input waiting for the container beyond which clients are not read any further.
const MAX_STDIN_BACKLOG_BYTES: usize = 64 * 1024;
/// Connections served at once; more wait in the listen queue.
const MAX_CLIENTS: usize = 64;

/// Runs the container in `directory` and returns when it is over.
pub fn run(directory: &Path) -> Result<(), String> {
    detach()?;
    let config: ShimConfig = read_json(&directory.join(SHIM_CONFIG_FILE)).map_err(|e| e.to_string())?;
    match start(directory, &config) {
        Ok(mut shim) => {
            report(&StartReport::Started { pid: shim.pid.as_raw(), started_at_nanos: now_nanos() })?;
            shim.serve();
            shim.finish(directory);
            Ok(())
        }
        Err(message) => report(&StartReport::Failed { message }),
    }
}

/// Leaves the session of whoever started us and adopts what the container orphans.
fn detach() -> Result<(), String> {
    nix::unistd::setsid().map_err(|error| format!("setsid: {error}"))?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| format!("subreaper: {error}"))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    Ok(())
}

/// Tells the runtime how the start went, then lets go of its pipe.
fn report(outcome: &StartReport) -> Result<(), String> {
    let mut line = serde_json::to_vec(outcome).map_err(|error| error.to_string())?;
    line.push(b'\n');
    let mut stdout = std::io::stdout();
    stdout.write_all(&line).and_then(|()| stdout.flush()).map_err(|error| error.to_string())?;
    let null = std::fs::OpenOptions::new().write(true).open("/dev/null").map_err(|e| e.to_string())?;
    rustix::stdio::dup2_stdout(&null).map_err(|error| error.to_string())
}

/// One source of container output.
struct Output {
    fd: Option<OwnedFd>,
    frame: FrameKind,
    cutter: LineCutter,
}

struct Shim {
    pid: Pid,
    container: Container,
    cgroup: Cgroup,
    signals: SignalFd,
    listener: UnixListener,
    log: LogFile,
    outputs: Vec<Output>,
    /// Where standard input goes: a pipe's write end, or the terminal itself.
    stdin: Option<OwnedFd>,
    stdin_pending: Outgoing,
    /// Close standard input once everything pending is written.
    stdin_ending: bool,
    stdin_once: bool,
    terminal: bool,
    clients: Vec<Client>,
    exit: Option<ExitRecord>,
    drain_until: Option<Instant>,
}

/// Pipes between shim and container; the container's ends are handed to libcontainer.
struct Plumbing {
    container_stdin: Option<OwnedFd>,
    container_stdout: OwnedFd,
    container_stderr: OwnedFd,
    stdin: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

fn plumb(config: &ShimConfig) -> Result<Plumbing, String> {
    let make = || pipe().map_err(|error| format!("pipe: {error}"));
    let (container_stdin, stdin) = if config.stdin {
        let (read, write) = make()?;
        (Some(read), Some(write))
    } else {
        (None, None)
    };
    let (stdout, container_stdout) = make()?;
    let (stderr, container_stderr) = make()?;
    Ok(Plumbing { container_stdin, container_stdout, container_stderr, stdin, stdout, stderr })
}

fn start(directory: &Path, config: &ShimConfig) -> Result<Shim, String> {
    let log = LogFile::open(Path::new(&config.log_path)).map_err(|e| format!("open log: {e}"))?;
    let listener = bind_socket(Path::new(&config.socket)).map_err(|e| format!("control socket: {e}"))?;
    set_nonblocking(&listener).map_err(|e| e.to_string())?;
    unblock_signals().map_err(|e| e.to_string())?;
    let own_score = std::fs::read_to_string(OOM_SCORE_FILE).unwrap_or_default();
    let (mut container, outputs, stdin) = create(directory, config)?;
    let created = container.start().map_err(|error| start_failure(&error));
    let pid = container.pid().map(|pid| Pid::from_raw(pid.as_raw()));
    let pid = match (created, pid) {
        (Ok(()), Some(pid)) => pid,
        (Err(error), _) => return Err(abandon(container, error)),
        (Ok(()), None) => return Err(abandon(container, "the container has no process".into())),
    };
    protect_from_oom(&own_score);
    // Only now: the container must not inherit a blocked signal.
    let signals = child_signals().map_err(|e| format!("signals: {e}"))?;
    Ok(Shim {
        pid,
        container,
        cgroup: Cgroup::find(&config.cgroup_path),
        signals,
        listener,
        log,
        outputs,
        stdin,
        stdin_pending: Outgoing::default(),
        stdin_ending: false,
        stdin_once: config.stdin_once,
        terminal: config.tty,
        clients: Vec::new(),
        exit: None,
        drain_until: None,
    })
}

/// libcontainer has given us the container's score; a process without privileges can only take its own back.
fn protect_from_oom(own_score: &str) {
    let protected = std::fs::write(OOM_SCORE_FILE, SHIM_OOM_SCORE_ADJUST);
    if protected.is_err()
        && let Err(error) = std::fs::write(OOM_SCORE_FILE, own_score.trim())
    {
        eprintln!("oom_score_adj: {error}");
    }
}

type Created = (Container, Vec<Output>, Option<OwnedFd>);

fn create(directory: &Path, config: &ShimConfig) -> Result<Created, String> {
    let executor = ContainerExecutor::new(config.confinement.as_ref())?;
    let state_dir = directory.join(OCI_STATE_DIR);
    std::fs::create_dir_all(&state_dir).map_err(|error| format!("state directory: {error}"))?;
    let builder = ContainerBuilder::new(OCI_CONTAINER_ID.into(), SyscallType::default())
        .with_root_path(&state_dir)
        .map_err(|error| chain(&error))?
        .with_executor(executor);
    if config.tty {
        create_with_terminal(builder, directory)
    } else {
        create_with_pipes(builder, directory, config)
    }
}

fn create_with_pipes(
    builder: ContainerBuilder,
    bundle: &Path,
    config: &ShimConfig,
) -> Result<Created, String> {
    let plumbing = plumb(config)?;
    let container_stdin = match plumbing.container_stdin {
        Some(fd) => fd,
        None => std::fs::File::open("/dev/null").map_err(|error| error.to_string())?.into(),
    };
    let container = builder
        .with_stdin(container_stdin)
        .with_stdout(plumbing.container_stdout)
        .with_stderr(plumbing.container_stderr)
        .as_init(bundle)
        .with_systemd(false)
        .with_detach(true)
        .build()
        .map_err(|error| start_failure(&error))?;
    for fd in [Some(&plumbing.stdout), Some(&plumbing.stderr), plumbing.stdin.as_ref()].into_iter().flatten()
    {
        set_nonblocking(fd).map_err(|error| error.to_string())?;
    }
    let outputs = vec![
        Output {
            fd: Some(plumbing.stdout),
            frame: FrameKind::Stdout,
            cutter: LineCutter::new(Stream::Stdout),
        },
        Output {
            fd: Some(plumbing.stderr),
            frame: FrameKind::Stderr,
            cutter: LineCutter::new(Stream::Stderr),
        },
    ];
    Ok((container, outputs, plumbing.stdin))
}

fn create_with_terminal(builder: ContainerBuilder, bundle: &Path) -> Result<Created, String> {
    let console_path = bundle.join("console.sock");
    let console = bind_socket(&console_path).map_err(|error| format!("console socket: {error}"))?;
    let built = builder
        .with_console_socket(Some(&console_path))
        .as_init(bundle)
        .with_systemd(false)
        .with_detach(true)
        .build();
    let container = built.map_err(|error| start_failure(&error))?;
    let terminal = receive_terminal(&console).map_err(|error| format!("terminal: {error}"))?;
    drop(std::fs::remove_file(&console_path));
    set_nonblocking(&terminal).map_err(|error| error.to_string())?;
    let input = terminal.try_clone().map_err(|error| error.to_string())?;
    let output =
        Output { fd: Some(terminal), frame: FrameKind::Stdout, cutter: LineCutter::new(Stream::Stdout) };
    Ok((container, vec![output], Some(input)))
}

/// Removes a container that was created but will not run.
fn abandon(mut container: Container, error: String) -> String {
    if let Err(cleanup) = container.delete(true) {
        eprintln!("cleanup after a failed start: {}", chain(&cleanup));
    }
    error
}

/// What a poll slot stands for.
#[derive(Clone, Copy)]
enum Slot {
    Signals,
    Listener,
    Output(usize),
    Stdin,
    Client(usize),
}

impl Shim {
    fn serve(&mut self) {
        // Children that ended before the signal descriptor existed.
        self.reap();
        while !self.is_over() {
            let ready = self.poll();
            for (slot, events) in ready {
                self.handle(slot, events);
            }
            self.clients.retain(|client| !client.gone);
        }
    }

    fn is_over(&self) -> bool {
        let Some(deadline) = self.drain_until else { return false };
        let quiet = self.outputs.iter().all(|output| output.fd.is_none());
        quiet || Instant::now() >= deadline
    }

    /// Waits until something can be done and says what.
    fn poll(&self) -> Vec<(Slot, PollFlags)> {
        let mut slots = vec![Slot::Signals];
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        if self.clients.len() < MAX_CLIENTS {
            slots.push(Slot::Listener);
            fds.push(PollFd::new(self.listener.as_fd(), PollFlags::POLLIN));
        }
        let behind = self.clients.iter().any(Client::is_behind);
        for (index, output) in self.outputs.iter().enumerate() {
            if let Some(fd) = output.fd.as_ref().filter(|_| !behind) {
                slots.push(Slot::Output(index));
                fds.push(PollFd::new(fd.as_fd(), PollFlags::POLLIN));
            }
        }
        if let Some(fd) = self.stdin.as_ref().filter(|_| !self.stdin_pending.is_empty()) {
            slots.push(Slot::Stdin);
            fds.push(PollFd::new(fd.as_fd(), PollFlags::POLLOUT));
        }
        let stdin_full = self.stdin_pending.len() > MAX_STDIN_BACKLOG_BYTES;
        for (index, client) in self.clients.iter().enumerate() {
            let mut events = PollFlags::empty();
            events.set(PollFlags::POLLIN, !stdin_full);
            events.set(PollFlags::POLLOUT, client.wants_write());
            slots.push(Slot::Client(index));
            fds.push(PollFd::new(client.fd(), events));
        }
        if let Err(error) = poll(&mut fds, self.poll_timeout()) {
            if error != nix::errno::Errno::EINTR {
                eprintln!("poll: {error}");
            }
            return Vec::new();
        }
        let ready = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        slots.into_iter().zip(ready).filter(|(_, events)| !events.is_empty()).collect()
    }

    fn poll_timeout(&self) -> PollTimeout {
        match self.drain_until {
            None => PollTimeout::NONE,
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
                PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO)
            }
        }
    }

    fn handle(&mut self, slot: Slot, events: PollFlags) {
        match slot {
            Slot::Signals => self.reap(),
            Slot::Listener => self.accept(),
            Slot::Output(index) => self.read_output(index),
            Slot::Stdin => self.flush_stdin(),
            Slot::Client(index) => self.serve_client(index, events),
        }
    }

    fn accept(&mut self) {
        match self.listener.accept().and_then(|(stream, _)| Client::new(stream)) {
            Ok(client) => self.clients.push(client),
            Err(error) => eprintln!("accept: {error}"),
        }
    }

    fn reap(&mut self) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        loop {
            match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == self.pid => self.ended(code),
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == self.pid => {
                    self.ended(128 + signal as i32)
                }
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    /// The first process is gone: so is the container. What shares its cgroup is killed with it.
    fn ended(&mut self, exit_code: i32) {
        let oom_killed = self.cgroup.oom_kills() > 0;
        self.cgroup.kill_all();
        self.exit = Some(ExitRecord { exit_code, oom_killed, finished_at_nanos: now_nanos() });
        self.drain_until = Some(Instant::now() + DRAIN_TIMEOUT);
    }

    fn read_output(&mut self, index: usize) {
        let mut buffer = [0u8; READ_CHUNK_BYTES];
        let output = &mut self.outputs[index];
        let Some(fd) = &output.fd else { return };
        match read_some(fd.as_fd(), &mut buffer) {
            ReadOutcome::Data(length) => {
                let data = &buffer[..length];
                let mut records = Vec::with_capacity(length + 128);
                output.cutter.push(data, &timestamp(now_nanos()), &mut records);
                self.log.write(&records);
                broadcast(&mut self.clients, output.frame, data);
            }
            ReadOutcome::WouldBlock => {}
            ReadOutcome::Ended => {
                output.fd = None;
                let mut records = Vec::new();
                output.cutter.finish(&timestamp(now_nanos()), &mut records);
                self.log.write(&records);
            }
        }
    }

    fn flush_stdin(&mut self) {
        let Some(fd) = &self.stdin else { return };
        if self.stdin_pending.flush(fd.as_fd()).is_err() {
            self.stdin_pending.clear();
            self.stdin_ending = true;
        }
        if self.stdin_ending && self.stdin_pending.is_empty() {
            self.end_stdin();
        }
    }

    /// Ends standard input: closes the pipe, or types the terminal's end-of-file character.
    fn end_stdin(&mut self) {
        self.stdin_ending = false;
        if self.terminal {
            const END_OF_TRANSMISSION: &[u8] = &[4];
            self.stdin_pending.push(END_OF_TRANSMISSION);
            if let Some(fd) = &self.stdin {
                drop(self.stdin_pending.flush(fd.as_fd()));
            }
        } else {
            self.stdin = None;
        }
    }

    fn serve_client(&mut self, index: usize, events: PollFlags) {
        let client = &mut self.clients[index];
        if events.contains(PollFlags::POLLOUT) {
            client.flush();
        }
        if events.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
            client.fill();
        }
        if client.mode == Mode::Greeting
            && let Some(request) = client.take_request()
        {
            self.answer(index, &request);
        }
        let Mode::Attached { stdin, .. } = self.clients[index].mode else { return };
        while let Some(frame) = self.clients[index].take_frame() {
            self.input(&frame, stdin);
        }
        if self.clients[index].gone && stdin && self.stdin_once {
            self.close_stdin();
        }
    }

    fn answer(&mut self, index: usize, request: &Request) {
        let reply = match request {
            Request::Wait => {
                self.clients[index].mode = Mode::Waiting;
                return;
            }
            Request::Attach { stdin, stdout, stderr } => {
                let mode = Mode::Attached { stdin: *stdin, stdout: *stdout, stderr: *stderr };
                self.clients[index].mode = mode;
                return;
            }
            Request::ReopenLog => self.log.reopen().err().map(|error| error.to_string()),
            Request::Signal { number } => self.signal(*number).err(),
        };
        let client = &mut self.clients[index];
        client.mode = Mode::Leaving;
        client.send_line(&Reply { error: reply });
    }

    fn signal(&self, number: i32) -> Result<(), String> {
        if self.exit.is_some() {
            return Ok(());
        }
        // SAFETY: kill takes two integers. The process cannot be another one by now: it is our child and
        // `exit` is set when it is reaped.
        match unsafe { libc::kill(self.pid.as_raw(), number) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error().to_string()),
        }
    }

    fn input(&mut self, frame: &Frame, may_write: bool) {
        match frame.kind {
            FrameKind::Stdin if may_write && self.stdin.is_some() => {
                self.stdin_pending.push(&frame.payload);
                self.flush_stdin();
            }
            FrameKind::StdinClosed if may_write && self.stdin_once => self.close_stdin(),
            FrameKind::Resize => {
                let terminal = self.outputs.first().and_then(|output| output.fd.as_ref());
                if let (true, Some(fd), Some((width, height))) =
                    (self.terminal, terminal, decode_size(&frame.payload))
                {
                    resize_terminal(fd.as_fd(), width, height);
                }
            }
            _ => {}
        }
    }

    fn close_stdin(&mut self) {
        if self.stdin.is_some() {
            self.stdin_ending = true;
            self.flush_stdin();
        }
    }

    /// Writes the exit record, tells everyone, removes the cgroup.
    fn finish(mut self, directory: &Path) {
        let record = self.exit.clone().unwrap_or(ExitRecord {
            exit_code: 255,
            oom_killed: false,
            finished_at_nanos: now_nanos(),
        });
        let mut records = Vec::new();
        for output in &mut self.outputs {
            output.cutter.finish(&timestamp(now_nanos()), &mut records);
        }
        self.log.write(&records);
        self.outputs.clear();
        if let Err(error) = self.container.delete(true) {
            eprintln!("delete: {}", chain(&error));
        }
        let exit_file: PathBuf = directory.join(EXIT_FILE);
        if let Err(error) = write_json(&exit_file, &record) {
            eprintln!("{}: {error}", exit_file.display());
        }
        self.farewell(&record);
    }

    /// Gives every client the exit record and a bounded time to read what is left for it.
    fn farewell(&mut self, record: &ExitRecord) {
        for client in &mut self.clients {
            let mode = std::mem::replace(&mut client.mode, Mode::Leaving);
            match mode {
                Mode::Waiting => client.send_line(record),
                Mode::Attached { .. } => {
                    client.send_frame(FrameKind::Exited, &record.exit_code.to_be_bytes())
                }
                Mode::Greeting | Mode::Leaving => {}
            }
        }
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        while self.clients.iter().any(Client::wants_write) && Instant::now() < deadline {
            let mut fds: Vec<PollFd<'_>> = self
                .clients
                .iter()
                .filter(|client| client.wants_write())
                .map(|client| PollFd::new(client.fd(), PollFlags::POLLOUT))
                .collect();
            let left = deadline.saturating_duration_since(Instant::now());
            let _ = poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO));
            for client in &mut self.clients {
                client.flush();
            }
            self.clients.retain(|client| !client.gone);
        }
    }
}

fn broadcast(clients: &mut [Client], frame: FrameKind, data: &[u8]) {
    for client in clients {
        let wanted = match client.mode {
            Mode::Attached { stdout, stderr, .. } => match frame {
                FrameKind::Stderr => stderr,
                _ => stdout,
            },
            _ => false,
        };
        if wanted {
            client.send_frame(frame, data);
        }
    }
}

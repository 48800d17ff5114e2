//! The runtime's side of shims and exec helpers.

use std::{
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream as StdUnixStream,
    },
    path::Path,
    process::Stdio,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
};

use super::{
    EXEC_COMMAND, SHIM_COMMAND,
    exec::CONTROL_FD,
    io::ShortSocketPath,
    protocol::{
        ExecCommand, ExecReport, ExecRequest, ExitRecord, MAX_REQUEST_BYTES, Reply, Request, StartReport,
    },
};

/// File in a container's directory with what its shim had to say.
pub const SHIM_LOG_FILE: &str = "shim.log";

/// Starts the shim of the container in `directory` and waits for its report.
pub async fn start(executable: &Path, directory: &Path) -> io::Result<StartReport> {
    let log = std::fs::File::create(directory.join(SHIM_LOG_FILE))?;
    let mut child = Command::new(executable)
        .arg(SHIM_COMMAND)
        .arg(directory)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()?;
    let stdout = child.stdout.take().ok_or_else(|| io::Error::other("the shim has no output"))?;
    let mut line = String::new();
    let read = BufReader::new(stdout.take(MAX_REQUEST_BYTES as u64)).read_line(&mut line).await;
    // Someone has to collect the shim when it ends, while we live.
    tokio::spawn(async move { child.wait().await });
    read?;
    if line.is_empty() {
        let said = std::fs::read_to_string(directory.join(SHIM_LOG_FILE)).unwrap_or_default();
        return Err(io::Error::other(format!("the shim ended without a report: {}", said.trim())));
    }
    serde_json::from_str(&line).map_err(io::Error::other)
}

/// Connects to a shim.
pub async fn connect(socket: &Path) -> io::Result<UnixStream> {
    let short = ShortSocketPath::new(socket)?;
    UnixStream::connect(short.path()).await
}

async fn ask(socket: &Path, request: &Request) -> io::Result<UnixStream> {
    let mut stream = connect(socket).await?;
    stream.write_all(&line(request)?).await?;
    Ok(stream)
}

fn line<T: serde::Serialize>(value: &T) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value).map_err(io::Error::other)?;
    line.push(b'\n');
    Ok(line)
}

/// Sends a request that is answered at once.
pub async fn request(socket: &Path, request: &Request) -> io::Result<()> {
    let stream = ask(socket, request).await?;
    let mut text = String::new();
    BufReader::new(stream).read_line(&mut text).await?;
    let reply: Reply = serde_json::from_str(&text).map_err(io::Error::other)?;
    match reply.error {
        None => Ok(()),
        Some(error) => Err(io::Error::other(error)),
    }
}

/// Subscribes to the end of a container; the shim is there when this returns.
pub async fn watch(socket: &Path) -> io::Result<UnixStream> {
    ask(socket, &Request::Wait).await
}

/// Waits on a subscription; `None` when the shim went away without a word.
pub async fn ended(subscription: UnixStream) -> Option<ExitRecord> {
    let mut text = String::new();
    BufReader::new(subscription).read_line(&mut text).await.ok()?;
    serde_json::from_str(&text).ok()
}

/// Opens a stream of frames to and from the container.
pub async fn attach(socket: &Path, stdin: bool, stdout: bool, stderr: bool) -> io::Result<UnixStream> {
    ask(socket, &Request::Attach { stdin, stdout, stderr }).await
}

/// A process in a container, run by a helper. Dropping the command side ends it.
#[derive(Debug)]
pub struct ExecProcess {
    pub stdin: ChildStdin,
    pub stdout: ChildStdout,
    pub stderr: ChildStderr,
    pub commands: ExecCommands,
    pub reports: ExecReports,
}

/// Sends commands to a helper.
#[derive(Debug)]
pub struct ExecCommands(OwnedWriteHalf);

/// Receives reports of a helper.
#[derive(Debug)]
pub struct ExecReports(BufReader<OwnedReadHalf>);

impl ExecCommands {
    pub async fn send(&mut self, command: &ExecCommand) -> io::Result<()> {
        self.0.write_all(&line(command)?).await
    }
}

impl ExecReports {
    async fn next(&mut self) -> io::Result<ExecReport> {
        let mut text = String::new();
        if self.0.read_line(&mut text).await? == 0 {
            return Err(io::Error::other("the exec helper went away"));
        }
        serde_json::from_str(&text).map_err(io::Error::other)
    }

    /// Waits for the end of the process.
    pub async fn exit_code(&mut self) -> io::Result<i32> {
        match self.next().await? {
            ExecReport::Exited { exit_code } => Ok(exit_code),
            other => Err(io::Error::other(format!("unexpected report {other:?}"))),
        }
    }
}

/// Starts a process; `Err` carries the user's mistake (no such executable) as well as ours.
pub async fn exec(executable: &Path, request: &ExecRequest) -> io::Result<ExecProcess> {
    let (ours, theirs) = StdUnixStream::pair()?;
    let mut child = spawn_helper(executable, theirs.into())?;
    let missing = || io::Error::other("the exec helper has no streams");
    let stdin = child.stdin.take().ok_or_else(missing)?;
    let stdout = child.stdout.take().ok_or_else(missing)?;
    let stderr = child.stderr.take().ok_or_else(missing)?;
    tokio::spawn(async move { child.wait().await });
    ours.set_nonblocking(true)?;
    let (reader, mut writer) = UnixStream::from_std(ours)?.into_split();
    writer.write_all(&line(request)?).await?;
    let mut reports = ExecReports(BufReader::new(reader));
    match reports.next().await? {
        ExecReport::Started { .. } => {
            Ok(ExecProcess { stdin, stdout, stderr, commands: ExecCommands(writer), reports })
        }
        ExecReport::Failed { message } => Err(io::Error::other(message)),
        ExecReport::Exited { .. } => Err(io::Error::other("the process ended before it started")),
    }
}

fn spawn_helper(executable: &Path, control: OwnedFd) -> io::Result<Child> {
    let mut command = Command::new(executable);
    command
        .arg(EXEC_COMMAND)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let fd = control.as_raw_fd();
    let install = move || {
        // SAFETY: `fd` stays open until after the spawn (it is owned by this function), and dup2 and fcntl
        // are async-signal-safe.
        let result = unsafe {
            if fd == CONTROL_FD { libc::fcntl(fd, libc::F_SETFD, 0) } else { libc::dup2(fd, CONTROL_FD) }
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: the closure only makes async-signal-safe calls and allocates nothing on success.
    unsafe { command.pre_exec(install) };
    let child = command.spawn();
    drop(control);
    child
}

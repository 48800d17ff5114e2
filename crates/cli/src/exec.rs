//! `exec`: a command in a container, with the terminal handed over when asked.

use std::io::IsTerminal;
use std::process::ExitCode;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{AttachParams, TerminalSize};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::Error;
use crate::context::Session;
use crate::error::usage;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// POD or TYPE/NAME
    resource: String,
    /// Container name.
    #[arg(short, long)]
    container: Option<String>,
    /// Pass stdin to the container.
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Stdin is a TTY.
    #[arg(short, long)]
    tty: bool,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// The terminal in raw mode; as it was when dropped.
struct Raw(Termios);

impl Raw {
    fn enter() -> Result<Self, Error> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).map_err(std::io::Error::from)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw).map_err(std::io::Error::from)?;
        Ok(Raw(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

pub async fn run(session: &Session, args: Args) -> Result<ExitCode, Error> {
    let name = session.pod(&args.resource).await?;
    let terminal = args.tty && args.stdin && std::io::stdin().is_terminal();
    if args.tty && !terminal {
        eprintln!("Unable to use a TTY - input is not a terminal or the right kind of file");
    }
    let parameters = AttachParams {
        container: args.container.clone(),
        stdin: args.stdin,
        stdout: true,
        stderr: !terminal,
        tty: terminal,
        ..AttachParams::default()
    };
    let api = kube::Api::<Pod>::namespaced(session.client.kube().clone(), &session.namespace);
    let mut process = api.exec(&name, &args.command, &parameters).await?;
    let raw = if terminal { Some(Raw::enter()?) } else { None };
    if let Some(sizes) = process.terminal_size() {
        tokio::spawn(follow_size(sizes));
    }
    if let Some(mut input) = process.stdin() {
        tokio::spawn(async move {
            let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut input).await;
            let _ = input.shutdown().await;
        });
    }
    let status = process.take_status();
    let (out, err) = (process.stdout(), process.stderr());
    let copy_out = copy(out, tokio::io::stdout());
    let copy_err = copy(err, tokio::io::stderr());
    tokio::join!(copy_out, copy_err);
    let outcome = match status {
        Some(status) => status.await,
        None => None,
    };
    drop(raw);
    exit_code(outcome)
}

async fn copy(from: Option<impl tokio::io::AsyncRead + Unpin>, mut to: impl AsyncWrite + Unpin) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..length]).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
}

async fn follow_size(mut sizes: futures::channel::mpsc::Sender<TerminalSize>) {
    use futures::SinkExt;
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut changed) = signal(SignalKind::window_change()) else { return };
    loop {
        if let Ok(size) = tcgetwinsize(std::io::stdout()) {
            let size = TerminalSize { width: size.ws_col, height: size.ws_row };
            if sizes.send(size).await.is_err() {
                return;
            }
        }
        if changed.recv().await.is_none() {
            return;
        }
    }
}

/// The command's own exit code, or why it could not run.
fn exit_code(status: Option<Status>) -> Result<ExitCode, Error> {
    let Some(status) = status else { return Ok(ExitCode::SUCCESS) };
    if status.status.as_deref() == Some("Success") {
        return Ok(ExitCode::SUCCESS);
    }
    let causes = status.details.iter().flat_map(|d| d.causes.iter().flatten());
    let code = causes.into_iter().find(|c| c.reason.as_deref() == Some("ExitCode"));
    let code = code.and_then(|c| c.message.as_deref()?.parse::<u8>().ok());
    match code {
        Some(code) => {
            eprintln!("command terminated with exit code {code}");
            Ok(ExitCode::from(code))
        }
        None => Err(usage(status.message.unwrap_or_else(|| "the command failed".to_owned()))),
    }
}

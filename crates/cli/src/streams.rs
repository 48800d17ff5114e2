//! A process's streams joined to this terminal: what `exec` and attached `run` share.

use std::io::IsTerminal;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{AttachParams, AttachedProcess, TerminalSize};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::Error;

/// What is asked of the streams, and what this terminal can do.
#[derive(Clone, Copy, Debug)]
pub struct Streams {
    stdin: bool,
    terminal: bool,
}

impl Streams {
    pub fn new(stdin: bool, tty: bool) -> Self {
        let terminal = tty && stdin && std::io::stdin().is_terminal();
        if tty && !terminal {
            eprintln!("Unable to use a TTY - input is not a terminal or the right kind of file");
        }
        Streams { stdin, terminal }
    }

    pub fn parameters(&self, container: Option<String>) -> AttachParams {
        AttachParams {
            container,
            stdin: self.stdin,
            stdout: true,
            stderr: !self.terminal,
            tty: self.terminal,
            ..AttachParams::default()
        }
    }

    /// Copies until the process has ended; its status where the server says one.
    pub async fn join(&self, mut process: AttachedProcess) -> Result<Option<Status>, Error> {
        let _raw = if self.terminal { Some(Raw::enter()?) } else { None };
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
        tokio::join!(copy(out, tokio::io::stdout()), copy(err, tokio::io::stderr()));
        Ok(match status {
            Some(status) => status.await,
            None => None,
        })
    }
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

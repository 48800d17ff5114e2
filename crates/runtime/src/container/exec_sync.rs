//! Running a command to its end and collecting what it said, as probes and hooks need it.

use std::{sync::Arc, time::Duration};

use amphipod_cri::v1::ExecSyncResponse;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::{
    error::Error,
    shim::{
        client::{self, ExecProcess},
        protocol::ExecCommand,
    },
    state::Runtime,
};

/// Output kept per stream; CRI's own bound. The rest is read and dropped.
const MAX_OUTPUT_BYTES: usize = 16 * 1024 * 1024;
/// Output may still arrive so long after the process has ended; a child it left behind may hold the pipe.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Time a killed process has to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs `command`; a zero timeout waits for ever.
pub async fn run(
    runtime: &Arc<Runtime>,
    id: &str,
    command: &[String],
    timeout: Duration,
) -> Result<ExecSyncResponse, Error> {
    let container = runtime.container(id)?;
    let request = runtime.exec_request(&container, command, false)?;
    let failed = |error: std::io::Error| {
        Error::Internal(format!("failed to exec in container {:?}: {error}", container.id))
    };
    let process = client::exec(&runtime.executable, &request).await.map_err(failed)?;
    let ExecProcess { stdin, stdout, stderr, mut commands, mut reports } = process;
    drop(stdin);
    let stdout = Collector::start(stdout);
    let stderr = Collector::start(stderr);
    let exit_code = if timeout.is_zero() {
        reports.exit_code().await.map_err(failed)?
    } else {
        match tokio::time::timeout(timeout, reports.exit_code()).await {
            Ok(exit_code) => exit_code.map_err(failed)?,
            Err(_) => {
                drop(commands.send(&ExecCommand::Kill).await);
                drop(tokio::time::timeout(KILL_TIMEOUT, reports.exit_code()).await);
                return Err(Error::DeadlineExceeded(format!(
                    "failed to exec in container: timeout {timeout:?} exceeded: context deadline exceeded"
                )));
            }
        }
    };
    Ok(ExecSyncResponse { stdout: stdout.finish().await, stderr: stderr.finish().await, exit_code })
}

/// Reads one stream in the background, so that what a process wrote is there even when a child it left
/// behind still holds the pipe.
struct Collector {
    output: Arc<Mutex<Vec<u8>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Collector {
    fn start(stream: impl AsyncRead + Send + Unpin + 'static) -> Collector {
        let output = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(collect(stream, Arc::clone(&output)));
        Collector { output, task }
    }

    async fn finish(mut self) -> Vec<u8> {
        drop(tokio::time::timeout(DRAIN_TIMEOUT, &mut self.task).await);
        self.task.abort();
        std::mem::take(&mut *self.output.lock())
    }
}

async fn collect(mut stream: impl AsyncRead + Unpin, output: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = vec![0u8; 16 * 1024];
    while let Ok(length) = stream.read(&mut buffer).await {
        if length == 0 {
            break;
        }
        let mut output = output.lock();
        let room = MAX_OUTPUT_BYTES.saturating_sub(output.len());
        output.extend_from_slice(&buffer[..length.min(room)]);
    }
}

//! The streaming server: exec, attach and port-forward connections behind one-time URLs.
//!
//! CRI hands out a URL and lets whoever holds it connect. Ours listens on a random port of the loopback
//! address, and each URL works once and not for long.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use amphipod_cri::v1::{AttachRequest, ExecRequest, NamespaceMode, PortForwardRequest};
use amphipod_streaming::{
    BoxDuplex, BoxRead, BoxWrite, ExecBackend, PortForwardBackend, Streams, TerminalSize, Wanted, serve_exec,
    serve_port_forward,
};
use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use crate::{
    container::{exec_sync::DRAIN_TIMEOUT, record::Container},
    error::Error,
    sandbox::{namespaces, record::Sandbox},
    shim::{
        client::{self, ExecProcess},
        protocol::{self, ExecCommand, FrameKind},
    },
    state::Runtime,
};

/// Time a URL can be used.
const TOKEN_LIFETIME: Duration = Duration::from_secs(60);
/// URLs waiting to be used.
const MAX_TOKENS: usize = 1000;
const COPY_CHUNK_BYTES: usize = 32 * 1024;

/// What a URL stands for.
enum Session {
    Exec { request: protocol::ExecRequest, options: Wanted },
    Attach { container: Arc<Container>, options: Wanted },
    PortForward { sandbox: Arc<Sandbox>, ports: Vec<u16> },
}

/// Hands out URLs and serves them.
pub struct StreamServer {
    runtime: Arc<Runtime>,
    address: SocketAddr,
    sessions: Mutex<HashMap<String, (Instant, Session)>>,
}

impl StreamServer {
    /// Listens until cancelled.
    pub async fn start(runtime: Arc<Runtime>, cancel: CancellationToken) -> Result<Arc<StreamServer>, Error> {
        let unavailable = |error: io::Error| Error::Unavailable(format!("streaming server: {error}"));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(unavailable)?;
        let address = listener.local_addr().map_err(unavailable)?;
        let server = Arc::new(StreamServer { runtime, address, sessions: Mutex::default() });
        tokio::spawn(Arc::clone(&server).listen(listener, cancel));
        Ok(server)
    }

    async fn listen(self: Arc<Self>, listener: TcpListener, cancel: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                () = cancel.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else { continue };
            let server = Arc::clone(&self);
            tokio::spawn(async move {
                let service = hyper::service::service_fn(move |request| {
                    let response = server.answer(request);
                    async move { Ok::<_, Infallible>(response) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                if let Err(error) = connection.with_upgrades().await {
                    tracing::debug!(%error, "streaming connection");
                }
            });
        }
    }

    fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let token = request.uri().path().rsplit('/').next().unwrap_or_default().to_string();
        let found = self.sessions.lock().remove(&token);
        let fresh = found.filter(|(made, _)| made.elapsed() < TOKEN_LIFETIME);
        let Some((_, session)) = fresh else {
            let mut response = Response::new(Full::from("404 page not found"));
            *response.status_mut() = StatusCode::NOT_FOUND;
            return response;
        };
        match session {
            Session::Exec { request: process, options } => {
                let backend = Exec { runtime: Arc::clone(&self.runtime), request: process };
                serve_exec(request, options, Arc::new(backend))
            }
            Session::Attach { container, options } => {
                serve_exec(request, options, Arc::new(Attach { container, options }))
            }
            Session::PortForward { sandbox, ports } => {
                serve_port_forward(request, ports, Arc::new(PortForward { sandbox }))
            }
        }
    }

    fn url(&self, kind: &str, session: Session) -> Result<String, Error> {
        let token = crate::state::new_id();
        let mut sessions = self.sessions.lock();
        sessions.retain(|_, (made, _)| made.elapsed() < TOKEN_LIFETIME);
        if sessions.len() >= MAX_TOKENS {
            return Err(Error::Unavailable("too many streaming sessions are waiting".into()));
        }
        sessions.insert(token.clone(), (Instant::now(), session));
        Ok(format!("http://{}/{kind}/{token}", self.address))
    }

    pub fn exec(&self, request: ExecRequest) -> Result<String, Error> {
        let container = self.runtime.container(&request.container_id)?;
        let options = checked(Wanted {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            tty: request.tty,
        })?;
        let process = self.runtime.exec_request(&container, &request.cmd, request.tty)?;
        self.url("exec", Session::Exec { request: process, options })
    }

    pub fn attach(&self, request: AttachRequest) -> Result<String, Error> {
        let container = self.runtime.container(&request.container_id)?;
        if *container.ended.borrow() || container.record().started_at_nanos == 0 {
            return Err(Error::FailedPrecondition(format!("container {} is not running", container.id)));
        }
        let options = checked(Wanted {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            tty: request.tty,
        })?;
        self.url("attach", Session::Attach { container, options })
    }

    pub fn port_forward(&self, request: PortForwardRequest) -> Result<String, Error> {
        let sandbox = self.runtime.sandbox(&request.pod_sandbox_id)?;
        if !sandbox.state().ready {
            return Err(Error::FailedPrecondition(format!("pod sandbox {} is not running", sandbox.id)));
        }
        let port = |port: &i32| {
            u16::try_from(*port).map_err(|_| Error::InvalidArgument(format!("invalid port {port}")))
        };
        let ports = request.port.iter().map(port).collect::<Result<Vec<u16>, Error>>()?;
        self.url("portforward", Session::PortForward { sandbox, ports })
    }
}

fn checked(options: Wanted) -> Result<Wanted, Error> {
    if options.tty && options.stderr {
        return Err(Error::InvalidArgument("tty and stderr cannot both be true".into()));
    }
    if !options.stdin && !options.stdout && !options.stderr {
        return Err(Error::InvalidArgument("one of stdin, stdout, or stderr must be set".into()));
    }
    Ok(options)
}

/// One more process in a container.
struct Exec {
    runtime: Arc<Runtime>,
    request: protocol::ExecRequest,
}

#[async_trait]
impl ExecBackend for Exec {
    async fn run(&self, streams: Streams) -> Result<i32, String> {
        match client::exec(&self.runtime.executable, &self.request).await {
            Ok(process) => drive(process, streams).await,
            Err(error) => {
                Err(format!("error executing command in container: failed to exec in container: {error}"))
            }
        }
    }
}

/// Copies between a running process and its client until the process ends. Dropping this ends the process.
async fn drive(process: ExecProcess, streams: Streams) -> Result<i32, String> {
    let ExecProcess { stdin, stdout, stderr, mut commands, mut reports } = process;
    let Streams { stdin: client_stdin, stdout: client_stdout, stderr: client_stderr, mut resize } = streams;
    let resizing = async {
        while let Some(TerminalSize { width, height }) = resize.recv().await {
            if commands.send(&ExecCommand::Resize { width, height }).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let input = async {
        copy_input(client_stdin, stdin).await;
        std::future::pending::<()>().await;
    };
    let output = async { tokio::join!(copy(stdout, client_stdout), copy(stderr, client_stderr)) };
    let ended = reports.exit_code();
    tokio::pin!(resizing, input, output, ended);
    let mut drained = false;
    let exit = loop {
        tokio::select! {
            exit = &mut ended => break exit,
            _ = &mut output, if !drained => drained = true,
            () = &mut resizing => {}
            () = &mut input => {}
        }
    };
    if !drained {
        drop(tokio::time::timeout(DRAIN_TIMEOUT, output).await);
    }
    exit.map_err(|error| error.to_string())
}

async fn copy_input(from: Option<BoxRead>, mut to: impl AsyncWrite + Unpin) {
    if let Some(mut from) = from {
        drop(tokio::io::copy(&mut from, &mut to).await);
    }
    drop(to.shutdown().await);
}

/// Copies output; without a client, or once it is gone, the rest is read and dropped.
async fn copy(mut from: impl AsyncRead + Unpin, mut to: Option<BoxWrite>) {
    let mut buffer = vec![0u8; COPY_CHUNK_BYTES];
    while let Ok(length) = from.read(&mut buffer).await {
        if length == 0 {
            return;
        }
        if let Some(writer) = &mut to
            && writer.write_all(&buffer[..length]).await.is_err()
        {
            to = None;
        }
    }
}

/// A container's own streams.
struct Attach {
    container: Arc<Container>,
    options: Wanted,
}

#[async_trait]
impl ExecBackend for Attach {
    async fn run(&self, streams: Streams) -> Result<i32, String> {
        let Wanted { stdin, stdout, stderr, .. } = self.options;
        let text = |error: io::Error| error.to_string();
        let stream = client::attach(&self.container.socket, stdin, stdout, stderr).await.map_err(text)?;
        follow(stream, streams).await.map_err(text)?;
        Ok(0)
    }
}

/// Exchanges frames with the shim until the container ends.
async fn follow(stream: UnixStream, streams: Streams) -> io::Result<()> {
    let Streams { stdin, stdout, stderr, resize } = streams;
    let (from_shim, to_shim) = stream.into_split();
    tokio::select! {
        outcome = receive_frames(from_shim, stdout, stderr) => outcome,
        outcome = send_frames(to_shim, stdin, resize) => outcome,
    }
}

async fn receive_frames(
    mut from: impl AsyncRead + Unpin,
    mut stdout: Option<BoxWrite>,
    mut stderr: Option<BoxWrite>,
) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        while let Some(frame) = protocol::decode_frame(&mut buffer).map_err(io::Error::other)? {
            let writer = match frame.kind {
                FrameKind::Stdout => &mut stdout,
                FrameKind::Stderr => &mut stderr,
                FrameKind::Exited => return Ok(()),
                _ => continue,
            };
            if let Some(writer) = writer {
                writer.write_all(&frame.payload).await?;
            }
        }
        if from.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

/// Passes input and sizes on. Never ends by itself: the container's end does that.
async fn send_frames(
    mut to: impl AsyncWrite + Unpin,
    mut stdin: Option<BoxRead>,
    mut resize: mpsc::Receiver<TerminalSize>,
) -> io::Result<()> {
    let mut buffer = vec![0u8; COPY_CHUNK_BYTES];
    let mut resizable = true;
    loop {
        let mut wire = Vec::new();
        tokio::select! {
            size = resize.recv(), if resizable => match size {
                Some(size) => {
                    let payload = protocol::encode_size(size.width, size.height);
                    protocol::encode_frame(FrameKind::Resize, &payload, &mut wire);
                }
                None => resizable = false,
            },
            read = read_input(&mut stdin, &mut buffer) => match read? {
                0 => {
                    stdin = None;
                    protocol::encode_frame(FrameKind::StdinClosed, &[], &mut wire);
                }
                length => protocol::encode_frame(FrameKind::Stdin, &buffer[..length], &mut wire),
            },
        }
        to.write_all(&wire).await?;
    }
}

async fn read_input(stdin: &mut Option<BoxRead>, buffer: &mut [u8]) -> io::Result<usize> {
    match stdin {
        Some(reader) => reader.read(buffer).await,
        None => std::future::pending().await,
    }
}

/// Connects inside a sandbox's network.
struct PortForward {
    sandbox: Arc<Sandbox>,
}

#[async_trait]
impl PortForwardBackend for PortForward {
    async fn connect(&self, port: u16) -> io::Result<BoxDuplex> {
        let network = match self.sandbox.network_mode() {
            NamespaceMode::Node => None,
            _ => self.sandbox.namespace(namespaces::NETWORK),
        };
        let connect = move || namespaces::connect_loopback(network, port);
        let stream = tokio::task::spawn_blocking(connect).await.map_err(io::Error::other)??;
        stream.set_nonblocking(true)?;
        Ok(Box::new(TcpStream::from_std(stream)?))
    }
}

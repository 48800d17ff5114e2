//! Exec and attach, over either transport.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    Error,
    backend::{ExecBackend, Streams, Wanted},
    channels::{self, ERROR, Encoding, Input, RESIZE, STDERR, STDIN, STDOUT},
    negotiate::{self, STREAM_PROTOCOL, Transport},
    pump,
    spdy::{Session, SpdyStream, headers::find},
    status::{self, Outcome, StatusStyle},
    websocket::{self, FAREWELL_TIMEOUT, Outgoing},
};

/// Time a SPDY client has to open all its streams.
const STREAMS_TIMEOUT: Duration = Duration::from_secs(30);
/// Messages waiting for the backend on one channel.
const CHANNEL_BACKLOG: usize = 32;

/// A SPDY stream protocol.
#[derive(Debug, Clone, Copy)]
struct SpdyProtocol {
    status: StatusStyle,
    resize: bool,
}

const SPDY_PROTOCOLS: &[(&str, SpdyProtocol)] = &[
    ("v4.channel.k8s.io", SpdyProtocol { status: StatusStyle::Json, resize: true }),
    ("v3.channel.k8s.io", SpdyProtocol { status: StatusStyle::Text, resize: true }),
    ("v2.channel.k8s.io", SpdyProtocol { status: StatusStyle::Text, resize: false }),
    ("channel.k8s.io", SpdyProtocol { status: StatusStyle::Text, resize: false }),
];

/// A WebSocket sub-protocol.
#[derive(Debug, Clone, Copy)]
struct WebSocketProtocol {
    encoding: Encoding,
    status: StatusStyle,
    closes: bool,
}

const fn websocket_protocol(encoding: Encoding, status: StatusStyle, closes: bool) -> WebSocketProtocol {
    WebSocketProtocol { encoding, status, closes }
}

const WEBSOCKET_PROTOCOLS: &[(&str, WebSocketProtocol)] = &[
    ("v5.channel.k8s.io", websocket_protocol(Encoding::Binary, StatusStyle::Json, true)),
    ("v4.channel.k8s.io", websocket_protocol(Encoding::Binary, StatusStyle::Json, false)),
    ("v4.base64.channel.k8s.io", websocket_protocol(Encoding::Base64, StatusStyle::Json, false)),
    ("channel.k8s.io", websocket_protocol(Encoding::Binary, StatusStyle::Text, false)),
    ("base64.channel.k8s.io", websocket_protocol(Encoding::Base64, StatusStyle::Text, false)),
];

/// Answers an exec or attach request and, once the connection is upgraded, runs the session in the
/// background.
pub fn serve_exec<B>(
    mut request: Request<B>,
    options: Wanted,
    backend: Arc<dyn ExecBackend>,
) -> Response<Full<Bytes>> {
    match negotiate::transport(request.headers()) {
        Some(Transport::Spdy) => {
            let offered = negotiate::listed(request.headers(), STREAM_PROTOCOL);
            let chosen = match (offered.is_empty(), negotiate::choose(&offered, SPDY_PROTOCOLS)) {
                // A client that offers nothing is as old as the first protocol.
                (true, _) => (None, SpdyProtocol { status: StatusStyle::Text, resize: false }),
                (false, Some((name, protocol))) => (Some(name), protocol),
                (false, None) => return cannot_negotiate(&offered, &names(SPDY_PROTOCOLS)),
            };
            let upgrade = hyper::upgrade::on(&mut request);
            in_background(upgrade, move |upgraded| spdy(upgraded, options, chosen.1, backend));
            negotiate::spdy_response(chosen.0)
        }
        Some(Transport::WebSocket) => {
            let offered = negotiate::listed(request.headers(), "sec-websocket-protocol");
            let oldest = websocket_protocol(Encoding::Binary, StatusStyle::Text, false);
            let chosen = match (offered.is_empty(), negotiate::choose(&offered, WEBSOCKET_PROTOCOLS)) {
                (true, _) => (None, oldest),
                (false, Some((name, protocol))) => (Some(name), protocol),
                (false, None) => return cannot_negotiate(&offered, &names(WEBSOCKET_PROTOCOLS)),
            };
            let Some(response) = negotiate::websocket_response(&request, chosen.0) else {
                return negotiate::refusal(StatusCode::BAD_REQUEST, "the WebSocket key is missing");
            };
            let upgrade = hyper::upgrade::on(&mut request);
            in_background(upgrade, move |upgraded| websocket(upgraded, options, chosen.1, backend));
            response
        }
        None => negotiate::refusal(StatusCode::BAD_REQUEST, "Upgrade request required"),
    }
}

fn names<T>(known: &[(&'static str, T)]) -> Vec<&'static str> {
    known.iter().map(|(name, _)| *name).collect()
}

/// Refuses a client that speaks no protocol of ours.
pub fn cannot_negotiate(offered: &[String], known: &[&str]) -> Response<Full<Bytes>> {
    let message = format!(
        "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
        offered.join(" "),
        known.join(" ")
    );
    negotiate::refusal(StatusCode::FORBIDDEN, &message)
}

/// Runs `session` once the connection is ours.
pub fn in_background<S, F>(upgrade: OnUpgrade, session: S)
where
    S: FnOnce(Upgraded) -> F + Send + 'static,
    F: Future<Output = Result<(), Error>> + Send,
{
    tokio::spawn(async move {
        let outcome = match upgrade.await {
            Ok(upgraded) => session(upgraded).await,
            Err(error) => Err(Error::Io(std::io::Error::other(error))),
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "stream session");
        }
    });
}

/// The streams of one SPDY session, by type.
#[derive(Default)]
struct SpdyStreams {
    error: Option<SpdyStream>,
    stdin: Option<SpdyStream>,
    stdout: Option<SpdyStream>,
    stderr: Option<SpdyStream>,
    resize: Option<SpdyStream>,
}

impl SpdyStreams {
    async fn collect(session: &mut Session, options: Wanted, protocol: SpdyProtocol) -> Result<Self, Error> {
        let with_stderr = options.stderr && !options.tty;
        let with_resize = options.tty && protocol.resize;
        let wanted = [true, options.stdin, options.stdout, with_stderr, with_resize];
        let mut missing = wanted.iter().filter(|wanted| **wanted).count();
        let mut streams = SpdyStreams::default();
        while missing > 0 {
            let stream = tokio::time::timeout(STREAMS_TIMEOUT, session.accept())
                .await
                .map_err(|_| Error::StreamsMissing)?
                .ok_or(Error::StreamsMissing)?;
            let kind = find(&stream.headers, "streamtype").unwrap_or_default().to_string();
            let slot = match kind.as_str() {
                "error" => &mut streams.error,
                "stdin" => &mut streams.stdin,
                "stdout" => &mut streams.stdout,
                "stderr" => &mut streams.stderr,
                "resize" => &mut streams.resize,
                other => return Err(Error::Spdy(format!("invalid stream type: {other:?}"))),
            };
            if slot.replace(stream).is_none() {
                missing -= 1;
            }
        }
        Ok(streams)
    }
}

fn spdy_output(stream: &SpdyStream) -> (crate::BoxWrite, JoinHandle<()>) {
    let (writer, id) = (Arc::clone(&stream.writer), stream.id);
    pump::writer(move |bytes: Bytes| {
        let writer = Arc::clone(&writer);
        async move {
            let fin = bytes.is_empty();
            writer.data(id, bytes, fin).await
        }
    })
}

async fn spdy(
    upgraded: Upgraded,
    options: Wanted,
    protocol: SpdyProtocol,
    backend: Arc<dyn ExecBackend>,
) -> Result<(), Error> {
    let (reader, writer) = tokio::io::split(TokioIo::new(upgraded));
    let mut session = Session::start(reader, writer)?;
    let streams = SpdyStreams::collect(&mut session, options, protocol).await?;
    let mut pumps = Vec::new();
    let mut output = |stream: &Option<SpdyStream>| {
        stream.as_ref().map(|stream| {
            let (writer, pump) = spdy_output(stream);
            pumps.push(pump);
            writer
        })
    };
    let (stdout, stderr) = (output(&streams.stdout), output(&streams.stderr));
    let exec_streams = Streams {
        stdin: streams.stdin.map(|stream| pump::reader(stream.incoming)),
        stdout,
        stderr,
        resize: pump::sizes(streams.resize.map(|stream| stream.incoming)),
    };
    let outcome = tokio::select! {
        outcome = backend.run(exec_streams) => outcome,
        () = session.closed() => return Ok(()),
    };
    finish_pumps(pumps).await;
    if let Some(error) = streams.error {
        let message = Bytes::from(status::encode(&outcome, protocol.status));
        if !message.is_empty() {
            error.writer.data(error.id, message, false).await?;
        }
        error.writer.data(error.id, Bytes::new(), true).await?;
    }
    // The client closes once it has read everything; a reset now could overtake what we sent.
    drop(tokio::time::timeout(FAREWELL_TIMEOUT, session.closed()).await);
    drop(session.writer.finish().await);
    Ok(())
}

async fn finish_pumps(pumps: Vec<JoinHandle<()>>) {
    for pump in pumps {
        drop(pump.await);
    }
}

fn websocket_output(
    outgoing: &Outgoing,
    encoding: Encoding,
    channel: u8,
) -> (crate::BoxWrite, JoinHandle<()>) {
    let outgoing = outgoing.clone();
    pump::writer(move |bytes: Bytes| {
        let outgoing = outgoing.clone();
        async move {
            if bytes.is_empty() {
                return Ok(());
            }
            outgoing.send(channels::encode(encoding, channel, &bytes)).await
        }
    })
}

async fn websocket(
    upgraded: Upgraded,
    options: Wanted,
    protocol: WebSocketProtocol,
    backend: Arc<dyn ExecBackend>,
) -> Result<(), Error> {
    let (outgoing, mut incoming) = websocket::accept(upgraded).await;
    // An empty message tells the client that the session is up.
    let hello = if options.stdout { STDOUT } else { ERROR };
    outgoing.send(channels::encode(protocol.encoding, hello, b"")).await?;
    let (stdin_sender, stdin) = mpsc::channel(CHANNEL_BACKLOG);
    let (resize_sender, resize) = mpsc::channel(CHANNEL_BACKLOG);
    let mut pumps = Vec::new();
    let mut output = |wanted: bool, channel: u8| {
        wanted.then(|| {
            let (writer, pump) = websocket_output(&outgoing, protocol.encoding, channel);
            pumps.push(pump);
            writer
        })
    };
    let streams = Streams {
        stdout: output(options.stdout, STDOUT),
        stderr: output(options.stderr && !options.tty, STDERR),
        stdin: options.stdin.then(|| pump::reader(stdin)),
        resize: pump::sizes(Some(resize)),
    };
    let outcome = {
        let receive = receive(&mut incoming, protocol, options.stdin.then_some(stdin_sender), resize_sender);
        tokio::select! {
            outcome = backend.run(streams) => outcome,
            () = receive => return Ok(()),
        }
    };
    finish_pumps(pumps).await;
    send_status(&outgoing, protocol, &outcome).await?;
    outgoing.close().await;
    websocket::drain(incoming).await;
    Ok(())
}

async fn send_status(
    outgoing: &Outgoing,
    protocol: WebSocketProtocol,
    outcome: &Outcome,
) -> Result<(), Error> {
    let message = status::encode(outcome, protocol.status);
    if message.is_empty() {
        return Ok(());
    }
    let message: Message = channels::encode(protocol.encoding, ERROR, &message);
    outgoing.send(message).await
}

/// Hands received messages on; returns when the client is gone.
async fn receive(
    incoming: &mut websocket::Incoming,
    protocol: WebSocketProtocol,
    mut stdin: Option<mpsc::Sender<Bytes>>,
    resize: mpsc::Sender<Bytes>,
) {
    while let Some(message) = websocket::next(incoming).await {
        match channels::decode(protocol.encoding, protocol.closes, &message) {
            Input::Data { channel: STDIN, payload } if !payload.is_empty() => {
                if let Some(sender) = &stdin
                    && sender.send(payload).await.is_err()
                {
                    // The process reads no more; the session goes on.
                    stdin = None;
                }
            }
            Input::Data { channel: RESIZE, payload } => drop(resize.send(payload).await),
            Input::Close { channel: STDIN } => stdin = None,
            Input::Data { .. } | Input::Close { .. } | Input::Ignored => {}
        }
    }
}

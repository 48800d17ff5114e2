//! Exec and attach: the streams of one command, over either transport.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::{Request, Response};
use http_body_util::Full;
use hyper::upgrade::OnUpgrade;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::mux::{Incoming, Mux, OpenIncoming, Outgoing};
use crate::spdy::session::{self, NewStream};
use crate::status::{StatusForm, report};
use crate::upgrade::{self, Agreed, Offer};
use crate::websocket::{self, Codec};
use crate::{BoxRead, BoxWrite, ExecBackend, Streams, TerminalSize, Wanted};

const V5: &str = "v5.channel.k8s.io";
const V4: &str = "v4.channel.k8s.io";
const V4_BASE64: &str = "v4.base64.channel.k8s.io";
const V3: &str = "v3.channel.k8s.io";
const V2: &str = "v2.channel.k8s.io";
const V1: &str = "channel.k8s.io";
const V1_BASE64: &str = "base64.channel.k8s.io";

const OFFER: Offer = Offer { websocket: &[V5, V4, V4_BASE64, V1, V1_BASE64], spdy: &[V5, V4, V3, V2, V1] };

const STDIN: u32 = 0;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;
const ERROR: u32 = 3;
const RESIZE: u32 = 4;

/// How long a SPDY client may take to open all the streams it asked for.
const STREAMS_WITHIN: Duration = Duration::from_secs(30);
/// The longest resize message; a real one has about 30 bytes.
const MAX_RESIZE: usize = 4 << 10;

/// Everything of one command but the command.
struct Session {
    streams: Streams,
    error: Outgoing,
    resize: Option<OpenIncoming>,
    sizes: mpsc::Sender<TerminalSize>,
    form: StatusForm,
    /// The streams carrying output, which must all be sent before the end is told.
    outputs: Vec<u32>,
}

/// Answers an exec or attach request, and serves the connection in a task of its own: runs `backend` once the
/// client's streams are there, tells how it ended, and drops it if the client goes away first.
pub fn serve_exec<B>(
    mut request: Request<B>,
    mut wanted: Wanted,
    backend: Arc<dyn ExecBackend>,
) -> Response<Full<bytes::Bytes>> {
    let agreed = match upgrade::negotiate(request.headers(), &OFFER) {
        Ok(agreed) => agreed,
        Err(refusal) => return refusal.into_response(),
    };
    wanted.stderr &= !wanted.tty;
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(serve(upgrade, agreed, wanted, backend));
    upgrade::switching(request.headers(), agreed)
}

fn form_of(protocol: Option<&str>) -> StatusForm {
    match protocol {
        Some(V5 | V4 | V4_BASE64) => StatusForm::Json,
        _ => StatusForm::Text,
    }
}

async fn serve(upgrade: OnUpgrade, agreed: Agreed, wanted: Wanted, backend: Arc<dyn ExecBackend>) {
    let Some(io) = upgrade::upgraded(upgrade).await else { return };
    match agreed {
        Agreed::WebSocket(protocol) => {
            let base64 = matches!(protocol, Some(V4_BASE64 | V1_BASE64));
            let codec = Codec { base64, close_signal: protocol == Some(V5) };
            let mux = Mux::new(false);
            let Some(session) = channels(&mux, &wanted, form_of(protocol)) else { return };
            websocket::serve_channels(io, codec, mux.clone(), run(mux, session, backend)).await;
        }
        Agreed::Spdy(protocol) => {
            let work = async |mux: Arc<Mux>, mut streams: mpsc::Receiver<NewStream>| {
                let collecting = collect(&mut streams, &wanted, protocol);
                let collected = tokio::time::timeout(STREAMS_WITHIN, collecting).await;
                drop(streams); // any more of them are refused
                match collected {
                    Ok(Some(session)) => run(mux, session, backend).await,
                    Ok(None) => {}
                    Err(_) => tracing::debug!("timed out waiting for client to create streams"),
                }
            };
            session::serve(io, work).await;
        }
    }
}

/// The channels of a WebSocket, which exist from the start.
fn channels(mux: &Arc<Mux>, wanted: &Wanted, form: StatusForm) -> Option<Session> {
    let output = |id, wanted: bool| if wanted { mux.open(id).map(|(_, writer)| writer) } else { None };
    let stdin = if wanted.stdin { mux.open(STDIN).map(OpenIncoming::from) } else { None };
    let (stdout, stderr) = (output(STDOUT, wanted.stdout), output(STDERR, wanted.stderr));
    let error = output(ERROR, true)?;
    let resize = mux.open(RESIZE).map(OpenIncoming::from);
    // An empty message tells the client that the connection stands.
    mux.greet([&stdout, &stderr].into_iter().flatten().next().unwrap_or(&error).id());
    Some(Session::new(stdin, stdout, stderr, error, resize, form))
}

impl Session {
    fn new(
        stdin: Option<OpenIncoming>,
        stdout: Option<Outgoing>,
        stderr: Option<Outgoing>,
        error: Outgoing,
        resize: Option<OpenIncoming>,
        form: StatusForm,
    ) -> Self {
        let outputs = [&stdout, &stderr].into_iter().flatten().map(Outgoing::id).collect();
        let (sizes, receiver) = mpsc::channel(1);
        let streams = Streams {
            stdin: stdin.map(|end| Box::new(end) as BoxRead),
            stdout: stdout.map(|end| Box::new(end) as BoxWrite),
            stderr: stderr.map(|end| Box::new(end) as BoxWrite),
            resize: receiver,
        };
        Self { streams, error, resize, sizes, form, outputs }
    }
}

/// Waits for the client to open every stream it asked for; `None` if it goes away first.
async fn collect(
    new: &mut mpsc::Receiver<NewStream>,
    wanted: &Wanted,
    protocol: Option<&str>,
) -> Option<Session> {
    let resizes = wanted.tty && matches!(protocol, Some(V5 | V4 | V3));
    let expected: Vec<&str> = [
        ("error", true),
        ("stdin", wanted.stdin),
        ("stdout", wanted.stdout),
        ("stderr", wanted.stderr),
        ("resize", resizes),
    ]
    .into_iter()
    .filter_map(|(kind, wanted)| wanted.then_some(kind))
    .collect();
    let mut ends: BTreeMap<&str, (Incoming, Outgoing)> = BTreeMap::new();
    while ends.len() < expected.len() {
        let stream = new.recv().await?;
        let kind = stream.header("streamtype").unwrap_or_default();
        match expected.iter().find(|&&expected| expected == kind && !ends.contains_key(expected)) {
            Some(kind) => {
                ends.insert(kind, stream.accept());
            }
            None => {
                tracing::debug!(kind, "unexpected stream type");
                stream.refuse();
            }
        }
    }
    let mut reader = |kind| ends.remove(kind).map(OpenIncoming::from);
    let (stdin, resize) = (reader("stdin"), reader("resize"));
    let mut writer = |kind| ends.remove(kind).map(|(_, writer)| writer);
    let (stdout, stderr, error) = (writer("stdout"), writer("stderr"), writer("error")?);
    Some(Session::new(stdin, stdout, stderr, error, resize, form_of(protocol)))
}

async fn run(mux: Arc<Mux>, session: Session, backend: Arc<dyn ExecBackend>) {
    let Session { streams, mut error, resize, sizes, form, outputs } = session;
    let resizing = async {
        match resize {
            Some(resize) => forward_sizes(resize, sizes).await,
            None => drop(sizes),
        }
        std::future::pending::<std::convert::Infallible>().await
    };
    let ended = tokio::select! {
        ended = backend.run(streams) => ended,
        never = resizing => match never {},
    };
    for &id in &outputs {
        mux.end(id);
    }
    mux.drained(&outputs).await;
    if let Err(error) = error.write_all(&report(&ended, form)).await {
        tracing::debug!(%error, "the end of a command could not be told");
    }
}

#[derive(Debug, Deserialize)]
struct Size {
    #[serde(rename = "Width", alias = "width", default)]
    width: u16,
    #[serde(rename = "Height", alias = "height", default)]
    height: u16,
}

/// Takes the whole JSON documents off the front of `input`; the last size counts. An error ends the stream.
fn take_sizes(input: &mut BytesMut) -> Result<Option<TerminalSize>, serde_json::Error> {
    let mut documents = serde_json::Deserializer::from_slice(input).into_iter::<Size>();
    let mut last = None;
    let outcome = loop {
        match documents.next() {
            Some(Ok(Size { width, height })) => last = Some(TerminalSize { width, height }),
            Some(Err(error)) if !error.is_eof() => break Err(error),
            _ => break Ok(last),
        }
    };
    let taken = documents.byte_offset();
    let _ = input.split_to(taken);
    outcome
}

/// Hands terminal sizes on. Sizes that pass faster than the backend takes them are skipped for the newest one, so
/// that this stream is always read.
async fn forward_sizes(mut resize: impl AsyncRead + Unpin, sizes: mpsc::Sender<TerminalSize>) {
    let (mut input, mut latest) = (BytesMut::new(), None);
    let mut open = true;
    while open || latest.is_some() {
        tokio::select! {
            permit = sizes.reserve(), if latest.is_some() => match permit {
                Ok(permit) => {
                    if let Some(size) = latest.take() {
                        permit.send(size);
                    }
                }
                Err(_) => return,
            },
            read = resize.read_buf(&mut input), if open => match (read, take_sizes(&mut input)) {
                (Ok(1..), Ok(size)) if input.len() <= MAX_RESIZE => latest = size.or(latest),
                (_, sizes) => {
                    if let Err(error) = sizes {
                        tracing::debug!(%error, "a terminal size could not be read");
                    }
                    open = false;
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sizes_are_read_across_pieces_and_the_newest_wins() {
        let mut input = BytesMut::from(&br#"{"Width":80,"Height":24}{"Width":100,"Height":30}{"Wid"#[..]);
        let size = take_sizes(&mut input).unwrap().unwrap();
        assert_eq!((size.width, size.height), (100, 30));
        input.extend_from_slice(br#"th":1,"Height":2}"#);
        assert_eq!(take_sizes(&mut input).unwrap().map(|size| size.height), Some(2));
        assert!(take_sizes(&mut BytesMut::from(&b"{]"[..])).is_err());

        let (sender, mut receiver) = mpsc::channel(1);
        forward_sizes(&br#"{"Width":80,"Height":24}"#[..], sender).await;
        assert_eq!(receiver.recv().await.map(|size| size.width), Some(80));
        assert!(receiver.recv().await.is_none());
    }
}

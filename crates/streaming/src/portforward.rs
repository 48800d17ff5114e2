//! Port forwarding: SPDY, SPDY inside a WebSocket (kubectl since 1.31), and the older WebSocket form in which
//! each port has a pair of channels (kube-rs).

use std::{collections::HashMap, sync::Arc};

use bytes::{Bytes, BytesMut};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::mpsc,
    task::JoinSet,
};

use crate::{
    Error,
    backend::{BoxDuplex, PortForwardBackend},
    channels::{self, Encoding, Input},
    exec::{cannot_negotiate, in_background},
    negotiate::{self, STREAM_PROTOCOL, Transport},
    pump::read_message,
    spdy::{Session, SpdyStream, StreamWriter, headers::find},
    websocket::{self, Outgoing},
};

const SPDY_PROTOCOL: &str = "portforward.k8s.io";
/// Halves of stream pairs waiting for the other half.
const MAX_HALF_PAIRS: usize = 256;
/// Messages waiting for one port.
const CHANNEL_BACKLOG: usize = 32;

#[derive(Debug, Clone, Copy)]
enum Form {
    Tunnel,
    Channels(Encoding),
}

const WEBSOCKET_PROTOCOLS: &[(&str, Form)] = &[
    ("SPDY/3.1+portforward.k8s.io", Form::Tunnel),
    ("v4.channel.k8s.io", Form::Channels(Encoding::Binary)),
    ("v4.base64.channel.k8s.io", Form::Channels(Encoding::Base64)),
    ("portforward.k8s.io", Form::Channels(Encoding::Binary)),
];

/// Answers a port-forward request and serves the connection in the background. `ports` are those the request
/// names; only the channel form needs them.
pub fn serve_port_forward<B>(
    mut request: Request<B>,
    ports: Vec<u16>,
    backend: Arc<dyn PortForwardBackend>,
) -> Response<Full<Bytes>> {
    match negotiate::transport(request.headers()) {
        Some(Transport::Spdy) => {
            let offered = negotiate::listed(request.headers(), STREAM_PROTOCOL);
            if !offered.is_empty() && !offered.iter().any(|name| name == SPDY_PROTOCOL) {
                return cannot_negotiate(&offered, &[SPDY_PROTOCOL]);
            }
            in_background(hyper::upgrade::on(&mut request), move |upgraded| async move {
                spdy(TokioIo::new(upgraded), backend).await
            });
            negotiate::spdy_response(Some(SPDY_PROTOCOL))
        }
        Some(Transport::WebSocket) => {
            let offered = negotiate::listed(request.headers(), "sec-websocket-protocol");
            let chosen = match (offered.is_empty(), negotiate::choose(&offered, WEBSOCKET_PROTOCOLS)) {
                (true, _) => (None, Form::Channels(Encoding::Binary)),
                (false, Some((name, form))) => (Some(name), form),
                (false, None) => {
                    let known: Vec<&str> = WEBSOCKET_PROTOCOLS.iter().map(|(name, _)| *name).collect();
                    return cannot_negotiate(&offered, &known);
                }
            };
            let Some(response) = negotiate::websocket_response(&request, chosen.0) else {
                return negotiate::refusal(StatusCode::BAD_REQUEST, "the WebSocket key is missing");
            };
            in_background(hyper::upgrade::on(&mut request), move |upgraded| async move {
                match chosen.1 {
                    Form::Tunnel => {
                        let (outgoing, incoming) = websocket::accept(upgraded).await;
                        spdy(websocket::tunnel(outgoing, incoming), backend).await
                    }
                    Form::Channels(encoding) => by_channels(upgraded, ports, encoding, backend).await,
                }
            });
            response
        }
        None => negotiate::refusal(StatusCode::BAD_REQUEST, "Upgrade request required"),
    }
}

/// One forwarded connection: the client opens a data and an error stream with the same request ID.
#[derive(Default)]
struct Pair {
    data: Option<SpdyStream>,
    error: Option<SpdyStream>,
}

async fn spdy<T>(io: T, backend: Arc<dyn PortForwardBackend>) -> Result<(), Error>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (reader, writer) = tokio::io::split(io);
    let mut session = Session::start(reader, writer)?;
    let mut halves: HashMap<String, Pair> = HashMap::new();
    let mut connections = JoinSet::new();
    while let Some(stream) = session.accept().await {
        while connections.try_join_next().is_some() {}
        let port = find(&stream.headers, "port").unwrap_or_default().to_string();
        let id = match find(&stream.headers, "requestid") {
            Some(id) => id.to_string(),
            // Clients before request IDs open the error stream right before its data stream.
            None => {
                let error = find(&stream.headers, "streamtype") == Some("error");
                if error { stream.id.to_string() } else { stream.id.saturating_sub(2).to_string() }
            }
        };
        if halves.len() >= MAX_HALF_PAIRS {
            return Err(Error::Spdy("too many unpaired streams".into()));
        }
        let pair = halves.entry(id.clone()).or_default();
        match find(&stream.headers, "streamtype") {
            Some("data") => pair.data = Some(stream),
            Some("error") => pair.error = Some(stream),
            other => return Err(Error::Spdy(format!("invalid stream type {other:?}"))),
        }
        if pair.data.is_some()
            && pair.error.is_some()
            && let Some(Pair { data: Some(data), error: Some(error) }) = halves.remove(&id)
        {
            connections.spawn(forward(port, data, error, Arc::clone(&backend)));
        }
    }
    connections.shutdown().await;
    drop(session.writer.finish().await);
    Ok(())
}

async fn forward(port: String, data: SpdyStream, error: SpdyStream, backend: Arc<dyn PortForwardBackend>) {
    let connected = match port.parse::<u16>() {
        Ok(number) if number > 0 => backend.connect(number).await,
        _ => Err(std::io::Error::other(format!("invalid port {port:?}"))),
    };
    let (writer, id) = (Arc::clone(&data.writer), data.id);
    match connected {
        Ok(connection) => {
            // A half-closed client still wants the answer; the port's end of file ends both directions.
            let (reader, sender) = tokio::io::split(connection);
            let up = tokio::spawn(upload(data.incoming, sender));
            drop(download(reader, &writer, id).await);
            up.abort();
        }
        Err(failure) => {
            let message = format!("error forwarding port {port} to pod: {failure}");
            drop(error.writer.data(error.id, Bytes::from(message), false).await);
        }
    }
    drop(writer.data(id, Bytes::new(), true).await);
    drop(error.writer.data(error.id, Bytes::new(), true).await);
}

async fn upload(mut incoming: mpsc::Receiver<Bytes>, mut to: WriteHalf<BoxDuplex>) {
    while let Some(bytes) = incoming.recv().await {
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
    drop(to.shutdown().await);
}

async fn download(mut from: ReadHalf<BoxDuplex>, to: &StreamWriter, id: u32) -> Result<(), Error> {
    while let Some(bytes) = read_message(&mut from).await? {
        to.data(id, bytes, false).await?;
    }
    Ok(())
}

/// Channel `2n` carries the data of the n-th port, `2n + 1` its errors; both start with the port's number.
async fn by_channels(
    upgraded: Upgraded,
    ports: Vec<u16>,
    encoding: Encoding,
    backend: Arc<dyn PortForwardBackend>,
) -> Result<(), Error> {
    let (outgoing, mut incoming) = websocket::accept(upgraded).await;
    let mut senders = Vec::new();
    let mut connections = JoinSet::new();
    for (index, port) in ports.into_iter().enumerate() {
        let Ok(channel) = u8::try_from(index * 2) else { break };
        for one in [channel, channel + 1] {
            outgoing.send(channels::encode(encoding, one, &port.to_le_bytes())).await?;
        }
        let (sender, receiver) = mpsc::channel(CHANNEL_BACKLOG);
        senders.push(sender);
        let lane = Lane { outgoing: outgoing.clone(), encoding, channel };
        connections.spawn(lane.forward(port, receiver, Arc::clone(&backend)));
    }
    let receive = async {
        while let Some(message) = websocket::next(&mut incoming).await {
            if let Input::Data { channel, payload } = channels::decode(encoding, false, &message)
                && channel.is_multiple_of(2)
                && let Some(sender) = senders.get(usize::from(channel / 2))
            {
                drop(sender.send(payload).await);
            }
        }
    };
    let finished = async { while connections.join_next().await.is_some() {} };
    tokio::select! { () = receive => {}, () = finished => {} }
    outgoing.close().await;
    websocket::drain(incoming).await;
    Ok(())
}

/// One port of the channel form.
struct Lane {
    outgoing: Outgoing,
    encoding: Encoding,
    channel: u8,
}

impl Lane {
    async fn forward(self, port: u16, incoming: mpsc::Receiver<Bytes>, backend: Arc<dyn PortForwardBackend>) {
        match backend.connect(port).await {
            Ok(connection) => {
                let (mut reader, sender) = tokio::io::split(connection);
                let up = tokio::spawn(upload(incoming, sender));
                while let Ok(Some(bytes)) = read_message(&mut reader).await {
                    let message = channels::encode(self.encoding, self.channel, &bytes);
                    if self.outgoing.send(message).await.is_err() {
                        break;
                    }
                }
                up.abort();
            }
            Err(failure) => {
                let text = BytesMut::from(format!("error forwarding port {port} to pod: {failure}").as_str());
                let message = channels::encode(self.encoding, self.channel + 1, &text);
                drop(self.outgoing.send(message).await);
            }
        }
    }
}

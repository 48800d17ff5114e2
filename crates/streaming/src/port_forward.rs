//! Port-forward: pairs of data and error streams, each pair one connection to a port.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::Full;
use hyper::upgrade::OnUpgrade;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::time::DelayQueue;
use tokio_util::time::delay_queue::Key;

use futures::StreamExt;

use crate::mux::{Incoming, Mux, Outgoing};
use crate::spdy::frame::RESET_CANCEL;
use crate::spdy::session::{self, NewStream};
use crate::upgrade::{self, Agreed, Offer, Refusal};
use crate::websocket::{self, Codec, Tunnel};
use crate::{BoxDuplex, PortForwardBackend};

const TUNNELLED: &str = "SPDY/3.1+portforward.k8s.io";
const CHANNELS: &str = "v4.channel.k8s.io";
const CHANNELS_BASE64: &str = "v4.base64.channel.k8s.io";

const OFFER: Offer =
    Offer { websocket: &[TUNNELLED, CHANNELS, CHANNELS_BASE64], spdy: &["portforward.k8s.io"] };

/// Ports one WebSocket can carry: two channels each, of the 255 a byte can number besides the close channel.
const MAX_CHANNEL_PORTS: usize = 127;
/// How long the second stream of a pair may take to follow the first.
const PAIR_WITHIN: Duration = Duration::from_secs(30);
/// How long a connection whose port is done may go on sending, as with other runtimes.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes moved at a time in each direction of a forwarded connection.
const COPY_BUFFER: usize = 16 << 10;

/// Answers a port-forward request, and serves the connection in a task of its own. `ports` matter only to the form
/// that has a pair of WebSocket channels for each; the others name the port of each connection as they open it.
pub fn serve_port_forward<B>(
    mut request: Request<B>,
    ports: Vec<u16>,
    backend: Arc<dyn PortForwardBackend>,
) -> Response<Full<bytes::Bytes>> {
    let agreed = upgrade::negotiate(request.headers(), &OFFER).and_then(|agreed| match agreed {
        Agreed::WebSocket(protocol) if protocol != Some(TUNNELLED) => check_ports(&ports).map(|()| agreed),
        _ => Ok(agreed),
    });
    let agreed = match agreed {
        Ok(agreed) => agreed,
        Err(refusal) => return refusal.into_response(),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(serve(upgrade, agreed, ports, backend));
    upgrade::switching(request.headers(), agreed)
}

fn check_ports(ports: &[u16]) -> Result<(), Refusal> {
    match ports {
        [] => Err(Refusal::bad_request("query parameter \"port\" is required")),
        ports if ports.contains(&0) => Err(Refusal::bad_request("port \"0\" must be > 0")),
        ports if ports.len() > MAX_CHANNEL_PORTS => Err(Refusal::bad_request("too many ports")),
        _ => Ok(()),
    }
}

async fn serve(upgrade: OnUpgrade, agreed: Agreed, ports: Vec<u16>, backend: Arc<dyn PortForwardBackend>) {
    let Some(io) = upgrade::upgraded(upgrade).await else { return };
    let pairs = |mux, streams| serve_pairs(mux, streams, backend.clone());
    match agreed {
        Agreed::Spdy(_) => session::serve(io, pairs).await,
        Agreed::WebSocket(Some(TUNNELLED)) => {
            session::serve(Tunnel::new(websocket::accept(io).await), pairs).await;
        }
        Agreed::WebSocket(protocol) => {
            let codec = Codec { base64: protocol == Some(CHANNELS_BASE64), close_signal: false };
            let mux = Mux::new(false);
            let work = serve_channels(mux.clone(), ports, backend);
            websocket::serve_channels(io, codec, mux, work).await;
        }
    }
}

/// One connection to forward.
struct Pair {
    port: u16,
    data: (Incoming, Outgoing),
    error: Outgoing,
}

/// Forwards each port over its two channels, until all are done.
async fn serve_channels(mux: Arc<Mux>, ports: Vec<u16>, backend: Arc<dyn PortForwardBackend>) {
    let mut forwards = JoinSet::new();
    for (port, id) in ports.into_iter().zip((0..).step_by(2)) {
        let (Some(mut data), Some((_, mut error))) = (mux.open(id), mux.open(id + 1)) else { return };
        for channel in [&mut data.1, &mut error] {
            if channel.write_all(&port.to_le_bytes()).await.is_err() {
                return;
            }
        }
        forwards.spawn(forward(mux.clone(), Pair { port, data, error }, backend.clone()));
    }
    while forwards.join_next().await.is_some() {}
}

/// A pair of which one stream is there.
struct Half {
    port: u16,
    data: Option<(Incoming, Outgoing)>,
    error: Option<Outgoing>,
    deadline: Key,
}

/// Pairs up the streams a SPDY client opens and forwards each pair, until the client goes away.
async fn serve_pairs(
    mux: Arc<Mux>,
    mut streams: mpsc::Receiver<NewStream>,
    backend: Arc<dyn PortForwardBackend>,
) {
    let (mut halves, mut deadlines) = (HashMap::<String, Half>::new(), DelayQueue::new());
    let mut forwards = JoinSet::new();
    loop {
        tokio::select! {
            stream = streams.recv() => {
                let Some(stream) = stream else { return };
                if let Some(pair) = match_up(stream, &mut halves, &mut deadlines) {
                    forwards.spawn(forward(mux.clone(), pair, backend.clone()));
                }
            }
            Some(late) = deadlines.next() => {
                if let Some(half) = halves.remove(late.get_ref()) {
                    tell(half.error, format!("(request={}) timed out waiting for streams", late.get_ref())).await;
                }
            }
            Some(_) = forwards.join_next() => {}
        }
    }
}

/// What the headers of a new stream say, or what is wrong with them.
fn read_headers(stream: &NewStream) -> Result<(u16, bool, String), String> {
    let port = stream.header("port").ok_or("\"port\" header is required")?;
    let port = port.parse::<u16>().ok().filter(|&port| port > 0).ok_or("invalid port")?;
    let is_data = match stream.header("streamtype") {
        Some("data") => true,
        Some("error") => false,
        kind => return Err(format!("invalid stream type {kind:?}")),
    };
    // Clients from before request ids open the error stream first and the data stream next.
    let first = if is_data { stream.id().saturating_sub(2) } else { stream.id() };
    let request = stream.header("requestid").map_or_else(|| first.to_string(), str::to_owned);
    Ok((port, is_data, request))
}

fn match_up(
    stream: NewStream,
    halves: &mut HashMap<String, Half>,
    deadlines: &mut DelayQueue<String>,
) -> Option<Pair> {
    let (port, is_data, request) = match read_headers(&stream) {
        Ok(read) => read,
        Err(error) => {
            tracing::debug!(error, "refusing a port-forward stream");
            stream.refuse();
            return None;
        }
    };
    let half = halves.entry(request.clone()).or_insert_with(|| {
        let deadline = deadlines.insert(request.clone(), PAIR_WITHIN);
        Half { port, data: None, error: None, deadline }
    });
    let is_taken = if is_data { half.data.is_some() } else { half.error.is_some() };
    if is_taken {
        tracing::debug!(request, "stream of a port-forward request already assigned");
        stream.refuse();
        return None;
    }
    let ends = stream.accept();
    if is_data {
        (half.port, half.data) = (port, Some(ends));
    } else {
        half.error = Some(ends.1);
    }
    if half.data.is_none() || half.error.is_none() {
        return None;
    }
    let half = halves.remove(&request)?;
    deadlines.remove(&half.deadline);
    Some(Pair { port: half.port, data: half.data?, error: half.error? })
}

async fn tell(error: Option<Outgoing>, message: String) {
    tracing::debug!(message, "port-forward failed");
    if let Some(mut error) = error {
        // A client that gave the stream up does not want to know.
        let _ = error.write_all(message.as_bytes()).await;
    }
}

/// Connects to the port and moves bytes both ways until both are done or either fails.
async fn forward(mux: Arc<Mux>, pair: Pair, backend: Arc<dyn PortForwardBackend>) {
    let Pair { port, data: (incoming, outgoing), error } = pair;
    let id = outgoing.id();
    let message = |why: io::Error| format!("error forwarding port {port}: {why}");
    let target = match backend.connect(port).await {
        Ok(target) => target,
        Err(why) => return tell(Some(error), message(why)).await,
    };
    match copy_both(incoming, outgoing, target).await {
        Ok(()) => {}
        // Either side hung up in the middle. That is the end of this connection, passed on as such; an error message
        // would make kubectl give up all its others.
        Err(why) if matches!(why.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
            tracing::debug!(port, %why, "a forwarded connection broke");
            mux.reset(id, RESET_CANCEL);
        }
        Err(why) => tell(Some(error), message(why)).await,
    }
}

/// Once the port has closed its side, what the client still sends has [`LINGER`] to go out: over
/// WebSocket channels a client cannot say that it is done, and waits for the end itself.
async fn copy_both(incoming: Incoming, mut outgoing: Outgoing, target: BoxDuplex) -> io::Result<()> {
    let (from_target, mut to_target) = tokio::io::split(target);
    let sending = async {
        let mut incoming = BufReader::with_capacity(COPY_BUFFER, incoming);
        tokio::io::copy_buf(&mut incoming, &mut to_target).await?;
        to_target.shutdown().await
    };
    let receiving = async {
        let mut from_target = BufReader::with_capacity(COPY_BUFFER, from_target);
        tokio::io::copy_buf(&mut from_target, &mut outgoing).await?;
        outgoing.shutdown().await
    };
    tokio::pin!(sending, receiving);
    tokio::select! {
        sent = &mut sending => {
            sent?;
            receiving.await
        }
        received = &mut receiving => {
            received?;
            tokio::time::timeout(LINGER, sending).await.unwrap_or(Ok(()))
        }
    }
}

//! Exec and port-forward as SPDY clients see them, plain and through a WebSocket.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::server::{self, DEADLINE, FLOOD};
use amphipod_streaming::spdy::frame::{Decoder, Encoder, Frame};
use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use http::HeaderValue;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

/// A client that is easy on itself: it reads whenever it waits, and never sends more than a window at once.
struct Client<T> {
    io: T,
    encoder: Encoder,
    decoder: Decoder,
    input: BytesMut,
    streams: BTreeMap<u32, (Vec<u8>, bool)>,
    replies: Vec<u32>,
    resets: Vec<u32>,
    pongs: Vec<u32>,
    credit: BTreeMap<u32, u32>,
    gone: bool,
    /// Whether to keep windows, as no Go client does.
    counts: bool,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Client<T> {
    fn new(io: T, counts: bool) -> Self {
        let (encoder, decoder) = (Encoder::new().unwrap(), Decoder::default());
        let (streams, credit, input) = Default::default();
        let (replies, resets, pongs) = Default::default();
        Self { io, encoder, decoder, input, streams, replies, resets, pongs, credit, gone: false, counts }
    }

    async fn send(&mut self, frame: Frame) {
        let mut bytes = BytesMut::new();
        self.encoder.encode(&frame, &mut bytes).unwrap();
        self.io.write_all(&bytes).await.unwrap();
        self.io.flush().await.unwrap();
    }

    async fn open(&mut self, stream: u32, headers: &[(&str, &str)]) {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.send(Frame::SynStream { stream, headers, fin: false, unidirectional: false }).await;
        self.until(|client| client.replies.contains(&stream) || client.resets.contains(&stream)).await;
    }

    async fn data(&mut self, stream: u32, payload: &[u8], fin: bool) {
        self.send(Frame::Data { stream, payload: Bytes::copy_from_slice(payload), fin }).await;
    }

    async fn until(&mut self, is_so: impl Fn(&Self) -> bool) {
        tokio::time::timeout(DEADLINE, async {
            while !is_so(self) {
                match self.decoder.decode(&mut self.input).unwrap() {
                    Some(frame) => self.take(frame).await,
                    None => assert!(self.io.read_buf(&mut self.input).await.unwrap() > 0, "hung up"),
                }
            }
        })
        .await
        .unwrap();
    }

    async fn take(&mut self, frame: Frame) {
        match frame {
            Frame::SynReply { stream, .. } => self.replies.push(stream),
            Frame::Reset { stream, .. } => self.resets.push(stream),
            Frame::Ping { id } => self.pongs.push(id),
            Frame::GoAway { .. } => self.gone = true,
            Frame::WindowUpdate { stream, delta } => *self.credit.entry(stream).or_default() += delta,
            Frame::Data { stream, payload, fin } => {
                let (got, ended) = self.streams.entry(stream).or_default();
                got.extend_from_slice(&payload);
                *ended |= fin;
                if self.counts && !payload.is_empty() {
                    let delta = u32::try_from(payload.len()).unwrap();
                    self.send(Frame::WindowUpdate { stream, delta }).await;
                    self.send(Frame::WindowUpdate { stream: 0, delta }).await;
                }
            }
            other => panic!("unexpected {other:?}"),
        }
    }

    fn got(&self, stream: u32) -> &[u8] {
        self.streams.get(&stream).map_or(&[], |(got, _)| got)
    }

    fn ended(&self, stream: u32) -> bool {
        self.streams.get(&stream).is_some_and(|(_, ended)| *ended)
    }
}

async fn connect(server: SocketAddr, path: &str, protocol: &str) -> Client<TcpStream> {
    let mut io = TcpStream::connect(server).await.unwrap();
    let request = format!(
        "POST /pods/web/{path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: v9.channel.k8s.io\r\nX-Stream-Protocol-Version: {protocol}\r\n\r\n"
    );
    io.write_all(request.as_bytes()).await.unwrap();
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        head.push(char::from(io.read_u8().await.unwrap()));
    }
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.to_lowercase().contains(&format!("x-stream-protocol-version: {protocol}\r\n")), "{head}");
    Client::new(io, path.contains("counts"))
}

#[tokio::test]
async fn a_command_gets_its_streams_and_tells_its_end() {
    let server = server::start().await;
    let mut client = connect(server, "exec?command=cat&stdin=true&stdout=true", "v4.channel.k8s.io").await;
    client.open(1, &[("streamtype", "error")]).await;
    client.open(3, &[("streamtype", "stdin")]).await;
    client.open(5, &[("streamtype", "nonsense")]).await;
    client.open(7, &[("streamtype", "stdout")]).await;
    assert_eq!((&client.replies[..], &client.resets[..]), (&[1, 3, 7][..], &[5][..]));
    client.send(Frame::Ping { id: 1 }).await;
    client.data(3, b"hello ", false).await;
    client.data(3, b"world", true).await;
    client.until(|client| client.gone).await;
    assert_eq!((client.got(7), &client.pongs[..]), (&b"hello world"[..], &[1][..]));
    assert!(client.ended(7) && client.ended(1));
    assert_eq!(serde_json::from_slice::<Value>(client.got(1)).unwrap()["status"], "Success");
}

#[tokio::test]
async fn windows_are_kept_and_credited_but_a_client_without_them_gets_its_data() {
    let server = server::start().await;
    for path in ["exec?command=flood&stdout=true", "exec?command=flood&stdout=true&counts"] {
        let mut client = connect(server, path, "v4.channel.k8s.io").await;
        client.open(1, &[("streamtype", "error")]).await;
        client.open(3, &[("streamtype", "stdout")]).await;
        client.until(|client| client.gone).await;
        assert_eq!(client.got(3).len(), FLOOD);
    }
    let mut client = connect(server, "exec?command=count&stdin=true&stdout=true", "channel.k8s.io").await;
    for (stream, kind) in [(1, "error"), (3, "stdin"), (5, "stdout")] {
        client.open(stream, &[("streamtype", kind)]).await;
    }
    for step in 1..=20 {
        client.data(3, &[b'x'; 32 << 10], false).await;
        let due = step * (32 << 10);
        client
            .until(|client| client.credit.get(&3) >= Some(&due) && client.credit.get(&0) >= Some(&due))
            .await;
    }
    client.data(3, b"", true).await;
    client.until(|client| client.gone).await;
    assert_eq!((client.got(5), client.got(1)), (&b"655360"[..], &b""[..]));
}

#[tokio::test]
async fn a_command_ends_with_its_client() {
    const NAME: &str = "spdy";
    let server = server::start().await;
    let mut client = connect(server, "exec?command=hang&command=spdy&stdout=true", "v4.channel.k8s.io").await;
    client.open(1, &[("streamtype", "error")]).await;
    client.open(3, &[("streamtype", "stdout")]).await;
    client.until(|client| client.got(3) == b"hanging").await;
    assert!(server::is_hanging(NAME));
    drop(client);
    server::eventually("the command is dropped", || !server::is_hanging(NAME)).await;
}

async fn forward_many<T: AsyncRead + AsyncWrite + Unpin>(mut client: Client<T>, echo: u16) {
    let nobody = amphipod_testing::Reserved::new().unwrap();
    let (echo, closed) = (echo.to_string(), nobody.address.port().to_string());
    for pair in 0..50u32 {
        let request = pair.to_string();
        for (stream, kind) in [(4 * pair + 1, "error"), (4 * pair + 3, "data")] {
            client.open(stream, &[("streamtype", kind), ("port", &echo), ("requestid", &request)]).await;
        }
        client.data(4 * pair + 1, b"", true).await;
        client.data(4 * pair + 3, format!("request {pair}").as_bytes(), false).await;
    }
    for pair in (0..50).rev() {
        client.data(4 * pair + 3, b"!", true).await;
        client.until(|client| client.ended(4 * pair + 3) && client.ended(4 * pair + 1)).await;
        assert_eq!(client.got(4 * pair + 3), format!("echo:request {pair}!").as_bytes());
    }
    client.open(301, &[("streamtype", "error"), ("port", &closed), ("requestid", "x")]).await;
    client.open(303, &[("streamtype", "data"), ("port", &closed), ("requestid", "x")]).await;
    client.until(|client| client.ended(301)).await;
    assert!(client.got(301).starts_with(format!("error forwarding port {closed}: ").as_bytes()));
    client.open(305, &[("streamtype", "data"), ("port", "0")]).await;
    assert_eq!(client.resets, [305]);
}

#[tokio::test]
async fn many_connections_are_forwarded_at_once() {
    let (server, echo) = (server::start().await, server::start_echo().await);
    forward_many(connect(server, "portforward", "portforward.k8s.io").await, echo).await;
}

#[tokio::test]
async fn many_connections_are_forwarded_through_a_websocket() {
    let (server, echo) = (server::start().await, server::start_echo().await);
    let mut request = format!("ws://{server}/pods/web/portforward").into_client_request().unwrap();
    let protocol = HeaderValue::from_static("SPDY/3.1+portforward.k8s.io");
    request.headers_mut().insert("sec-websocket-protocol", protocol);
    let (socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    let (inside, outside) = tokio::io::duplex(1 << 16);
    let (mut sink, mut stream) = socket.split();
    let (mut reader, mut writer) = tokio::io::split(outside);
    tokio::spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            if message.is_binary() {
                writer.write_all(&message.into_data()).await.unwrap();
            }
        }
    });
    tokio::spawn(async move {
        let mut piece = vec![0; 7000];
        while let Ok(count @ 1..) = reader.read(&mut piece).await {
            sink.send(Message::binary(piece[..count].to_vec())).await.unwrap();
        }
    });
    forward_many(Client::new(inside, true), echo).await;
}

//! Exec and port-forward as WebSocket clients see them.

use std::net::SocketAddr;

use crate::server::{self, DEADLINE, FLOOD};
use futures::{SinkExt, StreamExt};
use http::HeaderValue;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn connect(server: SocketAddr, path: &str, protocol: &'static str) -> Result<Socket, Error> {
    let url = format!("ws://{server}/api/v1/namespaces/default/pods/web/{path}");
    let mut request = url.into_client_request().unwrap();
    if !protocol.is_empty() {
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(protocol));
    }
    let (socket, response) = tokio_tungstenite::connect_async(request).await?;
    let agreed = response.headers().get("sec-websocket-protocol").map_or("", |value| value.to_str().unwrap());
    assert_eq!(agreed, protocol);
    Ok(socket)
}

/// Everything the server sends per channel until it says goodbye.
async fn read_all(socket: &mut Socket) -> [Vec<u8>; 4] {
    let mut channels: [Vec<u8>; 4] = Default::default();
    let reading = async {
        loop {
            match socket.next().await.unwrap().unwrap() {
                Message::Binary(message) => {
                    channels[usize::from(message[0])].extend_from_slice(&message[1..]);
                }
                Message::Text(message) => {
                    let digit = usize::from(message.as_bytes()[0] - b'0');
                    channels[digit].extend_from_slice(&message.as_bytes()[1..]);
                }
                Message::Close(frame) => return assert_eq!(frame.unwrap().code, CloseCode::Normal),
                _ => {}
            }
        }
    };
    tokio::time::timeout(DEADLINE, reading).await.unwrap();
    channels
}

#[tokio::test]
async fn v5_ends_stdin_by_signal_and_reports_success() {
    let server = server::start().await;
    let mut socket =
        connect(server, "exec?command=cat&stdin=true&stdout=true", "v5.channel.k8s.io").await.unwrap();
    assert_eq!(&socket.next().await.unwrap().unwrap().into_data()[..], [1], "the greeting");
    socket.send(Message::binary(b"\0hello".as_slice())).await.unwrap();
    socket.send(Message::binary([255, 0].as_slice())).await.unwrap();
    let [_, out, _, status] = read_all(&mut socket).await;
    assert_eq!(out, b"hello");
    assert_eq!(serde_json::from_slice::<Value>(&status).unwrap()["status"], "Success");
}

#[tokio::test]
async fn exit_codes_and_failures_are_told_as_each_protocol_can() {
    let server = server::start().await;
    let path = "exec?command=exit&stdout=true&stderr=true";
    for protocol in ["v4.channel.k8s.io", "channel.k8s.io", "", "base64.channel.k8s.io"] {
        let [_, out, err, status] = read_all(&mut connect(server, path, protocol).await.unwrap()).await;
        let status = String::from_utf8(status).unwrap();
        match protocol {
            "v4.channel.k8s.io" => {
                assert_eq!((&out[..], &err[..]), (&b"out\n"[..], &b"err\n"[..]));
                let status: Value = serde_json::from_str(&status).unwrap();
                assert_eq!(status["details"]["causes"][0]["message"], "3");
            }
            "base64.channel.k8s.io" => assert_eq!((&out[..], &err[..]), (&b"b3V0Cg=="[..], &b"ZXJyCg=="[..])),
            _ => assert_eq!(status, "command terminated with non-zero exit code: exit status 3"),
        }
    }
    let mut socket = connect(server, "exec?command=broken&stdout=true", "v4.channel.k8s.io").await.unwrap();
    let status: Value = serde_json::from_slice(&read_all(&mut socket).await[3]).unwrap();
    assert_eq!(status["reason"], "InternalError");
    let refused = connect(server, path, "v9.channel.k8s.io").await.unwrap_err();
    assert!(matches!(refused, Error::Http(response) if response.status() == 403));
}

#[tokio::test]
async fn floods_arrive_whole_and_unread_input_does_no_harm() {
    let server = server::start().await;
    let mut socket = connect(server, "exec?command=flood&stdout=true", "v4.channel.k8s.io").await.unwrap();
    assert_eq!(read_all(&mut socket).await[1].len(), FLOOD);
    let mut socket =
        connect(server, "exec?command=head&stdin=true&stdout=true", "v5.channel.k8s.io").await.unwrap();
    for _ in 0..100 {
        socket.feed(Message::binary([&b"\0"[..], &[b'y'; 20_000]].concat())).await.unwrap();
    }
    // The command may be over before it is all sent.
    let _ = socket.flush().await;
    assert_eq!(read_all(&mut socket).await[1], b"yyyy");
}

#[tokio::test]
async fn the_terminal_size_reaches_the_command() {
    let server = server::start().await;
    let path = "exec?command=size&stdout=true&tty=true&stderr=true";
    let mut socket = connect(server, path, "v4.channel.k8s.io").await.unwrap();
    socket.send(Message::binary(b"\x04{\"Width\":120,\"Height\":40}".as_slice())).await.unwrap();
    assert_eq!(read_all(&mut socket).await[1], b"120x40");
}

#[tokio::test]
async fn a_command_ends_with_its_client() {
    const NAME: &str = "websocket";
    let server = server::start().await;
    let mut socket = connect(server, "exec?command=hang&command=websocket&stdout=true", "v5.channel.k8s.io")
        .await
        .unwrap();
    while socket.next().await.unwrap().unwrap().len() < 2 {}
    assert!(server::is_hanging(NAME));
    drop(socket);
    server::eventually("the command is dropped", || !server::is_hanging(NAME)).await;
}

#[tokio::test]
async fn ports_are_forwarded_over_channel_pairs() {
    let (server, echo) = (server::start().await, server::start_echo().await);
    let nobody = amphipod_testing::Reserved::new().unwrap();
    let closed = nobody.address.port();
    let path = format!("portforward?ports={echo},{closed}");
    let mut socket = connect(server, &path, "v4.channel.k8s.io").await.unwrap();
    socket.send(Message::binary(b"\0hello".as_slice())).await.unwrap();
    let mut channels: [Vec<u8>; 4] = Default::default();
    let reading = async {
        while channels[0].len() < 12 || channels[3].len() < 3 {
            let message = socket.next().await.unwrap().unwrap().into_data();
            channels[usize::from(message[0])].extend_from_slice(&message[1..]);
        }
    };
    tokio::time::timeout(DEADLINE, reading).await.unwrap();
    for (channel, port) in channels.iter().zip([echo, echo, closed, closed]) {
        assert_eq!(channel[..2], port.to_le_bytes());
    }
    assert_eq!(&channels[0][2..], b"echo:hello");
    assert!(channels[3][2..].starts_with(format!("error forwarding port {closed}: ").as_bytes()));
    let refused = connect(server, "portforward", "v4.channel.k8s.io").await.unwrap_err();
    assert!(matches!(refused, Error::Http(response) if response.status() == 400));
}

//! A WebSocket client that speaks Kubernetes' channel protocols.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message, client::IntoClientRequest},
};

const DEADLINE: Duration = Duration::from_secs(60);

/// What arrived on each channel.
#[derive(Debug, Default)]
pub struct Said {
    /// Port forwarding sends data on channel 0.
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
    pub error: String,
}

pub struct WebSocketClient {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    said: Said,
}

impl WebSocketClient {
    pub async fn try_connect(url: &str, protocol: &str) -> Result<WebSocketClient, Error> {
        let mut request = url.replacen("http://", "ws://", 1).into_client_request()?;
        request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
        let (socket, _) = connect_async(request).await?;
        Ok(WebSocketClient { socket, said: Said::default() })
    }

    pub async fn connect(url: &str, protocol: &str) -> WebSocketClient {
        WebSocketClient::try_connect(url, protocol).await.unwrap()
    }

    pub async fn send(&mut self, channel: u8, payload: &[u8]) {
        let message = [&[channel], payload].concat();
        self.socket.send(Message::Binary(message.into())).await.unwrap();
    }

    async fn receive(&mut self) -> bool {
        let message = tokio::time::timeout(DEADLINE, self.socket.next()).await;
        let Ok(Some(Ok(message))) = message.map_err(|_| panic!("nothing arrives; so far {:?}", self.said))
        else {
            return false;
        };
        let Message::Binary(bytes) = message else { return !message.is_close() };
        let Some((channel, payload)) = bytes.split_first() else { return true };
        let text = String::from_utf8_lossy(payload);
        match channel {
            0 => self.said.stdin.push_str(&text),
            1 => self.said.stdout.push_str(&text),
            2 => self.said.stderr.push_str(&text),
            _ => self.said.error.push_str(&text),
        }
        true
    }

    /// Waits for one message; returns all of standard output so far.
    pub async fn read_some(&mut self) -> &str {
        self.receive().await;
        &self.said.stdout
    }

    /// Waits until standard output contains `text`.
    pub async fn read_until(&mut self, text: &str) {
        while !self.said.stdout.contains(text) {
            assert!(self.receive().await, "the session ended: {:?}", self.said);
        }
    }

    /// Waits until what arrived is as wanted, or the session ends.
    pub async fn read_for(&mut self, wanted: impl Fn(&Said) -> bool) -> &Said {
        while !wanted(&self.said) && self.receive().await {}
        &self.said
    }

    pub async fn read_to_end(mut self) -> Said {
        while self.receive().await {}
        self.said
    }
}

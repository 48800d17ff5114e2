//! A scheduler extender that answers what it is told to and remembers what it was asked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

#[derive(Default)]
struct State {
    answers: HashMap<String, Value>,
    /// Verbs and questions.
    asked: Vec<(String, Value)>,
}

pub struct Server {
    pub url: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub async fn start() -> Self {
        Server::start_with(None).await
    }
    pub async fn start_with(tls: Option<rustls::ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let acceptor = tls.map(|tls| TlsAcceptor::from(Arc::new(tls)));
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, shared) = (acceptor.clone(), shared.clone());
                tokio::spawn(async move {
                    match acceptor {
                        Some(acceptor) => serve(acceptor.accept(stream).await?, shared).await,
                        None => serve(stream, shared).await,
                    }
                });
            }
        });
        Server { url, state }
    }
    pub fn answer(&self, verb: &str, answer: Value) {
        self.state.lock().unwrap().answers.insert(verb.to_owned(), answer);
    }
    pub fn asked(&self) -> Vec<String> {
        self.state.lock().unwrap().asked.iter().map(|(verb, _)| verb.clone()).collect()
    }
    /// The last of a verb.
    pub fn question(&self, verb: &str) -> Option<Value> {
        let state = self.state.lock().unwrap();
        state.asked.iter().rev().find(|(asked, _)| asked == verb).map(|(_, question)| question.clone())
    }
}

/// Answers requests of one connection until it is closed.
async fn serve<S>(stream: S, state: Arc<Mutex<State>>) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = BufReader::new(stream);
    loop {
        let (mut path, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let lower = line.to_ascii_lowercase();
            if let Some(number) = lower.strip_prefix("content-length:") {
                length = number.trim().parse().unwrap();
            } else if let Some(rest) = line.strip_prefix("POST ") {
                path = rest.split(' ').next().unwrap().to_owned();
            } else if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        // The prefix is part of the URL the scheduler is configured with.
        let answer = path.strip_prefix("/api/").and_then(|verb| {
            let mut state = state.lock().unwrap();
            state.asked.push((verb.to_owned(), serde_json::from_slice(&body).unwrap()));
            state.answers.get(verb).map(Value::to_string)
        });
        let status = if answer.is_some() { "200 OK" } else { "404 Not Found" };
        let text = answer.unwrap_or_default();
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            text.len()
        );
        stream.write_all(format!("{head}{text}").as_bytes()).await?;
        stream.flush().await?;
    }
}

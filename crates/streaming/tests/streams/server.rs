//! An HTTP server around the crate, looking enough like an API server for kubectl to exec and port-forward.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use amphipod_streaming::{BoxDuplex, ExecBackend, PortForwardBackend, Streams, Wanted};
use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub const DEADLINE: Duration = Duration::from_secs(60);
pub const FLOOD: usize = 3 << 20;

/// Commands that run until their client ends, by the names they were given.
static HANGING: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

pub fn is_hanging(name: &str) -> bool {
    HANGING.lock().unwrap().contains(name)
}

struct Hanging(String);

impl Hanging {
    fn new(name: &str) -> Self {
        HANGING.lock().unwrap().insert(name.to_owned());
        Self(name.to_owned())
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        HANGING.lock().unwrap().remove(&self.0);
    }
}

struct Command(Vec<String>);

#[async_trait]
impl ExecBackend for Command {
    async fn run(&self, streams: Streams) -> Result<i32, String> {
        let Streams { stdin, mut stdout, stderr, mut resize } = streams;
        let command = self.0.first().map_or("", String::as_str);
        if let Some(stdout) = &mut stdout {
            match command {
                "flood" => stdout.write_all(&vec![b'x'; FLOOD]).await.unwrap(),
                "size" => {
                    let size = resize.recv().await.unwrap();
                    stdout.write_all(format!("{}x{}", size.width, size.height).as_bytes()).await.unwrap();
                }
                "count" | "cat" => {
                    let Some(mut stdin) = stdin else { return Err("no stdin".into()) };
                    if command == "cat" {
                        tokio::io::copy(&mut stdin, stdout).await.unwrap();
                    } else {
                        let count = tokio::io::copy(&mut stdin, &mut tokio::io::sink()).await.unwrap();
                        stdout.write_all(count.to_string().as_bytes()).await.unwrap();
                    }
                }
                "head" => {
                    let mut line = [0; 4];
                    stdin.unwrap().read_exact(&mut line).await.unwrap();
                    stdout.write_all(&line).await.unwrap();
                }
                "hang" => {
                    let _hanging = Hanging::new(&self.0[1]);
                    stdout.write_all(b"hanging").await.unwrap();
                    std::future::pending::<Infallible>().await;
                }
                "broken" => return Err("no such container".into()),
                _ => stdout.write_all(b"out\n").await.unwrap(),
            }
        }
        if command == "exit" {
            stderr.unwrap().write_all(b"err\n").await.unwrap();
            return Ok(3);
        }
        Ok(0)
    }
}

struct Loopback;

#[async_trait]
impl PortForwardBackend for Loopback {
    async fn connect(&self, port: u16) -> std::io::Result<BoxDuplex> {
        Ok(Box::new(TcpStream::connect(("127.0.0.1", port)).await?))
    }
}

fn answer(path: &str) -> Option<Value> {
    let verbs = json!(["get", "list", "create"]);
    Some(match path {
        "/api" => json!({"kind": "APIVersions", "versions": ["v1"]}),
        "/apis" => json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []}),
        "/api/v1" => json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": [
            {"name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod", "verbs": verbs},
        ]}),
        "/api/v1/namespaces/default/pods/web" => json!({
            "kind": "Pod", "apiVersion": "v1", "metadata": {"name": "web", "namespace": "default"},
            "spec": {"containers": [{"name": "c", "image": "i"}]}, "status": {"phase": "Running"},
        }),
        _ => return None,
    })
}

fn handle(request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or("").to_owned());
    let values = |name: &str| -> Vec<String> {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).collect()
    };
    let asks = |name| values(name).iter().any(|value| value == "true" || value == "1");
    if path.ends_with("/exec") {
        let wanted =
            Wanted { stdin: asks("stdin"), stdout: asks("stdout"), stderr: asks("stderr"), tty: asks("tty") };
        return amphipod_streaming::serve_exec(request, wanted, Arc::new(Command(values("command"))));
    }
    if path.ends_with("/portforward") {
        let ports =
            values("ports").iter().flat_map(|list| list.split(',')).map(|p| p.parse().unwrap()).collect();
        return amphipod_streaming::serve_port_forward(request, ports, Arc::new(Loopback));
    }
    let body = answer(&path);
    let mut response = Response::new(Full::from(body.clone().unwrap_or(Value::Null).to_string()));
    *response.status_mut() = if body.is_some() { http::StatusCode::OK } else { http::StatusCode::NOT_FOUND };
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}

/// Starts the server on a free port of its own.
pub async fn start() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let service =
                    hyper::service::service_fn(|request| async move { Ok::<_, Infallible>(handle(request)) });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(socket), service);
                let _ = connection.with_upgrades().await;
            });
        }
    });
    address
}

/// Starts a TCP server which answers everything it gets, until the client's end, with "echo:" in front.
pub async fn start_echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut reader, mut writer) = socket.split();
                writer.write_all(b"echo:").await?;
                tokio::io::copy(&mut reader, &mut writer).await
            });
        }
    });
    port
}

/// Waits for a condition, failing the test at the deadline.
pub async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("{what}: not in time"));
}

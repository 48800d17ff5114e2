//! exec, attach and port-forward: the runtime gives a URL, the caller's upgraded connection is
//! joined to it byte for byte. Neither SPDY nor WebSocket is looked into here.

use amphipod_cri::v1 as cri;
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tracing::debug;

use super::{Answer, Body, full, text};
use crate::runtime::Runtime;

/// What a caller wants to stream with.
pub enum Wish {
    Exec { container_id: String, query: Vec<(String, String)> },
    Attach { container_id: String, query: Vec<(String, String)>, tty: bool },
    PortForward { sandbox_id: String, query: Vec<(String, String)> },
}

fn flag(query: &[(String, String)], names: &[&str]) -> bool {
    query.iter().any(|(k, v)| names.contains(&k.as_str()) && (v == "1" || v == "true"))
}

fn values<'a>(query: &'a [(String, String)], name: &str) -> impl Iterator<Item = &'a String> {
    query.iter().filter(move |(k, _)| k == name).map(|(_, v)| v)
}

/// The address of the stream at the runtime.
async fn url(runtime: &Runtime, wish: Wish) -> Result<String, crate::Error> {
    match wish {
        Wish::Exec { container_id, query } => {
            let tty = flag(&query, &["tty"]);
            let call = cri::ExecRequest {
                container_id,
                cmd: values(&query, "command").cloned().collect(),
                tty,
                stdin: flag(&query, &["input", "stdin"]),
                stdout: flag(&query, &["output", "stdout"]),
                stderr: !tty && flag(&query, &["error", "stderr"]),
                ..Default::default()
            };
            runtime.exec_url(call).await
        }
        Wish::Attach { container_id, query, tty } => {
            let call = cri::AttachRequest {
                container_id,
                tty,
                stdin: flag(&query, &["input", "stdin"]),
                stdout: flag(&query, &["output", "stdout"]),
                stderr: !tty && flag(&query, &["error", "stderr"]),
                ..Default::default()
            };
            runtime.attach_url(call).await
        }
        Wish::PortForward { sandbox_id, query } => {
            let ports = values(&query, "port").chain(values(&query, "ports"));
            let port = ports.flat_map(|p| p.split(',')).filter_map(|p| p.parse().ok()).collect();
            runtime.port_forward_url(cri::PortForwardRequest { pod_sandbox_id: sandbox_id, port }).await
        }
    }
}

/// Answers an upgrade request by joining it to the runtime's stream.
pub async fn proxy(runtime: &Runtime, wish: Wish, request: Request<Incoming>) -> Answer {
    let url = match url(runtime, wish).await {
        Ok(url) => url,
        Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    match join(&url, request).await {
        Ok(response) => response,
        Err(error) => text(StatusCode::BAD_GATEWAY, error),
    }
}

async fn join(url: &str, mut request: Request<Incoming>) -> Result<Answer, String> {
    let uri: Uri = url.parse().map_err(|e| format!("the runtime's stream address {url:?}: {e}"))?;
    let host = uri.host().unwrap_or("127.0.0.1").trim_matches(['[', ']']).to_owned();
    let stream = TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or(80)))
        .await
        .map_err(|e| format!("connecting to the runtime's stream at {url:?}: {e}"))?;
    let _ = stream.set_nodelay(true); // only a speed-up
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(connection.with_upgrades());
    let onward = forwarded(&uri, request.method().clone(), request.headers())?;
    let mut answer = sender.send_request(onward).await.map_err(|e| e.to_string())?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (parts, body) = answer.into_parts();
        let bytes = body.collect().await.map_err(|e| e.to_string())?.to_bytes();
        return Ok(Response::from_parts(parts, full(bytes)));
    }
    let (near, far) = (hyper::upgrade::on(&mut request), hyper::upgrade::on(&mut answer));
    tokio::spawn(async move {
        let (Ok(near), Ok(far)) = tokio::join!(near, far) else { return };
        let (mut near, mut far) = (TokioIo::new(near), TokioIo::new(far));
        if let Err(error) = tokio::io::copy_bidirectional(&mut near, &mut far).await {
            debug!(%error, "a stream ended");
        }
    });
    let (parts, _) = answer.into_parts();
    Ok(Response::from_parts(parts, Body::default()))
}

fn forwarded(uri: &Uri, method: http::Method, headers: &HeaderMap) -> Result<Request<Empty<Bytes>>, String> {
    let target = uri.path_and_query().map_or("/", |p| p.as_str());
    let mut request =
        Request::builder().method(method).uri(target).body(Empty::new()).map_err(|e| e.to_string())?;
    let kept = headers
        .iter()
        .filter(|(name, _)| !["host", "authorization", "content-length"].contains(&name.as_str()));
    for (name, value) in kept {
        request.headers_mut().append(name, value.clone());
    }
    let authority = uri.authority().map_or("localhost", |a| a.as_str());
    request.headers_mut().insert("host", authority.parse().map_err(|_| "bad host".to_owned())?);
    Ok(request)
}

//! HTTP requests of probes and hooks: HTTPS without verification, redirects on the same host,
//! errors in the words Go's client would use (they reach users in events).

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, HTTPHeader};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;

/// More of an answer is not read.
const MAX_BODY_BYTES: usize = 10 * 1024;
const MAX_REDIRECTS: usize = 10;
const USER_AGENT: &str = "kube-probe/1.35";

pub struct Answer {
    pub code: u16,
    pub body: String,
    /// A redirect to another host was not followed.
    pub left_host: bool,
}

/// The number behind a port that may be a name of the container's.
pub fn port_number(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let found = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(text) => text.parse().ok().or_else(|| {
            let ports = container.ports.iter().flatten();
            ports.into_iter().find(|p| p.name.as_deref() == Some(text)).map(|p| p.container_port)
        }),
    };
    let number = found.ok_or_else(|| match port {
        IntOrString::String(text) => {
            format!("couldn't find port: {text:?} in container {:?}", container.name)
        }
        IntOrString::Int(_) => "invalid port".to_owned(),
    })?;
    u16::try_from(number).ok().filter(|n| *n > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

pub fn join_host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The URL of an action against a pod's address.
pub fn url(action: &HTTPGetAction, container: &Container, pod_ip: &str) -> Result<String, String> {
    let port = port_number(&action.port, container)?;
    let scheme = action.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
    let host = action.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(pod_ip);
    let path = action.path.as_deref().unwrap_or("");
    let slash = if path.starts_with('/') { "" } else { "/" };
    Ok(format!("{scheme}://{}{slash}{path}", join_host_port(host, port)))
}

/// GETs `url`, following redirects; the error is ready to be shown.
pub async fn get(url: &str, headers: &[HTTPHeader], timeout: Duration) -> Result<Answer, String> {
    let wrapped = |why: String| format!("Get {url:?}: {why}");
    match tokio::time::timeout(timeout, follow(url, headers)).await {
        Ok(answer) => answer.map_err(wrapped),
        Err(_) => {
            Err(wrapped("context deadline exceeded (Client.Timeout exceeded while awaiting headers)".into()))
        }
    }
}

async fn follow(url: &str, headers: &[HTTPHeader]) -> Result<Answer, String> {
    let mut at: Uri = url.parse().map_err(|e| format!("invalid URL: {e}"))?;
    for _ in 0..MAX_REDIRECTS {
        let response = send(&at, headers).await?;
        let code = response.status().as_u16();
        let location = response.headers().get("location").and_then(|l| l.to_str().ok());
        let next = if (300..400).contains(&code) { location.and_then(|l| resolve(&at, l)) } else { None };
        match next {
            Some(next) if next.host() == at.host() => at = next,
            next => return Ok(Answer { code, body: read(response).await, left_host: next.is_some() }),
        }
    }
    Err(format!("stopped after {MAX_REDIRECTS} redirects"))
}

fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    if location.starts_with("http://") || location.starts_with("https://") {
        return location.parse().ok();
    }
    let path = if location.starts_with('/') {
        location.to_owned()
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{folder}/{location}")
    };
    format!("{}://{}{path}", base.scheme_str()?, base.authority()?).parse().ok()
}

async fn read(response: Response<Incoming>) -> String {
    let body = Limited::new(response.into_body(), MAX_BODY_BYTES);
    match body.collect().await {
        Ok(bytes) => String::from_utf8_lossy(&bytes.to_bytes()).into_owned(),
        Err(error) if error.is::<LengthLimitError>() => "(more than 10 KiB)".to_owned(),
        Err(_) => String::new(),
    }
}

async fn send(uri: &Uri, headers: &[HTTPHeader]) -> Result<Response<Incoming>, String> {
    let host = uri.host().unwrap_or("").trim_matches(['[', ']']).to_owned();
    let tls = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let stream = dial(&host, port).await?;
    let request = build(uri, headers)?;
    if tls {
        let name = ServerName::try_from(host).map_err(|e| e.to_string())?;
        let stream = tls_connector().connect(name, stream).await.map_err(|e| e.to_string())?;
        exchange(TokioIo::new(stream), request).await
    } else {
        exchange(TokioIo::new(stream), request).await
    }
}

/// Connects, or says why not as Go would.
pub async fn dial(host: &str, port: u16) -> Result<TcpStream, String> {
    let shown = join_host_port(host, port);
    TcpStream::connect((host, port)).await.map_err(|error| {
        let why = match error.kind() {
            std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
            std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
            std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
            std::io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
            _ => error.to_string(),
        };
        format!("dial tcp {shown}: {why}")
    })
}

fn build(uri: &Uri, headers: &[HTTPHeader]) -> Result<Request<Empty<Bytes>>, String> {
    let target = uri.path_and_query().map_or("/", |p| p.as_str());
    let mut request = Request::get(target).body(Empty::new()).map_err(|e| e.to_string())?;
    let map = request.headers_mut();
    let authority = uri.authority().map_or("", |a| a.as_str());
    map.insert("host", HeaderValue::from_str(authority).map_err(|e| e.to_string())?);
    map.insert("user-agent", HeaderValue::from_static(USER_AGENT));
    map.insert("accept", HeaderValue::from_static("*/*"));
    map.insert("connection", HeaderValue::from_static("close"));
    let mut cleared = std::collections::HashSet::new();
    for header in headers {
        let name: HeaderName =
            header.name.parse().map_err(|_| format!("invalid header name {:?}", header.name))?;
        let value = HeaderValue::from_str(&header.value).map_err(|e| e.to_string())?;
        // A written header replaces ours; written twice, it is sent twice.
        if cleared.insert(name.clone()) {
            map.remove(&name);
        }
        if !header.value.is_empty() {
            map.append(name, value);
        }
    }
    Ok(request)
}

async fn exchange<I>(io: I, request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, String>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(io).await.map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    sender
        .send_request(request)
        .await
        .map_err(|error| if error.is_incomplete_message() { "EOF".to_owned() } else { error.to_string() })
}

fn tls_connector() -> tokio_rustls::TlsConnector {
    static CONFIG: std::sync::LazyLock<Arc<rustls::ClientConfig>> = std::sync::LazyLock::new(|| {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Arc::new(AnyCertificate(provider.clone()));
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            // Ring supports every default version: this cannot fail.
            .unwrap_or_else(|e| unreachable!("{e}"))
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Arc::new(config)
    });
    CONFIG.clone().into()
}

/// Probes check that something answers, not who.
#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Answers each connection with the next of the given texts; gives back the requests.
    async fn serve(answers: Vec<String>) -> (u16, tokio::task::JoinHandle<Vec<String>>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            let mut requests = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut buffer = vec![0; 4096];
                let read = stream.read(&mut buffer).await.unwrap();
                requests.push(String::from_utf8_lossy(&buffer[..read]).into_owned());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            requests
        });
        (port, task)
    }

    #[tokio::test]
    async fn redirects_headers_and_codes() {
        let moved = "HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n".to_owned();
        let away = "HTTP/1.1 302 Found\r\nLocation: http://other/\r\nContent-Length: 0\r\n\r\n".to_owned();
        let bad = "HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\nno".to_owned();
        let (port, served) = serve(vec![moved, bad, away]).await;
        let header = HTTPHeader { name: "Host".into(), value: "me".into() };
        let url = format!("http://127.0.0.1:{port}/here?q=1");
        let answer = get(&url, &[header], Duration::from_secs(5)).await.unwrap();
        assert_eq!((answer.code, answer.body.as_str(), answer.left_host), (500, "no", false));
        let answer = get(&url, &[], Duration::from_secs(5)).await.unwrap();
        assert!(answer.left_host);
        let requests = served.await.unwrap();
        assert!(
            requests[0].starts_with("GET /here?q=1 HTTP/1.1\r\n") && requests[0].contains("host: me\r\n")
        );
        assert!(requests[1].starts_with("GET /there "));
    }

    #[tokio::test]
    async fn refusals_read_as_in_go() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let url = format!("http://127.0.0.1:{port}/");
        let error = get(&url, &[], Duration::from_secs(5)).await.map(|a| a.code).unwrap_err();
        assert_eq!(error, format!("Get \"{url}\": dial tcp 127.0.0.1:{port}: connect: connection refused"));
    }
}

//! Passing requests on to a kubelet or to a pod's or service's port: plain answers are streamed,
//! upgraded connections (exec, attach, port-forward) are joined byte for byte.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tracing::debug;

use crate::body::{self, Body, BoxError};
use crate::config::KeyPair;
use crate::stall::Granted;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Headers that speak of one hop only.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "proxy-connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// What a backend must never see of the client.
const PRIVATE: [&str; 2] = ["authorization", "impersonate-user"];

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("dial tcp {at}: {why}")]
    Connect { at: String, why: String },
    #[error("the connection to {0} broke: {1}")]
    Broken(String, String),
    #[error("the credentials for kubelets cannot be used: {0}")]
    Credentials(String),
}

/// How a backend is spoken to.
#[derive(Clone)]
pub enum Transport {
    Plain,
    /// TLS with our client certificate, the server's verified.
    Kubelet(Arc<ClientConfig>),
    /// TLS without verification: `https:` names in proxy URLs, as Kubernetes does it.
    Unverified,
}

/// Where a request goes.
pub struct Backend {
    pub host: String,
    pub port: u16,
    pub transport: Transport,
    /// Path and query.
    pub target: String,
}

impl Backend {
    /// `host:port`, as a Host header and Go's errors have it.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// The host a client asked for.
pub fn requested_host<B>(request: &Request<B>) -> Option<String> {
    let header = request.headers().get(HOST).and_then(|v| v.to_str().ok()).map(str::to_owned);
    header.or_else(|| request.uri().authority().map(ToString::to_string))
}

/// Go's words for the commonest ways a connection fails.
fn go_connect_error(error: &std::io::Error) -> String {
    use std::io::ErrorKind::{
        ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut,
    };
    match error.kind() {
        ConnectionRefused => "connect: connection refused".into(),
        ConnectionReset => "connect: connection reset by peer".into(),
        HostUnreachable => "connect: no route to host".into(),
        NetworkUnreachable => "connect: network is unreachable".into(),
        TimedOut => "connect: connection timed out".into(),
        _ => error.to_string(),
    }
}

pub fn kubelet_tls(client: Option<&KeyPair>, ca_pem: Option<&str>) -> Result<ClientConfig, Error> {
    let bad = |e: &dyn std::fmt::Display| Error::Credentials(e.to_string());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.unwrap_or("").as_bytes()) {
        roots.add(certificate.map_err(|e| bad(&e))?).map_err(|e| bad(&e))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| bad(&e))?
        .with_root_certificates(roots);
    match client {
        None => Ok(builder.with_no_client_auth()),
        Some(pair) => {
            let chain =
                CertificateDer::pem_slice_iter(pair.certificate_pem.as_bytes()).collect::<Result<_, _>>();
            let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).map_err(|e| bad(&e))?;
            builder.with_client_auth_cert(chain.map_err(|e| bad(&e))?, key).map_err(|e| bad(&e))
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn connect(backend: &Backend) -> Result<Box<dyn Stream>, Error> {
    let fail = |why: &dyn std::fmt::Display| Error::Connect { at: backend.authority(), why: why.to_string() };
    let dial = TcpStream::connect((backend.host.as_str(), backend.port));
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, dial)
        .await
        .map_err(|_| fail(&"i/o timeout"))?
        .map_err(|e| fail(&go_connect_error(&e)))?;
    let _ = stream.set_nodelay(true);
    let config = match &backend.transport {
        Transport::Plain => return Ok(Box::new(stream)),
        Transport::Kubelet(config) => config.clone(),
        Transport::Unverified => Arc::new(unverified().map_err(|e| fail(&e))?),
    };
    let name = match backend.host.parse::<IpAddr>() {
        Ok(address) => ServerName::from(address),
        Err(_) => ServerName::try_from(backend.host.clone()).map_err(|e| fail(&e))?,
    };
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, TlsConnector::from(config).connect(name, stream))
        .await
        .map_err(|_| fail(&"TLS handshake timeout"))?
        .map_err(|e| fail(&e))?;
    Ok(Box::new(stream))
}

/// Sends the request to the backend and gives its answer back; where the backend switches
/// protocols, the client's connection is joined to it once the answer is out.
pub async fn forward(mut request: Request<Body>, backend: &Backend) -> Result<Response<Body>, Error> {
    let broken = |e: &dyn std::fmt::Display| Error::Broken(backend.host.clone(), e.to_string());
    let stream = connect(backend).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            debug!(%error, "connection to a backend ended");
        }
    });
    let wants_upgrade = request.headers().contains_key(UPGRADE);
    let client_side = wants_upgrade.then(|| hyper::upgrade::on(&mut request));
    let granted = request.extensions_mut().remove::<Granted>();
    let outgoing = outgoing(request, backend, wants_upgrade).map_err(|e| broken(&e))?;
    let mut answer = sender.send_request(outgoing).await.map_err(|e| broken(&e))?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(client_side) = client_side
    {
        let backend_side = hyper::upgrade::on(&mut answer);
        tokio::spawn(async move {
            let _granted = granted;
            join(client_side, backend_side).await;
        });
        return Ok(answer.map(|_| body::empty()));
    }
    strip(answer.headers_mut());
    Ok(answer.map(body::boxed))
}

fn strip(headers: &mut HeaderMap) {
    // What `Connection` names is of this hop too.
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

fn outgoing(request: Request<Body>, backend: &Backend, upgrade: bool) -> Result<Request<Body>, BoxError> {
    let host = requested_host(&request).unwrap_or_else(|| backend.authority());
    let (mut parts, body) = request.into_parts();
    let upgrade_to = parts.headers.get(UPGRADE).cloned();
    strip(&mut parts.headers);
    for name in PRIVATE {
        parts.headers.remove(name);
    }
    if let (true, Some(protocol)) = (upgrade, upgrade_to) {
        parts.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        parts.headers.insert(UPGRADE, protocol);
    }
    // The backend sees the host the client asked for, as it would behind any reverse proxy.
    parts.headers.insert(HOST, HeaderValue::from_str(&host)?);
    parts
        .headers
        .entry(HeaderName::from_static("user-agent"))
        .or_insert(HeaderValue::from_static("amphipod"));
    let mut outgoing = Request::new(body);
    *outgoing.method_mut() = parts.method;
    *outgoing.uri_mut() = backend.target.parse::<Uri>()?;
    *outgoing.version_mut() = Version::HTTP_11;
    *outgoing.headers_mut() = parts.headers;
    Ok(outgoing)
}

async fn join(client: hyper::upgrade::OnUpgrade, backend: hyper::upgrade::OnUpgrade) {
    match tokio::try_join!(client, backend) {
        Ok((client, backend)) => {
            let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
            // Either side may hang up first; that is how streams end.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut backend).await;
        }
        Err(error) => debug!(%error, "an upgrade was not completed"),
    }
}

fn unverified() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(AcceptAny(provider.clone()));
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

/// Pods serve certificates nobody could verify; the proxy subresource does not try.
#[derive(Debug)]
struct AcceptAny(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

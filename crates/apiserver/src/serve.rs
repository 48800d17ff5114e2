//! The TLS side: accepts connections, asks for (but does not insist on) client certificates, and
//! speaks HTTP/1.1 and HTTP/2 on them.

use std::future::Future;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::authn::certificate::{self, Peer};
use crate::body::{self, Body};
use crate::config::KeyPair;
use crate::cork;
use crate::drain::Drained;
use crate::stall::{Patience, Stalling};

/// A peer that has not finished its TLS handshake by then is not going to.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// As Go's server has it: time to send the request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(32);
/// After cancellation, requests in flight get this long.
const DRAIN: Duration = Duration::from_secs(5);
/// A connection that takes nothing for this long is given up: as long as a request may take.
const WRITE_STALL: Duration = Duration::from_secs(60);
/// How often an HTTP/2 peer that says nothing is asked whether it is there, and how long it has to
/// answer: as Go's server and clients do it.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);
const MAX_CONNECTIONS: usize = 10_000;
/// Streams one HTTP/2 connection may have open, as kube-apiserver allows for its own clients.
const MAX_STREAMS: u32 = 1000;

/// Whom the peer's verified certificate stands for, as an extension of its requests.
#[derive(Clone, Debug)]
pub struct ConnectedPeer(pub Arc<Peer>);

/// The peer's address, as an extension of its requests.
#[derive(Clone, Copy, Debug)]
pub struct PeerAddress(pub std::net::SocketAddr);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the serving certificate or its key cannot be used: {0}")]
    Certificate(String),
    #[error("the client CA cannot be used: {0}")]
    ClientCa(String),
    #[error("the listener cannot be used: {0}")]
    Listener(#[from] std::io::Error),
}

/// The TLS side of the server. Certificates are optional: a client without one may bring a token;
/// one of a foreign CA is refused by the handshake.
pub fn tls_config(serving: &KeyPair, client_ca_pem: Option<&str>) -> Result<ServerConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let bad = |e: &dyn std::fmt::Display| Error::Certificate(e.to_string());
    let chain: Vec<CertificateDer> = CertificateDer::pem_slice_iter(serving.certificate_pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| bad(&e))?;
    let key = PrivateKeyDer::from_pem_slice(serving.key_pem.as_bytes()).map_err(|e| bad(&e))?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| bad(&e))?;
    let builder = match client_ca_pem {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let bad = |e: &dyn std::fmt::Display| Error::ClientCa(e.to_string());
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                roots.add(certificate.map_err(|e| bad(&e))?).map_err(|e| bad(&e))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|e| bad(&e))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|e| bad(&e))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Serves until cancelled, then lets requests in flight finish. Those whose handshake fails are
/// `turned_away`.
pub async fn serve<H, F>(
    listener: TcpListener,
    tls: ServerConfig,
    handler: H,
    turned_away: impl Fn() + Clone + Send + 'static,
    shutdown: CancellationToken,
) -> Result<(), Error>
where
    H: Fn(Request<Body>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let graceful = Arc::new(GracefulShutdown::new());
    let room = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    let stop = shutdown.clone();
    loop {
        let (stream, address) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, mostly: wait for some to come back.
                    debug!(%error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let Ok(permit) = room.clone().acquire_owned().await else { break };
        let (acceptor, handler, graceful, stop) =
            (acceptor.clone(), handler.clone(), graceful.clone(), stop.clone());
        let turned_away = turned_away.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let _ = stream.set_nodelay(true);
            let patience = Patience::default();
            let stream = Stalling::new(stream, WRITE_STALL, patience.clone());
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => connection(stream, (address, patience), handler, &graceful, stop).await,
                Ok(Err(error)) => {
                    debug!(%address, %error, "TLS handshake failed");
                    turned_away();
                }
                Err(_) => {
                    debug!(%address, "TLS handshake timed out");
                    turned_away();
                }
            }
        });
    }
    drop(listener);
    if let Some(graceful) = Arc::into_inner(graceful) {
        let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
    } else {
        let _ = tokio::time::timeout(DRAIN, room.acquire_many(MAX_CONNECTIONS as u32)).await;
    }
    Ok(())
}

async fn connection<H, F>(
    stream: tokio_rustls::server::TlsStream<Stalling<tokio::net::TcpStream>>,
    (address, patience): (std::net::SocketAddr, Patience),
    handler: H,
    graceful: &GracefulShutdown,
    stop: CancellationToken,
) where
    H: Fn(Request<Body>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let peer = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let peer = peer.and_then(|leaf| certificate::peer(leaf)).map(|peer| ConnectedPeer(Arc::new(peer)));
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(|body| body::boxed(Drained::new(body)));
        let extensions = request.extensions_mut();
        extensions.insert(PeerAddress(address));
        extensions.insert(patience.clone());
        if let Some(peer) = &peer {
            extensions.insert(peer.clone());
        }
        // Boxed: the state of a whole request is large, and moved a few times before it runs.
        let answer = Box::pin(handler(request));
        async move { Ok::<_, std::convert::Infallible>(answer.await) }
    });
    let (stream, cork) = cork::cork(stream);
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
    let watched = cork.run(graceful.watcher().watch(connection));
    tokio::select! {
        outcome = watched => {
            if let Err(error) = outcome {
                debug!(%address, %error, "connection ended");
            }
        }
        // Watches and upgraded streams would never end by themselves.
        () = async { stop.cancelled().await; tokio::time::sleep(DRAIN).await } => {}
    }
}

//! Connections: accepted up to a bound, each with whom its certificate names.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::Answer;
use crate::reviews::{User, from_certificate};
use crate::tls::Tls;

/// Connections served at once; the API server and whoever collects metrics need few.
const MAX_CONNECTIONS: usize = 1024;
/// After a connection could not be accepted, for there are no descriptors left.
const PAUSE: Duration = Duration::from_millis(50);

/// A peer that has not finished its TLS handshake by then is not going to. Without a bound, connections
/// that say nothing, from anybody, would take all the places there are.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// As Go's server has it: time to send a request's head, and between requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(32);
/// How often an HTTP/2 peer that says nothing is asked whether it is there, and how long it has to answer.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);

/// What answers: one for all components, so that the machinery of connections is compiled once.
pub type Handler = Arc<dyn Fn(Option<User>, Request<Incoming>) -> BoxFuture<'static, Answer> + Send + Sync>;

/// Serves until cancelled.
pub async fn serve(listener: TcpListener, tls: impl Into<Tls>, cancel: CancellationToken, handler: Handler) {
    let tls = tls.into();
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = cancel.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, _) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "accepting a connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
        let (handler, cancel) = (handler.clone(), cancel.clone());
        let acceptor = TlsAcceptor::from(tls.current());
        tokio::spawn(async move {
            let _slot = slot;
            let _ = stream.set_nodelay(true); // only a speed-up
            tokio::select! {
                () = cancel.cancelled() => {}
                () = converse(handler, stream, acceptor) => {}
            }
        });
    }
}

async fn converse(handler: Handler, stream: TcpStream, acceptor: TlsAcceptor) {
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%error, "TLS handshake"),
        Err(_) => return debug!("a TLS handshake took too long"),
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).cloned();
    let user = certificate.and_then(|der| from_certificate(&der));
    let service = hyper::service::service_fn(move |request| {
        let answer = handler(user.clone(), request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    let mut http2 = builder.http2();
    http2.timer(TokioTimer::new()).keep_alive_interval(PING_INTERVAL).keep_alive_timeout(PING_TIMEOUT);
    if let Err(error) = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
        debug!(%error, "a connection ended");
    }
}

//! The server: sockets, the handler behind them, and what keeps it published.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, SystemTime};

use amphipod_client::{Client, SharedInformers};
use hickory_server::Server;
use ipnet::IpNet;
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::forward::{Forwarder, Upstream};
use crate::handler::Handler;
use crate::publish::{self, Place};
use crate::view::Caches;
use crate::{Error, Metrics, View, Zone};

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// A TCP client that says nothing for this long is let go.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Answers waiting for a slow TCP client.
const TCP_QUEUE: usize = 32;
/// The bridge that has our address may be made at this very moment.
const BIND_RETRY: Duration = Duration::from_millis(20);
const BIND_PATIENCE: Duration = Duration::from_secs(10);
/// How long questions in work may take when the server ends.
const FAREWELL: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses of this machine, UDP and TCP; each must be a real one, not 0.0.0.0.
    pub listen: Vec<SocketAddr>,
    /// `cluster.local`
    pub domain: String,
    /// The cluster IP of the Service `kube-dns`.
    pub service_ip: IpAddr,
    /// Pod and service ranges: their reverse names are never asked upstream.
    pub networks: Vec<IpNet>,
    pub upstream: Upstream,
    /// Named in the EndpointSlice.
    pub node_name: Option<String>,
    pub metrics: Arc<Metrics>,
}

impl Config {
    /// Asks the name servers of the host for everything else.
    pub fn new(listen: Vec<SocketAddr>, domain: &str, service_ip: IpAddr) -> Self {
        Config {
            listen,
            domain: domain.to_owned(),
            service_ip,
            networks: Vec::new(),
            upstream: Upstream::File(RESOLV_CONF.into()),
            node_name: None,
            metrics: Arc::default(),
        }
    }
}

/// Runs until cancelled. Nothing is answered before the cluster's state is known: a wrong "no such
/// name" would be believed.
pub async fn run(
    config: Config,
    client: Client,
    informers: SharedInformers,
    cancel: CancellationToken,
) -> Result<(), Error> {
    let serial = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    // Serial numbers wrap around by design.
    let zone = Zone::new(&config.domain, config.service_ip, config.networks.clone(), serial as u32)?;
    let caches = Caches::new(&informers);
    tokio::select! {
        () = cancel.cancelled() => return Ok(()),
        () = caches.synced() => {}
    }
    let own = config.listen.iter().map(SocketAddr::ip).chain([config.service_ip]).collect();
    let forwarder = Arc::new(Forwarder::new(config.upstream.clone(), own));
    let handler = Handler {
        view: caches.clone(),
        zone,
        forwarder: forwarder.clone(),
        metrics: config.metrics.clone(),
        turn: AtomicUsize::new(0),
    };
    let mut server = serve(handler, &config.listen, &cancel).await?;
    info!(listen = ?config.listen, domain = config.domain, "cluster DNS started");
    let place = Place { service_ip: config.service_ip, listen: config.listen, node_name: config.node_name };
    let upkeep = async {
        tokio::join!(forwarder.follow(&cancel), publish::keep(client, &caches, &place, &cancel));
    };
    tokio::select! {
        () = upkeep => {} // ends when cancelled
        outcome = server.block_until_done() => outcome.map_err(|e| Error::Server(e.to_string()))?,
    }
    match tokio::time::timeout(FAREWELL, server.shutdown_gracefully()).await {
        Ok(outcome) => outcome.map_err(|e| Error::Server(e.to_string())),
        Err(_) => Ok(()),
    }
}

/// Opens the sockets and answers on them.
async fn serve<V: View + Send + Sync + Unpin + 'static>(
    handler: Handler<V>,
    listen: &[SocketAddr],
    cancel: &CancellationToken,
) -> Result<Server<Handler<V>>, Error> {
    let mut server = Server::new(handler);
    for address in listen {
        let (udp, tcp) = tokio::select! {
            () = cancel.cancelled() => return Ok(server),
            sockets = bind(*address) => sockets?,
        };
        server.register_socket(udp);
        server.register_listener(tcp, TCP_IDLE, TCP_QUEUE);
    }
    Ok(server)
}

async fn bind(address: SocketAddr) -> Result<(UdpSocket, TcpListener), Error> {
    let deadline = tokio::time::Instant::now() + BIND_PATIENCE;
    loop {
        let sockets = async { Ok((UdpSocket::bind(address).await?, TcpListener::bind(address).await?)) };
        let source: std::io::Error = match sockets.await {
            Ok(sockets) => return Ok(sockets),
            Err(error) => error,
        };
        let is_missing = source.kind() == std::io::ErrorKind::AddrNotAvailable;
        if !is_missing || tokio::time::Instant::now() > deadline {
            return Err(Error::Listen { address, source });
        }
        debug!(%address, "the address does not exist yet");
        tokio::time::sleep(BIND_RETRY).await;
    }
}

#[cfg(test)]
mod tests;

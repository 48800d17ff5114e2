//! What can go wrong while starting the server; single questions never end it.

use std::io;
use std::net::SocketAddr;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the cluster domain {domain:?} is not a domain name: {why}")]
    Domain { domain: String, why: String },
    #[error("DNS cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("the DNS server failed: {0}")]
    Server(String),
    #[error("asking {server}: {why}")]
    Probe { server: SocketAddr, why: String },
    #[error(transparent)]
    Client(#[from] amphipod_client::Error),
}

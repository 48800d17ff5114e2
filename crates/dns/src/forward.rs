//! Questions about the rest of the world go to the host's own name servers, with a cache between.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, Record, RecordType};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

const DNS_PORT: u16 = 53;
/// Answers kept; a pod that asks for ever new names cannot grow this.
const CACHE_ENTRIES: u64 = 8192;
/// As CoreDNS' default: a record is kept no longer than this, whatever its owner allows.
const LONGEST_TTL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;
/// How often to look whether the host's configuration changed, as it does when a laptop moves.
const RELOAD: Duration = Duration::from_secs(5);

/// Where to ask.
#[derive(Clone, Debug)]
pub enum Upstream {
    /// The `nameserver` lines of a resolv.conf, followed as it changes.
    File(PathBuf),
    Servers(Vec<SocketAddr>),
}

/// What upstream said.
pub struct Reply {
    pub code: ResponseCode,
    pub answers: Vec<Record>,
    pub authorities: Vec<Record>,
}

impl Reply {
    fn failed() -> Self {
        Reply { code: ResponseCode::ServFail, answers: Vec::new(), authorities: Vec::new() }
    }
}

/// The name servers of a resolv.conf, without those in `own`: asking ourselves would never end.
pub fn servers_of(resolv_conf: &str, own: &[IpAddr]) -> Vec<SocketAddr> {
    let lines = resolv_conf.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    // Without the blank it is another keyword; a zone (`%eth0`) is not needed to reach a server.
    let addresses = lines.filter_map(|rest| rest.strip_prefix([' ', '\t'])?.split_whitespace().next());
    addresses
        .filter_map(|text| text.split('%').next()?.parse::<IpAddr>().ok())
        .filter(|address| !own.contains(address))
        .map(|address| SocketAddr::new(address, DNS_PORT))
        .collect()
}

fn resolver(servers: &[SocketAddr]) -> Option<TokioResolver> {
    if servers.is_empty() {
        return None;
    }
    let name_servers = servers
        .iter()
        .map(|server| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
            let on_port = connections.map(|mut connection| {
                connection.port = server.port();
                connection
            });
            NameServerConfig::new(server.ip(), true, on_port.into())
        })
        .collect();
    let config = ResolverConfig::from_parts(None, Vec::new(), name_servers);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options: &mut ResolverOpts = builder.options_mut();
    options.cache_size = CACHE_ENTRIES;
    options.positive_max_ttl = Some(LONGEST_TTL);
    options.negative_max_ttl = Some(LONGEST_TTL);
    options.timeout = TIMEOUT;
    options.attempts = ATTEMPTS;
    options.use_hosts_file = ResolveHosts::Never;
    options.preserve_intermediates = true;
    match builder.build() {
        Ok(resolver) => Some(resolver),
        Err(error) => {
            warn!(%error, "upstream name servers cannot be used");
            None
        }
    }
}

pub struct Forwarder {
    upstream: Upstream,
    own: Vec<IpAddr>,
    resolver: RwLock<Option<Arc<TokioResolver>>>,
}

impl Forwarder {
    /// `own` are the addresses by which this server itself is known.
    pub fn new(upstream: Upstream, own: Vec<IpAddr>) -> Self {
        let forwarder = Forwarder { upstream, own, resolver: RwLock::new(None) };
        forwarder.load();
        forwarder
    }

    fn load(&self) {
        let servers = match &self.upstream {
            Upstream::Servers(servers) => servers.clone(),
            Upstream::File(path) => match fs::read_to_string(path) {
                Ok(text) => servers_of(&text, &self.own),
                Err(error) => {
                    warn!(path = %path.display(), %error, "no upstream name servers");
                    Vec::new()
                }
            },
        };
        debug!(?servers, "upstream name servers");
        *self.resolver.write() = resolver(&servers).map(Arc::new);
    }

    /// Follows the file until cancelled.
    pub async fn follow(&self, cancel: &CancellationToken) {
        let Upstream::File(path) = &self.upstream else { return };
        let mut seen = modified(path);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(RELOAD) => {}
            }
            let now = modified(path);
            if now != seen {
                info!(path = %path.display(), "upstream name servers changed");
                seen = now;
                self.load();
            }
        }
    }

    pub async fn ask(&self, name: &Name, kind: RecordType) -> Reply {
        let Some(resolver) = self.resolver.read().clone() else {
            return Reply::failed();
        };
        let mut name = name.clone();
        name.set_fqdn(true);
        match resolver.lookup(name, kind).await {
            Ok(found) => Reply {
                code: ResponseCode::NoError,
                answers: found.answers().to_vec(),
                authorities: Vec::new(),
            },
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => Reply {
                code: none.response_code,
                answers: Vec::new(),
                authorities: none.soa.map(|soa| soa.into_record_of_rdata()).into_iter().collect(),
            },
            Err(NetError::Dns(DnsError::ResponseCode(code))) => Reply { code, ..Reply::failed() },
            Err(error) => {
                debug!(%error, "upstream did not answer");
                Reply::failed()
            }
        }
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_of_a_resolv_conf_without_ourselves() {
        let text = "# nameserver 1.1.1.1\nsearch x\n nameserver 10.0.0.2 # comment\nnameserver\t10.96.0.10\n\
                    nameserver fe80::1%eth0\nnameservers 9.9.9.9\nnameserver nonsense\n";
        let own = ["10.96.0.10".parse().unwrap()];
        let servers: Vec<String> = servers_of(text, &own).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.2:53", "[fe80::1]:53"]);
    }
}

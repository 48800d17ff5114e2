//! What kube-apiserver takes as flags, as one value. Key material comes as PEM text, so that the
//! server reads no files and tests need none.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

#[derive(Clone, Debug)]
pub struct Config {
    /// Serving certificate chain and key (PEM). `None`: in-process use only, `serve` refuses.
    pub serving: Option<KeyPair>,
    /// CA bundle (PEM) that client certificates are verified against.
    pub client_ca_pem: Option<String>,
    /// Client certificate the server shows to kubelets.
    pub kubelet_client: Option<KeyPair>,
    /// CA bundle (PEM) that kubelets' serving certificates are verified against.
    pub kubelet_ca_pem: Option<String>,
    /// Private key (PEM, PKCS#8, RSA or EC P-256) that signs service-account tokens.
    pub service_account_key_pem: Option<String>,
    /// Further public keys (PEM) accepted on tokens, for key rotation.
    pub service_account_verify_keys_pem: Vec<String>,
    /// `iss` of the tokens and base of the discovery document.
    pub service_account_issuer: String,
    /// Accepted audiences; the first one is the default of a TokenRequest.
    pub api_audiences: Vec<String>,
    /// Names and addresses by which clients reach this server, for the `kubernetes` Endpoints.
    pub advertise_address: IpAddr,
    pub advertise_port: u16,
    /// First usable address is the `kubernetes` Service's ClusterIP.
    pub service_cidrs: Vec<IpNet>,
    pub node_port_range: std::ops::RangeInclusive<u16>,
    /// Front-proxy CA (PEM) and allowed names, published for extension API servers.
    pub requestheader_client_ca_pem: Option<String>,
    pub requestheader_allowed_names: Vec<String>,
    /// Time an event object lives.
    pub event_ttl: Duration,
    /// How often history is compacted; the window kept is between one and two of these.
    pub compaction_interval: Duration,
    /// Time limit for everything but watches and connections to pods.
    pub request_timeout: Duration,
    /// Together the seats of flow control: what its priority levels share out for requests to be served
    /// at once. Reads and writes are not told apart.
    pub max_requests_inflight: usize,
    pub max_mutating_requests_inflight: usize,
    /// Shown by `/version`.
    pub version: Version,
}

#[derive(Clone, Debug)]
pub struct KeyPair {
    pub certificate_pem: String,
    pub key_pem: String,
}

/// The API level this server implements and what it was built from.
#[derive(Clone, Debug)]
pub struct Version {
    pub git_version: String,
    pub git_commit: String,
    pub build_date: String,
}

impl Default for Version {
    fn default() -> Self {
        Version {
            git_version: "v1.35.0+amphipod".into(),
            git_commit: "0000000000000000000000000000000000000000".into(),
            build_date: "1970-01-01T00:00:00Z".into(),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            serving: None,
            client_ca_pem: None,
            kubelet_client: None,
            kubelet_ca_pem: None,
            service_account_key_pem: None,
            service_account_verify_keys_pem: Vec::new(),
            service_account_issuer: "https://kubernetes.default.svc.cluster.local".into(),
            api_audiences: vec!["https://kubernetes.default.svc.cluster.local".into()],
            advertise_address: IpAddr::from([127, 0, 0, 1]),
            advertise_port: 6443,
            service_cidrs: vec![IpNet::V4(default_service_cidr())],
            node_port_range: 30000..=32767,
            requestheader_client_ca_pem: None,
            requestheader_allowed_names: Vec::new(),
            event_ttl: Duration::from_secs(3600),
            compaction_interval: Duration::from_secs(300),
            request_timeout: Duration::from_secs(60),
            max_requests_inflight: 400,
            max_mutating_requests_inflight: 200,
            version: Version::default(),
        }
    }
}

impl Config {
    /// Requests that are served at once.
    pub fn seats(&self) -> usize {
        self.max_requests_inflight.saturating_add(self.max_mutating_requests_inflight)
    }
}

fn default_service_cidr() -> ipnet::Ipv4Net {
    // 16 is a valid prefix length for IPv4.
    ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 96, 0, 0), 16)
}

impl Version {
    /// Major and minor.
    pub fn numbers(&self) -> (&str, &str) {
        let mut numbers = self.git_version.trim_start_matches('v').split(['.', '-', '+']);
        (numbers.next().unwrap_or("1"), numbers.next().unwrap_or("0"))
    }
}

/// What `/version` and `/metrics` say of the build where Kubernetes speaks of Go.
pub mod version {
    pub const TREE_STATE: &str = "clean";
    pub const GO_VERSION: &str = "none (Rust)";
    pub const COMPILER: &str = "rustc";
}

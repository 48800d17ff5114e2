//! The command line of the roles and of the local cluster.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use amphipod_serving::Serving;
use clap::{Args, Parser, Subcommand};
use ipnet::{IpNet, Ipv4Net};

use crate::hollow::HollowOptions;
use crate::storage::StoreOptions;

#[derive(Debug, Parser)]
#[command(
    name = "amphipod",
    version,
    about = "Kubernetes, whole, in one binary",
    after_help = "kubectl's commands work here too: `amphipod get pods`, or `amphipod kubectl get pods`."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Bring a cluster up on this machine, or go on with the one in the data directory
    Up(Box<UpOptions>),
    /// Stop the cluster and everything it started, pods too
    Down(DownOptions),
    /// Say what runs, where, and how it feels
    Status(DataDir),
    /// Import, list and remove container images of the local node
    Image(ImageOptions),
    /// Run the API server alone
    Apiserver(ApiserverOptions),
    /// Run the scheduler alone
    Scheduler(SchedulerOptions),
    /// Run the controllers alone
    ControllerManager(ControllerManagerOptions),
    /// Run the kubelet (and, unless another one is given, the container runtime) alone
    Kubelet(KubeletOptions),
    /// Run the service proxy alone
    Proxy(ProxyOptions),
    /// Run the cluster DNS server alone
    Dns(DnsOptions),
}

#[derive(Clone, Debug, Args)]
pub struct DataDir {
    /// Where everything is kept.
    #[arg(long, global = true, default_value = "/var/lib/amphipod")]
    pub data_dir: PathBuf,
}

const POD_CIDR: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16));
/// Eight million addresses, which no default of Kubernetes' but the one above is among.
const HOLLOW_POD_CIDR: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 128, 0, 0), 9));

#[derive(Clone, Debug, Args)]
pub struct Network {
    /// Addresses of pods.
    #[arg(long, default_value_t = POD_CIDR)]
    pub pod_cidr: IpNet,
    /// Addresses of services.
    #[arg(long, default_value = "10.96.0.0/16")]
    pub service_cidr: IpNet,
    /// The domain services are named in.
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
}

/// Together these are the seats that priority levels share out (`docs/flow-control.md`).
#[derive(Clone, Debug, Args)]
pub struct RequestLimits {
    /// Requests the API server serves at once, beside those of the next option; both are shared out between
    /// priority levels.
    #[arg(long, default_value_t = 400)]
    pub max_requests_inflight: usize,
    /// Requests the API server serves at once, beside those of the option before.
    #[arg(long, default_value_t = 200)]
    pub max_mutating_requests_inflight: usize,
}

#[derive(Clone, Debug, Args)]
pub struct UpOptions {
    #[command(flatten)]
    pub data: DataDir,
    /// Where the API server listens.
    #[arg(long, default_value = "127.0.0.1:6443")]
    pub listen: SocketAddr,
    /// Where to write the administrator's kubeconfig [default: <data-dir>/admin.kubeconfig].
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// The node's name [default: the host's].
    #[arg(long)]
    pub node_name: Option<String>,
    #[command(flatten)]
    pub network: Network,
    #[command(flatten)]
    pub store: StoreOptions,
    #[command(flatten)]
    pub limits: RequestLimits,
    /// Control plane only: no kubelet, no containers, no root needed.
    #[arg(long)]
    pub no_node: bool,
    /// Use this CRI runtime instead of the embedded one, e.g. unix:///run/containerd/containerd.sock.
    #[arg(long)]
    pub container_runtime_endpoint: Option<String>,
    /// A file with a KubeSchedulerConfiguration for the scheduler.
    #[arg(long)]
    pub scheduler_config: Option<PathBuf>,
    /// Return once the cluster is ready and leave it running.
    #[arg(long)]
    pub detach: bool,
    /// Set by --detach on the process it leaves behind.
    #[arg(long, hide = true)]
    pub detached: bool,
    // The last: its heading would be that of what follows.
    #[command(flatten)]
    pub hollow: HollowOptions,
}

impl UpOptions {
    /// Addresses of hollow pods, to which nothing is ever sent: enough for the largest cluster, unless a
    /// range is asked for.
    pub fn hollow_pod_cidr(&self) -> IpNet {
        if self.network.pod_cidr == POD_CIDR { HOLLOW_POD_CIDR } else { self.network.pod_cidr }
    }
    /// A real node runs here.
    pub fn has_node(&self) -> bool {
        !self.no_node && !self.hollow.are_wanted()
    }
}

#[derive(Clone, Debug, Args)]
pub struct DownOptions {
    #[command(flatten)]
    pub data: DataDir,
    /// Delete the data too.
    #[arg(long)]
    pub purge: bool,
}

#[derive(Clone, Debug, Args)]
pub struct ImageOptions {
    #[command(flatten)]
    pub data: DataDir,
    #[command(subcommand)]
    pub command: ImageCommand,
}

#[derive(Clone, Debug, Subcommand)]
pub enum ImageCommand {
    /// Import an OCI or docker archive
    Import { file: PathBuf },
    /// Write the demo images to an archive that other runtimes can import
    Export { file: PathBuf },
    /// List images
    List,
    /// Remove an image
    Remove { reference: String },
}

#[derive(Clone, Debug, Args)]
pub struct ApiserverOptions {
    #[command(flatten)]
    pub data: DataDir,
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:6443")]
    pub listen: SocketAddr,
    #[command(flatten)]
    pub network: Network,
    #[command(flatten)]
    pub store: StoreOptions,
    #[command(flatten)]
    pub limits: RequestLimits,
    /// Name of the node kubeconfigs are written for [default: the host's].
    #[arg(long)]
    pub node_name: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub struct SchedulerOptions {
    /// Credentials and address of the API server [default: clientConnection.kubeconfig of --config].
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Take part in leader election, so that several instances can stand by [default: what
    /// leaderElection.leaderElect of --config says, or true].
    #[arg(long)]
    pub leader_elect: Option<bool>,
    /// A file with a KubeSchedulerConfiguration.
    #[arg(long)]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub serving: ServingOptions,
}

/// A new CA is made known long before anybody has only certificates of that.
const CLIENT_CA_CHECKED_EVERY: Duration = Duration::from_secs(60);

/// Health and metrics over HTTPS.
#[derive(Clone, Debug, Args)]
pub struct ServingOptions {
    /// Where to serve health and metrics; 0 for nowhere [default: 10259 of the scheduler, 10257 of the
    /// controllers].
    #[arg(long)]
    pub secure_port: Option<u16>,
    /// The address to serve them at.
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// The serving certificate [default: one of its own making].
    #[arg(long, requires = "tls_private_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// The key of the serving certificate.
    #[arg(long, requires = "tls_cert_file")]
    pub tls_private_key_file: Option<PathBuf>,
    /// The CA of client certificates [default: the one the API server names].
    #[arg(long)]
    pub client_ca_file: Option<PathBuf>,
    /// Paths that take no rights.
    #[arg(long, value_delimiter = ',', default_value = "/healthz,/readyz,/livez")]
    pub authorization_always_allow_paths: Vec<String>,
}

impl ServingOptions {
    /// `None` for nowhere.
    pub fn serving(&self, default_port: u16) -> Option<Serving> {
        let port = self.secure_port.unwrap_or(default_port);
        (port > 0).then(|| Serving {
            address: SocketAddr::new(self.bind_address, port),
            certificate: self.tls_cert_file.clone().zip(self.tls_private_key_file.clone()),
            client_ca: self.client_ca_file.clone(),
            client_ca_checked_every: CLIENT_CA_CHECKED_EVERY,
            open_paths: self.authorization_always_allow_paths.clone(),
        })
    }
}

#[derive(Clone, Debug, Args)]
pub struct RoleOptions {
    /// Credentials and address of the API server.
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// Take part in leader election, so that several instances can stand by.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub leader_elect: bool,
}

#[derive(Clone, Debug, Args)]
pub struct ControllerManagerOptions {
    #[command(flatten)]
    pub role: RoleOptions,
    /// CA published to pods as kube-root-ca.crt [default: the kubeconfig's].
    #[arg(long)]
    pub root_ca_file: Option<PathBuf>,
    #[command(flatten)]
    pub serving: ServingOptions,
}

#[derive(Clone, Debug, Args)]
pub struct KubeletOptions {
    #[arg(long)]
    pub kubeconfig: PathBuf,
    #[command(flatten)]
    pub data: DataDir,
    #[arg(long)]
    pub node_name: Option<String>,
    #[command(flatten)]
    pub network: Network,
    #[arg(long)]
    pub container_runtime_endpoint: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub struct ProxyOptions {
    #[arg(long)]
    pub kubeconfig: PathBuf,
    #[arg(long)]
    pub node_name: Option<String>,
    #[command(flatten)]
    pub network: Network,
}

#[derive(Clone, Debug, Args)]
pub struct DnsOptions {
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// Where to listen [default: port 53 of the first pod address].
    #[arg(long)]
    pub listen: Option<SocketAddr>,
    #[command(flatten)]
    pub network: Network,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hollow_pods_have_a_wide_range_unless_one_is_asked_for() {
        let range = |flags: &[&str]| {
            let words = ["amphipod", "up", "--hollow-nodes", "3"].iter().chain(flags);
            match Cli::try_parse_from(words).unwrap().command {
                Command::Up(options) => options.hollow_pod_cidr().to_string(),
                _ => unreachable!(),
            }
        };
        assert_eq!(range(&[]), "10.128.0.0/9");
        assert_eq!(range(&["--pod-cidr", "10.9.0.0/16"]), "10.9.0.0/16");
    }
}

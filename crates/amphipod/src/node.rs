//! The parts of a real node: its network, its container runtime, its kubelet, proxy and DNS.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use amphipod_client::{Client, SharedInformers};
use amphipod_cluster::Files;
use amphipod_network::{NodeNetwork, ProxyConfig};
use ipnet::{IpNet, Ipv4Net};
use tokio_util::sync::CancellationToken;

use crate::compose::Failure;
use crate::options::Network;
use crate::plane::nth;

const BRIDGE: &str = "amphipod0";
const TABLE: &str = "amphipod";
pub const KUBELET_PORT: u16 = 10250;
/// Offset of the DNS service's address in the service range, as kubeadm has it.
const DNS_SERVICE_OFFSET: u32 = 10;

fn v4(cidr: IpNet) -> Result<Ipv4Net, Failure> {
    match cidr {
        IpNet::V4(v4) => Ok(v4),
        IpNet::V6(_) => Err(Failure::new(format!("{cidr}: only IPv4 ranges work so far"))),
    }
}

/// The bridge's address: pods' default route, and where the API server and DNS are reached by pods.
pub fn gateway(network: &Network) -> Result<Ipv4Addr, Failure> {
    Ok(NodeNetwork::first_address(v4(network.pod_cidr)?))
}

pub fn dns_service(network: &Network) -> IpAddr {
    nth(network.service_cidr, DNS_SERVICE_OFFSET)
}

pub fn pod_network(files: &Files, network: &Network) -> Result<NodeNetwork, Failure> {
    Ok(NodeNetwork {
        bridge: BRIDGE.to_owned(),
        pod_cidr: v4(network.pod_cidr)?,
        gateway: gateway(network)?,
        service_cidr: v4(network.service_cidr)?,
        masquerade: true,
        mtu: None,
        table: TABLE.to_owned(),
        state_dir: files.cni_state(),
        conf_dir: files.cni_conf(),
        bin_dir: files.cni_bin(),
        binary: std::env::current_exe()?,
    })
}

/// `unix://...` of the runtime to use: the given one, or the embedded one's.
pub fn cri_endpoint(files: &Files, external: Option<&str>) -> String {
    external.map_or_else(|| format!("unix://{}", files.cri_socket().display()), str::to_owned)
}

pub fn runtime_config(files: &Files) -> Result<amphipod_runtime::Config, Failure> {
    let mut config = amphipod_runtime::Config::new(files.root(), std::env::current_exe()?);
    config.builtin_images = crate::image::builtin();
    Ok(config)
}

pub fn kubelet_config(
    files: &Files,
    network: &Network,
    name: &str,
    address: IpAddr,
    endpoint: &str,
) -> amphipod_kubelet::Config {
    let mut config = amphipod_kubelet::Config::new(name, address, endpoint);
    config.root_dir = files.kubelet();
    config.pod_logs_dir = files.root().join("logs/pods");
    config.manifest_dir = Some(files.manifests());
    config.listen = Some(SocketAddr::new(IpAddr::from([0, 0, 0, 0]), KUBELET_PORT));
    config.serving_cert = Some((files.pki("kubelet.crt"), files.pki("kubelet.key")));
    config.client_ca = Some(files.pki("ca.crt"));
    config.cluster_dns = vec![dns_service(network)];
    config.cluster_domain = network.cluster_domain.clone();
    config.pinned_images = crate::image::references();
    config
}

pub async fn proxy(
    client: Client,
    informers: SharedInformers,
    network: &Network,
    node_name: &str,
    cancel: CancellationToken,
) -> Result<(), Failure> {
    let config = ProxyConfig {
        node_name: node_name.to_owned(),
        table: TABLE.to_owned(),
        pod_cidr: v4(network.pod_cidr)?,
        service_cidr: v4(network.service_cidr)?,
        bridge: Some(BRIDGE.to_owned()),
    };
    amphipod_network::run_proxy(client, informers, config, cancel).await?;
    Ok(())
}

/// Stops every container and removes mounts and namespaces; rules, bridge, cgroup roots and what
/// external runtimes hold too where the machine is this cluster's. Says which of those runtimes
/// still hold pods, and why.
pub fn tear_down(files: &Files, owns_machine: bool) -> Result<Vec<String>, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let record = amphipod_cluster::instance::read(files);
    let mut left = Vec::new();
    for endpoint in record.iter().flat_map(|record| record.runtime_endpoints()) {
        // Nothing tells pods of one cluster from those of another there.
        if !owns_machine {
            left.push(format!(
                "the pods in {endpoint} were left: another cluster has its node here, they may be its own"
            ));
        } else if let Err(error) = runtime.block_on(amphipod_kubelet::remove_pods(endpoint)) {
            left.push(format!("the pods in {endpoint} were not removed: {error}"));
        }
    }
    if files.runtime().exists() {
        runtime.block_on(amphipod_runtime::cleanup(&runtime_config(files)?))?;
    }
    if owns_machine && files.cni_conf().exists() {
        let network = Network {
            pod_cidr: recorded_pod_cidr(files),
            service_cidr: recorded_service_cidr(files),
            cluster_domain: String::new(),
        };
        amphipod_network::teardown_node(&pod_network(files, &network)?)?;
    }
    unmount_below(&files.kubelet());
    if owns_machine {
        amphipod_kubelet::remove_cgroup_root(&amphipod_kubelet::CgroupConfig::default());
    }
    Ok(left)
}

fn recorded(
    files: &Files,
    pick: fn(&amphipod_cluster::instance::Instance) -> &str,
    default: [u8; 4],
) -> IpNet {
    let record = amphipod_cluster::instance::read(files);
    let parsed = record.and_then(|r| pick(&r).parse().ok());
    // 16 is a valid prefix length for IPv4.
    parsed.unwrap_or(IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from(default), 16)))
}
fn recorded_pod_cidr(files: &Files) -> IpNet {
    recorded(files, |r| &r.pod_cidr, [10, 244, 0, 0])
}
fn recorded_service_cidr(files: &Files) -> IpNet {
    recorded(files, |r| &r.service_cidr, [10, 96, 0, 0])
}

/// Volumes the kubelet mounted (tmpfs, bind mounts), deepest first.
fn unmount_below(directory: &Path) {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let below = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new);
    let mut below: Vec<&Path> = below.filter(|path| path.starts_with(directory)).collect();
    below.sort();
    for path in below.into_iter().rev() {
        let _ = rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use amphipod_cluster::instance::{self, Instance};

    #[test]
    fn pods_of_the_cluster_that_has_the_machine_are_left() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path());
        files.create().unwrap();
        let socket = dir.path().join("cri.sock");
        let shared = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        shared.set_nonblocking(true).unwrap();
        let endpoint = format!("unix://{}", socket.display());
        let record = Instance { runtime_endpoint: Some(endpoint.clone()), ..Instance::default() };
        instance::write(&files, &record).unwrap();
        let left = tear_down(&files, false).unwrap();
        assert!(left[0].starts_with(&format!("the pods in {endpoint} were left")), "{left:?}");
        assert_eq!(shared.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "it was asked");
    }
}

//! The control plane's files and the API server made from them.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use amphipod_apiserver::config::KeyPair;
use amphipod_apiserver::{ApiServer, Config};
use amphipod_cluster::pki::{Authority, Leaf, Pair, service_account_key};
use amphipod_cluster::{Files, kubeconfig};
use amphipod_store::Store;
use ipnet::IpNet;

use crate::compose::Failure;
use crate::options::{Network, RequestLimits};
use crate::storage::StoreOptions;

/// Everything signed for this cluster.
pub struct Keys {
    pub ca: String,
    pub serving: Pair,
    pub kubelet_client: Pair,
    pub service_account_key: String,
    pub front_proxy_ca: String,
}

/// Where the API server is reached.
#[derive(Clone, Debug)]
pub struct Addresses {
    pub listen: SocketAddr,
    /// What the `kubernetes` Service leads to; reachable from pods.
    pub advertise: SocketAddr,
    pub node_name: String,
    pub node_ip: IpAddr,
}

/// The `index`-th address of a range.
pub fn nth(cidr: IpNet, index: u32) -> IpAddr {
    match cidr {
        IpNet::V4(net) => IpAddr::from((u32::from(net.network()) + index).to_be_bytes()),
        IpNet::V6(net) => IpAddr::from((u128::from(net.network()) + u128::from(index)).to_be_bytes()),
    }
}

/// Makes or reads the keys, and writes the kubeconfigs of the components and the administrator.
pub fn keys(files: &Files, at: &Addresses, network: &Network, admin: &Path) -> Result<Keys, Failure> {
    let ca = Authority::load_or_create(files, "ca", "kubernetes")?;
    let front = Authority::load_or_create(files, "front-proxy-ca", "front-proxy-ca")?;
    let domain = format!("kubernetes.default.svc.{}", network.cluster_domain);
    let names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        domain.as_str(),
        "localhost",
        &at.node_name,
    ];
    let addresses = [
        IpAddr::from([127, 0, 0, 1]),
        at.listen.ip(),
        at.advertise.ip(),
        at.node_ip,
        nth(network.service_cidr, 1),
    ];
    let addresses: Vec<IpAddr> = addresses.into_iter().filter(|a| !a.is_unspecified()).collect();
    let serving = ca.leaf(files, "apiserver", &Leaf::server("kube-apiserver", &names, &addresses))?;
    let node_names = [at.node_name.as_str(), "localhost"];
    let node_addresses = [at.node_ip, at.advertise.ip(), IpAddr::from([127, 0, 0, 1])];
    let kubelet = Leaf::server(&format!("system:node:{}", at.node_name), &node_names, &node_addresses);
    // Read from their files: by the kubelet, and later by the aggregator.
    ca.leaf(files, "kubelet", &kubelet)?;
    front.leaf(files, "front-proxy-client", &Leaf::client("front-proxy-client", &[]))?;
    let keys = Keys {
        kubelet_client: ca.leaf(
            files,
            "apiserver-kubelet-client",
            &Leaf::client("kube-apiserver-kubelet-client", &["system:masters"]),
        )?,
        service_account_key: service_account_key(files)?,
        front_proxy_ca: front.certificate.clone(),
        ca: ca.certificate.clone(),
        serving,
    };
    let server = format!("https://{}", reachable(at.listen));
    let node_user = format!("system:node:{}", at.node_name);
    let users = [
        ("scheduler", "system:kube-scheduler", ""),
        ("controller-manager", "system:kube-controller-manager", ""),
        ("proxy", "system:kube-proxy", ""),
        ("dns", crate::compose::DNS_USER, ""),
        ("kubelet", node_user.as_str(), "system:nodes"),
    ];
    for (component, user, group) in users {
        let groups: &[&str] = if group.is_empty() { &[] } else { &[group] };
        let pair = ca.leaf(files, component_key(component), &Leaf::client(user, groups))?;
        kubeconfig::write(&files.component_kubeconfig(component), &server, &keys.ca, component, &pair)?;
    }
    let pair = ca.leaf(files, "admin", &Leaf::client("kubernetes-admin", &["system:masters"]))?;
    kubeconfig::write(admin, &server, &keys.ca, "kubernetes-admin", &pair)?;
    if admin != files.admin_kubeconfig() {
        kubeconfig::write(&files.admin_kubeconfig(), &server, &keys.ca, "kubernetes-admin", &pair)?;
    }
    Ok(keys)
}

/// `kubelet` names the serving pair already.
fn component_key(component: &'static str) -> &'static str {
    if component == "kubelet" { "kubelet-client" } else { component }
}

/// A wildcard address is reached through loopback.
pub fn reachable(listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        SocketAddr::new(IpAddr::from([127, 0, 0, 1]), listen.port())
    } else {
        listen
    }
}

pub fn server_config(keys: &Keys, at: &Addresses, network: &Network, limits: &RequestLimits) -> Config {
    let pair = |pair: &Pair| KeyPair { certificate_pem: pair.certificate.clone(), key_pem: pair.key.clone() };
    let issuer = format!("https://kubernetes.default.svc.{}", network.cluster_domain);
    Config {
        serving: Some(pair(&keys.serving)),
        client_ca_pem: Some(keys.ca.clone()),
        kubelet_client: Some(pair(&keys.kubelet_client)),
        kubelet_ca_pem: Some(keys.ca.clone()),
        service_account_key_pem: Some(keys.service_account_key.clone()),
        api_audiences: vec![issuer.clone()],
        service_account_issuer: issuer,
        advertise_address: at.advertise.ip(),
        advertise_port: at.advertise.port(),
        service_cidrs: vec![network.service_cidr],
        requestheader_client_ca_pem: Some(keys.front_proxy_ca.clone()),
        requestheader_allowed_names: vec!["front-proxy-client".to_owned()],
        max_requests_inflight: limits.max_requests_inflight,
        max_mutating_requests_inflight: limits.max_mutating_requests_inflight,
        ..Config::default()
    }
}

/// Opens the store and starts the server on it.
pub async fn start(
    files: &Files,
    config: Config,
    options: &StoreOptions,
) -> Result<(Arc<ApiServer>, Arc<dyn Store>), Failure> {
    let store = options.open(files).await?;
    let config = Config { compaction_interval: options.history, ..config };
    let server = ApiServer::start(config, store.clone()).await?;
    Ok((server, store))
}

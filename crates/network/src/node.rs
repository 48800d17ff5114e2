//! What a node needs before its first pod: the bridge, forwarding, masquerading of what leaves the
//! cluster, and the CNI plugin where container runtimes look for it. All of it can be set up again
//! over itself, and taken down.

use std::fs;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use serde_json::json;
use tracing::{debug, info};

use crate::Error;
use crate::cni::{self, PLUGIN_NAME, PLUGIN_NAMES, ipam};
use crate::netlink::Socket;
use crate::netlink::route::mac_of;
use crate::nft::{Batch, Hook, Rule, Verdict, remove_table};

const CONFIGURATION_FILE: &str = "10-amphipod.conflist";
const DEFAULT_MTU: u32 = 1500;
pub const LOOPBACK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);

/// How pods of this node are connected.
#[derive(Clone, Debug)]
pub struct NodeNetwork {
    pub bridge: String,
    pub pod_cidr: Ipv4Net,
    /// The bridge's own address, the pods' default route; a host of `pod_cidr`.
    pub gateway: Ipv4Addr,
    /// Gets a route to the bridge, so that this machine reaches services without a default route.
    pub service_cidr: Ipv4Net,
    /// Whether pods' packets to the outside carry the node's address.
    pub masquerade: bool,
    /// Of the bridge and the pods; that of the default route's interface where `None`.
    pub mtu: Option<u32>,
    /// Names of nftables tables start with this; the service proxy's own is exactly this.
    pub table: String,
    /// Address reservations live here.
    pub state_dir: PathBuf,
    pub conf_dir: PathBuf,
    pub bin_dir: PathBuf,
    /// The executable that acts as the plugin when started as `amphipod-cni`.
    pub binary: PathBuf,
}

impl NodeNetwork {
    /// The conventional gateway of a pod range: its first address.
    pub fn first_address(pod_cidr: Ipv4Net) -> Ipv4Addr {
        pod_cidr.hosts().next().unwrap_or(pod_cidr.network())
    }
    fn node_table(&self) -> String {
        format!("{}-node", self.table)
    }
    fn host_port_table(&self) -> String {
        format!("{}-hostports", self.table)
    }
}

/// Makes or repairs everything; running pods are not disturbed.
pub fn setup_node(network: &NodeNetwork) -> Result<(), Error> {
    for dir in [&network.state_dir, &network.conf_dir, &network.bin_dir] {
        fs::create_dir_all(dir).map_err(|e| Error::file(dir, e))?;
    }
    set_up_bridge(network)?;
    set_sysctls(network)?;
    let mut netfilter = Socket::netfilter()?;
    write_node_rules(network, &mut netfilter)?;
    cni::host_ports::ensure_table(&mut netfilter, &network.host_port_table(), &network.bridge)?;
    let reclaimed = ipam::Store::open(&network.state_dir)?.reclaim_stale()?;
    debug!(reclaimed, "stale address reservations");
    install_plugin(network)?;
    info!(bridge = network.bridge, pods = %network.pod_cidr, "pod network ready");
    Ok(())
}

/// Removes everything `setup_node` and the plugin made. `net.ipv4.ip_forward` stays on: others may
/// rely on it by now.
pub fn teardown_node(network: &NodeNetwork) -> Result<(), Error> {
    let mut route = Socket::route()?;
    if let Some(bridge) = route.link(&network.bridge)? {
        for port in route.links()?.iter().filter(|link| link.master == Some(bridge.index)) {
            route.delete_link(&port.name)?;
        }
        route.delete_link(&network.bridge)?;
    }
    let mut netfilter = Socket::netfilter()?;
    for table in [network.table.clone(), network.node_table(), network.host_port_table()] {
        remove_table(&mut netfilter, &table)?;
    }
    let plugins = PLUGIN_NAMES.iter().map(|name| network.bin_dir.join(name));
    for file in plugins.chain([network.conf_dir.join(CONFIGURATION_FILE)]) {
        absent_is_fine(&file, fs::remove_file(&file))?;
    }
    absent_is_fine(&network.state_dir, fs::remove_dir_all(&network.state_dir))
}

fn absent_is_fine(path: &Path, outcome: std::io::Result<()>) -> Result<(), Error> {
    match outcome {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::file(path, error)),
        _ => Ok(()),
    }
}

fn set_up_bridge(network: &NodeNetwork) -> Result<(), Error> {
    let mut route = Socket::route()?;
    let address = Ipv4Net::new(network.gateway, network.pod_cidr.prefix_len())
        .map_err(|e| Error::Invalid(e.to_string()))?;
    let bridge = match route.link(&network.bridge)? {
        Some(bridge) => bridge,
        None => {
            let mtu = match network.mtu {
                Some(mtu) => mtu,
                None => route.default_interface()?.map_or(DEFAULT_MTU, |link| link.mtu),
            };
            // With an address of its own the bridge does not take over that of its first port.
            route.create_bridge(&network.bridge, mac_of(network.gateway), mtu)?;
            route.link(&network.bridge)?.ok_or_else(|| {
                Error::Invalid(format!("bridge {} vanished while it was set up", network.bridge))
            })?
        }
    };
    route.set_up(bridge.index)?;
    if !route.addresses(bridge.index)?.contains(&address) {
        route.add_address(bridge.index, address)?;
    }
    route.add_route(network.service_cidr, None, bridge.index)
}

fn set_sysctls(network: &NodeNetwork) -> Result<(), Error> {
    let bridge = Path::new("/proc/sys/net/ipv4/conf").join(&network.bridge);
    write_sysctl(Path::new("/proc/sys/net/ipv4/ip_forward"), "1")?;
    // Host ports and node ports on 127.0.0.1: such packets leave through the bridge.
    write_sysctl(&bridge.join("route_localnet"), "1")?;
    // Every packet between two pods leaves by the interface it came in by: no redirects for that.
    // Either of the two settings enables them; other interfaces keep their own.
    write_sysctl(&bridge.join("send_redirects"), "0")?;
    write_sysctl(Path::new("/proc/sys/net/ipv4/conf/all/send_redirects"), "0")?;
    // Replies to translated connections come from where routing would not expect them.
    write_sysctl(&bridge.join("rp_filter"), "0")
}

fn write_sysctl(path: &Path, value: &str) -> Result<(), Error> {
    let current = fs::read_to_string(path).map_err(|e| Error::file(path, e))?;
    if current.trim() == value {
        return Ok(());
    }
    fs::write(path, value).map_err(|e| Error::file(path, e))
}

fn write_node_rules(network: &NodeNetwork, socket: &mut Socket) -> Result<(), Error> {
    let mut batch = Batch::new(&network.node_table());
    batch.replace_table();
    // With route_localnet set, pods must not reach what listens on this machine's loopback only.
    let guard =
        Rule::new().when_input_is(&network.bridge).when_destination_in(LOOPBACK).verdict(&Verdict::Drop);
    batch.add_chain("guard-loopback", Some(Hook::RAW_PREROUTING), &[guard]);
    // A redirect, where somebody enables them again, would send one pod's replies to another past
    // the translation of service addresses.
    let redirect = Rule::new().when_output_is(&network.bridge).when_icmp_redirect().verdict(&Verdict::Drop);
    batch.add_chain("no-redirects", Some(Hook::FILTER_OUTPUT), &[redirect]);
    if network.masquerade {
        let leaving = Rule::new()
            .when_source_in(network.pod_cidr)
            .when_destination_not_in(network.pod_cidr)
            .when_output_is_not(&network.bridge)
            .masquerade();
        batch.add_chain("masquerade", Some(Hook::NAT_POSTROUTING), &[leaving]);
    }
    batch.commit(socket)
}

fn install_plugin(network: &NodeNetwork) -> Result<(), Error> {
    for name in PLUGIN_NAMES {
        let plugin = network.bin_dir.join(name);
        if fs::read_link(&plugin).ok().as_ref() != Some(&network.binary) {
            let fresh = network.bin_dir.join(format!(".{name}.new"));
            absent_is_fine(&fresh, fs::remove_file(&fresh))?;
            std::os::unix::fs::symlink(&network.binary, &fresh).map_err(|e| Error::file(&fresh, e))?;
            fs::rename(&fresh, &plugin).map_err(|e| Error::file(&plugin, e))?;
        }
    }
    let configuration = json!({
        "cniVersion": "1.0.0",
        "name": "amphipod",
        "plugins": [{
            "type": PLUGIN_NAME,
            "bridge": network.bridge,
            "podCIDR": network.pod_cidr,
            "gateway": network.gateway,
            "stateDir": network.state_dir,
            "hostPortTable": network.host_port_table(),
            "capabilities": {"portMappings": true},
        }],
    });
    let path = network.conf_dir.join(CONFIGURATION_FILE);
    let fresh = path.with_extension("new");
    fs::write(&fresh, format!("{configuration:#}\n")).map_err(|e| Error::file(&fresh, e))?;
    fs::rename(&fresh, &path).map_err(|e| Error::file(&path, e))
}

//! A pod's interface: a veth pair, one end a port of the bridge, the other inside the pod's network
//! namespace with address and routes.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;

use ipnet::Ipv4Net;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::types::{Call, Configuration};
use crate::Error;
use crate::netlink::Socket;
use crate::netlink::route::{Mac, Veth, mac_of};

/// The hardware addresses of what was made.
pub struct Made {
    pub host_name: String,
    pub bridge: Mac,
    pub host: Mac,
    pub pod: Mac,
}

/// The name of a pair's end on the host: a function of the pod, so that DEL finds it also when the
/// namespace is gone.
pub fn host_name(container: &str, interface: &str) -> String {
    // FNV-1a, of which 44 bits fit the name; a clash of two pods on one node is as good as excluded
    // and would show as an error of ADD.
    let bytes = container.bytes().chain([b'/']).chain(interface.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("veth{:011x}", hash >> 20)
}

/// Brings the loopback interface of a namespace up.
pub fn raise_loopback(namespace: &Path) -> Result<(), Error> {
    raise(&mut socket_in(&open_namespace(namespace)?)?)
}

fn raise(pod: &mut Socket) -> Result<(), Error> {
    match pod.link("lo")? {
        Some(loopback) => pod.set_up(loopback.index),
        None => Ok(()),
    }
}

/// A netlink socket that lives in another network namespace; this thread is there only while it
/// opens the socket.
fn socket_in(namespace: &File) -> Result<Socket, Error> {
    const HERE: &str = "/proc/thread-self/ns/net";
    let here = File::open(HERE).map_err(|e| Error::file(Path::new(HERE), e))?;
    let enter = |file: &File| {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|e| Error::kernel("entering a network namespace", e))
    };
    enter(namespace)?;
    let socket = Socket::route();
    enter(&here)?;
    socket
}

fn open_namespace(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(|e| Error::file(path, e))
}

pub fn attach(
    config: &Configuration,
    call: &Call,
    namespace: &Path,
    address: Ipv4Addr,
) -> Result<Made, Error> {
    let namespace = open_namespace(namespace)?;
    let mut host = Socket::route()?;
    let bridge = host
        .link(&config.bridge)?
        .ok_or_else(|| Error::Invalid(format!("bridge {} does not exist", config.bridge)))?;
    let host_name = host_name(&call.container, &call.interface);
    // Left over where an earlier ADD was killed half-way.
    host.delete_link(&host_name)?;
    host.create_veth(&Veth {
        host_name: &host_name,
        bridge: bridge.index,
        mtu: bridge.mtu,
        pod_name: &call.interface,
        pod_mac: mac_of(address),
        pod_namespace: namespace.as_fd(),
    })?;
    let port = host
        .link(&host_name)?
        .ok_or_else(|| Error::Invalid(format!("{host_name} vanished while it was set up")))?;
    host.set_hairpin(port.index)?;

    let mut pod = socket_in(&namespace)?;
    raise(&mut pod)?;
    let inside = pod
        .link(&call.interface)?
        .ok_or_else(|| Error::Invalid(format!("{} vanished while it was set up", call.interface)))?;
    pod.add_address(inside.index, Ipv4Net::from(address))?;
    pod.set_up(inside.index)?;
    pod.add_route(super::EVERYWHERE, Some(config.gateway), inside.index)?;
    Ok(Made { host_name, bridge: bridge.mac, host: port.mac, pod: inside.mac })
}

/// What is wrong with a pod's interface, if anything.
pub fn verify(
    config: &Configuration,
    call: &Call,
    namespace: &Path,
    address: Ipv4Addr,
) -> Result<Option<String>, Error> {
    let mut host = Socket::route()?;
    let Some(bridge) = host.link(&config.bridge)? else {
        return Ok(Some(format!("bridge {} does not exist", config.bridge)));
    };
    let host_name = host_name(&call.container, &call.interface);
    let port = host.link(&host_name)?;
    if port.is_none_or(|port| port.master != Some(bridge.index) || !port.up) {
        return Ok(Some(format!("{host_name} is not a working port of {}", config.bridge)));
    }
    let mut pod = socket_in(&open_namespace(namespace)?)?;
    let Some(inside) = pod.link(&call.interface)?.filter(|link| link.up) else {
        return Ok(Some(format!("{} does not exist or is down", call.interface)));
    };
    if !pod.addresses(inside.index)?.contains(&Ipv4Net::from(address)) {
        return Ok(Some(format!("{} has not the address {address}", call.interface)));
    }
    let routed = pod.default_interface()?;
    let is_routed = routed.is_some_and(|link| link.index == inside.index);
    Ok((!is_routed).then(|| format!("no default route through {}", call.interface)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_fit_and_differ() {
        let (one, two) = (host_name("a", "eth0"), host_name("a", "eth1"));
        assert_ne!(one, two);
        assert!(one.len() <= 15 && one.starts_with("veth"));
    }
}

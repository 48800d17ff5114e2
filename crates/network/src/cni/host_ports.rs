//! Host ports: connections to a port of the node go to one pod. A table of its own, whose elements
//! the plugin adds and removes, so that neither the service proxy's restarts nor its absence touch
//! them. What was added for a container is noted in the state directory for its removal.

use std::fs;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::types::PortMapping;
use crate::Error;
use crate::netlink::Socket;
use crate::netlink::conntrack::UDP;
use crate::nft::{
    Batch, Data, Element, ElementData, Field, Hook, Map, Register, Rule, Verdict, Words, table_exists,
};
use crate::proxy::Protocol;

const HOST_PORTS: Map = Map {
    name: "host-ports",
    key: &[Field::Address, Field::Protocol, Field::Port],
    data: Data::Fields(&[Field::Address, Field::Port]),
    dynamic: None,
};
const HAIRPIN: Map =
    Map { name: "hairpin", key: &[Field::Address, Field::Address], data: Data::None, dynamic: None };
const FIND: &str = "find-host-port";
const KEY: Register = Register(0);
const FOUND: Register = Register(4);

/// Makes the table unless it is there; elements of running pods stay.
pub fn ensure_table(socket: &mut Socket, table: &str, bridge: &str) -> Result<(), Error> {
    if table_exists(socket, table)? {
        return Ok(());
    }
    let mut batch = Batch::new(table);
    batch.replace_table();
    batch.add_map(&HOST_PORTS, 1);
    batch.add_map(&HAIRPIN, 2);
    let to_pod = |rule: Rule| rule.look_up(HOST_PORTS.name, KEY, FOUND).translate_destination(FOUND);
    let exact = Rule::new().load_destination(KEY);
    let any = Rule::new().when_destination_is_local().load_address(Ipv4Addr::UNSPECIFIED, KEY);
    let rest = |rule: Rule| rule.load_protocol(Register(1)).load_port(Register(2));
    batch.add_chain(FIND, None, &[to_pod(rest(exact)), to_pod(rest(any))]);
    let find = Rule::new().verdict(&Verdict::Jump(FIND.to_owned()));
    batch.add_chain("prerouting", Some(Hook::NAT_PREROUTING), std::slice::from_ref(&find));
    batch.add_chain("output", Some(Hook::NAT_OUTPUT), &[find]);
    // A pod that reaches itself, and this machine reaching it from 127.0.0.1: the pod could not
    // answer to these addresses.
    let hairpin = Rule::new()
        .when_destination_was_translated()
        .load_source(KEY)
        .load_destination(Register(1))
        .when_in_set(HAIRPIN.name, KEY)
        .masquerade();
    let loopback = Rule::new().when_output_is(bridge).when_source_in(crate::node::LOOPBACK).masquerade();
    batch.add_chain("postrouting", Some(Hook::NAT_POSTROUTING), &[hairpin, loopback]);
    batch.commit(socket)
}

fn elements(mappings: &[PortMapping], pod: Ipv4Addr) -> Result<Vec<Element>, Error> {
    let element = |mapping: &PortMapping| {
        let name = mapping.protocol.to_ascii_uppercase();
        let protocol = Protocol::parse(Some(&name).filter(|name| !name.is_empty()).map(String::as_str))
            .ok_or_else(|| Error::Invalid(format!("host port with unknown protocol {name}")))?;
        let host = match mapping.host_ip.as_str() {
            "" => Ipv4Addr::UNSPECIFIED,
            text => text.parse().map_err(|_| Error::Invalid(format!("hostIP {text} is no IPv4 address")))?,
        };
        Ok(Element {
            key: Words::default().address(host).protocol(protocol as u8).port(mapping.host_port),
            data: ElementData::Words(Words::default().address(pod).port(mapping.container_port)),
        })
    };
    mappings.iter().filter(|mapping| mapping.host_port != 0).map(element).collect()
}

fn hairpin(pod: Ipv4Addr) -> Element {
    Element { key: Words::default().address(pod).address(pod), data: ElementData::None }
}

fn note_path(state_dir: &Path, container: &str, interface: &str) -> PathBuf {
    state_dir.join("host-ports").join(format!("{container}.{interface}"))
}

/// Opens a pod's host ports.
pub fn open(
    config: &super::types::Configuration,
    container: &str,
    interface: &str,
    pod: Ipv4Addr,
) -> Result<(), Error> {
    let mappings: Vec<PortMapping> =
        config.runtime_config.port_mappings.iter().filter(|m| m.host_port != 0).cloned().collect();
    let wanted = elements(&mappings, pod)?;
    if wanted.is_empty() {
        return Ok(());
    }
    let note = note_path(&config.state_dir, container, interface);
    if let Some(dir) = note.parent() {
        fs::create_dir_all(dir).map_err(|e| Error::file(dir, e))?;
    }
    let text = serde_json::to_vec(&(pod, &mappings)).map_err(|e| Error::Invalid(e.to_string()))?;
    fs::write(&note, text).map_err(|e| Error::file(&note, e))?;
    let mut socket = Socket::netfilter()?;
    ensure_table(&mut socket, &config.host_port_table, &config.bridge)?;
    let mut batch = Batch::new(&config.host_port_table);
    batch.add_elements(HOST_PORTS.name, &wanted);
    batch.add_elements(HAIRPIN.name, &[hairpin(pod)]);
    batch.commit(&mut socket).map_err(|error| match error.errno() {
        Some(Errno::EXIST | Errno::BUSY) => Error::Invalid("a host port is taken by another pod".to_owned()),
        _ => error,
    })?;
    forget_flows(&mut socket, &mappings)
}

/// Closes what `open` opened; nothing is fine.
pub fn close(config: &super::types::Configuration, container: &str, interface: &str) -> Result<(), Error> {
    let note = note_path(&config.state_dir, container, interface);
    let text = match fs::read(&note) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::file(&note, error)),
    };
    if let Ok((pod, mappings)) = serde_json::from_slice::<(Ipv4Addr, Vec<PortMapping>)>(&text) {
        let mut socket = Socket::netfilter()?;
        for (map, elements) in
            [(HOST_PORTS.name, elements(&mappings, pod)?), (HAIRPIN.name, vec![hairpin(pod)])]
        {
            for element in elements {
                let mut batch = Batch::new(&config.host_port_table);
                batch.delete_elements(map, &[element]);
                match batch.commit(&mut socket) {
                    Err(error) if !error.is_absent() => return Err(error),
                    _ => {}
                }
            }
        }
        forget_flows(&mut socket, &mappings)?;
    }
    fs::remove_file(&note).map_err(|e| Error::file(&note, e))
}

/// UDP senders that had found nobody, or the pod before, must find the new one.
fn forget_flows(socket: &mut Socket, mappings: &[PortMapping]) -> Result<(), Error> {
    let is_udp = |mapping: &&PortMapping| mapping.protocol.eq_ignore_ascii_case("udp");
    let ports: Vec<u16> = mappings.iter().filter(is_udp).map(|mapping| mapping.host_port).collect();
    if ports.is_empty() {
        return Ok(());
    }
    debug_assert_eq!(Protocol::Udp as u8, UDP);
    for flow in socket.udp_flows()? {
        if ports.contains(&flow.original.destination.port()) {
            socket.forget_flow(&flow)?;
        }
    }
    Ok(())
}

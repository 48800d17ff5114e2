//! The CNI plugin: gives a pod's network namespace an interface on the node's bridge. It runs as a
//! short-lived process of its own, started by the container runtime, and must be quick: a few
//! netlink requests, no threads.
//!
//! A pod's address is a /32 with a route to the gateway, so that also packets between two pods of
//! one node pass through the node's IP layer: service addresses are translated back there, with no
//! need for bridge netfilter.

pub mod host_ports;
pub mod interface;
pub mod ipam;
pub mod types;

use std::io::{Read, Write};
use std::process::ExitCode;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::netlink::Socket;
use crate::netlink::route::mac_text;
use ipam::{Holder, Store};
use types::{
    Address, Call, Code, Configuration, Failure, Interface, NEWEST, Outcome, Route, VERSIONS, Versions,
};

/// The file name under which the binary is the plugin.
pub const PLUGIN_NAME: &str = "amphipod-cni";
/// The name containerd calls, without any configuration file, for every pod's loopback interface.
pub const LOOPBACK_NAME: &str = "loopback";
/// Every file name under which the binary is a plugin.
pub const PLUGIN_NAMES: [&str; 2] = [PLUGIN_NAME, LOOPBACK_NAME];
/// A configuration is a page of JSON; what is longer is no configuration.
const MAX_INPUT_BYTES: u64 = 4 << 20;
const EVERYWHERE: Ipv4Net = Ipv4Net::new_assert(std::net::Ipv4Addr::UNSPECIFIED, 0);

/// Entry of the plugin: environment and standard input in, JSON on standard output.
pub fn cni_main() -> ExitCode {
    let mut input = Vec::new();
    let read = std::io::stdin().take(MAX_INPUT_BYTES).read_to_end(&mut input);
    let environment = |name: &str| std::env::var(name).ok();
    let outcome = match read {
        Ok(_) => run(&environment, &input),
        Err(error) => Err(Failure::new(Code::InputOutput, format!("reading the configuration: {error}"))),
    };
    let (text, code) = match &outcome {
        Ok(text) => (text.clone(), ExitCode::SUCCESS),
        Err(failure) => (to_json(failure), ExitCode::FAILURE),
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

fn to_json(value: &impl Serialize) -> String {
    // Results are strings, numbers and lists: always encodable.
    serde_json::to_string(value).unwrap_or_default()
}

/// One call; the answer's text, empty where the specification wants none.
pub fn run(environment: &impl Fn(&str) -> Option<String>, input: &[u8]) -> Result<String, Failure> {
    let command = environment("CNI_COMMAND").unwrap_or_default();
    if command == "VERSION" {
        return Ok(to_json(&Versions { cni_version: NEWEST, supported_versions: &VERSIONS }));
    }
    let invalid = |message| Failure::new(Code::InvalidEnvironment, message);
    if !["ADD", "DEL", "CHECK"].contains(&command.as_str()) {
        return Err(invalid(format!("CNI_COMMAND {command:?} is not known")));
    }
    let undecodable = |error| Failure::new(Code::Undecodable, format!("decoding the configuration: {error}"));
    let header: Header = serde_json::from_slice(input).map_err(undecodable)?;
    if !VERSIONS.contains(&header.cni_version.as_str()) {
        let message = format!("cniVersion {:?} is not supported", header.cni_version);
        return Err(Failure::new(Code::IncompatibleVersion, message));
    }
    let call = Call::from_environment(environment)?;
    if header.kind == LOOPBACK_NAME {
        return loopback(&header, &command, &call);
    }
    let config: Configuration = serde_json::from_slice(input).map_err(undecodable)?;
    let outcome = match command.as_str() {
        "ADD" => add(&config, &call).map(|outcome| to_json(&outcome)),
        "DEL" => delete(&config, &call).map(|()| String::new()),
        _ => check(&config, &call).map(|()| String::new()),
    };
    outcome.map_err(|failure| Failure { cni_version: config.cni_version.clone(), ..failure })
}

/// What every configuration has.
#[derive(Deserialize)]
struct Header {
    #[serde(rename = "cniVersion")]
    cni_version: String,
    #[serde(rename = "type", default)]
    kind: String,
}

/// The loopback interface goes with its namespace: there is only bringing it up.
fn loopback(header: &Header, command: &str, call: &Call) -> Result<String, Failure> {
    if command != "ADD" {
        return Ok(String::new());
    }
    interface::raise_loopback(namespace_of(call)?)?;
    Ok(to_json(&serde_json::json!({
        "cniVersion": header.cni_version,
        "interfaces": [{"name": "lo", "mac": mac_text([0; 6]), "sandbox": call.namespace}],
        "ips": [{"version": "4", "interface": 0, "address": "127.0.0.1/8"}],
    })))
}

fn namespace_of(call: &Call) -> Result<&std::path::Path, Failure> {
    call.namespace.as_deref().ok_or_else(|| Failure::new(Code::InvalidEnvironment, "CNI_NETNS is not set"))
}

fn add(config: &Configuration, call: &Call) -> Result<Outcome, Failure> {
    let namespace = namespace_of(call)?;
    let holder = Holder {
        container: call.container.clone(),
        interface: call.interface.clone(),
        namespace: namespace.to_owned(),
    };
    let address = Store::open(&config.state_dir)?.reserve(config.pod_cidr, config.gateway, &holder)?;
    let made = interface::attach(config, call, namespace, address)
        .and_then(|made| host_ports::open(config, &call.container, &call.interface, address).map(|()| made));
    let made = match made {
        Ok(made) => made,
        Err(error) => {
            // Nothing half-made stays; the first error is the one to tell.
            let _ = delete(config, call);
            return Err(error.into());
        }
    };
    let interface =
        |name: &str, mac, sandbox| Interface { name: name.to_owned(), mac: mac_text(mac), sandbox };
    let is_old = config.cni_version != NEWEST;
    Ok(Outcome {
        cni_version: config.cni_version.clone(),
        interfaces: vec![
            interface(&config.bridge, made.bridge, None),
            interface(&made.host_name, made.host, None),
            interface(&call.interface, made.pod, Some(namespace.to_owned())),
        ],
        ips: vec![Address {
            version: is_old.then_some("4"),
            interface: 2,
            address: Ipv4Net::from(address),
            gateway: config.gateway,
        }],
        routes: vec![Route { dst: EVERYWHERE, gw: config.gateway }],
        dns: Default::default(),
    })
}

/// Undoes an ADD, however far it got, and however often it is called.
fn delete(config: &Configuration, call: &Call) -> Result<(), Failure> {
    host_ports::close(config, &call.container, &call.interface)?;
    // Deleting one end of a pair deletes the other.
    Socket::route()?.delete_link(&interface::host_name(&call.container, &call.interface))?;
    Store::open(&config.state_dir)?.release(&call.container, &call.interface)?;
    Ok(())
}

fn check(config: &Configuration, call: &Call) -> Result<(), Failure> {
    let failed = |message: String| Failure::new(Code::CheckFailed, message);
    let namespace = namespace_of(call)?;
    let address = Store::open(&config.state_dir)?
        .address_of(&call.container, &call.interface)?
        .ok_or_else(|| failed(format!("no address is reserved for {}", call.container)))?;
    interface::verify(config, call, namespace, address)?.map_or(Ok(()), |problem| Err(failed(problem)))
}

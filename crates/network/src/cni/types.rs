//! What goes in and out of a CNI plugin (specification 1.0.0): configuration, environment, results
//! and errors.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::Error;

/// Versions whose results have the same fields, newest last.
pub const VERSIONS: [&str; 4] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0"];
pub const NEWEST: &str = "1.0.0";

/// The specification's error codes that apply to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    IncompatibleVersion = 1,
    InvalidEnvironment = 4,
    InputOutput = 5,
    Undecodable = 6,
    InvalidConfiguration = 7,
    /// Codes from 100 on are the plugin's own.
    Kernel = 100,
    NoAddress = 101,
    CheckFailed = 102,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    pub cni_version: String,
    pub code: u32,
    pub msg: String,
}

impl Failure {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Failure { cni_version: NEWEST.into(), code: code as u32, msg: message.into() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::Kernel { .. } | Error::Client(_) => Code::Kernel,
            Error::File { .. } => Code::InputOutput,
            Error::NoAddress(_) => Code::NoAddress,
            Error::Invalid(_) => Code::InvalidConfiguration,
        };
        Failure::new(code, error.to_string())
    }
}

/// The plugin's configuration, as the runtime completes and passes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Configuration {
    pub cni_version: String,
    pub bridge: String,
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Ipv4Net,
    pub gateway: Ipv4Addr,
    pub state_dir: PathBuf,
    pub host_port_table: String,
    #[serde(default)]
    pub runtime_config: RuntimeConfiguration,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeConfiguration {
    #[serde(default)]
    pub port_mappings: Vec<PortMapping>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    pub host_port: u16,
    pub container_port: u16,
    /// `tcp` where empty; any case.
    #[serde(default)]
    pub protocol: String,
    /// Every address of the node where empty.
    #[serde(default, rename = "hostIP")]
    pub host_ip: String,
}

/// The environment's part of a call.
#[derive(Clone, Debug)]
pub struct Call {
    pub container: String,
    pub interface: String,
    /// Missing in a DEL after the namespace is gone.
    pub namespace: Option<PathBuf>,
}

/// The longest interface name Linux takes.
const MAX_INTERFACE_BYTES: usize = 15;

impl Call {
    pub fn from_environment(get: impl Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let invalid = |message: String| Failure::new(Code::InvalidEnvironment, message);
        let need = |name: &str| {
            get(name).filter(|v| !v.is_empty()).ok_or_else(|| invalid(format!("{name} is not set")))
        };
        let container = need("CNI_CONTAINERID")?;
        let is_name = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if !container.chars().all(is_name) || !container.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            return Err(invalid(format!("CNI_CONTAINERID {container:?} is not a name")));
        }
        let interface = need("CNI_IFNAME")?;
        let is_bad = |c: char| c == '/' || c == ':' || c.is_whitespace();
        if interface.len() > MAX_INTERFACE_BYTES
            || matches!(&*interface, "." | "..")
            || interface.contains(is_bad)
        {
            return Err(invalid(format!("CNI_IFNAME {interface:?} is not an interface name")));
        }
        let namespace = get("CNI_NETNS").filter(|path| !path.is_empty()).map(PathBuf::from);
        Ok(Call { container, interface, namespace })
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    pub cni_version: String,
    pub interfaces: Vec<Interface>,
    pub ips: Vec<Address>,
    pub routes: Vec<Route>,
    pub dns: Dns,
}

#[derive(Debug, Serialize)]
pub struct Interface {
    pub name: String,
    pub mac: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
pub struct Address {
    /// Versions before 1.0 want the family named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<&'static str>,
    pub interface: usize,
    pub address: Ipv4Net,
    pub gateway: Ipv4Addr,
}

#[derive(Debug, Serialize)]
pub struct Route {
    pub dst: Ipv4Net,
    pub gw: Ipv4Addr,
}

#[derive(Debug, Default, Serialize)]
pub struct Dns {}

/// The answer to VERSION.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Versions {
    pub cni_version: &'static str,
    pub supported_versions: &'static [&'static str],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environments_are_checked() {
        let call = |container: &'static str, interface: &'static str| {
            Call::from_environment(move |name| match name {
                "CNI_CONTAINERID" => Some(container.into()),
                "CNI_IFNAME" => Some(interface.into()),
                _ => None,
            })
        };
        assert!(call("abc", "eth0").is_ok());
        for (container, interface) in
            [("", "eth0"), ("../x", "eth0"), ("abc", ""), ("abc", "a/b"), ("abc", "sixteen-letters!")]
        {
            let failure = call(container, interface).unwrap_err();
            assert_eq!(failure.code, Code::InvalidEnvironment as u32, "{container} {interface}");
        }
    }

    #[test]
    fn configuration_decodes_with_port_mappings() {
        let text = r#"{"cniVersion":"1.0.0","name":"n","type":"t","bridge":"b0","podCIDR":"10.244.0.0/16",
            "gateway":"10.244.0.1","stateDir":"/s","hostPortTable":"t","prevResult":null,
            "runtimeConfig":{"portMappings":[{"hostPort":80,"containerPort":8080,"protocol":"TCP","hostIP":""}]}}"#;
        let configuration: Configuration = serde_json::from_str(text).unwrap();
        assert_eq!(configuration.runtime_config.port_mappings[0].container_port, 8080);
    }
}

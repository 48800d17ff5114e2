//! `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a sandbox.

use std::path::Path;

use amphipod_cri::v1::DnsConfig;

use crate::error::Error;

pub const HOSTS: &str = "hosts";
pub const HOSTNAME: &str = "hostname";
pub const RESOLV_CONF: &str = "resolv.conf";
pub const SHM: &str = "shm";

/// Writes the three files into the sandbox's directory.
pub fn write(directory: &Path, hostname: &str, dns: Option<&DnsConfig>) -> Result<(), Error> {
    let put = |name: &str, content: &[u8]| {
        let path = directory.join(name);
        std::fs::write(&path, content).map_err(Error::io("write", path))
    };
    put(HOSTNAME, format!("{hostname}\n").as_bytes())?;
    // The kubelet mounts a hosts file of its own; this one is for sandboxes run without a kubelet.
    let hosts = std::fs::read("/etc/hosts").unwrap_or_else(|_| b"127.0.0.1\tlocalhost\n".to_vec());
    put(HOSTS, &hosts)?;
    let resolv = match dns.map(resolv_conf).filter(|text| !text.is_empty()) {
        Some(text) => text.into_bytes(),
        None => std::fs::read("/etc/resolv.conf").unwrap_or_default(),
    };
    put(RESOLV_CONF, &resolv)
}

/// The resolver's configuration; empty when nothing is asked for.
pub fn resolv_conf(dns: &DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolver_configuration() {
        let dns = DnsConfig {
            servers: vec!["10.96.0.10".into()],
            searches: vec!["default.svc.cluster.local".into(), "svc.cluster.local".into()],
            options: vec!["ndots:5".into()],
        };
        assert_eq!(
            resolv_conf(&dns),
            "search default.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n"
        );
        assert_eq!(resolv_conf(&DnsConfig::default()), "");
    }
}

//! Facts about this machine a cluster is made with: its name and its address.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

/// The host's name in the form Kubernetes wants of a node.
pub fn default_name() -> String {
    let raw = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    node_name(raw.trim())
}

fn node_name(raw: &str) -> String {
    let cleaned: String = raw
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '.' { c } else { '-' })
        .collect();
    let trimmed = cleaned.trim_matches(|c| c == '-' || c == '.');
    if trimmed.is_empty() { "node".to_owned() } else { trimmed.chars().take(253).collect() }
}

/// The address this machine would send from towards the world; `None` without a route. Connecting
/// a UDP socket sends nothing.
pub fn outward_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(198, 51, 100, 1), 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified() && !address.is_loopback()).then_some(address)
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_become_node_names() {
        for (raw, expected) in [("VM_1.Local", "vm-1.local"), ("--", "node"), ("", "node"), ("a", "a")] {
            assert_eq!(super::node_name(raw), expected);
        }
    }
}

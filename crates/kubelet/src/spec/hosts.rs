//! The managed `/etc/hosts`, and the host name a pod goes by.

use amphipod_client::Resource;
use k8s_openapi::api::core::v1::{HostAlias, Pod};

use crate::pod::{is_host_network, spec};

const HEADER: &str = "# Kubernetes-managed hosts file.\n";
const HEADER_HOST_NETWORK: &str = "# Kubernetes-managed hosts file (host network).\n";
const MAX_HOSTNAME: usize = 63;

#[derive(Clone, Debug, PartialEq)]
pub struct HostName {
    pub name: String,
    /// Below `<subdomain>.<namespace>.svc.<cluster domain>`, where the pod has a subdomain.
    pub domain: Option<String>,
    /// What the kernel is told.
    pub kernel: String,
}

pub fn host_name(pod: &Pod, cluster_domain: &str) -> HostName {
    let spec = spec(pod);
    if let Some(name) = spec.hostname_override.clone().filter(|n| !n.is_empty()) {
        return HostName { kernel: name.clone(), name, domain: None };
    }
    let name = spec.hostname.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| truncated(pod.name()));
    let subdomain = spec.subdomain.as_deref().filter(|s| !s.is_empty());
    let domain =
        subdomain.map(|s| format!("{s}.{}.svc.{}", pod.namespace(), cluster_domain.trim_end_matches('.')));
    let full = domain.as_ref().filter(|_| spec.set_hostname_as_fqdn == Some(true));
    let kernel = full.map_or_else(|| name.clone(), |d| format!("{name}.{d}"));
    HostName { name, domain, kernel }
}

fn truncated(name: &str) -> String {
    let cut: String = name.chars().take(MAX_HOSTNAME).collect();
    if cut.len() == name.len() { cut } else { cut.trim_end_matches(['-', '.']).to_owned() }
}

/// `host_file` is the node's own, used by pods on the host's network.
pub fn hosts_file(pod: &Pod, ips: &[String], host_name: &HostName, host_file: &str) -> String {
    let mut text = if is_host_network(pod) {
        format!("{HEADER_HOST_NETWORK}{host_file}")
    } else {
        own_file(ips, host_name)
    };
    append_aliases(&mut text, spec(pod).host_aliases.as_deref().unwrap_or_default());
    text
}

fn own_file(ips: &[String], host_name: &HostName) -> String {
    let mut text = String::from(HEADER);
    text.push_str("127.0.0.1\tlocalhost\n");
    text.push_str("::1\tlocalhost ip6-localhost ip6-loopback\n");
    text.push_str("fe00::\tip6-localnet\n");
    text.push_str("fe00::\tip6-mcastprefix\n");
    text.push_str("fe00::1\tip6-allnodes\n");
    text.push_str("fe00::2\tip6-allrouters\n");
    for ip in ips {
        match &host_name.domain {
            Some(domain) => text.push_str(&format!("{ip}\t{0}.{domain}\t{0}\n", host_name.name)),
            None => text.push_str(&format!("{ip}\t{}\n", host_name.name)),
        }
    }
    text
}

fn append_aliases(text: &mut String, aliases: &[HostAlias]) {
    if aliases.is_empty() {
        return;
    }
    text.push_str("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        text.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.clone().unwrap_or_default().join("\t")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::testing::pod;
    use serde_json::json;

    #[test]
    fn names() {
        let full = json!({"hostname": "h", "subdomain": "sub", "setHostnameAsFQDN": true, "containers": []});
        let named = host_name(&pod(full), "cluster.local");
        assert_eq!(named.kernel, "h.sub.ns.svc.cluster.local");
        let plain = host_name(&pod(json!({"containers": []})), "cluster.local");
        assert_eq!((plain.kernel.as_str(), plain.domain.as_deref()), ("p", None));
        assert_eq!(truncated(&format!("{}-{}", "a".repeat(62), "b")), "a".repeat(62));
    }

    #[test]
    fn files() {
        let pod = pod(json!({"containers": [], "hostAliases": [{"ip": "1.1.1.1", "hostnames": ["a", "b"]}]}));
        let text = hosts_file(&pod, &["10.244.0.5".into()], &host_name(&pod, "c"), "");
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        assert!(
            text.ends_with("10.244.0.5\tp\n\n# Entries added by HostAliases.\n1.1.1.1\ta\tb\n"),
            "{text}"
        );
    }
}

//! A pod's resolver configuration by its `dnsPolicy` and `dnsConfig`.

use std::net::IpAddr;

use amphipod_client::Resource;
use amphipod_cri::v1::DnsConfig;
use k8s_openapi::api::core::v1::Pod;

use crate::pod::{is_host_network, spec};

/// The kernel's resolvers read no more; the rest would be ignored.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;

pub struct Cluster<'a> {
    pub dns: &'a [IpAddr],
    pub domain: &'a str,
    /// Text of the host's resolv.conf.
    pub host: &'a str,
}

pub fn dns_config(pod: &Pod, cluster: &Cluster) -> DnsConfig {
    let spec = spec(pod);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster_first = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !is_host_network(pod),
        _ => false,
    };
    let mut config = match policy {
        "None" => DnsConfig::default(),
        _ if cluster_first && !cluster.dns.is_empty() => cluster_config(pod, cluster),
        _ => parse(cluster.host),
    };
    if let Some(own) = &spec.dns_config {
        merge(&mut config.servers, own.nameservers.iter().flatten().cloned());
        merge(&mut config.searches, own.searches.iter().flatten().cloned());
        let written = own.options.iter().flatten().filter_map(|o| {
            let name = o.name.clone()?;
            Some(match &o.value {
                Some(value) => format!("{name}:{value}"),
                None => name,
            })
        });
        for option in written {
            let name = option.split(':').next().unwrap_or_default().to_owned();
            config.options.retain(|o| o.split(':').next() != Some(&name));
            config.options.push(option);
        }
    }
    bound(&mut config);
    config
}

fn cluster_config(pod: &Pod, cluster: &Cluster) -> DnsConfig {
    let domain = cluster.domain.trim_end_matches('.');
    let searches = [format!("{}.svc.{domain}", pod.namespace()), format!("svc.{domain}"), domain.to_owned()];
    let mut config = DnsConfig {
        servers: cluster.dns.iter().map(IpAddr::to_string).collect(),
        searches: searches.to_vec(),
        options: vec!["ndots:5".to_owned()],
    };
    merge(&mut config.searches, parse(cluster.host).searches.into_iter());
    config
}

fn merge(into: &mut Vec<String>, more: impl Iterator<Item = String>) {
    for item in more {
        if !into.contains(&item) {
            into.push(item);
        }
    }
}

fn bound(config: &mut DnsConfig) {
    config.servers.truncate(MAX_NAMESERVERS);
    config.searches.truncate(MAX_SEARCHES);
    while config.searches.iter().map(|s| s.len() + 1).sum::<usize>() > MAX_SEARCH_CHARS {
        config.searches.pop();
    }
}

/// Reads the lines of a resolv.conf that matter.
pub fn parse(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or("");
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => config.servers.extend(words.next().map(str::to_owned)),
            Some("search" | "domain") => {
                config.searches =
                    words.map(|w| if w == "." { w } else { w.trim_end_matches('.') }.to_owned()).collect();
            }
            Some("options") => config.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::testing::pod;
    use serde_json::json;

    #[test]
    fn policies() {
        let dns = ["10.96.0.10".parse().unwrap()];
        let cluster = Cluster {
            dns: &dns,
            domain: "cluster.local",
            host: "nameserver 8.8.8.8\nsearch example.com\noptions edns0\n",
        };
        let first = "10.96.0.10|ns.svc.cluster.local svc.cluster.local cluster.local example.com|ndots:5";
        let host = "8.8.8.8|example.com|edns0";
        let own = json!({"nameservers": ["1.1.1.1"], "searches": ["a.b"], "options": [{"name": "ndots", "value": "2"}, {"name": "rotate"}]});
        let cases = [
            (json!({}), first),
            (json!({"dnsPolicy": "Default"}), host),
            (json!({"hostNetwork": true}), host),
            (json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}), first),
            (json!({"dnsPolicy": "None", "dnsConfig": own}), "1.1.1.1|a.b|ndots:2 rotate"),
        ];
        for (mut spec, expected) in cases {
            spec["containers"] = json!([]);
            let config = dns_config(&pod(spec.clone()), &cluster);
            let got = [config.servers, config.searches, config.options].map(|l| l.join(" ")).join("|");
            assert_eq!(got, expected, "{spec}");
        }
    }
}

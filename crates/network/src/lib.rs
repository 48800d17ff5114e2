//! A node's network: the bridge pods hang on, the CNI plugin that hangs them there, and the
//! nftables dataplane that makes Services reachable. Everything speaks netlink itself, so a node
//! needs no `ip`, `nft` or `iptables` binary.
//!
//! - [`setup_node`] / [`teardown_node`]: bridge, forwarding, masquerading, CNI configuration.
//! - [`cni_main`]: the CNI plugin; the binary calls it when started under the plugin's name.
//! - [`run_proxy`]: keeps the kernel's service rules equal to what Services and EndpointSlices say.

mod cni;
mod error;
mod netlink;
mod nft;
mod node;
mod proxy;

pub use cni::{PLUGIN_NAME, PLUGIN_NAMES, cni_main};
pub use error::Error;
pub use node::{NodeNetwork, setup_node, teardown_node};
pub use proxy::run::{ProxyConfig, run_proxy};
pub use proxy::{
    Chain, Change, Endpoint, Entry, Key, Node, Protocol, Ruleset, Value, desired::desired, diff::diff,
};

#[cfg(test)]
mod kernel_tests;

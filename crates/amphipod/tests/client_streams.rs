//! What needs a container: exec, attach-like streams and port-forward of the Python and JavaScript
//! clients, on a real node.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "clients/install.rs"]
mod install;
mod support;

use install::{Client, missing, sources};
use support::{Cluster, DEMO_1, require_root};

#[test]
fn streams() {
    require_root();
    let Some(python) = Client::python() else { return missing("python3") };
    let Some(node) = Client::javascript() else { return missing("node or npm") };
    let cluster = Cluster::up(&[]);
    cluster.run(&["run", "demo", &format!("--image={DEMO_1}")]);
    cluster.expect(&["get", "pod", "demo"], "Running", 60);
    python.run(&sources("python/streams.py"), &[&cluster.kubeconfig()]);
    node.run(&sources("node/streams.mjs"), &[&cluster.kubeconfig()]);
}

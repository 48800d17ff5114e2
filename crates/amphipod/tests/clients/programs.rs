//! The Python and JavaScript clients, run against the shared control plane.

use std::path::PathBuf;

use crate::install::{Client, missing, sources};
use crate::plane::Plane;

fn manifest() -> PathBuf {
    sources("transcripts/files/web.yaml")
}

#[test]
fn python_client() {
    let Some(python) = Client::python() else { return missing("python3") };
    let plane = Plane::shared();
    for script in ["python/typed.py", "python/dynamic.py"] {
        python.run(&sources(script), &[&plane.kubeconfig(), &manifest()]);
    }
}

#[test]
fn javascript_client() {
    let Some(node) = Client::javascript() else { return missing("node or npm") };
    let plane = Plane::shared();
    node.run(&sources("node/client.mjs"), &[&plane.kubeconfig(), &manifest()]);
}

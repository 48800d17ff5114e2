//! The direction of dependencies, checked: data is reached through the API only, components do not
//! know each other, and the binary alone knows all.

use crate::workspace::Workspace;

/// What each crate may depend on. `*` is everything. A crate missing here is refused.
const ALLOWED: &[(&str, &[&str])] = &[
    ("amphipod-api", &[]),
    ("amphipod-openapi", &["amphipod-api"]),
    ("amphipod-store", &["amphipod-api"]),
    ("amphipod-strategy", &["amphipod-api"]),
    ("amphipod-client", &["amphipod-api"]),
    ("amphipod-cri", &[]),
    ("amphipod-streaming", &["amphipod-api"]),
    ("amphipod-demo", &[]),
    ("amphipod-profile", &[]),
    ("amphipod-testing", &[]),
    (
        "amphipod-apiserver",
        &[
            "amphipod-api",
            "amphipod-openapi",
            "amphipod-profile",
            "amphipod-store",
            "amphipod-strategy",
            "amphipod-streaming",
        ],
    ),
    ("amphipod-serving", &["amphipod-api", "amphipod-client", "amphipod-profile"]),
    ("amphipod-scheduler", &["amphipod-api", "amphipod-client", "amphipod-serving"]),
    ("amphipod-controllers", &["amphipod-api", "amphipod-client"]),
    (
        "amphipod-kubelet",
        &["amphipod-api", "amphipod-client", "amphipod-cri", "amphipod-serving", "amphipod-streaming"],
    ),
    ("amphipod-runtime", &["amphipod-api", "amphipod-cri", "amphipod-streaming"]),
    ("amphipod-network", &["amphipod-api", "amphipod-client"]),
    ("amphipod-dns", &["amphipod-api", "amphipod-client"]),
    ("amphipod-cluster", &["amphipod-api", "amphipod-client"]),
    ("amphipod-cli", &["amphipod-api", "amphipod-client", "amphipod-streaming"]),
    ("amphipod-bench", &["amphipod-api", "amphipod-client", "amphipod-scheduler"]),
    ("amphipod", &["*"]),
    ("xtask", &[]),
];

pub fn run() -> Result<(), String> {
    let faults = faults(&Workspace::load()?.edges());
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
}

fn faults(edges: &[(String, Vec<String>)]) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, dependencies) in edges {
        let Some((_, allowed)) = ALLOWED.iter().find(|(n, _)| n == name) else {
            faults.push(format!("{name} has no line in the layer table (xtask/src/layers.rs)"));
            continue;
        };
        for dependency in dependencies {
            if !allowed.contains(&"*") && !allowed.contains(&dependency.as_str()) {
                faults.push(format!("{name} must not depend on {dependency}"));
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_keeps_its_layers() {
        run().expect("layers hold");
    }

    #[test]
    fn forbidden_edges_are_named() {
        let edges = [("amphipod-kubelet".to_owned(), vec!["amphipod-store".to_owned()])];
        assert_eq!(faults(&edges), ["amphipod-kubelet must not depend on amphipod-store"]);
    }
}

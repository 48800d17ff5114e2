//! What a node may say of itself. A label of Kubernetes' own domains can draw pods to a node, privileged
//! ones too, so kubelets may set those that describe it and no others (the NodeRestriction admission).

/// What administrators trust a node with; nothing a kubelet says counts.
const RESTRICTED: &str = "node-restriction.kubernetes.io";
const OF_KUBERNETES: [&str; 2] = ["kubernetes.io", "k8s.io"];
const OF_KUBELETS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
const DESCRIBING: [&str; 14] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.kubernetes.io/zone",
    "failure-domain.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

/// Whether a kubelet may set, change and remove the label of its own node.
pub fn kubelet_may_set(label: &str) -> bool {
    let domain = label.split_once('/').map_or("", |(domain, _)| domain);
    let is_of =
        |parent: &str| domain.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    if is_of(RESTRICTED) {
        return false;
    }
    !OF_KUBERNETES.into_iter().any(is_of) || DESCRIBING.contains(&label) || OF_KUBELETS.into_iter().any(is_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubelet_says_what_its_node_is_and_not_what_it_is_for() {
        for label in [
            "disk",
            "example.com/role",
            "xkubernetes.io/a",
            "xnode-restriction.kubernetes.io.example.com/a",
            "kubernetes.io/hostname",
            "topology.kubernetes.io/zone",
            "node.kubernetes.io/anything",
            "a.kubelet.kubernetes.io/b",
        ] {
            assert!(kubelet_may_set(label), "{label}");
        }
        for label in [
            "node-role.kubernetes.io/control-plane",
            "kubernetes.io/role",
            "k8s.io/a",
            "a.k8s.io/b",
            "node-restriction.kubernetes.io/a",
            "a.node-restriction.kubernetes.io/b",
            "xnode-restriction.kubernetes.io/a",
        ] {
            assert!(!kubelet_may_set(label), "{label}");
        }
    }
}

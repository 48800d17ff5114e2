//! What a kubelet may do: its own node, lease and CSI record, the pods on it, and the secrets,
//! config maps, claims and accounts those pods refer to. Everything else its role gives.

use std::sync::Arc;

use amphipod_api::status::Status;
use amphipod_store::Text;
use serde_json::Value;

use super::rules::Rule;
use crate::seams::{Attributes, Decision, Reader, UserInfo};

const NODES_GROUP: &str = "system:nodes";
const USER_PREFIX: &str = "system:node:";
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// The node's name if this identity is a kubelet's.
pub fn node_of(user: &UserInfo) -> Option<&str> {
    user.name.strip_prefix(USER_PREFIX).filter(|name| !name.is_empty() && user.is_in(NODES_GROUP))
}

pub struct NodeAuthorizer {
    reader: Arc<dyn Reader>,
    rules: Vec<Rule>,
}

fn deny(reason: impl Into<String>) -> Decision {
    Decision::NoOpinion { reason: reason.into() }
}
fn allow() -> Decision {
    Decision::Allow { reason: String::new() }
}

impl NodeAuthorizer {
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        NodeAuthorizer { reader, rules: super::bootstrap::node_rules() }
    }

    /// `None` for identities that are no kubelet's.
    pub async fn authorize(&self, request: &Attributes) -> Option<Decision> {
        let node = node_of(&request.user)?;
        if !request.resource_request {
            return Some(self.by_role(request));
        }
        let place = (request.group.as_str(), request.resource.as_str(), request.subresource.as_str());
        Some(match place {
            ("", "secrets" | "configmaps", "") => {
                self.referenced(request, node, &["get", "list", "watch"]).await
            }
            ("", "persistentvolumeclaims", "") => self.referenced(request, node, &["get"]).await,
            ("", "serviceaccounts", "token") if request.verb == "create" => {
                self.referenced(request, node, &["create"]).await
            }
            ("coordination.k8s.io", "leases", "") => own_lease(request, node),
            ("storage.k8s.io", "csinodes", "") => own(request, node, "csinodes"),
            ("", "nodes", "" | "status")
                if ["get", "update", "patch", "delete"].contains(&request.verb.as_str()) =>
            {
                if request.name == node {
                    self.by_role(request)
                } else {
                    deny(format!("node {node:?} cannot read or change another node"))
                }
            }
            _ => self.by_role(request),
        })
    }

    fn by_role(&self, request: &Attributes) -> Decision {
        if self.rules.iter().any(|rule| rule.allows(request)) { allow() } else { deny("") }
    }

    /// Allowed when a pod on the node refers to the object.
    async fn referenced(&self, request: &Attributes, node: &str, verbs: &[&str]) -> Decision {
        if !verbs.contains(&request.verb.as_str()) {
            let article = if verbs.len() > 1 { "read" } else { verbs[0] };
            return deny(format!("can only {article} {} of this type", request.resource));
        }
        if request.name.is_empty() {
            return deny("No Object name found");
        }
        match self.pod_refers(request, node).await {
            Ok(true) => allow(),
            Ok(false) => deny(format!("no relationship found between node '{node}' and this object")),
            Err(status) => deny(status.to_string()),
        }
    }

    async fn pod_refers(&self, request: &Attributes, node: &str) -> Result<bool, Status> {
        let pods = self.reader.list("", "pods", &request.namespace).await?;
        // Only pods whose texts name both the node and the object are worth parsing.
        let quoted = |text: &str| format!("\"{text}\"").into_bytes();
        let (node_bytes, name_bytes) = (quoted(node), quoted(&request.name));
        let candidates = pods.items.iter().filter(|text| {
            contains(text, &node_bytes) && (contains(text, &name_bytes) || contains(text, b"\"ephemeral\""))
        });
        for text in candidates {
            let pod: Value = serde_json::from_slice(&text.contiguous()).map_err(Status::internal)?;
            if pod.pointer("/spec/nodeName").and_then(Value::as_str) == Some(node)
                && refers_to(&pod, &request.resource, &request.name)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// No string of a pod's spec reaches from one chunk into the next: only managedFields are cut.
fn contains(text: &Text, needle: &[u8]) -> bool {
    text.chunks().any(|chunk| chunk.windows(needle.len()).any(|window| window == needle))
}

fn own_lease(request: &Attributes, node: &str) -> Decision {
    if request.namespace != LEASE_NAMESPACE {
        return deny(format!("can only access leases in the {LEASE_NAMESPACE:?} system namespace"));
    }
    own(request, node, "leases")
}

fn own(request: &Attributes, node: &str, plural: &str) -> Decision {
    match request.verb.as_str() {
        // The name is not known yet; admission looks at it.
        "create" if request.name.is_empty() => allow(),
        "get" | "create" | "update" | "patch" | "delete" if request.name == node => allow(),
        "get" | "create" | "update" | "patch" | "delete" => {
            deny(format!("can only access node {plural} with the same name as the requesting node"))
        }
        _ => deny(format!("can only get, create, update, patch, or delete node {plural}")),
    }
}

/// Whether the pod uses the named secret, config map, claim or service account.
fn refers_to(pod: &Value, resource: &str, name: &str) -> bool {
    let spec = &pod["spec"];
    let is = |value: &Value| value.as_str() == Some(name);
    let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
    let volumes = list(&spec["volumes"]);
    let sources = || volumes.iter().flat_map(|v| list(&v["projected"]["sources"]));
    let containers: Vec<Value> = ["initContainers", "containers", "ephemeralContainers"]
        .iter()
        .flat_map(|l| list(&spec[*l]))
        .collect();
    let env = |reference: &str, whole: &str| {
        containers.iter().any(|container| {
            list(&container["env"]).iter().any(|e| is(&e["valueFrom"][reference]["name"]))
                || list(&container["envFrom"]).iter().any(|e| is(&e[whole]["name"]))
        })
    };
    match resource {
        "serviceaccounts" => is(&spec["serviceAccountName"]),
        "configmaps" => {
            volumes.iter().any(|v| is(&v["configMap"]["name"]))
                || sources().any(|s| is(&s["configMap"]["name"]))
                || env("configMapKeyRef", "configMapRef")
        }
        "secrets" => {
            volumes.iter().any(|v| is(&v["secret"]["secretName"]) || volume_secret(v, name))
                || sources().any(|s| is(&s["secret"]["name"]))
                || list(&spec["imagePullSecrets"]).iter().any(|s| is(&s["name"]))
                || env("secretKeyRef", "secretRef")
        }
        "persistentvolumeclaims" => volumes.iter().any(|v| {
            let generated = format!(
                "{}-{}",
                pod["metadata"]["name"].as_str().unwrap_or(""),
                v["name"].as_str().unwrap_or("")
            );
            is(&v["persistentVolumeClaim"]["claimName"]) || (v["ephemeral"].is_object() && generated == name)
        }),
        _ => false,
    }
}

/// Secrets that drivers of network volumes log in with.
fn volume_secret(volume: &Value, name: &str) -> bool {
    volume.as_object().into_iter().flat_map(|v| v.values()).any(|source| {
        source["secretRef"]["name"].as_str() == Some(name)
            || source["nodePublishSecretRef"]["name"].as_str() == Some(name)
            || source["secretName"].as_str() == Some(name)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::MemoryReader;

    #[tokio::test]
    async fn a_kubelet_reads_what_its_pods_use() {
        let reader = Arc::new(MemoryReader::default());
        reader.put(
            "",
            "pods",
            &json!({"metadata": {"name": "p", "namespace": "n"},
            "spec": {"nodeName": "one", "volumes": [{"name": "v", "secret": {"secretName": "s"}}]}}),
        );
        let authorizer = NodeAuthorizer::new(reader);
        let ask = |node: &str, verb: &str, resource: &str, name: &str| Attributes {
            user: UserInfo::new(&format!("system:node:{node}"), &["system:nodes"]),
            verb: verb.into(),
            resource: resource.into(),
            namespace: "n".into(),
            name: name.into(),
            resource_request: true,
            ..Attributes::default()
        };
        let allowed = |d: Option<Decision>| matches!(d, Some(Decision::Allow { .. }));
        assert!(allowed(authorizer.authorize(&ask("one", "get", "secrets", "s")).await));
        assert!(!allowed(authorizer.authorize(&ask("two", "get", "secrets", "s")).await));
        assert!(!allowed(authorizer.authorize(&ask("one", "get", "secrets", "other")).await));
        assert!(!allowed(authorizer.authorize(&ask("one", "delete", "secrets", "s")).await));
        // Single objects may be watched, all of a namespace may not.
        for verb in ["list", "watch"] {
            assert!(allowed(authorizer.authorize(&ask("one", verb, "secrets", "s")).await));
            assert!(!allowed(authorizer.authorize(&ask("one", verb, "secrets", "other")).await));
            assert!(!allowed(authorizer.authorize(&ask("one", verb, "secrets", "")).await));
        }
        assert!(allowed(authorizer.authorize(&ask("one", "list", "pods", "")).await));
        assert!(!allowed(authorizer.authorize(&ask("one", "update", "nodes", "two")).await));
    }
}

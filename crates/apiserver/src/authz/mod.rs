//! Whether the asker may: `system:masters` always, kubelets by the node authorizer, everybody by
//! RBAC.

pub mod bootstrap;
pub mod escalation;
pub mod node;
pub mod rbac;
pub mod reviews;
mod roles;
pub mod rules;

use std::sync::Arc;

use amphipod_api::field::go_quote;
use amphipod_api::status::Status;
use async_trait::async_trait;

use crate::seams::{Attributes, Authorizer, Decision};

pub const MASTERS: &str = "system:masters";

pub struct Union {
    pub node: node::NodeAuthorizer,
    pub rbac: Arc<rbac::Rbac>,
}

#[async_trait]
impl Authorizer for Union {
    async fn authorize(&self, request: &Attributes) -> Decision {
        if request.user.is_in(MASTERS) {
            return Decision::Allow { reason: String::new() };
        }
        let from_node = self.node.authorize(request).await;
        if let Some(decision @ (Decision::Allow { .. } | Decision::Deny { .. })) = from_node {
            return decision;
        }
        let decision = self.rbac.authorize(request).await;
        match (decision, from_node) {
            // The kubelet's own refusal says more than RBAC's silence.
            (Decision::NoOpinion { reason }, Some(Decision::NoOpinion { reason: own }))
                if reason.is_empty() =>
            {
                Decision::NoOpinion { reason: own }
            }
            (decision, _) => decision,
        }
    }
}

/// The 403 for a request that was not allowed, in Kubernetes' words.
pub fn forbidden(request: &Attributes, reason: &str) -> Status {
    let mut text = if request.resource_request {
        let resource = if request.subresource.is_empty() {
            request.resource.clone()
        } else {
            format!("{}/{}", request.resource, request.subresource)
        };
        let place = if request.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {}", go_quote(&request.namespace))
        };
        format!(
            "User {} cannot {} resource {} in API group {} {place}",
            go_quote(&request.user.name),
            request.verb,
            go_quote(&resource),
            go_quote(&request.group),
        )
    } else {
        let (user, path) = (go_quote(&request.user.name), go_quote(&request.path));
        format!("User {user} cannot {} path {path}", request.verb)
    };
    if !reason.is_empty() {
        text.push_str(": ");
        text.push_str(reason);
    }
    if request.resource_request {
        Status::forbidden(&request.group, &request.resource, &request.name, &text)
    } else {
        Status::forbidden("", "", "", &text)
    }
}

/// `clusterroles.rbac.authorization.k8s.io "x" is forbidden: ...` for refusals of admission.
pub(crate) fn refuse(request: &Attributes, name: &str, why: &str) -> Status {
    Status::forbidden(&request.group, &request.resource, name, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seams::UserInfo;

    #[test]
    fn refusals_are_worded_as_upstream() {
        let mut request = Attributes {
            user: UserInfo::new("x", &[]),
            verb: "list".into(),
            resource: "pods".into(),
            namespace: "y".into(),
            resource_request: true,
            ..Attributes::default()
        };
        assert_eq!(
            forbidden(&request, "").message,
            r#"pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace "y""#
        );
        request.namespace.clear();
        request.subresource = "log".into();
        request.name = "p".into();
        assert_eq!(
            forbidden(&request, "").message,
            r#"pods "p" is forbidden: User "x" cannot list resource "pods/log" in API group "" at the cluster scope"#
        );
        let path =
            Attributes { resource_request: false, path: "/metrics".into(), verb: "get".into(), ..request };
        assert_eq!(forbidden(&path, "").message, r#"forbidden: User "x" cannot get path "/metrics""#);
    }
}

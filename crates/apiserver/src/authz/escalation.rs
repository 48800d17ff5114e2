//! Nobody may hand out rights they lack: checks on writes of roles and bindings.

use std::sync::Arc;

use amphipod_api::object;
use amphipod_api::status::Status;

use super::rbac::{GROUP, Rbac};
use super::rules::{Rule, not_covered};
use super::{MASTERS, refuse};
use crate::seams::{AdmissionRequest, Attributes, Authorizer, Decision, Operation};

pub struct EscalationCheck {
    pub rbac: Arc<Rbac>,
    pub authorizer: Arc<dyn Authorizer>,
}

impl EscalationCheck {
    pub async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<(), Status> {
        let attributes = request.attributes;
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        if attributes.group != GROUP || !writes || attributes.user.is_in(MASTERS) {
            return Ok(());
        }
        match attributes.resource.as_str() {
            "roles" | "clusterroles" => self.role(request).await,
            "rolebindings" | "clusterrolebindings" => self.binding(request).await,
            _ => Ok(()),
        }
    }

    async fn may(
        &self,
        attributes: &Attributes,
        verb: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> bool {
        let question = Attributes {
            user: attributes.user.clone(),
            verb: verb.into(),
            group: GROUP.into(),
            version: "v1".into(),
            resource: resource.into(),
            namespace: namespace.into(),
            name: name.into(),
            resource_request: true,
            ..Attributes::default()
        };
        matches!(self.authorizer.authorize(&question).await, Decision::Allow { .. })
    }

    async fn role(&self, request: &AdmissionRequest<'_>) -> Result<(), Status> {
        let attributes = request.attributes;
        let name = object::name(&request.object);
        let unchanged = request.old.is_some_and(|old| {
            Rule::list(&old["rules"]) == Rule::list(&request.object["rules"])
                && old["aggregationRule"] == request.object["aggregationRule"]
        });
        if unchanged
            || self.may(attributes, "escalate", &attributes.resource, &attributes.namespace, name).await
        {
            return Ok(());
        }
        let owned = self.rbac.rules_for(&attributes.user, &attributes.namespace).await?;
        if request.object["aggregationRule"].is_object() {
            let everything = [
                Rule::from_value(
                    &serde_json::json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}),
                ),
                Rule::from_value(&serde_json::json!({"verbs": ["*"], "nonResourceURLs": ["*"]})),
            ];
            if !not_covered(&owned, &everything).is_empty() {
                let why = "must have cluster-admin privileges to use an aggregationRule";
                return Err(refuse(attributes, name, why));
            }
        }
        self.confirm(attributes, name, &owned, &Rule::list(&request.object["rules"]))
    }

    async fn binding(&self, request: &AdmissionRequest<'_>) -> Result<(), Status> {
        let attributes = request.attributes;
        let binding = &request.object;
        let unchanged = request.old.is_some_and(|old| {
            old["roleRef"] == binding["roleRef"] && old["subjects"] == binding["subjects"]
        });
        if unchanged {
            return Ok(());
        }
        let (kind, role) = (object::text(binding, "/roleRef/kind"), object::text(binding, "/roleRef/name"));
        let namespace = attributes.namespace.as_str();
        let plural = if kind == "ClusterRole" { "clusterroles" } else { "roles" };
        if self.may(attributes, "bind", plural, namespace, role).await {
            return Ok(());
        }
        let name = object::name(binding);
        let wanted = self.rbac.role_rules(kind, namespace, role).await?;
        let Some(wanted) = wanted else {
            return Err(Status::not_found(GROUP, plural, role));
        };
        let owned = self.rbac.rules_for(&attributes.user, namespace).await?;
        self.confirm(attributes, name, &owned, &wanted)
    }

    fn confirm(
        &self,
        attributes: &Attributes,
        name: &str,
        owned: &[Rule],
        wanted: &[Rule],
    ) -> Result<(), Status> {
        let missing = not_covered(owned, wanted);
        if missing.is_empty() {
            return Ok(());
        }
        let shown: Vec<String> = missing.iter().map(Rule::shown).collect();
        let groups: Vec<String> =
            attributes.user.groups.iter().map(|group| amphipod_api::field::go_quote(group)).collect();
        let why = format!(
            "user {} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
            amphipod_api::field::go_quote(&attributes.user.name),
            groups.join(" "),
            shown.join("\n")
        );
        Err(refuse(attributes, name, &why))
    }
}

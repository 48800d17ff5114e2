//! Puts identity, authorization and admission together for the server.

use std::sync::Arc;

use amphipod_api::resource::Resource;
use amphipod_api::status::Status;
use async_trait::async_trait;
use serde_json::Value;

use crate::admission;
use crate::authn::issuer::Issuer;
use crate::authn::keys::{KeyError, SigningKey, VerifyingKey};
use crate::authn::{self, Chain, Tokens};
use crate::authz::rbac::Rbac;
use crate::authz::{self, Union, bootstrap, node::NodeAuthorizer};
use crate::config::Config;
use crate::metrics::PluginDurations;
use crate::seams::{Attributes, Authorizer, Policy, QuotaLedger, Reader, Reviews};

/// The policy of a server with this configuration. Fails only on unusable token keys.
pub fn build(
    config: &Config,
    reader: Arc<dyn Reader>,
    ledger: Arc<dyn QuotaLedger>,
    plugins: PluginDurations,
) -> Result<Policy, KeyError> {
    let signing = match &config.service_account_key_pem {
        Some(pem) => SigningKey::from_pem(pem)?,
        None => SigningKey::ephemeral()?,
    };
    let mut verifying = vec![signing.public.clone()];
    for pem in &config.service_account_verify_keys_pem {
        verifying.push(VerifyingKey::from_pem(pem)?);
    }
    let tokens = Arc::new(Tokens {
        signing,
        verifying,
        issuer: config.service_account_issuer.clone(),
        audiences: config.api_audiences.clone(),
    });
    let rbac = Arc::new(Rbac::new(reader.clone()));
    let authorizer: Arc<dyn Authorizer> =
        Arc::new(Union { node: NodeAuthorizer::new(reader.clone()), rbac: rbac.clone() });
    Ok(Policy {
        authenticator: Arc::new(Chain { reader: reader.clone(), tokens: tokens.clone() }),
        admission: Arc::new(admission::Chain::new(
            reader.clone(),
            ledger,
            authorizer.clone(),
            rbac.clone(),
            plugins,
        )),
        reviews: Arc::new(ReviewHandlers {
            reader: reader.clone(),
            tokens: tokens.clone(),
            rbac,
            authorizer: authorizer.clone(),
        }),
        tokens: Arc::new(Issuer { reader, tokens }),
        authorizer,
        bootstrap_objects: bootstrap::objects,
    })
}

struct ReviewHandlers {
    reader: Arc<dyn Reader>,
    tokens: Arc<Tokens>,
    rbac: Arc<Rbac>,
    authorizer: Arc<dyn Authorizer>,
}

#[async_trait]
impl Reviews for ReviewHandlers {
    async fn review(
        &self,
        attributes: &Attributes,
        resource: &Resource,
        object: Value,
    ) -> Result<Value, Status> {
        match resource.kind.as_ref() {
            "TokenReview" => authn::reviews::token_review(&self.tokens, self.reader.as_ref(), object).await,
            "SelfSubjectReview" => {
                let now = jiff::Timestamp::from_second(authn::now_seconds()).map_err(Status::internal)?;
                Ok(authn::reviews::self_subject_review(&attributes.user, &now.to_string()))
            }
            "SelfSubjectRulesReview" => {
                authz::reviews::rules_review(&self.rbac, &attributes.user, object).await
            }
            kind @ ("SubjectAccessReview" | "LocalSubjectAccessReview" | "SelfSubjectAccessReview") => {
                authz::reviews::access_review(self.authorizer.as_ref(), attributes, kind, object).await
            }
            other => Err(Status::internal(format!("{other} is no review"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use amphipod_api::resource;
    use http::HeaderMap;
    use serde_json::json;

    use super::*;
    use crate::authn::certificate::Peer;
    use crate::seams::{AdmissionRequest, Credentials, Decision, Operation, UserInfo};
    use crate::testing::MemoryReader;

    fn policy() -> (Arc<MemoryReader>, Policy) {
        let reader = Arc::new(MemoryReader::default());
        for object in (bootstrap::objects)() {
            let (group, _) = object["apiVersion"].as_str().unwrap().split_once('/').unwrap_or(("", ""));
            let plural = format!("{}s", object["kind"].as_str().unwrap().to_lowercase());
            reader.put(group, &plural, &object);
        }
        let policy =
            build(&Config::default(), reader.clone(), reader.clone(), PluginDurations::default()).unwrap();
        (reader, policy)
    }

    async fn who(policy: &Policy, token: &str) -> Result<UserInfo, Status> {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
        let credentials = Credentials { headers: &headers, peer: None, in_process: None };
        policy.authenticator.authenticate(&credentials).await
    }

    fn review(plural: &str) -> &'static Resource {
        let group =
            if plural.starts_with("token") { "authentication.k8s.io" } else { "authorization.k8s.io" };
        resource::find(group, "v1", plural).unwrap()
    }

    #[tokio::test]
    async fn a_token_lives_and_dies_with_its_pod() {
        let (reader, policy) = policy();
        let account = json!({"metadata": {"name": "s", "namespace": "n", "uid": "su"}});
        reader.put("", "serviceaccounts", &account);
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "pu"}, "spec": {"serviceAccountName": "s"}});
        reader.put("", "pods", &pod);
        let request = json!({"spec": {"expirationSeconds": 3607,
            "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "pu"}}});
        let request = policy.tokens.prepare(&account, request).unwrap();
        let issued = policy.tokens.issue(&account, request).await.unwrap();
        let token = issued["status"]["token"].as_str().unwrap();
        assert_eq!(token.split('.').count(), 3);
        let user = who(&policy, token).await.unwrap();
        assert_eq!(user.name, "system:serviceaccount:n:s");
        assert_eq!(
            user.groups,
            ["system:serviceaccounts", "system:serviceaccounts:n", "system:authenticated"]
        );
        assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["p"]);
        let asked = json!({"spec": {"token": token}});
        let answer =
            policy.reviews.review(&Attributes::default(), review("tokenreviews"), asked).await.unwrap();
        assert_eq!(answer["status"]["authenticated"], true);
        assert_eq!(answer["status"]["user"]["uid"], "su");
        reader.remove("", "pods", "n", "p");
        assert_eq!(who(&policy, token).await.unwrap_err().code, 401);
        let asked = json!({"spec": {"token": token}});
        let answer =
            policy.reviews.review(&Attributes::default(), review("tokenreviews"), asked).await.unwrap();
        assert!(answer["status"].get("authenticated").is_none());
        assert_eq!(policy.tokens.jwks()["keys"][0]["alg"], "ES256");
    }

    #[tokio::test]
    async fn a_connection_may_outlast_its_certificate() {
        let (_, policy) = policy();
        let headers = HeaderMap::new();
        for (not_after, code) in [(crate::authn::now_seconds() + 600, 0), (1, 401)] {
            let peer = Peer { user: UserInfo::new("u", &[]), not_after };
            let credentials = Credentials { headers: &headers, peer: Some(&peer), in_process: None };
            let outcome = policy.authenticator.authenticate(&credentials).await;
            assert_eq!(outcome.map_or_else(|status| status.code, |_| 0), code);
        }
    }

    #[tokio::test]
    async fn nobody_is_anonymous_and_gets_nothing() {
        let (_, policy) = policy();
        let headers = HeaderMap::new();
        let credentials = Credentials { headers: &headers, peer: None, in_process: None };
        let user = policy.authenticator.authenticate(&credentials).await.unwrap();
        assert_eq!(user.name, "system:anonymous");
        let ask = |path: &str| Attributes {
            user: user.clone(),
            verb: "get".into(),
            path: path.into(),
            ..Attributes::default()
        };
        assert!(matches!(policy.authorizer.authorize(&ask("/version")).await, Decision::Allow { .. }));
        assert!(!matches!(policy.authorizer.authorize(&ask("/api")).await, Decision::Allow { .. }));
        assert_eq!(who(&policy, "nonsense").await.unwrap_err().message, "Unauthorized");
    }

    #[tokio::test]
    async fn reviews_answer_as_requests_would() {
        let (_, policy) = policy();
        let asked = json!({"spec": {"user": "system:kube-scheduler", "resourceAttributes":
            {"verb": "create", "resource": "pods", "subresource": "binding", "namespace": "n"}}});
        let row = review("subjectaccessreviews");
        let answer = policy.reviews.review(&Attributes::default(), row, asked).await.unwrap();
        assert_eq!(answer["status"]["allowed"], true);
        let asked =
            json!({"spec": {"user": "somebody", "resourceAttributes": {"verb": "get", "resource": "pods"}}});
        let answer = policy.reviews.review(&Attributes::default(), row, asked).await.unwrap();
        assert_eq!(answer["status"], json!({"allowed": false}));
        let asked = json!({"spec": {"user": "somebody"}});
        let refused = policy.reviews.review(&Attributes::default(), row, asked).await.unwrap_err();
        assert_eq!(refused.code, 422);
        let asker =
            Attributes { user: UserInfo::new("u", &["system:authenticated"]), ..Attributes::default() };
        let row = review("selfsubjectrulesreviews");
        let answer = policy.reviews.review(&asker, row, json!({"spec": {"namespace": "n"}})).await.unwrap();
        assert!(!answer["status"]["resourceRules"].as_array().unwrap().is_empty());
    }

    #[tokio::test]
    async fn rights_cannot_be_invented() {
        let (reader, policy) = policy();
        reader.put("", "namespaces", &json!({"metadata": {"name": "n"}}));
        reader.put(
            authz::rbac::GROUP,
            "rolebindings",
            &json!({"metadata": {"name": "b", "namespace": "n"},
            "roleRef": {"kind": "ClusterRole", "name": "admin"}, "subjects": [{"kind": "User", "name": "u"}]}),
        );
        let attributes = Attributes {
            user: UserInfo::new("u", &["system:authenticated"]),
            verb: "create".into(),
            group: authz::rbac::GROUP.into(),
            version: "v1".into(),
            resource: "roles".into(),
            namespace: "n".into(),
            resource_request: true,
            ..Attributes::default()
        };
        let role = |resource: &str| {
            json!({"metadata": {"name": "r", "namespace": "n"},
            "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": [resource]}]})
        };
        let ask = |object: Value| {
            let (policy, attributes) = (policy.clone(), attributes.clone());
            async move {
                let mut request = AdmissionRequest {
                    attributes: &attributes,
                    operation: Operation::Create,
                    resource: resource::find(authz::rbac::GROUP, "v1", "roles").unwrap(),
                    object,
                    old: None,
                    dry_run: false,
                    warnings: Vec::new(),
                };
                policy.admission.validate(&mut request).await
            }
        };
        assert!(ask(role("pods")).await.is_ok());
        assert_eq!(
            ask(role("nodes")).await.unwrap_err().message,
            "roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"u\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"get\"]}"
        );
    }
}

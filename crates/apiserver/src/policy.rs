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
use crate::seams::{Attributes, Authorizer, Policy, Reader, Reviews};

/// The policy of a server with this configuration. Fails only on unusable token keys.
pub fn build(config: &Config, reader: Arc<dyn Reader>) -> Result<Policy, KeyError> {
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
        admission: Arc::new(admission::Chain::new(reader.clone(), authorizer.clone(), rbac.clone())),
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

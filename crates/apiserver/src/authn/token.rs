//! Service-account tokens: what stands in them, making them, and believing them only as long as
//! the account, the pod or the node they were made for exists.

use std::collections::BTreeMap;

use amphipod_api::object;
use amphipod_api::status::Status;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::keys::{SigningKey, VerifyingKey};
use crate::seams::{Reader, UserInfo};

/// Clocks differ a little between machines.
const LEEWAY_SECONDS: i64 = 60;
/// What is being deleted keeps its tokens this much longer than its grace period.
const DELETION_LEEWAY_SECONDS: i64 = 60;
pub const POD_NAME_EXTRA: &str = "authentication.kubernetes.io/pod-name";
pub const POD_UID_EXTRA: &str = "authentication.kubernetes.io/pod-uid";
pub const NODE_NAME_EXTRA: &str = "authentication.kubernetes.io/node-name";
pub const NODE_UID_EXTRA: &str = "authentication.kubernetes.io/node-uid";
pub const CREDENTIAL_EXTRA: &str = "authentication.kubernetes.io/credential-id";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bound {
    pub namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    pub serviceaccount: Reference,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claims {
    #[serde(default, with = "one_or_many")]
    pub aud: Vec<String>,
    pub exp: i64,
    #[serde(default)]
    pub iat: i64,
    pub iss: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub jti: String,
    #[serde(rename = "kubernetes.io")]
    pub bound: Bound,
    #[serde(default)]
    pub nbf: i64,
    #[serde(default)]
    pub sub: String,
}

/// An audience may be one text or a list of them.
mod one_or_many {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        One(String),
        Many(Vec<String>),
    }

    pub fn serialize<S: Serializer>(list: &[String], serializer: S) -> Result<S::Ok, S::Error> {
        list.serialize(serializer)
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
        Ok(match Either::deserialize(deserializer)? {
            Either::One(one) => vec![one],
            Either::Many(many) => many,
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Somebody else's token: other authenticators may know it.
    #[error("the token was not issued here")]
    Foreign,
    #[error("invalid bearer token")]
    Malformed,
    #[error("service account token has expired")]
    Expired,
    #[error("service account token is not valid yet")]
    NotYet,
    #[error("token audiences {0:?} is invalid for the target audiences {1:?}")]
    Audience(Vec<String>, Vec<String>),
    #[error("service account token has been invalidated")]
    Invalidated,
    #[error("{0}")]
    Lookup(Box<Status>),
}

/// header.payload.signature
pub fn sign(key: &SigningKey, claims: &Claims) -> Result<String, Status> {
    let header = serde_json::json!({"alg": key.public.algorithm.name(), "kid": key.public.id});
    let claims = serde_json::to_vec(claims).map_err(Status::internal)?;
    let message =
        format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims));
    let signature = key.sign(message.as_bytes()).map_err(Status::internal)?;
    Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

pub struct Expectations<'a> {
    pub keys: &'a [VerifyingKey],
    pub issuer: &'a str,
    pub audiences: &'a [String],
    /// Seconds since 1970.
    pub now: i64,
}

/// Checks everything the token itself says: signature, issuer, times, audience.
pub fn verify(token: &str, expected: &Expectations) -> Result<(Claims, Vec<String>), TokenError> {
    let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Foreign)?;
    let (header, payload) = message.split_once('.').ok_or(TokenError::Foreign)?;
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Foreign);
    let header: Value = serde_json::from_slice(&decode(header)?).map_err(|_| TokenError::Foreign)?;
    let payload = decode(payload)?;
    let issuer: Value = serde_json::from_slice(&payload).map_err(|_| TokenError::Foreign)?;
    if object::text(&issuer, "/iss") != expected.issuer {
        return Err(TokenError::Foreign);
    }
    let signature = decode(signature)?;
    let (kid, algorithm) = (object::text(&header, "/kid"), object::text(&header, "/alg"));
    let signed = expected
        .keys
        .iter()
        .filter(|key| key.algorithm.name() == algorithm && (kid.is_empty() || key.id == kid))
        .any(|key| key.verify(message.as_bytes(), &signature));
    if !signed {
        return Err(TokenError::Malformed);
    }
    let claims: Claims = serde_json::from_slice(&payload).map_err(|_| TokenError::Malformed)?;
    if claims.exp + LEEWAY_SECONDS <= expected.now {
        return Err(TokenError::Expired);
    }
    if claims.nbf - LEEWAY_SECONDS > expected.now {
        return Err(TokenError::NotYet);
    }
    let matching: Vec<String> =
        claims.aud.iter().filter(|audience| expected.audiences.contains(audience)).cloned().collect();
    if matching.is_empty() {
        return Err(TokenError::Audience(claims.aud, expected.audiences.to_vec()));
    }
    Ok((claims, matching))
}

/// Whether an object is gone, as far as its tokens are concerned.
fn gone(object: &Value, now: i64) -> bool {
    let deleted = object::deletion_timestamp(object).and_then(|at| at.parse::<jiff::Timestamp>().ok());
    deleted.is_some_and(|at| at.as_second() + DELETION_LEEWAY_SECONDS < now)
}

async fn alive(
    reader: &dyn Reader,
    plural: &str,
    namespace: &str,
    reference: &Reference,
    now: i64,
) -> Result<bool, TokenError> {
    let found = reader
        .get("", plural, namespace, &reference.name)
        .await
        .map_err(|status| TokenError::Lookup(Box::new(status)))?;
    let Some(text) = found else { return Ok(false) };
    let value: Value = serde_json::from_slice(&text.contiguous())
        .map_err(|e| TokenError::Lookup(Box::new(Status::internal(e))))?;
    Ok(object::uid(&value) == reference.uid && !gone(&value, now))
}

/// Looks up what the token is bound to and says who it is.
pub async fn identify(reader: &dyn Reader, claims: &Claims, now: i64) -> Result<UserInfo, TokenError> {
    let bound = &claims.bound;
    let namespace = &bound.namespace;
    let mut checks = vec![("serviceaccounts", namespace.as_str(), &bound.serviceaccount)];
    checks.extend(bound.pod.as_ref().map(|pod| ("pods", namespace.as_str(), pod)));
    checks.extend(bound.secret.as_ref().map(|secret| ("secrets", namespace.as_str(), secret)));
    // A node named beside a pod only informs; alone it binds.
    if bound.pod.is_none() {
        checks.extend(bound.node.as_ref().map(|node| ("nodes", "", node)));
    }
    for (plural, namespace, reference) in checks {
        if !alive(reader, plural, namespace, reference, now).await? {
            return Err(TokenError::Invalidated);
        }
    }
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut note = |key: &str, value: &str| {
        if !value.is_empty() {
            extra.insert(key.to_owned(), vec![value.to_owned()]);
        }
    };
    if let Some(pod) = &bound.pod {
        note(POD_NAME_EXTRA, &pod.name);
        note(POD_UID_EXTRA, &pod.uid);
    }
    if let Some(node) = &bound.node {
        note(NODE_NAME_EXTRA, &node.name);
        note(NODE_UID_EXTRA, &node.uid);
    }
    if !claims.jti.is_empty() {
        note(CREDENTIAL_EXTRA, &format!("JTI={}", claims.jti));
    }
    Ok(service_account_user(namespace, &bound.serviceaccount, extra))
}

pub fn service_account_name(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

fn service_account_user(
    namespace: &str,
    account: &Reference,
    extra: BTreeMap<String, Vec<String>>,
) -> UserInfo {
    UserInfo {
        name: service_account_name(namespace, &account.name),
        uid: account.uid.clone(),
        groups: vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
            super::AUTHENTICATED.to_owned(),
        ],
        extra,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        Claims {
            aud: vec!["api".into()],
            exp: 2000,
            iat: 1000,
            iss: "here".into(),
            jti: "j".into(),
            bound: Bound {
                namespace: "n".into(),
                node: None,
                pod: None,
                secret: None,
                serviceaccount: Reference { name: "s".into(), uid: "u".into() },
                warnafter: None,
            },
            nbf: 1000,
            sub: service_account_name("n", "s"),
        }
    }

    #[test]
    fn tokens_are_checked() {
        let key = SigningKey::ephemeral().unwrap();
        let token = sign(&key, &claims()).unwrap();
        let keys = [key.public.clone()];
        let audiences = ["api".to_owned()];
        let at = |now| Expectations { keys: &keys, issuer: "here", audiences: &audiences, now };
        assert!(verify(&token, &at(1500)).is_ok());
        assert!(matches!(verify(&token, &at(3000)), Err(TokenError::Expired)));
        assert!(matches!(verify(&token, &at(10)), Err(TokenError::NotYet)));
        let other = ["else".to_owned()];
        let wrong = Expectations { audiences: &other, ..at(1500) };
        assert!(matches!(verify(&token, &wrong), Err(TokenError::Audience(..))));
        let foreign = Expectations { issuer: "there", ..at(1500) };
        assert!(matches!(verify(&token, &foreign), Err(TokenError::Foreign)));
        let stranger = [SigningKey::ephemeral().unwrap().public];
        assert!(matches!(
            verify(&token, &Expectations { keys: &stranger, ..at(1500) }),
            Err(TokenError::Malformed)
        ));
        assert!(matches!(verify("abc", &at(1500)), Err(TokenError::Foreign)));
    }
}

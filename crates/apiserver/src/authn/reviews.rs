//! TokenReview and SelfSubjectReview: asking the server who somebody is.

use amphipod_api::field::{self, Path};
use amphipod_api::object;
use amphipod_api::status::Status;
use serde_json::{Map, Value, json};

use super::Tokens;
use super::token::TokenError;
use crate::seams::{Reader, UserInfo};

pub fn user_json(user: &UserInfo) -> Value {
    let mut out = Map::new();
    out.insert("username".into(), user.name.clone().into());
    if !user.uid.is_empty() {
        out.insert("uid".into(), user.uid.clone().into());
    }
    if !user.groups.is_empty() {
        out.insert("groups".into(), user.groups.clone().into());
    }
    if !user.extra.is_empty() {
        out.insert("extra".into(), json!(user.extra));
    }
    Value::Object(out)
}

pub async fn token_review(tokens: &Tokens, reader: &dyn Reader, mut review: Value) -> Result<Value, Status> {
    let token = object::text(&review, "/spec/token").to_owned();
    if token.is_empty() {
        let fault = field::Error::required(&Path::new("spec").child("token"), "");
        return Err(Status::invalid("authentication.k8s.io", "TokenReview", "", &[fault]));
    }
    let audiences: Vec<String> = review
        .pointer("/spec/audiences")
        .and_then(Value::as_array)
        .map(|list| list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        .unwrap_or_default();
    review["status"] = match tokens.authenticate(reader, &token, &audiences).await {
        Ok((user, matching)) => {
            json!({"authenticated": true, "user": user_json(&user), "audiences": matching})
        }
        Err(TokenError::Foreign | TokenError::Malformed) => {
            json!({"user": {}, "error": "invalid bearer token"})
        }
        Err(error) => json!({"user": {}, "error": format!("[invalid bearer token, {error}]")}),
    };
    Ok(review)
}

pub fn self_subject_review(user: &UserInfo, now: &str) -> Value {
    json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "SelfSubjectReview",
        "metadata": {"creationTimestamp": now},
        "status": {"userInfo": user_json(user)},
    })
}

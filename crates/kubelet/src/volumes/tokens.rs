//! Service account tokens of pods: requested, kept while fresh, renewed before they end.

use std::collections::HashMap;

use amphipod_client::{Api, Client, Resource};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::Error;

/// Tokens kept; one per pod and audience is usual.
const MAX_KEPT: usize = 4096;
const MAX_AGE: SignedDuration = SignedDuration::from_hours(24);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    namespace: String,
    account: String,
    audience: String,
    seconds: i64,
    uid: String,
}

#[derive(Clone, Debug)]
struct Token {
    text: String,
    /// From here on a new one is wanted.
    renew_at: Timestamp,
    expires_at: Timestamp,
}

pub struct Tokens {
    client: Client,
    kept: Mutex<HashMap<Key, Token>>,
}

/// At 80 % of its life, or after a day.
fn renewal(issued: Timestamp, expires: Timestamp) -> Timestamp {
    let life = expires.duration_since(issued);
    issued + (life * 4 / 5).min(MAX_AGE)
}

impl Tokens {
    pub fn new(client: Client) -> Self {
        Tokens { client, kept: Mutex::default() }
    }

    pub async fn get(&self, pod: &Pod, account: &str, audience: &str, seconds: i64) -> Result<String, Error> {
        let key = Key {
            namespace: pod.namespace().to_owned(),
            account: account.to_owned(),
            audience: audience.to_owned(),
            seconds,
            uid: pod.uid().to_owned(),
        };
        let now = Timestamp::now();
        let kept = self.kept.lock().get(&key).cloned();
        if let Some(token) = kept.as_ref().filter(|t| now < t.renew_at) {
            return Ok(token.text.clone());
        }
        match self.request(pod, &key, now).await {
            Ok(token) => {
                let text = token.text.clone();
                let mut all = self.kept.lock();
                if all.len() >= MAX_KEPT {
                    all.retain(|_, t| now < t.expires_at);
                    if all.len() >= MAX_KEPT {
                        all.clear();
                    }
                }
                all.insert(key, token);
                Ok(text)
            }
            // An old token that still holds beats none.
            Err(error) => kept.filter(|t| now < t.expires_at).map(|t| t.text).ok_or(error),
        }
    }

    async fn request(&self, pod: &Pod, key: &Key, now: Timestamp) -> Result<Token, Error> {
        let audiences: Vec<&str> = if key.audience.is_empty() { Vec::new() } else { vec![&key.audience] };
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": audiences,
                "expirationSeconds": key.seconds,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod.name(), "uid": pod.uid()},
            },
        });
        let api = Api::<ServiceAccount>::namespaced(self.client.clone(), &key.namespace);
        let answer = api.create_subresource(&key.account, "token", &body).await?;
        let answer: Value = serde_json::from_slice(&answer).map_err(|e| Error::config(e.to_string()))?;
        let status = &answer["status"];
        let text = status["token"]
            .as_str()
            .ok_or_else(|| Error::config("token request answered without a token"))?;
        let expires = status["expirationTimestamp"].as_str().and_then(|t| t.parse().ok());
        let expires_at = expires.unwrap_or(now + SignedDuration::from_secs(key.seconds));
        Ok(Token { text: text.to_owned(), renew_at: renewal(now, expires_at), expires_at })
    }

    pub fn forget_pod(&self, uid: &str) {
        self.kept.lock().retain(|key, _| key.uid != uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_renewed_at_four_fifths_or_after_a_day() {
        let now = Timestamp::UNIX_EPOCH;
        let cases = [(3607, 2885), (600, 480), (10 * 86_400, 86_400)];
        for (life, expected) in cases {
            let renew = renewal(now, now + SignedDuration::from_secs(life));
            assert_eq!(renew.as_second(), expected);
        }
    }
}

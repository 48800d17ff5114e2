//! Who is asking: in-process callers, client certificates, service-account tokens, nobody.

pub mod certificate;
pub mod impersonation;
pub mod issuer;
pub mod keys;
pub mod reviews;
pub mod token;

use std::sync::Arc;

use amphipod_api::status::Status;
use async_trait::async_trait;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use sha2::{Digest, Sha256};

use crate::seams::{Authenticator, Credentials, Reader, UserInfo};
use keys::{SigningKey, VerifyingKey};
use token::{Expectations, TokenError};

pub const AUTHENTICATED: &str = "system:authenticated";
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
pub const ANONYMOUS: &str = "system:anonymous";
/// Browsers cannot set headers on WebSockets; they send the token as a subprotocol.
const WEBSOCKET_TOKEN_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

pub(crate) fn now_seconds() -> i64 {
    jiff::Timestamp::now().as_second()
}
pub(crate) fn hex_sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Keys, issuer and audiences of service-account tokens.
pub struct Tokens {
    pub signing: SigningKey,
    pub verifying: Vec<VerifyingKey>,
    pub issuer: String,
    pub audiences: Vec<String>,
}

impl Tokens {
    /// Whom a token stands for, for the given audiences (empty: this server's own).
    pub async fn authenticate(
        &self,
        reader: &dyn Reader,
        token: &str,
        audiences: &[String],
    ) -> Result<(UserInfo, Vec<String>), TokenError> {
        let audiences = if audiences.is_empty() { &self.audiences } else { audiences };
        let now = now_seconds();
        let expected = Expectations { keys: &self.verifying, issuer: &self.issuer, audiences, now };
        let (claims, matching) = token::verify(token, &expected)?;
        let user = token::identify(reader, &claims, now).await?;
        Ok((user, matching))
    }
}

pub struct Chain {
    pub reader: Arc<dyn Reader>,
    pub tokens: Arc<Tokens>,
}

#[async_trait]
impl Authenticator for Chain {
    async fn authenticate(&self, credentials: &Credentials<'_>) -> Result<UserInfo, Status> {
        if let Some(user) = credentials.in_process {
            return Ok(with_authenticated(user.clone()));
        }
        if let Some(peer) = credentials.peer {
            if now_seconds() > peer.not_after {
                tracing::debug!(user = peer.user.name, "the client certificate has expired");
                return Err(Status::unauthorized("Unauthorized"));
            }
            return Ok(peer.user.clone());
        }
        if let Some(token) = bearer(credentials) {
            return match self.tokens.authenticate(self.reader.as_ref(), &token, &[]).await {
                Ok((user, _)) => Ok(user),
                Err(error) => {
                    tracing::debug!(%error, "unable to authenticate the request");
                    Err(Status::unauthorized("Unauthorized"))
                }
            };
        }
        Ok(UserInfo::new(ANONYMOUS, &[UNAUTHENTICATED]))
    }
}

fn with_authenticated(mut user: UserInfo) -> UserInfo {
    if user.name != ANONYMOUS && !user.is_in(AUTHENTICATED) {
        user.groups.push(AUTHENTICATED.to_owned());
    }
    user
}

/// Takes out what only this server was to see: credentials, and whom somebody acts for. A browser's
/// token goes from among its subprotocols, the others stay.
pub fn conceal(headers: &mut HeaderMap) {
    headers.remove(AUTHORIZATION);
    let acting: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    for name in acting {
        headers.remove(name);
    }
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let parts: Vec<&str> = offered.flat_map(|text| text.split(',')).map(str::trim).collect();
    let others: Vec<&str> =
        parts.iter().copied().filter(|part| !part.starts_with(WEBSOCKET_TOKEN_PREFIX)).collect();
    if others.len() == parts.len() {
        return;
    }
    match HeaderValue::from_str(&others.join(", ")) {
        Ok(value) if !others.is_empty() => drop(headers.insert(SEC_WEBSOCKET_PROTOCOL, value)),
        _ => drop(headers.remove(SEC_WEBSOCKET_PROTOCOL)),
    }
}

fn bearer(credentials: &Credentials<'_>) -> Option<String> {
    if let Some(value) = credentials.headers.get(AUTHORIZATION) {
        let (scheme, token) = value.to_str().ok()?.trim().split_once(' ')?;
        let token = token.trim();
        return (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned());
    }
    let protocols = credentials.headers.get(SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    let encoded = protocols.split(',').find_map(|p| p.trim().strip_prefix(WEBSOCKET_TOKEN_PREFIX))?;
    let bytes = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, encoded).ok()?;
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_go_no_further() {
        let token = format!("{WEBSOCKET_TOKEN_PREFIX}dG9r");
        for (offered, left) in [
            (
                vec![format!("{token}, v4.channel.k8s.io,v5.channel.k8s.io")],
                Some("v4.channel.k8s.io, v5.channel.k8s.io"),
            ),
            (vec!["v4.channel.k8s.io".to_owned(), token.clone()], Some("v4.channel.k8s.io")),
            (vec![token.clone()], None),
            (vec!["chat,soap".to_owned()], Some("chat,soap")),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer x"));
            headers.insert("impersonate-extra-a", HeaderValue::from_static("b"));
            for text in offered {
                headers.append(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(&text).expect("text"));
            }
            conceal(&mut headers);
            let values: Vec<&str> = headers.values().map(|value| value.to_str().expect("text")).collect();
            assert_eq!(values, left.into_iter().collect::<Vec<_>>());
        }
    }
}

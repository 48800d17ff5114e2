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
use http::header::AUTHORIZATION;
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
        if let Some(user) = credentials.peer_certificate.and_then(certificate::user) {
            return Ok(user);
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

fn bearer(credentials: &Credentials<'_>) -> Option<String> {
    if let Some(value) = credentials.headers.get(AUTHORIZATION) {
        let (scheme, token) = value.to_str().ok()?.trim().split_once(' ')?;
        let token = token.trim();
        return (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned());
    }
    let protocols = credentials.headers.get("sec-websocket-protocol")?.to_str().ok()?;
    let encoded = protocols.split(',').find_map(|p| p.trim().strip_prefix(WEBSOCKET_TOKEN_PREFIX))?;
    let bytes = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, encoded).ok()?;
    String::from_utf8(bytes).ok()
}

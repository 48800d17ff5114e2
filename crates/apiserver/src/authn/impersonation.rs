//! Acting as somebody else: the `Impersonate-*` headers, each of which must be allowed to the one
//! who really asks.

use std::collections::BTreeMap;

use amphipod_api::status::Status;
use http::HeaderMap;

use super::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED};
use crate::authz::forbidden;
use crate::seams::{Attributes, Authorizer, Decision, UserInfo};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA_PREFIX: &str = "impersonate-extra-";
const AUTHENTICATION: &str = "authentication.k8s.io";

/// The identity the request goes on with: the asker's own, or the one asked for when every part of
/// it is allowed. The caller removes the headers before the request travels on.
pub async fn apply(
    authorizer: &dyn Authorizer,
    asker: UserInfo,
    headers: &HeaderMap,
) -> Result<UserInfo, Status> {
    let Some(wanted) = requested(headers)? else { return Ok(asker) };
    for question in questions(&asker, &wanted) {
        let decision = authorizer.authorize(&question).await;
        if let Decision::NoOpinion { reason } | Decision::Deny { reason } = decision {
            return Err(forbidden(&question, &reason));
        }
    }
    Ok(completed(wanted))
}

fn texts(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect()
}

fn requested(headers: &HeaderMap) -> Result<Option<UserInfo>, Status> {
    let name = texts(headers, USER).into_iter().next().unwrap_or_default();
    let groups = texts(headers, GROUP);
    let uid = texts(headers, UID).into_iter().next().unwrap_or_default();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for key in headers.keys() {
        if let Some(encoded) = key.as_str().strip_prefix(EXTRA_PREFIX) {
            extra.insert(percent_decoded(encoded).to_lowercase(), texts(headers, key.as_str()));
        }
    }
    if !name.is_empty() {
        return Ok(Some(UserInfo { name, uid, groups, extra }));
    }
    if groups.is_empty() && uid.is_empty() && extra.is_empty() {
        return Ok(None);
    }
    Err(Status::internal("requested groups, uid or extra without impersonating a user"))
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let pair = text.get(i + 1..i + 3).filter(|_| bytes[i] == b'%');
        match pair.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                i += 3;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// `system:serviceaccount:<namespace>:<name>`
fn service_account(user: &str) -> Option<(&str, &str)> {
    user.strip_prefix("system:serviceaccount:")?.split_once(':')
}

/// One access check for each part of the wanted identity.
fn questions(asker: &UserInfo, wanted: &UserInfo) -> Vec<Attributes> {
    let ask = |group: &str, resource: &str, name: &str| Attributes {
        user: asker.clone(),
        verb: "impersonate".into(),
        group: group.into(),
        version: "v1".into(),
        resource: resource.into(),
        name: name.into(),
        resource_request: true,
        ..Attributes::default()
    };
    let mut all = Vec::new();
    match service_account(&wanted.name) {
        Some((namespace, name)) => {
            all.push(Attributes { namespace: namespace.into(), ..ask("", "serviceaccounts", name) });
        }
        None => all.push(ask("", "users", &wanted.name)),
    }
    all.extend(wanted.groups.iter().map(|group| ask("", "groups", group)));
    if !wanted.uid.is_empty() {
        all.push(ask(AUTHENTICATION, "uids", &wanted.uid));
    }
    for (key, values) in &wanted.extra {
        for value in values {
            all.push(Attributes { subresource: key.clone(), ..ask(AUTHENTICATION, "userextras", value) });
        }
    }
    all
}

/// Groups everybody of this sort is in.
fn completed(mut user: UserInfo) -> UserInfo {
    if let Some((namespace, _)) = service_account(&user.name).filter(|_| user.groups.is_empty()) {
        user.groups = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
    }
    let everybody = if user.name == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
    if !user.is_in(AUTHENTICATED) && !user.is_in(UNAUTHENTICATED) {
        user.groups.push(everybody.to_owned());
    }
    user
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;

    /// Lets people act as users and service accounts, but not as groups.
    struct NoGroups;

    #[async_trait]
    impl Authorizer for NoGroups {
        async fn authorize(&self, attributes: &Attributes) -> Decision {
            let reason = String::new();
            if attributes.resource == "groups" {
                Decision::NoOpinion { reason }
            } else {
                Decision::Allow { reason }
            }
        }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(key, value)| (key.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[tokio::test]
    async fn each_part_is_checked() {
        let asker = || UserInfo::new("u", &["system:authenticated"]);
        assert_eq!(apply(&NoGroups, asker(), &HeaderMap::new()).await.unwrap(), asker());
        let account = headers(&[
            ("impersonate-user", "system:serviceaccount:n:s"),
            ("impersonate-extra-example.com%2fkey", "v"),
        ]);
        let user = apply(&NoGroups, asker(), &account).await.unwrap();
        assert_eq!(
            user.groups,
            ["system:serviceaccounts", "system:serviceaccounts:n", "system:authenticated"]
        );
        assert_eq!(user.extra["example.com/key"], ["v"]);
        let group = headers(&[("impersonate-user", "x"), ("impersonate-group", "system:masters")]);
        assert_eq!(
            apply(&NoGroups, asker(), &group).await.unwrap_err().message,
            r#"groups "system:masters" is forbidden: User "u" cannot impersonate resource "groups" in API group "" at the cluster scope"#
        );
        let alone = headers(&[("impersonate-group", "g")]);
        assert_eq!(apply(&NoGroups, asker(), &alone).await.unwrap_err().code, 500);
    }
}

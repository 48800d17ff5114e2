//! Which rights the paths of the node's API take: those on the node's subresources, the finest first.

use amphipod_client::Client;
use amphipod_serving::{Attributes, Reviewer, User, verb};
use http::Method;

/// Subresources of `nodes` that grant a path, the finest first.
pub fn subresources(path: &str) -> &'static [&'static str] {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or("");
    match first {
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        "logs" => &["log"],
        "pods" | "runningpods" => &["pods", "proxy"],
        "healthz" => &["healthz", "proxy"],
        "configz" => &["configz", "proxy"],
        _ => &["proxy"],
    }
}

pub struct Authorizer {
    reviewer: Reviewer,
    node: String,
}

impl Authorizer {
    pub fn new(client: Client, node: &str) -> Self {
        Authorizer { reviewer: Reviewer::new(client), node: node.to_owned() }
    }

    pub async fn allows(&self, user: &User, method: &Method, path: &str) -> bool {
        for subresource in subresources(path) {
            let wanted = Attributes::Node { verb: verb(method), subresource, name: self.node.clone() };
            if self.reviewer.allows(user, wanted).await {
                return true;
            }
        }
        false
    }

    /// The user behind a bearer token.
    pub async fn token(&self, token: &str) -> Option<User> {
        self.reviewer.token(token).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        assert_eq!(subresources("/stats/summary"), ["stats"]);
        assert_eq!(subresources("/exec/ns/pod/c"), ["proxy"]);
        assert_eq!(subresources("/pods/"), ["pods", "proxy"]);
    }
}

//! Who calls the node's API, and may they? Certificates of the cluster's CA or tokens; the API
//! server decides, and its answers are kept for a while.

use std::collections::HashMap;
use std::time::Duration;

use amphipod_client::Client;
use http::{Method, Request};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::debug;
use x509_parser::prelude::{FromDer, X509Certificate};

const ALLOWED_FOR: Duration = Duration::from_secs(300);
const DENIED_FOR: Duration = Duration::from_secs(30);
const MAX_KEPT: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct User {
    pub name: String,
    pub groups: Vec<String>,
}

/// The user a certificate was issued to: common name, and organizations as groups.
pub fn from_certificate(der: &[u8]) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|o| Some(o.as_str().ok()?.to_owned())).collect();
    groups.push("system:authenticated".to_owned());
    Some(User { name, groups })
}

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

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

type Question = (User, &'static str, &'static str);

pub struct Authorizer {
    client: Client,
    node: String,
    kept: Mutex<HashMap<Question, (Instant, bool)>>,
}

impl Authorizer {
    pub fn new(client: Client, node: &str) -> Self {
        Authorizer { client, node: node.to_owned(), kept: Mutex::default() }
    }

    pub async fn allows(&self, user: &User, method: &Method, path: &str) -> bool {
        for subresource in subresources(path) {
            if self.ask((user.clone(), verb(method), subresource)).await {
                return true;
            }
        }
        false
    }

    async fn ask(&self, question: Question) -> bool {
        let kept = self.kept.lock().get(&question).copied();
        if let Some((_, allowed)) = kept.filter(|(until, _)| Instant::now() < *until) {
            return allowed;
        }
        let (user, verb, subresource) = &question;
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": user.name,
                "groups": user.groups,
                "resourceAttributes": {
                    "verb": verb, "group": "", "version": "v1",
                    "resource": "nodes", "subresource": subresource, "name": self.node,
                },
            },
        });
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        let allowed = match self.post(path, &review).await {
            Ok(answer) => answer["status"]["allowed"] == true,
            Err(error) => {
                debug!(%error, "access could not be reviewed");
                return false;
            }
        };
        let mut all = self.kept.lock();
        if all.len() >= MAX_KEPT {
            all.clear();
        }
        all.insert(question, (Instant::now() + if allowed { ALLOWED_FOR } else { DENIED_FOR }, allowed));
        allowed
    }

    /// The user behind a bearer token.
    pub async fn token(&self, token: &str) -> Option<User> {
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token},
        });
        let answer = self.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await.ok()?;
        let status = &answer["status"];
        if status["authenticated"] != true {
            return None;
        }
        let groups = status["user"]["groups"].as_array().into_iter().flatten();
        Some(User {
            name: status["user"]["username"].as_str()?.to_owned(),
            groups: groups.filter_map(|g| g.as_str().map(str::to_owned)).collect(),
        })
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value, amphipod_client::Error> {
        let request = Request::post(path)
            .header("content-type", "application/json")
            .header("accept", "application/json")
            .body(body.to_string().into_bytes())?;
        let answer = self.client.request(request).await?;
        serde_json::from_slice(&answer)
            .map_err(|source| amphipod_client::Error::Decode { what: "review", source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_people() {
        assert_eq!(subresources("/stats/summary"), ["stats"]);
        assert_eq!(subresources("/exec/ns/pod/c"), ["proxy"]);
        assert_eq!(subresources("/pods/"), ["pods", "proxy"]);
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "kube-apiserver");
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let user = from_certificate(certificate.der()).unwrap();
        assert_eq!(user.name, "kube-apiserver");
        assert_eq!(user.groups, ["system:masters", "system:authenticated"]);
    }
}

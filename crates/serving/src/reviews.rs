//! Who calls, and may they? Certificates of the cluster's CA or tokens; the API server decides, and its
//! answers are kept for a while.

use std::collections::HashMap;
use std::time::Duration;

use amphipod_client::{Client, Error};
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

impl User {
    pub fn anonymous() -> Self {
        User { name: "system:anonymous".to_owned(), groups: vec!["system:unauthenticated".to_owned()] }
    }
}

/// The user a certificate was issued to: common name, and organizations as groups.
pub(crate) fn from_certificate(der: &[u8]) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|o| Some(o.as_str().ok()?.to_owned())).collect();
    groups.push("system:authenticated".to_owned());
    Some(User { name, groups })
}

/// The token a request brings.
pub fn bearer<B>(request: &Request<B>) -> Option<&str> {
    let header = request.headers().get("authorization")?.to_str().ok()?;
    header.strip_prefix("Bearer ").map(str::trim)
}

pub fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

/// What somebody wants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Attributes {
    Node { verb: &'static str, subresource: &'static str, name: String },
    Path { verb: String, path: String },
}

impl Attributes {
    /// The key of a review's spec, and what stands there.
    fn review(&self) -> (&'static str, Value) {
        match self {
            Attributes::Node { verb, subresource, name } => (
                "resourceAttributes",
                json!({"verb": verb, "group": "", "version": "v1",
                    "resource": "nodes", "subresource": subresource, "name": name}),
            ),
            Attributes::Path { verb, path } => ("nonResourceAttributes", json!({"verb": verb, "path": path})),
        }
    }
}

pub struct Reviewer {
    client: Client,
    kept: Mutex<HashMap<(User, Attributes), (Instant, bool)>>,
}

impl Reviewer {
    pub fn new(client: Client) -> Self {
        Reviewer { client, kept: Mutex::default() }
    }

    pub async fn allows(&self, user: &User, attributes: Attributes) -> bool {
        let question = (user.clone(), attributes);
        let kept = self.kept.lock().get(&question).copied();
        if let Some((_, allowed)) = kept.filter(|(until, _)| Instant::now() < *until) {
            return allowed;
        }
        let (key, wanted) = question.1.review();
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": user.name, "groups": user.groups, key: wanted},
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

    async fn post(&self, path: &str, body: &Value) -> Result<Value, Error> {
        let request = Request::post(path)
            .header("content-type", "application/json")
            .header("accept", "application/json")
            .body(body.to_string().into_bytes())?;
        let answer = self.client.request(request).await?;
        serde_json::from_slice(&answer).map_err(|source| Error::Decode { what: "review", source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people() {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "kube-apiserver");
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let user = from_certificate(certificate.der()).unwrap();
        assert_eq!(user.name, "kube-apiserver");
        assert_eq!(user.groups, ["system:masters", "system:authenticated"]);
        let with = |header: &str| Request::builder().header("authorization", header).body(()).unwrap();
        assert_eq!(bearer(&with("Bearer  abc ")), Some("abc"));
        assert_eq!(bearer(&with("Basic abc")), None);
    }

    #[test]
    fn what_is_asked_of_the_server() {
        let node = Attributes::Node { verb: "get", subresource: "proxy", name: "n".to_owned() };
        let (key, asked) = node.review();
        assert_eq!((key, &asked["subresource"]), ("resourceAttributes", &json!("proxy")));
        let path = Attributes::Path { verb: "get".to_owned(), path: "/metrics".to_owned() };
        assert_eq!(path.review(), ("nonResourceAttributes", json!({"verb": "get", "path": "/metrics"})));
    }
}

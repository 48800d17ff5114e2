//! Making tokens for service accounts (TokenRequest) and publishing how to check them.

use std::sync::Arc;

use amphipod_api::field::{self, Path};
use amphipod_api::object;
use amphipod_api::schema::split_api_version;
use amphipod_api::status::Status;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::token::{Bound, Claims, Reference, service_account_name, sign};
use super::{Tokens, now_seconds};
use crate::seams::{Reader, TokenIssuer};

const GROUP: &str = "authentication.k8s.io";
const KIND: &str = "TokenRequest";
const DEFAULT_SECONDS: i64 = 3600;
const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;
/// What admission asks for in a pod's token volume. Old clients never re-read the file, so such
/// tokens really last a year; the answer still names the short time, which is when the kubelet renews.
const POD_TOKEN_SECONDS: i64 = 3607;
const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;

pub struct Issuer {
    pub reader: Arc<dyn Reader>,
    pub tokens: Arc<Tokens>,
}

#[async_trait]
impl TokenIssuer for Issuer {
    fn prepare(&self, service_account: &Value, mut request: Value) -> Result<Value, Status> {
        let (name, uid) = (object::name(service_account), object::uid(service_account));
        let meant = object::uid(&request);
        if !meant.is_empty() && meant != uid {
            let why = format!(
                "the UID in the token request ({meant}) does not match the UID of the service account ({uid})"
            );
            return Err(Status::conflict(GROUP, KIND, name, &why));
        }
        let seconds = request.pointer("/spec/expirationSeconds").and_then(Value::as_i64);
        let seconds = seconds.unwrap_or(DEFAULT_SECONDS);
        check_seconds(seconds)?;
        let created = jiff::Timestamp::from_second(now_seconds()).map_err(Status::internal)?.to_string();
        let metadata = object::metadata_mut(&mut request);
        metadata.insert("name".into(), name.into());
        metadata.insert("namespace".into(), object::namespace(service_account).into());
        metadata.insert("uid".into(), uid.into());
        metadata.insert("creationTimestamp".into(), created.into());
        let spec = object::child_mut(&mut request, "spec");
        if spec.get("audiences").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            spec.insert("audiences".into(), self.tokens.audiences.clone().into());
        }
        spec.insert("expirationSeconds".into(), seconds.into());
        spec.entry("boundObjectRef").or_insert(Value::Null);
        if let Some(map) = request.as_object_mut() {
            map.remove("status");
        }
        Ok(request)
    }

    async fn issue(&self, service_account: &Value, mut request: Value) -> Result<Value, Status> {
        let (namespace, name) = (object::namespace(service_account), object::name(service_account));
        let seconds = request.pointer("/spec/expirationSeconds").and_then(Value::as_i64);
        let seconds = seconds.unwrap_or(DEFAULT_SECONDS);
        let audiences = request.pointer("/spec/audiences").and_then(Value::as_array);
        let audiences: Vec<String> =
            audiences.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        let now = now_seconds();
        let mut bound = Bound {
            namespace: namespace.to_owned(),
            node: None,
            pod: None,
            secret: None,
            serviceaccount: Reference { name: name.to_owned(), uid: object::uid(service_account).to_owned() },
            warnafter: None,
        };
        if let Some(reference) = request.pointer("/spec/boundObjectRef").filter(|r| r.is_object()) {
            self.bind(&mut bound, reference).await?;
        }
        let mut lifetime = seconds;
        let own_audience = audiences.iter().all(|audience| self.tokens.audiences.contains(audience));
        if bound.pod.is_some() && seconds == POD_TOKEN_SECONDS && own_audience {
            lifetime = EXTENDED_SECONDS;
            bound.warnafter = Some(now + seconds);
        }
        let claims = Claims {
            aud: audiences,
            exp: now + lifetime,
            iat: now,
            iss: self.tokens.issuer.clone(),
            jti: uuid::Uuid::new_v4().to_string(),
            bound,
            nbf: now,
            sub: service_account_name(namespace, name),
        };
        let token = sign(&self.tokens.signing, &claims)?;
        let expires = jiff::Timestamp::from_second(now + seconds).map_err(Status::internal)?;
        request["status"] = json!({"token": token, "expirationTimestamp": expires.to_string()});
        Ok(request)
    }

    fn openid_configuration(&self) -> Value {
        let mut algorithms: Vec<&str> =
            self.tokens.verifying.iter().map(|key| key.algorithm.name()).collect();
        algorithms.sort_unstable();
        algorithms.dedup();
        json!({
            "issuer": self.tokens.issuer,
            "jwks_uri": format!("{}/openid/v1/jwks", self.tokens.issuer.trim_end_matches('/')),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
        })
    }

    fn jwks(&self) -> Value {
        let keys: Vec<Value> = self.tokens.verifying.iter().map(|key| key.jwk()).collect();
        json!({"keys": keys})
    }
}

fn check_seconds(seconds: i64) -> Result<(), Status> {
    let path = Path::new("spec").child("expirationSeconds");
    let fault = if seconds < MIN_SECONDS {
        "may not specify a duration less than 10 minutes"
    } else if seconds > MAX_SECONDS {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        return Ok(());
    };
    // Upstream names no object here.
    Err(Status::invalid(GROUP, KIND, "", &[field::Error::invalid(&path, seconds, fault)]))
}

impl Issuer {
    async fn read(&self, plural: &str, namespace: &str, name: &str) -> Result<Value, Status> {
        let found = self.reader.get("", plural, namespace, name).await?;
        let text = found.ok_or_else(|| Status::not_found("", plural, name))?;
        serde_json::from_slice(&text.contiguous()).map_err(Status::internal)
    }

    /// Where the pod runs; of a node that is gone its name is still told.
    async fn node_of(&self, pod: &Value) -> Result<Option<Reference>, Status> {
        let name = object::text(pod, "/spec/nodeName");
        if name.is_empty() {
            return Ok(None);
        }
        let uid = match self.read("nodes", "", name).await {
            Ok(node) => object::uid(&node).to_owned(),
            Err(status) if status.has_reason("NotFound") => String::new(),
            Err(status) => return Err(status),
        };
        Ok(Some(Reference { name: name.to_owned(), uid }))
    }

    async fn bind(&self, bound: &mut Bound, reference: &Value) -> Result<(), Status> {
        let (kind, name) = (object::text(reference, "/kind"), object::text(reference, "/name"));
        let (group, version) = split_api_version(object::api_version(reference));
        let plural = match (group, kind) {
            ("", "Pod") => "pods",
            ("", "Secret") => "secrets",
            ("", "Node") => "nodes",
            _ => {
                let what = format!("{group}/{version}, Kind={kind}");
                return Err(Status::bad_request(format!("cannot bind token to object of type {what}")));
            }
        };
        let namespace = if kind == "Node" { "" } else { bound.namespace.as_str() };
        let found = self.read(plural, namespace, name).await?;
        if kind == "Pod" && object::text(&found, "/spec/serviceAccountName") != bound.serviceaccount.name {
            let account = field::go_quote(&bound.serviceaccount.name);
            return Err(Status::bad_request(format!(
                "cannot bind token for serviceaccount {account} to pod running with different serviceaccount name."
            )));
        }
        let (uid, wanted) = (object::uid(&found).to_owned(), object::text(reference, "/uid"));
        if !wanted.is_empty() && wanted != uid {
            let why = format!(
                "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            // Upstream names the kind here, not the resource.
            return Err(Status::conflict("", kind, name, &why));
        }
        let target = Some(Reference { name: name.to_owned(), uid });
        match kind {
            "Pod" => {
                bound.node = self.node_of(&found).await?;
                bound.pod = target;
            }
            "Secret" => bound.secret = target,
            _ => bound.node = target,
        }
        Ok(())
    }
}

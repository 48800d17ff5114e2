//! Certificate signing requests: the server writes who asked, and only those entitled for a signer
//! approve or sign.

use amphipod_api::object;
use amphipod_api::status::Status;
use amphipod_strategy::signing::organizations;
use serde_json::json;

use super::{creates, forbidden};
use crate::authz::MASTERS;
use crate::metrics::Plugin;
use crate::seams::{AdmissionRequest, Attributes, Authorizer, Decision, Operation};

const GROUP: &str = "certificates.k8s.io";
const RESOURCE: &str = "certificatesigningrequests";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// Whatever the client claims, it is the authenticated user that asks.
pub fn identity(request: &mut AdmissionRequest<'_>) {
    if !creates(request, GROUP, RESOURCE) {
        return;
    }
    let user = &request.attributes.user;
    let spec = object::child_mut(&mut request.object, "spec");
    spec.insert("username".into(), user.name.clone().into());
    for (key, value) in
        [("uid", json!(user.uid)), ("groups", json!(user.groups)), ("extra", json!(user.extra))]
    {
        let empty = value.as_str().is_some_and(str::is_empty)
            || value.as_array().is_some_and(Vec::is_empty)
            || value.as_object().is_some_and(serde_json::Map::is_empty);
        if empty {
            spec.remove(key);
        } else {
            spec.insert(key.into(), value);
        }
    }
}

/// Upstream has a plugin for each thing that is done to a request.
pub fn plugin(request: &AdmissionRequest<'_>) -> Plugin {
    match request.attributes.subresource.as_str() {
        "approval" => Plugin::CertificateApproval,
        "status" => Plugin::CertificateSigning,
        _ => Plugin::CertificateSubjectRestriction,
    }
}

pub async fn validate(authorizer: &dyn Authorizer, request: &AdmissionRequest<'_>) -> Result<(), Status> {
    let attributes = request.attributes;
    if attributes.group != GROUP || attributes.resource != RESOURCE {
        return Ok(());
    }
    let signer = object::text(&request.object, "/spec/signerName");
    let (verb, noun) = match attributes.subresource.as_str() {
        "approval" => ("approve", "approve"),
        "status" if signs(request) => ("sign", "sign"),
        "" if request.operation == Operation::Create && signer == CLIENT_SIGNER => {
            return no_masters(request);
        }
        _ => return Ok(()),
    };
    if may(authorizer, attributes, verb, signer).await {
        return Ok(());
    }
    let quoted = amphipod_api::field::go_quote(signer);
    Err(forbidden(request, &format!("user not permitted to {noun} requests with signerName {quoted}")))
}

/// Writing the certificate or a condition is the signer's.
fn signs(request: &AdmissionRequest<'_>) -> bool {
    let now = &request.object["status"];
    let changed =
        |old: &serde_json::Value| ["certificate", "conditions"].iter().any(|key| old[*key] != now[*key]);
    request.old.is_some_and(|old| changed(&old["status"]))
}

/// For this signer or for all of its domain.
async fn may(authorizer: &dyn Authorizer, attributes: &Attributes, verb: &str, signer: &str) -> bool {
    let domain = signer.split('/').next().unwrap_or_default();
    for name in [signer.to_owned(), format!("{domain}/*")] {
        let question = Attributes {
            user: attributes.user.clone(),
            verb: verb.into(),
            group: GROUP.into(),
            version: "*".into(),
            resource: "signers".into(),
            name,
            resource_request: true,
            ..Attributes::default()
        };
        if matches!(authorizer.authorize(&question).await, Decision::Allow { .. }) {
            return true;
        }
    }
    false
}

/// A certificate for `system:masters` would be a key to everything that cannot be taken back.
fn no_masters(request: &AdmissionRequest<'_>) -> Result<(), Status> {
    let organizations = organizations(object::text(&request.object, "/spec/request"))
        .map_err(|why| forbidden(request, &format!("failed to parse CSR: {why}")))?;
    if organizations.iter().any(|organization| organization == MASTERS) {
        let why = format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed");
        return Err(forbidden(request, &why));
    }
    Ok(())
}

//! For whom a kubelet may ask tokens: for the audiences its pod's volumes name, and for those it was
//! given the right to. A node that was taken over gets no token for anyone else.

use amphipod_api::field::go_quote;
use amphipod_api::object;
use amphipod_api::status::Status;
use serde_json::Value;

use super::{items, read};
use crate::seams::{AdmissionRequest, Attributes, Authorizer, Decision, Reader};

const VERB: &str = "request-serviceaccounts-token-audience";

/// Why the audiences of a node's token request are not its pod's, if they are not.
pub async fn refusal(
    reader: &dyn Reader,
    authorizer: &dyn Authorizer,
    request: &AdmissionRequest<'_>,
    pod: &Value,
) -> Result<Option<String>, Status> {
    let audience = match items(&request.object["spec"]["audiences"]) {
        [] => "",
        [one] => one.as_str().unwrap_or_default(),
        _ => return Ok(Some("node may only request 0 or 1 audiences".into())),
    };
    for volume in items(&pod["spec"]["volumes"]) {
        if projects(volume, audience) || driver_asks(reader, pod, volume, audience).await? {
            return Ok(None);
        }
    }
    let user = &request.attributes.user;
    let question = Attributes {
        user: user.clone(),
        verb: VERB.into(),
        namespace: request.attributes.namespace.clone(),
        resource: audience.into(),
        name: request.attributes.name.clone(),
        resource_request: true,
        ..Attributes::default()
    };
    if matches!(authorizer.authorize(&question).await, Decision::Allow { .. }) {
        return Ok(None);
    }
    Ok(Some(format!(
        "audience {} not found in pod spec volume, {} is not authorized to request tokens for this audience",
        go_quote(audience),
        user.name
    )))
}

fn projects(volume: &Value, audience: &str) -> bool {
    let tokens = items(&volume["projected"]["sources"]).iter().map(|source| &source["serviceAccountToken"]);
    tokens.filter(|token| token.is_object()).any(|token| object::text(token, "/audience") == audience)
}

/// Whether the driver of the volume is one that is to get tokens for the audience.
async fn driver_asks(
    reader: &dyn Reader,
    pod: &Value,
    volume: &Value,
    audience: &str,
) -> Result<bool, Status> {
    let Some(driver) = driver(reader, pod, volume).await? else { return Ok(false) };
    let found = read(reader, "storage.k8s.io", "csidrivers", "", &driver).await?.unwrap_or_default();
    let requests = items(&found["spec"]["tokenRequests"]);
    Ok(requests.iter().any(|request| object::text(request, "/audience") == audience))
}

/// The CSI driver behind a volume: its own, or its claim's volume's.
async fn driver(reader: &dyn Reader, pod: &Value, volume: &Value) -> Result<Option<String>, Status> {
    let name_at = |value: &Value, pointer: &str| {
        let name = object::text(value, pointer);
        (!name.is_empty()).then(|| name.to_owned())
    };
    if volume["csi"].is_object() {
        return Ok(name_at(volume, "/csi/driver"));
    }
    let claim = if volume["ephemeral"].is_object() {
        // A claim that is made for the pod is called after both.
        Some(format!("{}-{}", object::name(pod), object::text(volume, "/name")))
    } else {
        name_at(volume, "/persistentVolumeClaim/claimName")
    };
    let Some(claim) = claim else { return Ok(None) };
    let claim = read(reader, "", "persistentvolumeclaims", object::namespace(pod), &claim).await?;
    let Some(bound) = claim.and_then(|claim| name_at(&claim, "/spec/volumeName")) else { return Ok(None) };
    let bound = read(reader, "", "persistentvolumes", "", &bound).await?;
    Ok(bound.and_then(|bound| name_at(&bound, "/spec/csi/driver")))
}

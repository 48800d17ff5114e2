//! Admin access to devices, which ignores who else uses them: claims may ask for it, and be given it,
//! only in a namespace that an administrator marked for that.

use amphipod_api::field::{Error, Path};
use amphipod_api::status::Status;
use serde_json::Value;

use super::{creates, items, read};
use crate::seams::{AdmissionRequest, Operation, Reader};

const GROUP: &str = "resource.k8s.io";
const MARK: &str = "resource.kubernetes.io/admin-access";

pub async fn admin_access(reader: &dyn Reader, request: &AdmissionRequest<'_>) -> Result<(), Status> {
    let Some(path) = asked_for(request) else { return Ok(()) };
    let namespace = read(reader, "", "namespaces", "", &request.attributes.namespace).await?;
    if namespace.is_some_and(|namespace| namespace["metadata"]["labels"][MARK] == "true") {
        return Ok(());
    }
    let why =
        format!("admin access to devices requires the `{MARK}: true` label on the containing namespace");
    let (kind, name) = (&request.resource.kind, amphipod_api::object::name(&request.object));
    Err(Status::invalid(GROUP, kind, name, &[Error::forbidden(&path, why)]))
}

/// Where a write asks for admin access. Specs and allocations never change: updates of specs, and of
/// what has it already, are not looked at.
fn asked_for(request: &AdmissionRequest<'_>) -> Option<Path> {
    let object = &request.object;
    let requested = |spec: &Value| {
        let list = items(&spec["devices"]["requests"]);
        let at = list.iter().position(|request| request["exactly"]["adminAccess"] == true)?;
        // Of a template too, as upstream names it.
        Some(Path::new("spec").child("devices").child("requests").index(at).child("adminAccess"))
    };
    if creates(request, GROUP, "resourceclaims") {
        return requested(&object["spec"]);
    }
    if creates(request, GROUP, "resourceclaimtemplates") {
        return requested(&object["spec"]["spec"]);
    }
    let attributes = request.attributes;
    let is_status = request.operation == Operation::Update
        && (attributes.group.as_str(), attributes.resource.as_str()) == (GROUP, "resourceclaims")
        && attributes.subresource == "status";
    let granted = |claim: &Value| {
        let results = items(&claim["status"]["allocation"]["devices"]["results"]);
        results.iter().position(|result| result["adminAccess"] == true)
    };
    if !is_status || request.old.is_some_and(|old| granted(old).is_some()) {
        return None;
    }
    let results = Path::new("status").child("allocation").child("devices").child("results");
    granted(object).map(|at| results.index(at).child("adminAccess"))
}

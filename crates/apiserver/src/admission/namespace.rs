//! NamespaceLifecycle: nothing is made where there is no namespace or where it is ending, and the
//! system's own namespaces stay.

use amphipod_api::object;
use amphipod_api::status::{Cause, Status};

use super::{forbidden, read};
use crate::seams::{AdmissionRequest, Operation, Reader};

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub async fn lifecycle(reader: &dyn Reader, request: &AdmissionRequest<'_>) -> Result<(), Status> {
    let attributes = request.attributes;
    if attributes.group.is_empty() && attributes.resource == "namespaces" {
        let protected =
            request.operation == Operation::Delete && IMMORTAL.contains(&attributes.name.as_str());
        return if protected { Err(forbidden(request, "this namespace may not be deleted")) } else { Ok(()) };
    }
    let name = attributes.namespace.as_str();
    if name.is_empty()
        || request.operation == Operation::Delete
        || attributes.resource == "localsubjectaccessreviews"
    {
        return Ok(());
    }
    let Some(namespace) = read(reader, "", "namespaces", "", name).await? else {
        return Err(Status::not_found("", "namespaces", name));
    };
    let ending = object::deletion_timestamp(&namespace).is_some()
        || object::text(&namespace, "/status/phase") == "Terminating";
    if request.operation == Operation::Create && ending {
        let why = format!("unable to create new content in namespace {name} because it is being terminated");
        return Err(forbidden(request, &why).with_cause(Cause {
            reason: "NamespaceTerminating".into(),
            message: format!("namespace {name} is being terminated"),
            field: "metadata.namespace".into(),
        }));
    }
    Ok(())
}

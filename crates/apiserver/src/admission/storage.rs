//! Storage and ingress: default classes, whether a claim may grow, and the finalizers that keep what
//! is in use.

use std::sync::Arc;

use amphipod_api::object;
use amphipod_api::quantity::Quantity;
use amphipod_api::status::Status;
use serde_json::Value;

use super::{creates, forbidden, on, read, read_all};
use crate::seams::{AdmissionRequest, Operation, Reader};

const STORAGE: &str = "storage.k8s.io";
const NETWORKING: &str = "networking.k8s.io";
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
const OLD_DEFAULT_CLASS: &str = "storageclass.beta.kubernetes.io/is-default-class";
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const DEFAULT_INGRESS_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";
const INGRESS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// Of several marked classes the newest, then the first by name.
fn newest<'a>(classes: &'a [Arc<Value>], annotations: &[&str]) -> Option<&'a Arc<Value>> {
    let marked =
        |class: &&Arc<Value>| annotations.iter().any(|a| class["metadata"]["annotations"][*a] == "true");
    let created = |class: &Arc<Value>| object::text(class, "/metadata/creationTimestamp").to_owned();
    classes
        .iter()
        .filter(marked)
        .min_by(|a, b| created(b).cmp(&created(a)).then_with(|| object::name(a).cmp(object::name(b))))
}

/// New claims and volumes are kept while somebody uses them; a controller takes this off again.
pub fn protect(request: &mut AdmissionRequest<'_>) {
    let finalizer = if creates(request, "", "persistentvolumeclaims") {
        "kubernetes.io/pvc-protection"
    } else if creates(request, "", "persistentvolumes") {
        "kubernetes.io/pv-protection"
    } else {
        return;
    };
    if object::finalizers(&request.object).contains(&finalizer) {
        return;
    }
    let list = object::metadata_mut(&mut request.object).entry("finalizers").or_insert(Value::Null);
    match list {
        Value::Array(list) => list.push(finalizer.into()),
        other => *other = vec![finalizer].into(),
    }
}

pub async fn default_class(reader: &dyn Reader, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
    if !creates(request, "", "persistentvolumeclaims") || !request.object["spec"].is_object() {
        return Ok(());
    }
    let annotated = request.object["metadata"]["annotations"].get(CLASS_ANNOTATION).is_some();
    if annotated || !request.object["spec"]["storageClassName"].is_null() {
        return Ok(());
    }
    let classes = read_all(reader, STORAGE, "storageclasses", "").await?;
    if let Some(class) = newest(&classes, &[DEFAULT_CLASS, OLD_DEFAULT_CLASS]) {
        request.object["spec"]["storageClassName"] = object::name(class).into();
    }
    Ok(())
}

pub async fn default_ingress_class(
    reader: &dyn Reader,
    request: &mut AdmissionRequest<'_>,
) -> Result<(), Status> {
    if !creates(request, NETWORKING, "ingresses") || !request.object["spec"].is_object() {
        return Ok(());
    }
    let annotated = request.object["metadata"]["annotations"].get(INGRESS_ANNOTATION).is_some();
    if annotated || !request.object["spec"]["ingressClassName"].is_null() {
        return Ok(());
    }
    let classes = read_all(reader, NETWORKING, "ingressclasses", "").await?;
    if let Some(class) = newest(&classes, &[DEFAULT_INGRESS_CLASS]) {
        request.object["spec"]["ingressClassName"] = object::name(class).into();
    }
    Ok(())
}

/// PersistentVolumeClaimResize
pub async fn resize(reader: &dyn Reader, request: &AdmissionRequest<'_>) -> Result<(), Status> {
    let Some(old) = request.old else { return Ok(()) };
    if request.operation != Operation::Update || !on(request, "", "persistentvolumeclaims") {
        return Ok(());
    }
    let size = |claim: &Value| {
        let text = claim["spec"]["resources"]["requests"]["storage"].as_str()?;
        Quantity::parse(text).ok()
    };
    let grows = size(&request.object) > size(old);
    if !grows {
        return Ok(());
    }
    if old["status"]["phase"] != "Bound" {
        return Err(forbidden(request, "Only bound persistent volume claims can be expanded"));
    }
    let class = object::text(&request.object, "/spec/storageClassName");
    let found =
        if class.is_empty() { None } else { read(reader, STORAGE, "storageclasses", "", class).await? };
    if found.is_some_and(|class| class["allowVolumeExpansion"] == true) {
        return Ok(());
    }
    let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
    Err(forbidden(request, why))
}

//! ServiceAccount: every pod runs as one, with its token mounted unless it is told not to.

use std::sync::Arc;
use std::time::Duration;

use amphipod_api::names::random_suffix;
use amphipod_api::object;
use amphipod_api::status::Status;
use serde_json::{Value, json};

use super::{blank, creates, forbidden, items, on, read};
use crate::seams::{AdmissionRequest, Operation, Reader};

const DEFAULT_ACCOUNT: &str = "default";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
/// A little over an hour marks the token as one the kubelet renews early.
const TOKEN_SECONDS: i64 = 3607;
/// The default account of a fresh namespace is made a moment after it.
const LOOKUPS: u32 = 10;
const LOOKUP_PAUSE: Duration = Duration::from_millis(100);

fn is_mirror(pod: &Value) -> bool {
    pod["metadata"]["annotations"].get(MIRROR_ANNOTATION).is_some()
}

pub async fn admit(reader: &dyn Reader, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
    if !creates(request, "", "pods") || !request.object["spec"].is_object() || is_mirror(&request.object) {
        return Ok(());
    }
    if blank(&request.object["spec"]["serviceAccountName"]) {
        let old_name = request.object["spec"]["serviceAccount"].clone();
        let name = if blank(&old_name) { DEFAULT_ACCOUNT.into() } else { old_name };
        request.object["spec"]["serviceAccountName"] = name;
    }
    request.object["spec"]["serviceAccount"] = request.object["spec"]["serviceAccountName"].clone();
    let account = find_account(reader, request).await?;
    let pod_says = request.object["spec"]["automountServiceAccountToken"].as_bool();
    if pod_says.or(account["automountServiceAccountToken"].as_bool()).unwrap_or(true) {
        mount_token(&mut request.object["spec"]);
    }
    let secrets = &account["imagePullSecrets"];
    if items(&request.object["spec"]["imagePullSecrets"]).is_empty() && !items(secrets).is_empty() {
        request.object["spec"]["imagePullSecrets"] = secrets.clone();
    }
    Ok(())
}

async fn find_account(reader: &dyn Reader, request: &AdmissionRequest<'_>) -> Result<Arc<Value>, Status> {
    let namespace = request.attributes.namespace.as_str();
    let name = object::text(&request.object, "/spec/serviceAccountName");
    for attempt in 0..LOOKUPS {
        if let Some(account) = read(reader, "", "serviceaccounts", namespace, name).await? {
            return Ok(account);
        }
        // Only the default account appears by itself.
        if name != DEFAULT_ACCOUNT || attempt + 1 == LOOKUPS {
            break;
        }
        tokio::time::sleep(LOOKUP_PAUSE).await;
    }
    let why =
        format!("error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found");
    Err(forbidden(request, &why))
}

fn mount_token(spec: &mut Value) {
    let existing = items(&spec["volumes"])
        .iter()
        .filter_map(|volume| volume["name"].as_str())
        .find(|name| name.starts_with(VOLUME_PREFIX))
        .map(str::to_owned);
    let name =
        existing.clone().unwrap_or_else(|| format!("{VOLUME_PREFIX}{}", random_suffix(rand::random())));
    let mut used = false;
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let mounted =
                items(&container["volumeMounts"]).iter().any(|mount| mount["mountPath"] == MOUNT_PATH);
            if mounted || !container.is_object() {
                continue;
            }
            push(container, "volumeMounts", json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH}));
            used = true;
        }
    }
    if used && existing.is_none() {
        push(spec, "volumes", token_volume(&name));
    }
}

fn push(holder: &mut Value, list: &str, item: Value) {
    match holder.get_mut(list).and_then(Value::as_array_mut) {
        Some(array) => array.push(item),
        None => holder[list] = json!([item]),
    }
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
        ]}},
    ]}})
}

/// Mirror pods run without the API: they may use nothing that comes from it.
pub async fn validate(_reader: &dyn Reader, request: &AdmissionRequest<'_>) -> Result<(), Status> {
    if request.operation != Operation::Create || !on(request, "", "pods") || !is_mirror(&request.object) {
        return Ok(());
    }
    let spec = &request.object["spec"];
    if !blank(&spec["serviceAccountName"]) {
        return Err(forbidden(request, "a mirror pod may not reference service accounts"));
    }
    let volumes = items(&spec["volumes"]);
    let containers = ["initContainers", "containers"].iter().flat_map(|list| items(&spec[*list]));
    let from_secret = containers.into_iter().any(|container| {
        items(&container["env"]).iter().any(|env| env["valueFrom"]["secretKeyRef"].is_object())
            || items(&container["envFrom"]).iter().any(|env| env["secretRef"].is_object())
    });
    if from_secret || volumes.iter().any(|volume| volume["secret"].is_object()) {
        return Err(forbidden(request, "a mirror pod may not reference secrets"));
    }
    let tokens = volumes.iter().flat_map(|volume| items(&volume["projected"]["sources"]));
    if tokens.into_iter().any(|source| source["serviceAccountToken"].is_object()) {
        return Err(forbidden(request, "a mirror pod may not use ServiceAccountToken volume projections"));
    }
    Ok(())
}

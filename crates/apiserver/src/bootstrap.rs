//! What must exist before anyone else writes: system namespaces, RBAC, priority classes, the
//! `kubernetes` service and its endpoints. Written through the server's own API, so that the same
//! defaulting and validation apply; running again changes nothing.

use std::net::IpAddr;
use std::time::Duration;

use amphipod_api::object;
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::authz::bootstrap::reconciled;
use crate::config::Config;
use crate::context::time_text;
use crate::error::Error;

pub mod flow_control;
mod group_versions;

/// How many objects are looked at and written at once: their writes share the store's commits.
const CONCURRENT: usize = 32;

/// What is done before the server answers anyone, under the names health checks have for it.
pub const CHECKS: [&str; 9] = [
    "poststarthook/start-system-namespaces-controller",
    "poststarthook/start-cluster-authentication-info-controller",
    "poststarthook/rbac/bootstrap-roles",
    "poststarthook/scheduling/bootstrap-system-priority-classes",
    "poststarthook/priority-and-fairness-config-producer",
    "poststarthook/bootstrap-controller",
    "poststarthook/start-kubernetes-service-cidr-controller",
    "poststarthook/kube-apiserver-autoregistration",
    "autoregister-completion",
];

/// How often the `kubernetes` endpoints are looked at, as upstream.
const ENDPOINTS_INTERVAL: Duration = Duration::from_secs(10);
/// At each so many of these looks FlowSchemas and their levels are looked at too: every minute, as
/// upstream.
const FLOW_CONTROL_ROUNDS: u64 = 6;

/// The server's own API, with all rights.
#[async_trait]
pub trait Loopback: Send + Sync {
    /// Status code and body of a request with a JSON body; a PATCH applies it.
    async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Bytes);
}

async fn get(api: &dyn Loopback, path: &str) -> Option<Value> {
    let (code, body) = api.call("GET", path, None).await;
    if code == 200 { serde_json::from_slice(&body).ok() } else { None }
}

async fn write(api: &dyn Loopback, method: &str, path: &str, object: &Value) -> Result<(), Error> {
    let (code, body) = api.call(method, path, Some(object)).await;
    // Another server of the same cluster may have been faster.
    if (200..300).contains(&code) || code == 409 {
        return Ok(());
    }
    Err(Error::Bootstrap {
        what: format!("{} {}", object::kind(object), object::name(object)),
        why: String::from_utf8_lossy(&body).into_owned(),
    })
}

/// Collection path of an object's kind: enough English for the kinds made here.
fn collection(object: &Value) -> String {
    let version = object::api_version(object);
    let base = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
    let kind = object::kind(object).to_lowercase();
    let plural = match kind.strip_suffix("class") {
        Some(stem) => format!("{stem}classes"),
        None if kind.ends_with('s') => kind,
        None => format!("{kind}s"),
    };
    match object::namespace(object) {
        "" => format!("{base}/{plural}"),
        namespace => format!("{base}/namespaces/{namespace}/{plural}"),
    }
}

async fn ensure(api: &dyn Loopback, object: &Value) -> Result<(), Error> {
    let collection = collection(object);
    let existing = get(api, &format!("{collection}/{}", object::name(object))).await;
    match existing {
        None => write(api, "POST", &collection, object).await,
        Some(existing) => {
            match reconciled(&existing, object).or_else(|| flow_control::reconciled(&existing, object)) {
                Some(merged) => {
                    let path = format!("{collection}/{}", object::name(object));
                    write(api, "PUT", &path, &merged).await
                }
                None => Ok(()),
            }
        }
    }
}

/// What extension API servers need to know to trust this server's front proxy.
fn extension_authentication(config: &Config) -> Value {
    let mut data = serde_json::Map::new();
    if let Some(ca) = &config.client_ca_pem {
        data.insert("client-ca-file".into(), ca.clone().into());
    }
    if let Some(ca) = &config.requestheader_client_ca_pem {
        let list = |items: &[&str]| Value::from(json!(items).to_string());
        data.insert("requestheader-client-ca-file".into(), ca.clone().into());
        data.insert(
            "requestheader-allowed-names".into(),
            json!(config.requestheader_allowed_names).to_string().into(),
        );
        data.insert("requestheader-username-headers".into(), list(&["X-Remote-User"]));
        data.insert("requestheader-uid-headers".into(), list(&["X-Remote-Uid"]));
        data.insert("requestheader-group-headers".into(), list(&["X-Remote-Group"]));
        data.insert("requestheader-extra-headers-prefix".into(), list(&["X-Remote-Extra-"]));
    }
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": data,
    })
}

fn service_cidr(ranges: &[IpNet]) -> Value {
    let cidrs: Vec<String> = ranges.iter().map(|r| r.trunc().to_string()).collect();
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes", "finalizers": ["networking.k8s.io/service-cidr-finalizer"]},
        "spec": {"cidrs": cidrs},
    })
}

/// What the stored ServiceCIDR needs: the path below it to write to, and the object.
fn service_cidr_change(stored: &Value, wanted: &Value, now: Timestamp) -> Option<(&'static str, Value)> {
    if object::deletion_timestamp(stored).is_some() {
        return None;
    }
    let mut new = stored.clone();
    let (has, wants) = (&stored["spec"]["cidrs"], &wanted["spec"]["cidrs"]);
    if has != wants {
        // A second family may be added; other differences are the administrator's to settle.
        let widened = wants.as_array().is_some_and(|wants| wants.len() == 2) && *has == json!([wants[0]]);
        new["spec"]["cidrs"] = wants.clone();
        return widened.then_some(("", new));
    }
    let conditions = stored["status"]["conditions"].as_array();
    if conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] != "Unknown") {
        return None;
    }
    new["status"]["conditions"] = json!([{
        "type": "Ready", "status": "True", "reason": "", "lastTransitionTime": time_text(now),
        "message": "Kubernetes default Service CIDR is ready",
    }]);
    Some(("/status", new))
}

/// The ServiceCIDR of the configuration is there, and ready.
async fn ensure_service_cidr(api: &dyn Loopback, config: &Config) -> Result<(), Error> {
    let wanted = service_cidr(&config.service_cidrs);
    let path = format!("{}/{}", collection(&wanted), object::name(&wanted));
    if get(api, &path).await.is_none() {
        write(api, "POST", &collection(&wanted), &wanted).await?;
    }
    let Some(stored) = get(api, &path).await else { return Ok(()) };
    match service_cidr_change(&stored, &wanted, Timestamp::now()) {
        Some((below, new)) => write(api, "PUT", &format!("{path}{below}"), &new).await,
        None => Ok(()),
    }
}

/// The ranges the cluster began with, which it keeps: a configuration that names others is not
/// followed.
async fn stored_ranges(api: &dyn Loopback, config: &Config) -> Vec<IpNet> {
    let wanted = service_cidr(&config.service_cidrs);
    let path = format!("{}/{}", collection(&wanted), object::name(&wanted));
    let Some(stored) = get(api, &path).await else { return config.service_cidrs.clone() };
    let (has, wants) = (&stored["spec"]["cidrs"], &wanted["spec"]["cidrs"]);
    if has != wants {
        warn!(
            "the default ServiceCIDR {has} does not match the configured {wants}; services keep to the former. \
             Configure what it says, or delete it and let it be made anew"
        );
    }
    let texts = has.as_array().into_iter().flatten().filter_map(Value::as_str);
    texts.filter_map(|text| text.parse().ok()).collect()
}

fn first_address(range: IpNet) -> IpAddr {
    match range {
        IpNet::V4(net) => IpAddr::from((u32::from(net.network()) + 1).to_be_bytes()),
        IpNet::V6(net) => IpAddr::from((u128::from(net.network()) + 1).to_be_bytes()),
    }
}

fn kubernetes_service(config: &Config, range: IpNet) -> Value {
    let address = first_address(range);
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": address.to_string(), "clusterIPs": [address.to_string()],
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": config.advertise_port}],
            "sessionAffinity": "None",
        },
    })
}

/// The `kubernetes` service leads here; it keeps the addresses it has, for they never change.
async fn ensure_kubernetes_service(api: &dyn Loopback, config: &Config) -> Result<(), Error> {
    let Some(range) = stored_ranges(api, config).await.first().copied() else { return Ok(()) };
    let mut service = kubernetes_service(config, range);
    let path = format!("{}/{}", collection(&service), object::name(&service));
    if let Some(existing) = get(api, &path).await {
        for key in ["clusterIP", "clusterIPs"] {
            service["spec"][key] = existing["spec"][key].clone();
        }
    }
    ensure_exactly(api, &service, &["spec"]).await
}

/// Endpoints and EndpointSlice of the `kubernetes` service. This server's address alone: the
/// cluster has one API server until leases of several are kept.
fn kubernetes_endpoints(config: &Config) -> [Value; 2] {
    let address = config.advertise_address.to_string();
    let family = if config.advertise_address.is_ipv4() { "IPv4" } else { "IPv6" };
    let port = json!([{"name": "https", "port": config.advertise_port, "protocol": "TCP"}]);
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{"addresses": [{"ip": address}], "ports": port}],
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": family,
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
        "ports": port,
    });
    [endpoints, slice]
}

/// The object is there, and what it has under these keys covers what is wanted.
async fn ensure_exactly(api: &dyn Loopback, object: &Value, keys: &[&str]) -> Result<(), Error> {
    let path = format!("{}/{}", collection(object), object::name(object));
    match get(api, &path).await {
        None => match write(api, "POST", &collection(object), object).await {
            // Another server made it meanwhile, and has what it asks for.
            Err(_) if get(api, &path).await.is_some() => Ok(()),
            other => other,
        },
        Some(existing) if keys.iter().all(|key| covers(&existing[*key], &object[*key])) => Ok(()),
        Some(mut existing) => {
            for key in keys {
                existing[*key] = object[*key].clone();
            }
            write(api, "PUT", &path, &existing).await
        }
    }
}

/// Everything wanted is there; defaults beside it do not matter.
fn covers(existing: &Value, wanted: &Value) -> bool {
    match (existing, wanted) {
        (Value::Object(have), Value::Object(want)) => {
            want.iter().all(|(key, value)| have.get(key).is_some_and(|h| covers(h, value)))
        }
        (Value::Array(have), Value::Array(want)) => {
            have.len() == want.len() && have.iter().zip(want).all(|(h, w)| covers(h, w))
        }
        (have, want) => have == want,
    }
}

/// An address of this machine alone is no endpoint anyone else could use: the service then has none.
async fn endpoints(api: &dyn Loopback, config: &Config) -> Result<(), Error> {
    if config.advertise_address.is_loopback() || config.advertise_address.is_unspecified() {
        return Ok(());
    }
    let [endpoints, slice] = kubernetes_endpoints(config);
    ensure_exactly(api, &endpoints, &["subsets"]).await?;
    ensure_exactly(api, &slice, &["addressType", "endpoints", "ports"]).await
}

async fn each(tasks: Vec<BoxFuture<'_, Result<(), Error>>>) -> Result<(), Error> {
    stream::iter(tasks).buffer_unordered(CONCURRENT).try_collect().await
}

/// An object and what the server itself says of it.
async fn ensure_with_status(api: &dyn Loopback, object: &Value) -> Result<(), Error> {
    ensure(api, object).await?;
    let path = format!("{}/{}", collection(object), object::name(object));
    let Some(mut existing) = get(api, &path).await else { return Ok(()) };
    if set_conditions(&mut existing, object) {
        write(api, "PUT", &format!("{path}/status"), &existing).await?;
    }
    Ok(())
}

/// Whether the existing object said something else: when it last turned does not count.
fn set_conditions(existing: &mut Value, wanted: &Value) -> bool {
    let said = |object: &Value| -> Vec<[Value; 3]> {
        let list = object["status"]["conditions"].as_array().into_iter().flatten();
        list.map(|condition| ["type", "status", "reason"].map(|key| condition[key].clone())).collect()
    };
    let differs = said(existing) != said(wanted);
    if differs {
        existing["status"] = wanted["status"].clone();
    }
    differs
}

async fn each_with_status(api: &dyn Loopback, objects: &[Value]) -> Result<(), Error> {
    each(objects.iter().map(|object| ensure_with_status(api, object).boxed()).collect()).await
}

/// Everything, once, at start. Namespaces come first; nothing else waits for another.
pub async fn run(api: &dyn Loopback, config: &Config, policy_objects: Vec<Value>) -> Result<(), Error> {
    let (namespaces, others): (Vec<Value>, Vec<Value>) =
        policy_objects.into_iter().partition(|object| object::kind(object) == "Namespace");
    each(namespaces.iter().map(|object| ensure(api, object).boxed()).collect()).await?;
    each(others.iter().map(|object| ensure(api, object).boxed()).collect()).await?;
    each(flow_control::objects().iter().map(|object| ensure(api, object).boxed()).collect()).await?;
    each_with_status(api, &group_versions::objects(&time_text(Timestamp::now()))).await?;
    ensure_exactly(api, &extension_authentication(config), &["data"]).await?;
    ensure_service_cidr(api, config).await?;
    ensure_kubernetes_service(api, config).await?;
    endpoints(api, config).await
}

/// Keeps the ServiceCIDR, the `kubernetes` service's endpoints and the FlowSchemas true until cancelled.
pub async fn keep(api: &dyn Loopback, config: &Config, cancel: CancellationToken) {
    for round in 1_u64.. {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(ENDPOINTS_INTERVAL) => {}
        }
        if let Err(error) = ensure_service_cidr(api, config).await {
            warn!(%error, "the default ServiceCIDR could not be kept");
        }
        if let Err(error) = endpoints(api, config).await {
            warn!(%error, "the kubernetes endpoints could not be kept");
        }
        if round % FLOW_CONTROL_ROUNDS != 0 {
            continue;
        }
        let wanted = flow_control::objects();
        if let Err(error) = each(wanted.iter().map(|object| ensure(api, object).boxed()).collect()).await {
            warn!(%error, "the FlowSchemas and their priority levels could not be kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collections_are_named_right() {
        let path = |version: &str, kind: &str, namespace: &str| {
            collection(&json!({"apiVersion": version, "kind": kind, "metadata": {"namespace": namespace}}))
        };
        assert_eq!(path("v1", "Endpoints", "default"), "/api/v1/namespaces/default/endpoints");
        assert_eq!(
            path("scheduling.k8s.io/v1", "PriorityClass", ""),
            "/apis/scheduling.k8s.io/v1/priorityclasses"
        );
        assert_eq!(
            path("networking.k8s.io/v1", "ServiceCIDR", ""),
            "/apis/networking.k8s.io/v1/servicecidrs"
        );
        assert_eq!(
            path("rbac.authorization.k8s.io/v1", "RoleBinding", "kube-system"),
            "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/rolebindings"
        );
    }

    #[test]
    fn the_default_range_becomes_ready_and_may_gain_a_family() {
        let now = Timestamp::UNIX_EPOCH;
        let range = |blocks: &[&str]| {
            let blocks: Vec<IpNet> = blocks.iter().map(|block| block.parse().unwrap()).collect();
            service_cidr(&blocks)
        };
        let (one, two, other) =
            (range(&["10.0.0.0/16"]), range(&["10.0.0.0/16", "fd00::/112"]), range(&["10.1.0.0/16"]));
        let (below, ready) = service_cidr_change(&one, &one, now).unwrap();
        assert_eq!((below, &ready["status"]["conditions"][0]["status"]), ("/status", &json!("True")));
        assert_eq!(service_cidr_change(&ready, &one, now), None);
        let (below, widened) = service_cidr_change(&ready, &two, now).unwrap();
        assert_eq!((below, &widened["spec"]), ("", &two["spec"]));
        assert_eq!(service_cidr_change(&ready, &other, now), None);
        let mut going = one.clone();
        going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        assert_eq!(service_cidr_change(&going, &one, now), None);
    }

    #[test]
    fn defaults_beside_what_is_wanted_do_not_matter() {
        assert!(covers(&json!({"a": [{"b": 1, "c": 2}]}), &json!({"a": [{"b": 1}]})));
        assert!(!covers(&json!({"a": [1, 2]}), &json!({"a": [1]})));
    }
}

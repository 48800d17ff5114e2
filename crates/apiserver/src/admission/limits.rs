//! LimitRanger: a namespace's defaults and bounds for containers, pods and claims.

use std::collections::BTreeSet;

use amphipod_api::object;
use amphipod_api::pod_resources::{Amounts, amounts, specified};
use amphipod_api::status::Status;
use serde_json::{Map, Value, json};

use super::{creates, forbidden, items, on, read_all};
use crate::seams::{AdmissionRequest, Operation, Reader};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

fn fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// A pod comes to be, or its resources change.
fn sizes_pod(request: &AdmissionRequest<'_>) -> bool {
    let attributes = request.attributes;
    let resizes = request.operation == Operation::Update
        && (attributes.group.as_str(), attributes.resource.as_str(), attributes.subresource.as_str())
            == ("", "pods", "resize");
    creates(request, "", "pods") || resizes
}

/// What is on its way out is left alone.
fn is_going(request: &AdmissionRequest<'_>) -> bool {
    request.old.is_some_and(|old| object::deletion_timestamp(old).is_some())
}

/// The ranges of a namespace, each with its limits.
async fn ranges(reader: &dyn Reader, request: &AdmissionRequest<'_>) -> Result<Vec<Vec<Value>>, Status> {
    let ranges = read_all(reader, "", "limitranges", &request.attributes.namespace).await?;
    Ok(ranges.iter().map(|range| items(&range["spec"]["limits"]).to_vec()).collect())
}

/// Gives containers the namespace's default requests and limits.
pub async fn apply_defaults(reader: &dyn Reader, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
    if !sizes_pod(request) || is_going(request) || !request.object["spec"].is_object() {
        return Ok(());
    }
    for limits in ranges(reader, request).await? {
        let mut defaults = json!({"requests": {}, "limits": {}});
        for limit in limits.iter().filter(|limit| limit["type"] == "Container") {
            for (kind, source) in [("requests", "defaultRequest"), ("limits", "default")] {
                let known = fields(&limit[source]).map(|(name, value)| (name.clone(), value.clone()));
                object::child_mut(&mut defaults, kind).extend(known);
            }
        }
        let mut notes: Vec<String> = Vec::new();
        for (list, noun) in [("containers", "container"), ("initContainers", "init container")] {
            let containers = request.object["spec"].get_mut(list).and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
                fill(container, &defaults, noun, &mut notes);
            }
        }
        if !notes.is_empty() {
            let text = format!("LimitRanger plugin set: {}", notes.join("; "));
            object::metadata_mut(&mut request.object);
            object::child_mut(&mut request.object["metadata"], "annotations")
                .insert(ANNOTATION.into(), text.into());
        }
    }
    Ok(())
}

fn fill(container: &mut Map<String, Value>, defaults: &Value, noun: &str, notes: &mut Vec<String>) {
    let name = container.get("name").and_then(Value::as_str).unwrap_or("").to_owned();
    let given = container.get("resources").cloned().unwrap_or_default();
    for kind in ["requests", "limits"] {
        let missing: Vec<(&String, &Value)> = fields(&defaults[kind])
            .filter(|(resource, _)| given[kind][resource.as_str()].is_null())
            .collect();
        if missing.is_empty() {
            continue;
        }
        let names: Vec<&str> = missing.iter().map(|(resource, _)| resource.as_str()).collect();
        notes.push(format!("{} {} for {noun} {name}", names.join(", "), kind.trim_end_matches('s')));
        let resources = container.entry("resources").or_insert(Value::Null);
        let pairs = missing.iter().map(|(resource, value)| ((*resource).clone(), (*value).clone()));
        object::child_mut(resources, kind).extend(pairs);
    }
}

/// Refuses what lies outside the namespace's bounds: all that is wrong by the first range that
/// finds something.
pub async fn check(reader: &dyn Reader, request: &AdmissionRequest<'_>) -> Result<(), Status> {
    let pods = sizes_pod(request);
    let claims = matches!(request.operation, Operation::Create | Operation::Update)
        && on(request, "", "persistentvolumeclaims");
    if !(pods || claims) || is_going(request) {
        return Ok(());
    }
    let spec = &request.object["spec"];
    for limits in ranges(reader, request).await? {
        let mut faults = Vec::new();
        for limit in &limits {
            match limit["type"].as_str().unwrap_or("") {
                "Container" if pods => {
                    for container in items(&spec["containers"]).iter().chain(items(&spec["initContainers"])) {
                        bounds(&mut faults, limit, &Sizes::of("Container", &container["resources"]));
                    }
                }
                "Pod" if pods => {
                    let (requests, limits) = (specified(spec, "requests"), specified(spec, "limits"));
                    bounds(&mut faults, limit, &Sizes { kind: "Pod", requests, limits });
                }
                "PersistentVolumeClaim" if claims => claim_bounds(&mut faults, limit, &spec["resources"]),
                _ => {}
            }
        }
        let mut seen = BTreeSet::new();
        faults.retain(|fault| seen.insert(fault.clone()));
        match faults.as_slice() {
            [] => {}
            [one] => return Err(forbidden(request, one)),
            many => return Err(forbidden(request, &format!("[{}]", many.join(", ")))),
        }
    }
    Ok(())
}

/// What one container, pod or claim asks for.
struct Sizes {
    kind: &'static str,
    requests: Amounts,
    limits: Amounts,
}

impl Sizes {
    fn of(kind: &'static str, resources: &Value) -> Self {
        Sizes { kind, requests: amounts(&resources["requests"]), limits: amounts(&resources["limits"]) }
    }
}

fn bounds(faults: &mut Vec<String>, limit: &Value, sizes: &Sizes) {
    least(faults, limit, sizes);
    most(faults, limit, sizes);
    ratios(faults, limit, sizes);
}

fn least(faults: &mut Vec<String>, limit: &Value, sizes: &Sizes) {
    for (name, least) in amounts(&limit["min"]) {
        let bound = format!("minimum {name} usage per {} is {least}", sizes.kind);
        match (sizes.requests.get(&name), sizes.limits.get(&name)) {
            (None, _) => faults.push(format!("{bound}.  No request is specified")),
            (Some(request), _) if *request < least => {
                faults.push(format!("{bound}, but request is {request}"))
            }
            (_, Some(limit)) if *limit < least => faults.push(format!("{bound}, but limit is {limit}")),
            _ => {}
        }
    }
}

fn most(faults: &mut Vec<String>, limit: &Value, sizes: &Sizes) {
    for (name, most) in amounts(&limit["max"]) {
        let bound = format!("maximum {name} usage per {} is {most}", sizes.kind);
        match (sizes.requests.get(&name), sizes.limits.get(&name)) {
            (_, None) => faults.push(format!("{bound}.  No limit is specified")),
            (_, Some(limit)) if *limit > most => faults.push(format!("{bound}, but limit is {limit}")),
            (Some(request), _) if *request > most => {
                faults.push(format!("{bound}, but request is {request}"))
            }
            _ => {}
        }
    }
}

fn ratios(faults: &mut Vec<String>, limit: &Value, sizes: &Sizes) {
    for (name, most) in amounts(&limit["maxLimitRequestRatio"]) {
        let bound = format!("{name} max limit to request ratio per {} is {most}", sizes.kind);
        let of = |amounts: &Amounts| amounts.get(&name).copied().filter(|amount| !amount.is_zero());
        match (of(&sizes.requests), of(&sizes.limits)) {
            (None, _) => faults.push(format!("{bound}, but no request is specified or request is 0")),
            (_, None) => faults.push(format!("{bound}, but no limit is specified or limit is 0")),
            (Some(request), Some(limit)) => {
                let actual = limit.as_f64() / request.as_f64();
                if actual > most.as_f64() {
                    faults.push(format!("{bound}, but provided ratio is {actual:.6}"));
                }
            }
        }
    }
}

/// Only what a claim requests counts.
fn claim_bounds(faults: &mut Vec<String>, limit: &Value, resources: &Value) {
    let mut sizes = Sizes::of("PersistentVolumeClaim", resources);
    sizes.limits.clear();
    least(faults, limit, &sizes);
    for (name, most) in amounts(&limit["max"]) {
        let bound = format!("maximum {name} usage per {} is {most}", sizes.kind);
        match sizes.requests.get(&name) {
            None => faults.push(format!("{bound}.  No request is specified")),
            Some(request) if *request > most => faults.push(format!("{bound}, but request is {request}")),
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use amphipod_api::resource;

    use super::*;
    use crate::seams::Attributes;
    use crate::testing::MemoryReader;

    /// What admission makes of an object where these ranges stand.
    async fn admitted(ranges: &[Value], plural: &str, object: Value) -> Result<Value, String> {
        let reader = MemoryReader::default();
        for (i, limits) in ranges.iter().enumerate() {
            let range =
                json!({"metadata": {"name": format!("r{i}"), "namespace": "n"}, "spec": {"limits": limits}});
            reader.put("", "limitranges", &range);
        }
        let attributes =
            Attributes { resource: plural.into(), namespace: "n".into(), ..Attributes::default() };
        let mut request = AdmissionRequest {
            attributes: &attributes,
            operation: Operation::Create,
            resource: resource::find("", "v1", plural).expect("a core resource"),
            object,
            old: None,
            dry_run: false,
            warnings: Vec::new(),
        };
        apply_defaults(&reader, &mut request).await.map_err(|status| status.message)?;
        check(&reader, &request).await.map_err(|status| status.message)?;
        Ok(request.object)
    }

    fn pod(containers: Value) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"containers": containers}})
    }
    fn sized(resources: Value) -> Value {
        pod(json!([{"name": "c", "resources": resources}]))
    }

    #[tokio::test]
    async fn defaults_of_several_ranges() {
        let ranges = [
            json!([{"type": "Container", "default": {"cpu": "2", "memory": "1Gi"}, "defaultRequest": {"cpu": "1"}}]),
            json!([{"type": "Container", "default": {"cpu": "9", "ephemeral-storage": "1Gi"}}]),
        ];
        let mut object = pod(
            json!([{"name": "a"}, {"name": "b", "resources": {"limits": {"cpu": "3"}, "requests": {"cpu": "3"}}}]),
        );
        object["spec"]["initContainers"] = json!([{"name": "i"}]);
        let made = admitted(&ranges, "pods", object).await.expect("admitted");
        let limits = json!({"cpu": "2", "memory": "1Gi", "ephemeral-storage": "1Gi"});
        let spec = &made["spec"];
        assert_eq!(spec["containers"][0]["resources"], json!({"limits": limits, "requests": {"cpu": "1"}}));
        assert_eq!(spec["containers"][1]["resources"]["requests"], json!({"cpu": "3"}));
        assert_eq!(
            made["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: ephemeral-storage limit for container a; ephemeral-storage limit for container b; \
             ephemeral-storage limit for init container i"
        );
        let made = admitted(&ranges[..1], "pods", sized(json!({}))).await.expect("admitted");
        assert_eq!(
            made["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container c; cpu, memory limit for container c"
        );
    }

    #[tokio::test]
    async fn bounds_of_containers_and_pods() {
        let container = |bounds: Value| {
            let mut bounds = bounds;
            bounds["type"] = "Container".into();
            vec![json!([bounds])]
        };
        let per_pod = vec![json!([{"type": "Pod", "max": {"memory": "1Gi"}}])];
        let one = json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}});
        let two = pod(json!([{"name": "a", "resources": one}, {"name": "b", "resources": one}]));
        let large = |memory: &str| json!({"name": memory, "resources": {"limits": {"memory": memory}}});
        for (ranges, object, expected) in [
            (
                container(
                    json!({"min": {"cpu": "200m"}, "max": {"cpu": "500m"}, "maxLimitRequestRatio": {"cpu": "2"}}),
                ),
                two.clone(),
                "[minimum cpu usage per Container is 200m, but request is 100m, \
                 maximum cpu usage per Container is 500m, but limit is 1, \
                 cpu max limit to request ratio per Container is 2, but provided ratio is 10.000000]",
            ),
            (
                container(json!({"min": {"cpu": "200m"}})),
                two.clone(),
                "minimum cpu usage per Container is 200m, but request is 100m",
            ),
            (
                container(json!({"min": {"memory": "1Mi"}, "max": {"memory": "1Mi"}})),
                two.clone(),
                "[minimum memory usage per Container is 1Mi.  No request is specified, \
                 maximum memory usage per Container is 1Mi.  No limit is specified]",
            ),
            (
                container(json!({"maxLimitRequestRatio": {"cpu": "2"}})),
                sized(json!({"requests": {"cpu": "1"}})),
                "cpu max limit to request ratio per Container is 2, but no limit is specified or limit is 0",
            ),
            (
                per_pod,
                pod(json!([large("600Mi"), large("601Mi")])),
                "maximum memory usage per Pod is 1Gi, but limit is 1201Mi",
            ),
        ] {
            let refused = admitted(&ranges, "pods", object).await.expect_err("out of bounds");
            assert_eq!(refused, format!("pods \"p\" is forbidden: {expected}"));
        }
    }

    #[tokio::test]
    async fn bounds_of_claims() {
        let ranges = [
            json!([{"type": "PersistentVolumeClaim", "min": {"storage": "2Gi"}, "max": {"storage": "4Gi"}}]),
        ];
        for (storage, expected) in [
            (json!("1Gi"), "minimum storage usage per PersistentVolumeClaim is 2Gi, but request is 1Gi"),
            (json!("5Gi"), "maximum storage usage per PersistentVolumeClaim is 4Gi, but request is 5Gi"),
            (
                Value::Null,
                "[minimum storage usage per PersistentVolumeClaim is 2Gi.  No request is specified, \
                 maximum storage usage per PersistentVolumeClaim is 4Gi.  No request is specified]",
            ),
        ] {
            let claim =
                json!({"metadata": {"name": "c"}, "spec": {"resources": {"requests": {"storage": storage}}}});
            let refused =
                admitted(&ranges, "persistentvolumeclaims", claim).await.expect_err("out of bounds");
            assert_eq!(refused, format!("persistentvolumeclaims \"c\" is forbidden: {expected}"));
        }
    }
}

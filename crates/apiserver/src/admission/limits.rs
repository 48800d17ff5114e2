//! LimitRanger: a namespace's defaults and bounds for containers, pods and claims.

use amphipod_api::object;
use amphipod_api::quantity::Quantity;
use amphipod_api::status::Status;
use serde_json::{Value, json};

use super::{creates, forbidden, items, on, read_all};
use crate::seams::{AdmissionRequest, Operation, Reader};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

fn quantity(value: &Value) -> Option<Quantity> {
    Quantity::parse(value.as_str()?).ok()
}
fn fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

async fn limits(reader: &dyn Reader, namespace: &str) -> Result<Vec<Value>, Status> {
    let ranges = read_all(reader, "", "limitranges", namespace).await?;
    Ok(ranges.iter().flat_map(|range| items(&range["spec"]["limits"]).to_vec()).collect())
}

/// Gives containers the namespace's default requests and limits.
pub async fn apply_defaults(reader: &dyn Reader, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
    if !creates(request, "", "pods") || !request.object["spec"].is_object() {
        return Ok(());
    }
    let limits = limits(reader, &request.attributes.namespace).await?;
    let mut notes: Vec<String> = Vec::new();
    for limit in limits.iter().filter(|limit| limit["type"] == "Container") {
        for (list, noun) in [("containers", "container"), ("initContainers", "init container")] {
            let containers = request.object["spec"].get_mut(list).and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten() {
                fill(container, limit, noun, &mut notes);
            }
        }
    }
    if !notes.is_empty() {
        let text = format!("LimitRanger plugin set: {}", notes.join("; "));
        object::metadata_mut(&mut request.object);
        object::child_mut(&mut request.object["metadata"], "annotations")
            .insert(ANNOTATION.into(), text.into());
    }
    Ok(())
}

fn fill(container: &mut Value, limit: &Value, noun: &str, notes: &mut Vec<String>) {
    if !container.is_object() {
        return;
    }
    let name = container["name"].as_str().unwrap_or("").to_owned();
    // Requests first: where there is a limit of the container's own, the request follows from that.
    let own_limits = container["resources"]["limits"].clone();
    for (kind, source) in [("requests", "defaultRequest"), ("limits", "default")] {
        let mut set: Vec<&str> = Vec::new();
        for (resource, value) in fields(&limit[source]) {
            let present = !container["resources"][kind][resource.as_str()].is_null();
            let follows = kind == "requests" && !own_limits[resource.as_str()].is_null();
            if present || follows {
                continue;
            }
            let resources = container.get_mut("resources").filter(|r| r.is_object());
            if resources.is_none() {
                container["resources"] = json!({});
            }
            object::child_mut(&mut container["resources"], kind).insert(resource.clone(), value.clone());
            set.push(resource);
        }
        if !set.is_empty() {
            let word = kind.trim_end_matches('s');
            notes.push(format!("{} {word} for {noun} {name}", set.join(", ")));
        }
    }
}

/// Refuses what lies outside the namespace's bounds.
pub async fn check(reader: &dyn Reader, request: &AdmissionRequest<'_>) -> Result<(), Status> {
    let pods = creates(request, "", "pods");
    let claims = matches!(request.operation, Operation::Create | Operation::Update)
        && on(request, "", "persistentvolumeclaims");
    if !pods && !claims {
        return Ok(());
    }
    let mut faults: Vec<String> = Vec::new();
    for limit in limits(reader, &request.attributes.namespace).await? {
        match limit["type"].as_str().unwrap_or("") {
            "Container" if pods => {
                for list in ["containers", "initContainers"] {
                    for container in items(&request.object["spec"][list]) {
                        bounds(&mut faults, &limit, "Container", &container["resources"]);
                    }
                }
            }
            "Pod" if pods => bounds(&mut faults, &limit, "Pod", &totals(&request.object["spec"])),
            "PersistentVolumeClaim" if claims => {
                let requests = json!({"requests": request.object["spec"]["resources"]["requests"]});
                claim_bounds(&mut faults, &limit, &requests);
            }
            _ => {}
        }
    }
    match faults.as_slice() {
        [] => Ok(()),
        [one] => Err(forbidden(request, one)),
        many => Err(forbidden(request, &format!("[{}]", many.join(", ")))),
    }
}

fn bounds(faults: &mut Vec<String>, limit: &Value, kind: &str, resources: &Value) {
    let of = |part: &str, name: &str| quantity(&resources[part][name]);
    for (name, least) in fields(&limit["min"]) {
        let Some(least) = quantity(least) else { continue };
        match (of("requests", name), of("limits", name)) {
            (None, _) => {
                faults.push(format!("minimum {name} usage per {kind} is {least}.  No request is specified"));
            }
            (Some(request), _) if request < least => {
                faults.push(format!("minimum {name} usage per {kind} is {least}, but request is {request}"));
            }
            (_, Some(limit)) if limit < least => {
                faults.push(format!("minimum {name} usage per {kind} is {least}, but limit is {limit}"));
            }
            _ => {}
        }
    }
    for (name, most) in fields(&limit["max"]) {
        let Some(most) = quantity(most) else { continue };
        match (of("requests", name), of("limits", name)) {
            (_, None) => {
                faults.push(format!("maximum {name} usage per {kind} is {most}.  No limit is specified"))
            }
            (_, Some(limit)) if limit > most => {
                faults.push(format!("maximum {name} usage per {kind} is {most}, but limit is {limit}"));
            }
            (Some(request), _) if request > most => {
                faults.push(format!("maximum {name} usage per {kind} is {most}, but request is {request}"));
            }
            _ => {}
        }
    }
    for (name, ratio) in fields(&limit["maxLimitRequestRatio"]) {
        let Some(most) = quantity(ratio) else { continue };
        match (of("requests", name), of("limits", name)) {
            (Some(request), Some(limit)) if !request.is_zero() => {
                let actual = limit.as_f64() / request.as_f64();
                if actual > most.as_f64() {
                    faults.push(format!(
                        "{name} max limit to request ratio per {kind} is {most}, but provided ratio is {actual:.6}"
                    ));
                }
            }
            _ => faults.push(format!(
                "{name} max limit to request ratio per {kind} is {most}, but no request is specified or request is 0"
            )),
        }
    }
}

fn claim_bounds(faults: &mut Vec<String>, limit: &Value, resources: &Value) {
    for (part, noun) in [("min", "minimum"), ("max", "maximum")] {
        for (name, bound) in fields(&limit[part]) {
            let (Some(bound), Some(request)) =
                (quantity(bound), quantity(&resources["requests"][name.as_str()]))
            else {
                continue;
            };
            let outside = if part == "min" { request < bound } else { request > bound };
            if outside {
                faults.push(format!(
                    "{noun} {name} usage per PersistentVolumeClaim is {bound}, but request is {request}"
                ));
            }
        }
    }
}

/// What a pod needs as a whole: the sum of its containers, or more if an init container needs more.
fn totals(spec: &Value) -> Value {
    let mut out = json!({});
    for part in ["requests", "limits"] {
        let mut names: Vec<&String> = Vec::new();
        let all = || items(&spec["containers"]).iter().chain(items(&spec["initContainers"]));
        all().for_each(|c| names.extend(fields(&c["resources"][part]).map(|(name, _)| name)));
        for name in names {
            let of = |container: &Value| {
                quantity(&container["resources"][part][name.as_str()]).unwrap_or_default()
            };
            let sum = items(&spec["containers"]).iter().map(of).fold(Quantity::default(), Quantity::plus);
            let most = items(&spec["initContainers"]).iter().map(of).fold(sum, Quantity::max);
            out[part][name.as_str()] = most.to_string().into();
        }
    }
    out
}

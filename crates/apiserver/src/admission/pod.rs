//! What a pod's scheduling depends on: priority, default tolerations, runtime class; and where it says
//! that it has got to.

use amphipod_api::object;
use amphipod_api::status::Status;
use serde_json::{Value, json};

use super::{blank, creates, forbidden, items, on, read, read_all};
use crate::seams::{AdmissionRequest, Operation, Reader};

const SCHEDULING: &str = "scheduling.k8s.io";
const UNREADY_TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
/// What pods have of their node's labels.
const TOPOLOGY_LABELS: [&str; 2] = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"];
/// How long pods stay bound to a node that is not ready or cannot be reached.
const TOLERATION_SECONDS: i64 = 300;
const PREEMPT: &str = "PreemptLowerPriority";

/// DefaultTolerationSeconds
pub fn default_tolerations(request: &mut AdmissionRequest<'_>) {
    let writes = matches!(request.operation, Operation::Create | Operation::Update);
    if !writes || !on(request, "", "pods") || !request.object["spec"].is_object() {
        return;
    }
    let spec = &mut request.object["spec"];
    for key in UNREADY_TAINTS {
        let tolerated = items(&spec["tolerations"]).iter().any(|toleration| {
            (blank(&toleration["key"]) || toleration["key"] == key)
                && (blank(&toleration["effect"]) || toleration["effect"] == "NoExecute")
        });
        if tolerated {
            continue;
        }
        let added = json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS});
        match spec.get_mut("tolerations").and_then(Value::as_array_mut) {
            Some(list) => list.push(added),
            None => spec["tolerations"] = json!([added]),
        }
    }
}

/// PodTopologyLabels: a pod is told where its node is, from when it has one.
pub async fn topology_labels(reader: &dyn Reader, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
    let attributes = request.attributes;
    if request.operation != Operation::Create || !attributes.group.is_empty() || attributes.resource != "pods"
    {
        return Ok(());
    }
    let object = &request.object;
    let node = match attributes.subresource.as_str() {
        "" => object::text(object, "/spec/nodeName"),
        "binding" if object::text(object, "/target/kind") == "Node" => object::text(object, "/target/name"),
        _ => "",
    };
    if node.is_empty() {
        return Ok(());
    }
    // A node that is not there is for others to find fault with.
    let places = reader.labels("", "nodes", "", node, &TOPOLOGY_LABELS).await?;
    for (key, place) in TOPOLOGY_LABELS.iter().zip(places.into_iter().flatten()) {
        let Some(place) = place else { continue };
        let labels = object::metadata_mut(&mut request.object).entry("labels").or_insert_with(|| json!({}));
        labels[*key] = place.into();
    }
    Ok(())
}

struct Class {
    name: String,
    value: i64,
    preemption: String,
}

impl Class {
    fn of(class: &Value) -> Self {
        let preemption = class["preemptionPolicy"].as_str().unwrap_or(PREEMPT);
        Class {
            name: object::name(class).to_owned(),
            value: class["value"].as_i64().unwrap_or(0),
            preemption: preemption.to_owned(),
        }
    }
}

/// Priority: the class's name becomes a number.
pub async fn priority(reader: &dyn Reader, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
    if request.operation == Operation::Update && on(request, "", "pods") {
        keep_priority(request);
        return Ok(());
    }
    if !creates(request, "", "pods") || !request.object["spec"].is_object() {
        return Ok(());
    }
    let wanted = object::text(&request.object, "/spec/priorityClassName").to_owned();
    let class = if wanted.is_empty() {
        default_class(reader).await?
    } else {
        let Some(class) = read(reader, SCHEDULING, "priorityclasses", "", &wanted).await? else {
            return Err(forbidden(request, &format!("no PriorityClass with name {wanted} was found")));
        };
        Class::of(&class)
    };
    let given = request.object["spec"]["priority"].as_i64();
    if let Some(given) = given.filter(|given| *given != class.value) {
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {} from the given PriorityClass name",
            class.value
        );
        return Err(forbidden(request, &why));
    }
    let given = object::text(&request.object, "/spec/preemptionPolicy");
    if !given.is_empty() && given != class.preemption {
        let why = format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {} from the given PriorityClass name",
            class.preemption
        );
        return Err(forbidden(request, &why));
    }
    let spec = &mut request.object["spec"];
    if !class.name.is_empty() {
        spec["priorityClassName"] = class.name.into();
    }
    spec["priority"] = class.value.into();
    spec["preemptionPolicy"] = class.preemption.into();
    Ok(())
}

/// Clients that leave the computed fields out mean to keep them.
fn keep_priority(request: &mut AdmissionRequest<'_>) {
    let Some(old) = request.old else { return };
    for key in ["priority", "preemptionPolicy"] {
        if request.object["spec"].is_object()
            && request.object["spec"][key].is_null()
            && !old["spec"][key].is_null()
        {
            request.object["spec"][key] = old["spec"][key].clone();
        }
    }
}

/// Of several classes marked default, the one with the lowest value.
async fn default_class(reader: &dyn Reader) -> Result<Class, Status> {
    let classes = read_all(reader, SCHEDULING, "priorityclasses", "").await?;
    let marked = classes.iter().filter(|class| class["globalDefault"] == true).map(|class| Class::of(class));
    let none = || Class { name: String::new(), value: 0, preemption: PREEMPT.to_owned() };
    Ok(marked.min_by_key(|class| class.value).unwrap_or_else(none))
}

pub async fn one_default_priority(reader: &dyn Reader, request: &AdmissionRequest<'_>) -> Result<(), Status> {
    let writes = matches!(request.operation, Operation::Create | Operation::Update);
    if !writes || !on(request, SCHEDULING, "priorityclasses") || request.object["globalDefault"] != true {
        return Ok(());
    }
    let own = object::name(&request.object);
    let classes = read_all(reader, SCHEDULING, "priorityclasses", "").await?;
    let other = classes.iter().find(|class| class["globalDefault"] == true && object::name(class) != own);
    match other {
        Some(other) => {
            let name = object::name(other);
            let why =
                format!("PriorityClass {name} is already marked as default. Only one default can exist");
            Err(forbidden(request, &why))
        }
        None => Ok(()),
    }
}

/// RuntimeClass: its overhead and node constraints become the pod's.
pub async fn runtime_class(reader: &dyn Reader, request: &mut AdmissionRequest<'_>) -> Result<(), Status> {
    if !creates(request, "", "pods") {
        return Ok(());
    }
    let name = object::text(&request.object, "/spec/runtimeClassName").to_owned();
    let given = request.object["spec"]["overhead"].clone();
    if name.is_empty() {
        if given.as_object().is_some_and(|map| !map.is_empty()) {
            let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
            return Err(forbidden(request, why));
        }
        return Ok(());
    }
    let Some(class) = read(reader, "node.k8s.io", "runtimeclasses", "", &name).await? else {
        return Err(forbidden(request, &format!("pod rejected: RuntimeClass \"{name}\" not found")));
    };
    let overhead = &class["overhead"]["podFixed"];
    if !given.is_null() && given != *overhead {
        let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
        return Err(forbidden(request, why));
    }
    if overhead.is_object() {
        request.object["spec"]["overhead"] = overhead.clone();
    }
    for (key, value) in class["scheduling"]["nodeSelector"].as_object().into_iter().flatten() {
        let own = request.object["spec"]["nodeSelector"][key.as_str()].clone();
        if !own.is_null() && own != *value {
            let why = format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                value.as_str().unwrap_or(""),
                own.as_str().unwrap_or("")
            );
            return Err(forbidden(request, &why));
        }
        object::child_mut(&mut request.object["spec"], "nodeSelector").insert(key.clone(), value.clone());
    }
    for toleration in items(&class["scheduling"]["tolerations"]) {
        let mut own = items(&request.object["spec"]["tolerations"]).to_vec();
        if !own.contains(toleration) {
            own.push(toleration.clone());
            request.object["spec"]["tolerations"] = own.into();
        }
    }
    Ok(())
}

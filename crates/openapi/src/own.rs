//! The kinds that are Amphipod's own: described here, as nobody else does.

use std::collections::BTreeMap;

use amphipod_api::resource::Resource;
use amphipod_api::scheduling_review::{GROUP, KIND, VERSION};
use serde_json::{Map, Value, json};

use crate::definitions::Dialect;

const PREFIX: &str = "dev.amphipod.scheduling.v1alpha1.";
pub(crate) const PATH: &str = "apis/scheduling.amphipod.dev/v1alpha1";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// `string`, `integer`, `boolean`, a type of the table below, or a whole definition's name; behind
/// `[]` a list of it, behind `{}` a map to it.
type FieldRow = (&'static str, &'static str, &'static str);
struct TypeRow {
    name: &'static str,
    description: &'static str,
    required: &'static [&'static str],
    fields: &'static [FieldRow],
}

const fn of(
    name: &'static str,
    description: &'static str,
    required: &'static [&'static str],
    fields: &'static [FieldRow],
) -> TypeRow {
    TypeRow { name, description, required, fields }
}

const TYPES: &[TypeRow] = &[
    of(
        KIND,
        "PodSchedulingReview asks where a pod would go, and why; nothing is stored or changed.",
        &["spec"],
        &[
            ("apiVersion", "string", "The version of the schema of this object."),
            ("kind", "string", "The kind of this object."),
            ("metadata", META, "Standard object metadata."),
            ("spec", "PodSchedulingReviewSpec", "The question."),
            ("status", "PodSchedulingReviewStatus", "The answer, filled in by the server."),
        ],
    ),
    of(
        "PodSchedulingReviewSpec",
        "The pod, and what to assume that is not so. Exactly one of podName and pod is given.",
        &[],
        &[
            ("podName", "string", "A pod of the review's namespace."),
            (
                "pod",
                "io.k8s.api.core.v1.Pod",
                "A pod that does not exist, checked and defaulted as if it was created.",
            ),
            ("changes", "Changes", "What to assume that is not so."),
        ],
    ),
    of(
        "Changes",
        "What to assume that is not so.",
        &[],
        &[
            ("requests", "{}string", "What the pod's containers ask for together, by resource."),
            ("addNodes", "[]AddedNodes", "Nodes that are there as well."),
            ("removeNodes", "[]string", "Nodes that are not there, nor the pods on them."),
            ("cordonNodes", "[]string", "Nodes that are unschedulable."),
            ("uncordonNodes", "[]string", "Nodes that are schedulable."),
            ("taintNodes", "[]TaintedNode", "Taints that nodes have as well."),
        ],
    ),
    of(
        "AddedNodes",
        "Empty nodes, like one that exists or as described.",
        &["count"],
        &[
            ("count", "integer", "How many."),
            (
                "like",
                "string",
                "The node they are like; the first by name where neither this nor node is given.",
            ),
            ("node", "io.k8s.api.core.v1.Node", "What they are like where no node is like them."),
        ],
    ),
    of(
        "TaintedNode",
        "A taint that a node has as well.",
        &["nodeName", "taint"],
        &[("nodeName", "string", "The node."), ("taint", "io.k8s.api.core.v1.Taint", "The taint.")],
    ),
    of(
        "PodSchedulingReviewStatus",
        "What the scheduler would do with the pod, and why.",
        &[],
        &[
            ("outcome", "string", "Placed, PlacedOtherwise, Fits, FitsByPreemption, Unschedulable or Gated."),
            ("summary", "string", "The answer in one sentence."),
            ("pod", "Subject", "The pod as the scheduler counts it."),
            ("assumed", "[]string", "What was assumed that is not so, a sentence each."),
            ("waitsFor", "[]Wait", "What has to happen before a node is looked for, or beside it."),
            ("queue", "Queue", "Where the pod is in the scheduler's queue, if it waits for this scheduler."),
            (
                "message",
                "string",
                "What the scheduler would write into event and condition if no node would do.",
            ),
            ("nodes", "integer", "How many nodes there are."),
            ("feasibleNodes", "integer", "How many would take the pod."),
            (
                "groups",
                "[]NodeGroup",
                "Nodes of which all plugins say the same, those that fail least first.",
            ),
            ("nodesNotShown", "integer", "Nodes in groups beyond the ones shown."),
            ("nearestMiss", "NearMiss", "The node that misses by least, where none would do."),
            ("preemption", "Eviction", "How the scheduler would make room."),
            ("ranking", "[]ScoredNode", "The best nodes with their scores, the best first."),
        ],
    ),
    of(
        "Subject",
        "The pod as the scheduler counts it.",
        &[],
        &[
            ("namespace", "string", "Its namespace."),
            ("name", "string", "Its name."),
            ("schedulerName", "string", "The scheduler it names."),
            ("priority", "integer", "Its priority."),
            ("requests", "{}string", "What is counted for it: containers, sidecars and overhead."),
            ("nodeName", "string", "Where it is."),
            ("nominatedNodeName", "string", "Where room is being made for it."),
        ],
    ),
    of(
        "Wait",
        "What a pod waits for.",
        &[],
        &[
            (
                "type",
                "string",
                "SchedulingGate, NominatedNode, PersistentVolumeClaim, Scheduler or Retry; there may be more.",
            ),
            ("name", "string", "Which one."),
            ("message", "string", "What has to happen."),
        ],
    ),
    of(
        "Queue",
        "What the scheduler's queue says of a pod.",
        &[],
        &[
            (
                "state",
                "string",
                "Unknown, Unseen, Ready, BackOff, Parked, Gated, InProgress or Binding; there may be more.",
            ),
            ("message", "string", "The same in words, with what brings the pod on."),
            (
                "position",
                "integer",
                "Of a ready pod: 1 for the one that is taken next; left out where it is too far behind to be counted.",
            ),
            ("until", "string", "When it is tried again at the latest."),
            ("refusedBy", "[]Hope", "The plugins that refused it nodes when it was tried last."),
            ("attempts", "integer", "How often it was tried."),
            ("lastAttempt", "string", "When it was tried last."),
        ],
    ),
    of(
        "Hope",
        "What a plugin hopes for that refused a pod nodes.",
        &[],
        &[("plugin", "string", "The plugin."), ("events", "string", "What brings the pod back.")],
    ),
    of(
        "NodeGroup",
        "Nodes of which all plugins say the same.",
        &[],
        &[
            ("nodes", "integer", "How many."),
            ("names", "[]string", "Some of them."),
            ("fits", "boolean", "Whether they would take the pod."),
            (
                "plugins",
                "[]PluginVerdict",
                "What each plugin says that filters nodes, in the order they are asked.",
            ),
        ],
    ),
    of(
        "PluginVerdict",
        "What a plugin says of a node or a group of nodes.",
        &[],
        &[
            ("name", "string", "The plugin."),
            ("passes", "boolean", "Whether it lets the pod in."),
            ("reasons", "[]string", "Why not, as events tell it."),
            ("details", "[]string", "What stands behind the reasons."),
            ("shortages", "[]Shortage", "What there is too little of."),
        ],
    ),
    of(
        "Shortage",
        "A resource of which there is too little; over several nodes the range between them.",
        &[],
        &[
            ("resource", "string", "Its name."),
            ("requested", "string", "What the pod asks for."),
            ("leastFree", "string", "What is free where the least is."),
            ("mostFree", "string", "What is free where the most is."),
            ("mostAllocatable", "string", "The most any of the nodes has in all."),
            ("missing", "string", "What is missing where the least is missing."),
        ],
    ),
    of(
        "NearMiss",
        "The node that misses by least.",
        &[],
        &[
            ("nodeName", "string", "The node."),
            ("summary", "string", "What would have to be otherwise."),
            ("plugins", "[]PluginVerdict", "What each plugin says of it."),
            ("without", "Eviction", "Which pods would have to leave it."),
        ],
    ),
    of(
        "Eviction",
        "Pods whose leaving would make room.",
        &[],
        &[
            ("nodeName", "string", "The node."),
            ("summary", "string", "The same in one sentence."),
            ("pods", "[]Victim", "The pods, the most important first."),
            ("podsNotShown", "integer", "How many more there are."),
            ("budgetViolations", "integer", "How many of them a disruption budget protects."),
            ("byPreemption", "boolean", "Whether the scheduler may make them leave."),
        ],
    ),
    of(
        "Victim",
        "A pod whose leaving would help.",
        &[],
        &[
            ("namespace", "string", "Its namespace."),
            ("name", "string", "Its name."),
            ("priority", "integer", "Its priority."),
            ("requests", "{}string", "What is counted for it."),
        ],
    ),
    of(
        "ScoredNode",
        "A node that would take the pod.",
        &[],
        &[
            ("rank", "integer", "Its place; equals have the same."),
            ("nodeName", "string", "The node."),
            ("score", "integer", "The sum over plugins of score times weight."),
            ("current", "boolean", "Whether the pod is there."),
            ("plugins", "[]PluginScore", "What each plugin gives it."),
        ],
    ),
    of(
        "PluginScore",
        "What a plugin gives a node.",
        &[],
        &[
            ("name", "string", "The plugin."),
            ("score", "integer", "From 0 to 100."),
            ("weight", "integer", "What the score counts for."),
        ],
    ),
];

/// The name of the definition of a resource of our own.
pub(crate) fn definition_name(resource: &Resource) -> Option<&'static str> {
    (resource.group == GROUP && resource.kind == KIND)
        .then_some("dev.amphipod.scheduling.v1alpha1.PodSchedulingReview")
}

/// The definitions of a group version, if it is ours.
pub(crate) fn definitions(path: &str, dialect: Dialect) -> BTreeMap<String, Value> {
    let types = TYPES.iter().filter(|_| path == PATH);
    types.map(|row| (format!("{PREFIX}{}", row.name), definition(row, dialect))).collect()
}

fn definition(row: &TypeRow, dialect: Dialect) -> Value {
    let properties: Map<String, Value> = row
        .fields
        .iter()
        .map(|(name, kind, description)| ((*name).to_owned(), property(kind, description, dialect)))
        .collect();
    let mut definition = json!({"description": row.description, "type": "object", "properties": properties});
    if !row.required.is_empty() {
        definition["required"] = json!(row.required);
    }
    if row.name == KIND {
        let kind = json!({"group": GROUP, "version": VERSION, "kind": KIND});
        definition["x-kubernetes-group-version-kind"] = json!([kind]);
    }
    definition
}

fn property(kind: &str, description: &str, dialect: Dialect) -> Value {
    let mut property = if let Some(item) = kind.strip_prefix("[]") {
        json!({"type": "array", "items": plain(item, dialect), "x-kubernetes-list-type": "atomic"})
    } else if let Some(item) = kind.strip_prefix("{}") {
        json!({"type": "object", "additionalProperties": plain(item, dialect)})
    } else {
        let plain = plain(kind, dialect);
        match (plain.get("$ref").is_some(), dialect) {
            (true, Dialect::V3) => json!({"allOf": [plain]}),
            _ => plain,
        }
    };
    property["description"] = description.into();
    property
}

fn plain(kind: &str, dialect: Dialect) -> Value {
    match kind {
        "string" | "boolean" => json!({"type": kind}),
        "integer" => json!({"type": kind, "format": "int64"}),
        whole if whole.contains('.') => dialect.refer(whole),
        own => dialect.refer(&format!("{PREFIX}{own}")),
    }
}

#[cfg(test)]
mod tests {
    use amphipod_api::scheduling_review::{
        AddedNodes, Changes, Eviction, Group, Hope, NearMiss, PluginScore, PluginVerdict, Queue, Scored,
        Shortage, Spec, Status, Taint, TaintedNode, Victim, Wait,
    };

    use super::*;

    /// One of everything, so that nothing is left out for being empty.
    fn status() -> Status {
        let shortages = vec![Shortage::default()];
        let (reasons, details) = (vec![String::new()], vec![String::new()]);
        let plugins = vec![PluginVerdict { reasons, details, shortages, ..PluginVerdict::default() }];
        let eviction = Eviction {
            pods: vec![Victim::default()],
            pods_not_shown: 1,
            budget_violations: 1,
            ..Eviction::default()
        };
        let without = Some(eviction.clone());
        let queue = Queue {
            position: Some(1),
            until: Some(String::new()),
            refused_by: vec![Hope::default()],
            attempts: 1,
            last_attempt: Some(String::new()),
            ..Queue::default()
        };
        let mut status = Status {
            assumed: vec![String::new()],
            waits_for: vec![Wait::default()],
            queue: Some(queue),
            message: Some(String::new()),
            groups: vec![Group { plugins: plugins.clone(), ..Group::default() }],
            nodes_not_shown: 1,
            nearest_miss: Some(NearMiss { plugins, without, ..NearMiss::default() }),
            preemption: Some(eviction),
            ranking: vec![Scored { plugins: vec![PluginScore::default()], ..Scored::default() }],
            ..Status::default()
        };
        (status.pod.node_name, status.pod.nominated_node_name) = (Some(String::new()), Some(String::new()));
        status
    }
    fn spec() -> Spec {
        let taint = Taint { value: "v".into(), ..Taint::default() };
        let changes = Changes {
            requests: [(String::new(), String::new())].into(),
            add_nodes: vec![AddedNodes { like: "a".into(), node: Some(json!({})), ..AddedNodes::default() }],
            remove_nodes: vec![String::new()],
            cordon_nodes: vec![String::new()],
            uncordon_nodes: vec![String::new()],
            taint_nodes: vec![TaintedNode { taint, ..TaintedNode::default() }],
        };
        Spec { pod_name: "p".into(), pod: Some(json!({})), changes }
    }

    /// Field by field what the types write is what is declared, and the other way round.
    fn compare(name: &str, value: &Value) {
        let Some(row) = TYPES.iter().find(|row| row.name == name) else { return };
        let mut declared: Vec<&str> = row.fields.iter().map(|(field, ..)| *field).collect();
        declared.sort_unstable();
        let mut written: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        written.sort_unstable();
        assert_eq!(written, declared, "{name}");
        for (field, kind, _) in row.fields {
            match kind.strip_prefix("[]") {
                Some(item) => value[field].as_array().unwrap().iter().for_each(|value| compare(item, value)),
                None => compare(kind, &value[field]),
            }
        }
    }

    #[test]
    fn what_is_declared_is_what_is_written() {
        let kind = json!({"apiVersion": "", "kind": "", "metadata": {}, "spec": spec(), "status": status()});
        compare(KIND, &kind);
        let resource = amphipod_api::resource::find(GROUP, VERSION, amphipod_api::scheduling_review::PLURAL);
        let name = definition_name(resource.expect("our row")).expect("a definition");
        assert!(definitions(PATH, Dialect::V3).contains_key(name));
    }
}

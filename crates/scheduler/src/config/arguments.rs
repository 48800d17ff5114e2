//! The arguments of plugins: one kind of object for each plugin that has any. Those of plugins that
//! are not known are not looked at.

use amphipod_api::codec;
use amphipod_api::schema::{self, Node};
use k8s_openapi::api::core::v1::{NodeAffinity, TopologySpreadConstraint};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::API_VERSION;
use super::fields::{Fields, Problems};
use crate::framework::{InterPodArgs, ShapePoint};

const GROUP: &str = "kubescheduler.config.k8s.io";
/// Of a filter of dynamic resources; accepted, and not needed: it is a search with a bound of its own.
const FILTER_TIMEOUT_NANOSECONDS: i64 = 10_000_000_000;

#[derive(Clone, Debug)]
pub struct PluginConfig {
    pub name: String,
    /// `None` for plugins that have none, or that nobody knows.
    pub arguments: Option<Arguments>,
}

#[derive(Clone, Debug)]
pub enum Arguments {
    DefaultPreemption(Preemption),
    DynamicResources(DynamicResources),
    InterPodAffinity(InterPodArgs),
    NodeAffinity(Option<NodeAffinity>),
    BalancedAllocation(Vec<ResourceSpec>),
    Fit(Fit),
    PodTopologySpread(Spread),
    VolumeBinding(VolumeBinding),
}

/// All nodes are tried here; these only have to be allowed.
#[derive(Clone, Debug)]
pub struct Preemption {
    pub min_candidate_nodes_percentage: i32,
    pub min_candidate_nodes_absolute: i32,
}

#[derive(Clone, Debug)]
pub struct DynamicResources {
    /// In nanoseconds.
    pub filter_timeout: i64,
    pub binding_timeout: Option<i64>,
}

#[derive(Clone, Debug)]
pub struct Fit {
    pub ignored_resources: Vec<String>,
    pub ignored_resource_groups: Vec<String>,
    pub strategy: Strategy,
}

#[derive(Clone, Debug)]
pub struct Strategy {
    pub kind: String,
    pub resources: Vec<ResourceSpec>,
    /// Of `requestedToCapacityRatio`, if there is one.
    pub shape: Option<Vec<ShapePoint>>,
}

#[derive(Clone, Debug)]
pub struct ResourceSpec {
    pub name: String,
    pub weight: i64,
}

#[derive(Clone, Debug)]
pub struct Spread {
    pub default_constraints: Vec<TopologySpreadConstraint>,
    pub defaulting_type: String,
}

#[derive(Clone, Debug)]
pub struct VolumeBinding {
    pub bind_timeout_seconds: i64,
    pub shape: Option<Vec<ShapePoint>>,
}

type Read = fn(&mut Fields) -> Arguments;

/// By the plugin's name; the kind of the object is the name and `Args`.
const KINDS: [(&str, Read); 8] = [
    ("DefaultPreemption", preemption),
    ("DynamicResources", dynamic_resources),
    ("InterPodAffinity", inter_pod_affinity),
    ("NodeAffinity", node_affinity),
    ("NodeResourcesBalancedAllocation", balanced_allocation),
    ("NodeResourcesFit", fit),
    ("PodTopologySpread", spread),
    ("VolumeBinding", volume_binding),
];

/// The plugins that have arguments.
pub fn names() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|(name, _)| *name)
}

/// Reads the arguments of a plugin; `path` is that of the entry that holds them.
pub fn read(plugin: &str, value: Value, path: &str) -> (Option<Arguments>, Problems) {
    let Some((_, read)) = KINDS.iter().find(|(name, _)| *name == plugin) else {
        return (None, Problems::default());
    };
    let kind = format!("{plugin}Args");
    if let Err(why) = check_kind(&value, plugin, &kind) {
        return (None, Problems::mismatch(format!("decoding .{path}: {why}")));
    }
    let (arguments, problems) = Fields::read(&kind, value, |fields| {
        for known in ["apiVersion", "kind"] {
            fields.text(known);
        }
        read(fields)
    });
    if problems.is_empty() {
        return (Some(arguments), problems);
    }
    let text = problems.text();
    let told = match problems.mismatch {
        Some(_) => Problems::mismatch(format!("decoding .{path}: decoding args for plugin {plugin}: {text}")),
        None => Problems {
            mismatch: None,
            strict: vec![format!(
                "decoding .{path}: strict decoding error: decoding args for plugin {plugin}: {text}"
            )],
        },
    };
    (None, told)
}

fn check_kind(value: &Value, plugin: &str, kind: &str) -> Result<(), String> {
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    let (version, found) = (text("apiVersion").unwrap_or(API_VERSION), text("kind").unwrap_or(kind));
    let known = KINDS.iter().any(|(name, _)| found.strip_suffix("Args") == Some(name));
    if version != API_VERSION || !known {
        return Err(format!(
            "decoding args for plugin {plugin}: no kind {found:?} is registered for version {version:?}"
        ));
    }
    if found != kind {
        return Err(format!("args for plugin {plugin} were not of type {kind}.{GROUP}, got {found}.{GROUP}"));
    }
    Ok(())
}

fn preemption(fields: &mut Fields) -> Arguments {
    Arguments::DefaultPreemption(Preemption {
        min_candidate_nodes_percentage: fields.int32("minCandidateNodesPercentage").unwrap_or(10),
        min_candidate_nodes_absolute: fields.int32("minCandidateNodesAbsolute").unwrap_or(100),
    })
}

fn dynamic_resources(fields: &mut Fields) -> Arguments {
    Arguments::DynamicResources(DynamicResources {
        filter_timeout: fields.duration("filterTimeout").unwrap_or(FILTER_TIMEOUT_NANOSECONDS),
        binding_timeout: fields.duration("bindingTimeout"),
    })
}

fn inter_pod_affinity(fields: &mut Fields) -> Arguments {
    let ignores = fields.boolean("ignorePreferredTermsOfExistingPods");
    Arguments::InterPodAffinity(InterPodArgs {
        hard_weight: fields.int32("hardPodAffinityWeight").map_or(1, i64::from),
        ignore_preferred_terms_of_existing_pods: ignores.unwrap_or_default(),
    })
}

fn node_affinity(fields: &mut Fields) -> Arguments {
    let value = fields.value("addedAffinity");
    let added = value.and_then(|value| core(fields, "addedAffinity", value, "NodeAffinity"));
    Arguments::NodeAffinity(added)
}

/// A type of the core API, by the facts about it.
fn core<T: DeserializeOwned>(fields: &mut Fields, name: &str, mut value: Value, kind: &str) -> Option<T> {
    let message = schema::by_name(&format!("io.k8s.api.core.v1.{kind}"));
    let path = fields.path().child(name);
    let fitted = codec::fit(&mut value, message.map_or(Node::Deduced, Node::Message));
    let unknown = match fitted {
        Ok(unknown) => unknown,
        Err(why) => {
            fields.fail(format!("{path}: {why}"));
            return None;
        }
    };
    let prefixed = |text: String| text.replacen("field \"", &format!("field \"{path}."), 1);
    let strict = unknown.into_iter().map(prefixed).collect();
    fields.found(Problems { mismatch: None, strict });
    serde_json::from_value(value).map_err(|error| fields.fail(format!("{path}: {error}"))).ok()
}

fn resource_specs(fields: &mut Fields) -> Vec<ResourceSpec> {
    let mut specs = fields.objects("resources", |fields| ResourceSpec {
        name: fields.text("name"),
        weight: fields.int64("weight").filter(|weight| *weight != 0).unwrap_or(1),
    });
    if specs.is_empty() {
        specs.extend(["cpu", "memory"].map(|name| ResourceSpec { name: name.to_owned(), weight: 1 }));
    }
    specs
}

fn balanced_allocation(fields: &mut Fields) -> Arguments {
    Arguments::BalancedAllocation(resource_specs(fields))
}

/// `None` where there is none; an empty one is another mistake.
fn shape(fields: &mut Fields) -> Option<Vec<ShapePoint>> {
    let points = fields.objects("shape", |fields| ShapePoint {
        utilization: fields.int32("utilization").map_or(0, i64::from),
        score: fields.int32("score").map_or(0, i64::from),
    });
    Some(points).filter(|points| !points.is_empty())
}

fn fit(fields: &mut Fields) -> Arguments {
    let strategy = fields.object("scoringStrategy", |fields| Strategy {
        kind: fields.text("type"),
        resources: resource_specs(fields),
        shape: fields.object("requestedToCapacityRatio", |fields| shape(fields).unwrap_or_default()),
    });
    let least_allocated = || Strategy {
        kind: "LeastAllocated".to_owned(),
        resources: Fields::read("", Value::Null, resource_specs).0,
        shape: None,
    };
    Arguments::Fit(Fit {
        ignored_resources: fields.strings("ignoredResources"),
        ignored_resource_groups: fields.strings("ignoredResourceGroups"),
        strategy: strategy.unwrap_or_else(least_allocated),
    })
}

fn spread(fields: &mut Fields) -> Arguments {
    let items = fields.values("defaultConstraints").into_iter().enumerate();
    let constraints = items.filter_map(|(index, item)| {
        core(fields, &format!("defaultConstraints[{index}]"), item, "TopologySpreadConstraint")
    });
    let default_constraints = constraints.collect();
    let defaulting_type = fields.string("defaultingType").filter(|kind| !kind.is_empty());
    Arguments::PodTopologySpread(Spread {
        default_constraints,
        defaulting_type: defaulting_type.unwrap_or_else(|| "System".to_owned()),
    })
}

fn volume_binding(fields: &mut Fields) -> Arguments {
    Arguments::VolumeBinding(VolumeBinding {
        bind_timeout_seconds: fields.int64("bindTimeoutSeconds").unwrap_or(600),
        shape: shape(fields),
    })
}

//! Limits of a namespace: LimitRange and ResourceQuota.

use std::collections::HashSet;

use amphipod_api::field::{Error, Path};
use amphipod_api::quantity::Quantity;
use serde_json::Value;

use crate::check::{self, Faults};
use crate::json::{default, each, fields, is_empty, items, set, text, with, within};
use crate::kind::{Kind, PLAIN};
use crate::pod::defaults::canonical_list;
use crate::pod::resources::{
    amount, container_resource_name, is_standard_quota, may_overcommit, quantity, quota_resource_name,
    resource_name,
};

const NANOS_PER_UNIT: i128 = 1_000_000_000;
const LIMIT_TYPES: [&str; 3] = ["Container", "PersistentVolumeClaim", "Pod"];
const SCOPES: [&str; 7] = [
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];
/// Scopes that pods are in or not, without a value.
const PLAIN_SCOPES: [&str; 5] =
    ["BestEffort", "NotBestEffort", "Terminating", "NotTerminating", "CrossNamespacePodAffinity"];
const OPPOSITES: [(&str, &str); 2] = [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")];
const POD_RESOURCES: [&str; 7] =
    ["pods", "cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];

pub static LIMIT_RANGE: Kind =
    Kind { create_on_update: true, default: limit_range_defaults, validate: limit_range, ..PLAIN };
pub static RESOURCE_QUOTA: Kind = Kind {
    status: true,
    default: |object| {
        within(object, "spec", |spec| with(spec, "hard", canonical_list));
        within(object, "status", |status| {
            with(status, "hard", canonical_list);
            with(status, "used", canonical_list);
        });
    },
    validate: resource_quota,
    revalidate: Some(|new, old| {
        let mut faults = resource_quota(new);
        let sorted = |object: &Value| {
            let mut scopes: Vec<String> =
                items(&object["spec"]["scopes"]).iter().map(|scope| text(scope).to_owned()).collect();
            scopes.sort_unstable();
            scopes.dedup();
            scopes
        };
        if sorted(new) != sorted(old) {
            let at = Path::new("spec").child("scopes");
            faults.push(Error::invalid(&at, new["spec"]["scopes"].clone(), check::IMMUTABLE));
        }
        faults
    }),
    validate_status: |new, _| {
        let mut faults = Faults::new();
        for key in ["hard", "used"] {
            amounts(&mut faults, &Path::new("status").child(key), &new["status"][key]);
        }
        faults
    },
    ..PLAIN
};

fn limit_range_defaults(object: &mut Value) {
    within(object, "spec", |spec| {
        each(spec, "limits", |limit| {
            for key in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
                with(limit, key, canonical_list);
            }
            if limit["type"] != "Container" {
                return;
            }
            for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
                let source = limit[from].clone();
                for (name, value) in fields(&source) {
                    within(limit, to, |list| default(list, name, value.clone()));
                }
            }
        });
    });
}

fn limit_range(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let mut seen = HashSet::new();
    for (i, limit) in items(&object["spec"]["limits"]).iter().enumerate() {
        let at = Path::new("spec").child("limits").index(i);
        let kind = text(&limit["type"]);
        limit_type(&mut faults, &at.child("type"), kind);
        if !seen.insert(kind) {
            faults.push(Error::duplicate(&at.child("type"), kind));
        }
        for key in ["max", "min", "default", "defaultRequest"] {
            if kind == "Pod" && key.starts_with("default") {
                if !is_empty(&limit[key]) {
                    let detail = "may not be specified when `type` is 'Pod'";
                    faults.push(Error::forbidden(&at.child(key), detail));
                }
            } else {
                limit_names(&mut faults, &at.child(key), kind, &limit[key]);
            }
        }
        let storage = ["min", "max"].iter().any(|key| set(&limit[*key]["storage"]));
        if kind == "PersistentVolumeClaim" && !storage {
            let detail = "either minimum or maximum storage value is required, but neither was provided";
            faults.push(Error::required(&at.child("limits"), detail));
        }
        let ratios = &limit["maxLimitRequestRatio"];
        limit_names(&mut faults, &at.child("maxLimitRequestRatio"), kind, ratios);
        bounds(&mut faults, &at, limit);
    }
    faults
}

fn limit_type(faults: &mut Faults, path: &Path, kind: &str) {
    let texts = check::qualified_name(kind);
    if !texts.is_empty() {
        check::invalid_each(faults, path, kind, texts);
    } else if !kind.contains('/') && !LIMIT_TYPES.contains(&kind) {
        let detail = "must be a standard limit type or fully qualified";
        faults.push(Error::invalid(path, kind, detail));
    }
}

fn limit_names(faults: &mut Faults, path: &Path, kind: &str, list: &Value) {
    for (name, value) in fields(list) {
        let at = path.key(name);
        if ["Container", "Pod"].contains(&kind) {
            container_resource_name(faults, &at, name);
        } else {
            resource_name(faults, &at, name);
        }
        if quantity(value).is_none() {
            amount(faults, &at, name, value);
        }
    }
}

/// The bounds of each resource against each other.
fn bounds(faults: &mut Faults, path: &Path, limit: &Value) {
    let lists = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];
    let mut names: Vec<&str> =
        lists.iter().flat_map(|list| fields(&limit[*list])).map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let of = |list: &str| {
            // A pod has no defaults, whatever is written there.
            let ignored = limit["type"] == "Pod" && list.starts_with("default");
            if ignored { None } else { quantity(&limit[list][name]) }
        };
        ordered(faults, path, name, &of);
        ratio(faults, &path.child("maxLimitRequestRatio").key(name), &of);
        let (limit, request) = (of("default"), of("defaultRequest"));
        if let (Some(limit), Some(request)) = (limit, request)
            && !may_overcommit(name)
            && limit != request
        {
            let detail =
                format!("default value {limit} must equal to defaultRequest value {request} in {name}");
            let at = path.child("defaultRequest").key(name);
            faults.push(Error::invalid(&at, request.to_string(), detail));
        }
    }
}

/// Lower list, higher list, the one whose value the refusal shows and the one it stands at.
const ORDERED: [(&str, &str, &str, &str); 6] = [
    ("min", "max", "min", "min"),
    ("min", "defaultRequest", "defaultRequest", "defaultRequest"),
    ("defaultRequest", "max", "defaultRequest", "defaultRequest"),
    ("defaultRequest", "default", "defaultRequest", "defaultRequest"),
    ("min", "default", "min", "default"),
    ("default", "max", "max", "default"),
];

fn ordered(faults: &mut Faults, path: &Path, name: &str, of: &impl Fn(&str) -> Option<Quantity>) {
    for (low, high, shown, place) in ORDERED {
        let (Some(a), Some(b)) = (of(low), of(high)) else { continue };
        if a <= b {
            continue;
        }
        let noun = |list: &str| match list {
            "defaultRequest" => "default request value",
            "default" if low == "defaultRequest" => "default limit value",
            "default" => "default value",
            "min" => "min value",
            _ => "max value",
        };
        let detail = format!("{} {a} is greater than {} {b}", noun(low), noun(high));
        let value = if shown == low { a } else { b };
        faults.push(Error::invalid(&path.child(place).key(name), value.to_string(), detail));
    }
}

fn ratio(faults: &mut Faults, path: &Path, of: &impl Fn(&str) -> Option<Quantity>) {
    let Some(ratio) = of("maxLimitRequestRatio") else { return };
    if ratio.nanos() < NANOS_PER_UNIT {
        let detail = format!("ratio {ratio} is less than 1");
        faults.push(Error::invalid(path, ratio.to_string(), detail));
    }
    if let (Some(min), Some(max)) = (of("min"), of("max")) {
        let most = max.as_f64() / min.as_f64();
        if ratio.as_f64() > most {
            let detail = format!("ratio {ratio} is greater than max/min = {most:.6}");
            faults.push(Error::invalid(path, ratio.to_string(), detail));
        }
    }
}

fn amounts(faults: &mut Faults, path: &Path, list: &Value) {
    for (name, value) in fields(list) {
        let at = path.key(name);
        quota_resource_name(faults, &at, name);
        amount(faults, &at, name, value);
    }
}

fn resource_quota(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    amounts(&mut faults, &path.child("hard"), &spec["hard"]);
    let scopes: Vec<&str> = items(&spec["scopes"]).iter().map(text).collect();
    let counted = counted(spec);
    let at = path.child("scopes");
    for scope in &scopes {
        if faults.is_full() {
            break;
        }
        if !SCOPES.contains(scope) {
            faults.push(Error::invalid(&at, spec["scopes"].clone(), "unsupported scope"));
        }
        not_for_scope(&mut faults, &at, scope, &counted, &spec["scopes"]);
    }
    conflicts(&mut faults, &at, &scopes, spec);
    scope_selector(&mut faults, &path.child("scopeSelector").child("matchExpressions"), spec);
    faults
}

fn conflicts(faults: &mut Faults, path: &Path, scopes: &[&str], spec: &Value) {
    for (a, b) in OPPOSITES {
        if scopes.contains(&a) && scopes.contains(&b) {
            faults.push(Error::invalid(path, spec["scopes"].clone(), "conflicting scopes"));
        }
    }
}

/// The resources of the quota that scopes speak of: few, whatever else it limits.
fn counted(spec: &Value) -> Vec<&str> {
    fields(&spec["hard"]).map(|(name, _)| name).filter(|name| is_standard_quota(name)).collect()
}

/// A scope counts only what it can be asked of.
fn not_for_scope(faults: &mut Faults, path: &Path, scope: &str, counted: &[&str], shown: &Value) {
    let counts = |name: &str| match scope {
        "BestEffort" => name == "pods",
        "VolumeAttributesClass" => ["persistentvolumeclaims", "requests.storage"].contains(&name),
        _ if SCOPES.contains(&scope) => POD_RESOURCES.contains(&name),
        _ => true,
    };
    for _ in counted.iter().filter(|name| !counts(name)) {
        // Each shows all scopes: they are not copied for nobody to see.
        if faults.is_full() {
            break;
        }
        faults.push(Error::invalid(path, shown.clone(), "unsupported scope applied to resource"));
    }
}

fn scope_selector(faults: &mut Faults, path: &Path, spec: &Value) {
    let requirements = items(&spec["scopeSelector"]["matchExpressions"]);
    let counted = counted(spec);
    for requirement in requirements {
        if faults.is_full() {
            break;
        }
        let scope = text(&requirement["scopeName"]);
        if !SCOPES.contains(&scope) {
            faults.push(Error::invalid(&path.child("scopeName"), scope, "unsupported scope"));
        }
        not_for_scope(faults, path, scope, &counted, &spec["scopeSelector"]);
        let (operator, values) = (text(&requirement["operator"]), items(&requirement["values"]));
        let at = path.child("operator");
        if PLAIN_SCOPES.contains(&scope) && operator != "Exists" {
            let detail = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
            faults.push(Error::invalid(&at, operator, detail));
        }
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                let detail =
                    "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                faults.push(Error::required(&path.child("values"), detail));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail =
                    "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                faults.push(Error::invalid(&path.child("values"), values.to_vec(), detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => faults.push(Error::invalid(&at, operator, "not a valid selector operator")),
        }
    }
    let scopes: Vec<&str> = requirements.iter().map(|r| text(&r["scopeName"])).collect();
    conflicts(faults, path, &scopes, spec);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Resource, creates, stored, updates};

    const LIMIT_RANGES: Resource = ("", "v1", "limitranges");
    const QUOTAS: Resource = ("", "v1", "resourcequotas");

    #[test]
    fn limit_ranges_fill_downwards() {
        let mut object = json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}}]}});
        limit_range_defaults(&mut object);
        assert_eq!(object["spec"]["limits"][0]["defaultRequest"]["cpu"], "1");
    }

    #[test]
    fn limits() {
        let base = json!({"metadata": {"name": "l", "namespace": "n"}});
        let limits = |limits: Value| json!({"spec": {"limits": limits}});
        let at = "spec.limits[0]";
        creates(
            LIMIT_RANGES,
            &base,
            &[
                (
                    limits(
                        json!([{"type": "Container", "min": {"cpu": "1"}, "max": {"cpu": "2"}, "default": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "2"}}]),
                    ),
                    &[],
                ),
                (
                    limits(json!([{"type": "Odd", "max": {"gpu": "1"}}, {"type": "Odd"}])),
                    &[
                        &format!(
                            "{at}.type: Invalid value: \"Odd\": must be a standard limit type or fully qualified"
                        ),
                        &format!(
                            "{at}.max[gpu]: Invalid value: \"gpu\": must be a standard resource type or fully qualified"
                        ),
                        "spec.limits[1].type: Invalid value: \"Odd\": must be a standard limit type or fully qualified",
                        "spec.limits[1].type: Duplicate value: \"Odd\"",
                    ],
                ),
                (
                    limits(json!([{"type": "Pod", "default": {"cpu": "1"}}])),
                    &[&format!("{at}.default: Forbidden: may not be specified when `type` is 'Pod'")],
                ),
                (
                    limits(json!([{"type": "PersistentVolumeClaim"}])),
                    &[&format!(
                        "{at}.limits: Required value: either minimum or maximum storage value is required, but neither was provided"
                    )],
                ),
                (
                    limits(
                        json!([{"type": "Container", "min": {"cpu": "4"}, "max": {"cpu": "2"}, "default": {"cpu": "3"}, "defaultRequest": {"cpu": "5"}, "maxLimitRequestRatio": {"cpu": "800m"}}]),
                    ),
                    &[
                        &format!(
                            "{at}.min[cpu]: Invalid value: \"4\": min value 4 is greater than max value 2"
                        ),
                        &format!(
                            "{at}.defaultRequest[cpu]: Invalid value: \"5\": default request value 5 is greater than max value 2"
                        ),
                        &format!(
                            "{at}.defaultRequest[cpu]: Invalid value: \"5\": default request value 5 is greater than default limit value 3"
                        ),
                        &format!(
                            "{at}.default[cpu]: Invalid value: \"4\": min value 4 is greater than default value 3"
                        ),
                        &format!(
                            "{at}.default[cpu]: Invalid value: \"2\": default value 3 is greater than max value 2"
                        ),
                        &format!(
                            "{at}.maxLimitRequestRatio[cpu]: Invalid value: \"800m\": ratio 800m is less than 1"
                        ),
                        &format!(
                            "{at}.maxLimitRequestRatio[cpu]: Invalid value: \"800m\": ratio 800m is greater than max/min = 0.500000"
                        ),
                    ],
                ),
            ],
        );
    }

    #[test]
    fn quotas() {
        let base = json!({"metadata": {"name": "q", "namespace": "n"}});
        creates(
            QUOTAS,
            &base,
            &[
                (
                    json!({"spec": {"hard": {"pods": "1", "count/jobs.batch": "2", "requests.nvidia.com/gpu": "1", "requests.hugepages-2Mi": "2Mi"}}}),
                    &[],
                ),
                (
                    json!({"spec": {"hard": {"storage": "1", "pods": "1500m"}, "scopes": ["Odd", "Terminating", "NotTerminating"]}}),
                    &[
                        "spec.hard[pods]: Invalid value: \"1500m\": must be an integer",
                        "spec.hard[storage]: Invalid value: \"storage\": must be a standard resource for quota",
                        "spec.scopes: Invalid value: [\"Odd\",\"Terminating\",\"NotTerminating\"]: unsupported scope",
                        "spec.scopes: Invalid value: [\"Odd\",\"Terminating\",\"NotTerminating\"]: conflicting scopes",
                    ],
                ),
                (
                    json!({"spec": {"hard": {"cpu": "1"}, "scopes": ["BestEffort"]}}),
                    &["spec.scopes: Invalid value: [\"BestEffort\"]: unsupported scope applied to resource"],
                ),
                (
                    json!({"spec": {"scopeSelector": {"matchExpressions": [{"scopeName": "Terminating", "operator": "In"},
                        {"scopeName": "PriorityClass", "operator": "Exists", "values": ["a"]}, {"scopeName": "PriorityClass", "operator": "Gt"}]}}}),
                    &[
                        "spec.scopeSelector.matchExpressions.operator: Invalid value: \"In\": must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity",
                        "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
                        "spec.scopeSelector.matchExpressions.values: Invalid value: [\"a\"]: must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
                        "spec.scopeSelector.matchExpressions.operator: Invalid value: \"Gt\": not a valid selector operator",
                    ],
                ),
            ],
        );
        let old = stored(QUOTAS, &base);
        updates(
            QUOTAS,
            "",
            &old,
            &[(
                json!({"spec": {"scopes": ["Terminating"]}}),
                &["spec.scopes: Invalid value: [\"Terminating\"]: field is immutable"],
            )],
        );
        updates(
            QUOTAS,
            "status",
            &old,
            &[(
                json!({"status": {"used": {"pods": "-1"}}}),
                &["status.used[pods]: Invalid value: \"-1\": must be greater than or equal to 0"],
            )],
        );
    }
}

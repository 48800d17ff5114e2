//! What a cluster must have from its first start: the system namespaces, the default roles and
//! bindings, the system priority classes. And how an existing role is brought up to date without
//! taking anything an administrator added.

use amphipod_api::object;
use serde_json::{Map, Value, json};

use super::rbac::{GROUP, effective_rules};
use super::roles::{CLUSTER_BINDINGS, CLUSTER_ROLES, CONTROLLER_ROLES, ROLE_BINDINGS, ROLES};
use super::rules::{Rule, not_covered};

const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const READ: &str = "get list watch";
const WRITE: &str = "create delete deletecollection patch update";
const ALL: &str = "create delete deletecollection get list patch update watch";
const EVENTS: &str = "create patch update | - events.k8s.io | events";
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
const PRIORITY_CLASSES: [(&str, i64, &str); 2] = [
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];

fn words(text: &str) -> Vec<String> {
    let mut list: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    list.sort();
    list
}

fn parse(line: &str) -> Rule {
    if line == "EVENTS" {
        return parse(EVENTS);
    }
    let parts: Vec<&str> = line.split('|').map(str::trim).collect();
    let verbs = match parts[0] {
        "READ" => words(READ),
        "WRITE" => words(WRITE),
        "ALL" => words(ALL),
        verbs => words(verbs),
    };
    let Some(resources) = parts.get(2) else {
        return Rule { verbs, urls: words(parts.get(1).unwrap_or(&"")), ..Rule::default() };
    };
    let groups = words(parts[1]).into_iter().map(|g| if g == "-" { String::new() } else { g }).collect();
    let names = parts.get(3).map(|names| words(names)).unwrap_or_default();
    Rule { verbs, groups, resources: words(resources), names, urls: Vec::new() }
}

fn rules_json(lines: &[&str]) -> Value {
    lines.iter().map(|line| parse(line).to_value()).collect()
}

/// What the kubelets' role allows, for the node authorizer.
pub fn node_rules() -> Vec<Rule> {
    let role = CLUSTER_ROLES.iter().find(|role| role.name == "system:node");
    role.map(|role| role.rules.iter().map(|line| parse(line)).collect()).unwrap_or_default()
}

fn metadata(name: &str, namespace: &str) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("name".into(), name.into());
    if !namespace.is_empty() {
        map.insert("namespace".into(), namespace.into());
    }
    map.insert("annotations".into(), json!({AUTO_UPDATE: "true"}));
    map.insert("labels".into(), json!({"kubernetes.io/bootstrapping": "rbac-defaults"}));
    map
}

fn document(kind: &str, name: &str, namespace: &str) -> Value {
    json!({"apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": metadata(name, namespace)})
}

fn cluster_roles() -> Vec<Value> {
    let label = |to: &str| format!("rbac.authorization.k8s.io/aggregate-to-{to}");
    let mut roles = Vec::new();
    for data in CLUSTER_ROLES {
        let mut role = document("ClusterRole", data.name, "");
        if !data.aggregates_to.is_empty() {
            role["metadata"]["labels"][label(data.aggregates_to)] = "true".into();
        }
        if !data.aggregates.is_empty() {
            let selector = json!({"matchLabels": {label(data.aggregates): "true"}});
            role["aggregationRule"] = json!({"clusterRoleSelectors": [selector]});
        }
        role["rules"] = rules_json(data.rules);
        roles.push(role);
    }
    for (name, rules) in CONTROLLER_ROLES {
        let mut role = document("ClusterRole", &format!("system:controller:{name}"), "");
        role["rules"] = rules_json(rules);
        roles.push(role);
    }
    let all = roles.clone();
    for role in roles.iter_mut().filter(|role| role["aggregationRule"].is_object()) {
        role["rules"] = effective_rules(role, &all).iter().map(Rule::to_value).collect();
    }
    roles
}

fn subject(text: &str) -> Value {
    match text.split_once(':') {
        Some(("g", name)) => json!({"kind": "Group", "apiGroup": GROUP, "name": name}),
        Some(("s", place)) => {
            let (namespace, name) = place.split_once('/').unwrap_or(("", place));
            json!({"kind": "ServiceAccount", "name": name, "namespace": namespace})
        }
        _ => json!({"kind": "User", "apiGroup": GROUP, "name": text.trim_start_matches("u:")}),
    }
}

fn binding(kind: &str, name: &str, namespace: &str, role_kind: &str, role: &str, subjects: &[&str]) -> Value {
    let mut binding = document(kind, name, namespace);
    binding["roleRef"] = json!({"apiGroup": GROUP, "kind": role_kind, "name": role});
    if !subjects.is_empty() {
        binding["subjects"] = subjects.iter().map(|s| subject(s)).collect();
    }
    binding
}

/// In the order they must be created.
pub fn objects() -> Vec<Value> {
    let mut all: Vec<Value> = NAMESPACES
        .iter()
        .map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
        .collect();
    all.extend(cluster_roles());
    all.extend(
        CLUSTER_BINDINGS
            .iter()
            .map(|(role, subjects)| binding("ClusterRoleBinding", role, "", "ClusterRole", role, subjects)),
    );
    all.extend(CONTROLLER_ROLES.iter().map(|(name, _)| {
        let role = format!("system:controller:{name}");
        let account = format!("s:kube-system/{name}");
        binding("ClusterRoleBinding", &role, "", "ClusterRole", &role, &[&account])
    }));
    for (namespace, name, rules) in ROLES {
        let mut role = document("Role", name, namespace);
        role["rules"] = rules_json(rules);
        all.push(role);
    }
    all.extend(ROLE_BINDINGS.iter().map(|(namespace, name, role, subjects)| {
        binding("RoleBinding", name, namespace, "Role", role, subjects)
    }));
    all.extend(PRIORITY_CLASSES.iter().map(|(name, value, description)| {
        json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": description})
    }));
    all
}

/// The existing object with what it lacks of the default, or `None` when nothing is missing (or
/// the administrator switched the reconciling off). Rights and subjects are only ever added.
pub fn reconciled(existing: &Value, default: &Value) -> Option<Value> {
    if object::text(default, "/kind") != object::text(existing, "/kind") && !object::kind(existing).is_empty()
    {
        return None;
    }
    let off = existing["metadata"]["annotations"][AUTO_UPDATE].as_str() == Some("false");
    if off || !object::api_version(default).starts_with(GROUP) {
        return None;
    }
    let mut merged = existing.clone();
    for part in ["labels", "annotations"] {
        for (key, value) in default["metadata"][part].as_object().into_iter().flatten() {
            let metadata = object::metadata_mut(&mut merged);
            let map = metadata.entry(part).or_insert_with(|| Value::Object(Map::new()));
            if map.get(key).is_none() {
                map[key.as_str()] = value.clone();
            }
        }
    }
    if default["aggregationRule"].is_object() && merged["aggregationRule"].is_null() {
        merged["aggregationRule"] = default["aggregationRule"].clone();
    }
    if default["rules"].is_array() {
        let own = Rule::list(&existing["rules"]);
        let missing = not_covered(&own, &Rule::list(&default["rules"]));
        if !missing.is_empty() {
            let rules: Vec<Value> = own.iter().chain(&missing).map(Rule::to_value).collect();
            merged["rules"] = rules.into();
        }
    }
    for subject in default["subjects"].as_array().into_iter().flatten() {
        let mut own = merged["subjects"].as_array().cloned().unwrap_or_default();
        if !own.contains(subject) {
            own.push(subject.clone());
            merged["subjects"] = own.into();
        }
    }
    (merged != *existing).then_some(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(name: &str) -> Value {
        cluster_roles().into_iter().find(|role| object::name(role) == name).expect("a default role")
    }

    #[test]
    fn aggregated_roles_are_filled() {
        let admin = Rule::list(&find("admin")["rules"]);
        let view = Rule::list(&find("view")["rules"]);
        assert!(not_covered(&admin, &view).is_empty(), "admin can all that view can");
        assert!(admin.iter().any(|rule| rule.resources.contains(&"rolebindings".to_owned())));
        assert!(!view.iter().any(|rule| rule.resources.contains(&"secrets".to_owned())));
    }

    #[test]
    fn anonymous_users_get_next_to_nothing() {
        let open: Vec<&str> = CLUSTER_BINDINGS
            .iter()
            .filter(|(_, subjects)| subjects.contains(&"g:system:unauthenticated"))
            .map(|(role, _)| *role)
            .collect();
        assert_eq!(open, ["system:public-info-viewer"]);
    }

    #[test]
    fn reconciling_adds_and_never_takes() {
        let default = find("system:basic-user");
        assert_eq!(reconciled(&default, &default), None);
        let mut existing = default.clone();
        existing["rules"] = json!([{"verbs": ["get"], "apiGroups": ["x"], "resources": ["y"]}]);
        let merged = reconciled(&existing, &default).expect("rules are missing");
        assert_eq!(merged["rules"].as_array().map(Vec::len), Some(4));
        existing["metadata"]["annotations"][AUTO_UPDATE] = "false".into();
        assert_eq!(reconciled(&existing, &default), None);
    }

    #[test]
    fn every_object_is_well_formed() {
        for object in objects() {
            assert!(!object::name(&object).is_empty() && !object::kind(&object).is_empty());
        }
    }
}

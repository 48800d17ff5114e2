//! The FlowSchemas and PriorityLevelConfigurations every cluster has from its first start: the
//! mandatory ones and those Kubernetes suggests, and how they are brought back to what they were.
//! What they mean for requests is in `crate::flow_control`, which also writes their status.

use amphipod_api::object;
use serde_json::{Value, json};

const GROUP_VERSION: &str = "flowcontrol.apiserver.k8s.io/v1";
/// Whether an object follows what this server would make it; else it is its administrator's.
const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";
/// Objects of either kind that always follow: there must be a place for every request.
const MANDATORY: [&str; 2] = ["exempt", "catch-all"];

/// Name, nominal shares, share others may borrow in percent, and the queues (number, hand,
/// length); without queues what finds no room is refused.
type Level = (&'static str, u32, u32, Option<(u32, u32, u32)>);

const LEVELS: [Level; 7] = [
    ("catch-all", 5, 0, None),
    ("system", 30, 33, Some((64, 6, 50))),
    ("node-high", 40, 25, Some((64, 6, 50))),
    ("leader-election", 10, 0, Some((16, 4, 50))),
    ("workload-high", 40, 50, Some((128, 6, 50))),
    ("workload-low", 100, 90, Some((128, 6, 50))),
    ("global-default", 20, 50, Some((128, 6, 50))),
];

/// Verbs, group, resources, namespace and whether cluster-scoped objects count.
type Resources = (&'static str, &'static str, &'static str, &'static str, bool);

/// What a schema matches.
enum Rules {
    Everything,
    Resources(&'static [Resources]),
    Probes,
}

struct Schema {
    name: &'static str,
    level: &'static str,
    precedence: u32,
    /// What tells flows apart: user, namespace or nothing.
    by: &'static str,
    /// `u:` user, `g:` group, `s:` service account of kube-system.
    subjects: &'static [&'static str],
    rules: Rules,
}

const ANYONE: &[&str] = &["g:system:unauthenticated", "g:system:authenticated"];
const LOCK_VERBS: &str = "get create update";
const LEASES: Resources = (LOCK_VERBS, "coordination.k8s.io", "leases", "*", false);

const fn schema(
    (name, level, precedence): (&'static str, &'static str, u32),
    by: &'static str,
    subjects: &'static [&'static str],
    rules: Rules,
) -> Schema {
    Schema { name, level, precedence, by, subjects, rules }
}

const SCHEMAS: [Schema; 13] = [
    schema(("exempt", "exempt", 1), "", &["g:system:masters"], Rules::Everything),
    schema(("probes", "exempt", 2), "", ANYONE, Rules::Probes),
    schema(
        ("system-leader-election", "leader-election", 100),
        "ByUser",
        &["u:system:kube-controller-manager", "u:system:kube-scheduler", "s:*"],
        Rules::Resources(&[LEASES]),
    ),
    schema(
        ("endpoint-controller", "workload-high", 150),
        "ByUser",
        &["u:system:kube-controller-manager", "s:endpoint-controller", "s:endpointslicemirroring-controller"],
        Rules::Resources(&[(LOCK_VERBS, "", "endpoints", "*", false)]),
    ),
    schema(
        ("workload-leader-election", "leader-election", 200),
        "ByUser",
        &["s:*"],
        Rules::Resources(&[(LOCK_VERBS, "", "endpoints configmaps", "*", false), LEASES]),
    ),
    schema(
        ("system-node-high", "node-high", 400),
        "ByUser",
        &["g:system:nodes"],
        Rules::Resources(&[
            ("*", "", "nodes nodes/status", "*", true),
            ("*", "coordination.k8s.io", "leases", "*", false),
        ]),
    ),
    schema(("system-nodes", "system", 500), "ByUser", &["g:system:nodes"], Rules::Everything),
    schema(
        ("kube-controller-manager", "workload-high", 800),
        "ByNamespace",
        &["u:system:kube-controller-manager"],
        Rules::Everything,
    ),
    schema(
        ("kube-scheduler", "workload-high", 800),
        "ByNamespace",
        &["u:system:kube-scheduler"],
        Rules::Everything,
    ),
    schema(
        ("kube-system-service-accounts", "workload-high", 900),
        "ByNamespace",
        &["s:*"],
        Rules::Everything,
    ),
    schema(
        ("service-accounts", "workload-low", 9000),
        "ByUser",
        &["g:system:serviceaccounts"],
        Rules::Everything,
    ),
    schema(("global-default", "global-default", 9900), "ByUser", ANYONE, Rules::Everything),
    schema(("catch-all", "catch-all", 10_000), "ByUser", ANYONE, Rules::Everything),
];

fn words(text: &str) -> Vec<&str> {
    text.split(' ').collect()
}

fn subject(text: &str) -> Value {
    match text.split_once(':') {
        Some(("g", name)) => json!({"kind": "Group", "group": {"name": name}}),
        Some(("u", name)) => json!({"kind": "User", "user": {"name": name}}),
        _ => {
            let name = text.trim_start_matches("s:");
            json!({"kind": "ServiceAccount", "serviceAccount": {"name": name, "namespace": "kube-system"}})
        }
    }
}

fn resources((verbs, group, resources, namespace, cluster): &Resources) -> Value {
    let mut rule = json!({
        "verbs": words(verbs), "apiGroups": [group], "resources": words(resources),
        "namespaces": [namespace],
    });
    if *cluster {
        rule["clusterScope"] = true.into();
    }
    rule
}

fn rules(schema: &Schema) -> Value {
    let subjects: Vec<Value> = schema.subjects.iter().map(|text| subject(text)).collect();
    let mut rule = json!({"subjects": subjects});
    match &schema.rules {
        Rules::Everything => {
            rule["resourceRules"] = json!([resources(&("*", "*", "*", "*", true))]);
            rule["nonResourceRules"] = json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]);
        }
        Rules::Resources(list) => rule["resourceRules"] = list.iter().map(resources).collect(),
        Rules::Probes => {
            let urls = ["/healthz", "/readyz", "/livez"];
            rule["nonResourceRules"] = json!([{"verbs": ["get"], "nonResourceURLs": urls}]);
        }
    }
    json!([rule])
}

fn document(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": GROUP_VERSION, "kind": kind,
        "metadata": {"name": name, "annotations": {AUTO_UPDATE: "true"}}, "spec": spec,
    })
}

fn level((name, shares, lendable, queues): &Level) -> Value {
    let response = match queues {
        None => json!({"type": "Reject"}),
        Some((queues, hand, length)) => json!({
            "type": "Queue",
            "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": length},
        }),
    };
    let limited = json!({
        "nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response,
    });
    document("PriorityLevelConfiguration", name, json!({"type": "Limited", "limited": limited}))
}

fn flow(schema: &Schema) -> Value {
    let mut spec = json!({
        "priorityLevelConfiguration": {"name": schema.level}, "matchingPrecedence": schema.precedence,
        "rules": rules(schema),
    });
    if !schema.by.is_empty() {
        spec["distinguisherMethod"] = json!({"type": schema.by});
    }
    document("FlowSchema", schema.name, spec)
}

/// What becomes of an existing object of these kinds; `None`: it stays as it is.
pub fn reconciled(existing: &Value, wanted: &Value) -> Option<Value> {
    if object::api_version(wanted) != GROUP_VERSION {
        return None;
    }
    let said = existing["metadata"]["annotations"][AUTO_UPDATE].as_str().and_then(|text| text.parse().ok());
    // Without a word an object follows until somebody changes its spec.
    let untouched = existing["metadata"]["generation"] == 1;
    let follows = MANDATORY.contains(&object::name(wanted)) || said.unwrap_or(untouched);
    let mut new = existing.clone();
    if said != Some(follows) {
        new["metadata"]["annotations"][AUTO_UPDATE] = follows.to_string().into();
    }
    if follows {
        new["spec"] = wanted["spec"].clone();
        // How much the exempt level lends is the administrator's in any case.
        if let own @ Value::Object(_) = &existing["spec"]["exempt"]
            && wanted["spec"]["exempt"].is_object()
        {
            new["spec"]["exempt"] = own.clone();
        }
    }
    (new != *existing).then_some(new)
}

pub fn objects() -> Vec<Value> {
    let exempt = json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}});
    let mut all = vec![document("PriorityLevelConfiguration", "exempt", exempt)];
    all.extend(LEVELS.iter().map(level));
    all.extend(SCHEMAS.iter().map(flow));
    all
}

/// Those without which some request would have no place; they are obeyed even while they are missing.
pub fn mandatory() -> Vec<Value> {
    objects().into_iter().filter(|object| MANDATORY.contains(&object::name(object))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_follow_unless_they_are_the_administrators() {
        let wanted = document("FlowSchema", "probes", json!({"matchingPrecedence": 2}));
        let existing = |name: &str, said: &Value, generation: u32, precedence: u32| {
            let mut object = document("FlowSchema", name, json!({"matchingPrecedence": precedence}));
            object["metadata"]["annotations"] = json!({});
            if said.is_string() {
                object["metadata"]["annotations"][AUTO_UPDATE] = said.clone();
            }
            object["metadata"]["generation"] = generation.into();
            object
        };
        // What the annotation says, the generation, whether the spec differs; then the annotation
        // and whether the spec was restored.
        for (said, generation, differs, expected) in [
            (json!("true"), 2, false, None),
            (json!("true"), 2, true, Some(("true", true))),
            (json!("false"), 2, true, None),
            (json!("perhaps"), 2, true, Some(("false", false))),
            (Value::Null, 1, false, Some(("true", true))),
            (Value::Null, 1, true, Some(("true", true))),
            (Value::Null, 2, true, Some(("false", false))),
        ] {
            let object = existing("probes", &said, generation, if differs { 3 } else { 2 });
            let new = reconciled(&object, &wanted);
            let new = new.as_ref().map(|new| {
                let said = new["metadata"]["annotations"][AUTO_UPDATE].as_str().expect("text");
                (said, new["spec"] == wanted["spec"])
            });
            assert_eq!(new, expected, "{said} {generation} {differs}");
        }
        let mandatory = document("FlowSchema", "exempt", json!({"matchingPrecedence": 2}));
        let new = reconciled(&existing("exempt", &json!("false"), 2, 3), &mandatory).expect("restored");
        assert_eq!(
            (&new["spec"], &new["metadata"]["annotations"][AUTO_UPDATE]),
            (&mandatory["spec"], &json!("true"))
        );
    }

    #[test]
    fn the_exempt_level_lends_what_it_is_told() {
        let wanted = &objects()[0];
        let mut existing = wanted.clone();
        existing["spec"]["exempt"]["lendablePercent"] = 30.into();
        assert_eq!(reconciled(&existing, wanted), None);
        existing["spec"]["type"] = "Limited".into();
        let new = reconciled(&existing, wanted).expect("restored");
        assert_eq!(
            (&new["spec"]["type"], &new["spec"]["exempt"]["lendablePercent"]),
            (&json!("Exempt"), &json!(30))
        );
    }

    #[test]
    fn every_schema_has_its_level_and_a_precedence_of_its_rank() {
        let all = objects();
        let named = |kind: &str| -> Vec<&str> {
            all.iter().filter(|o| o["kind"] == kind).filter_map(|o| o["metadata"]["name"].as_str()).collect()
        };
        let levels = named("PriorityLevelConfiguration");
        assert_eq!((levels.len(), named("FlowSchema").len()), (8, 13));
        for schema in &SCHEMAS {
            assert!(levels.contains(&schema.level), "{}", schema.name);
        }
        assert!(SCHEMAS.windows(2).all(|pair| pair[0].precedence <= pair[1].precedence));
    }
}

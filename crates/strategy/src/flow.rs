//! FlowSchema and PriorityLevelConfiguration.

use std::collections::HashSet;

use amphipod_api::field::{Error, Path};
use serde_json::{Value, json};

use crate::check::{self, Faults, dns1123_label, dns1123_subdomain, invalid_each};
use crate::json::{
    default, default_number, int, items, number, remove, same, set, text, truthy, with, within,
};
use crate::kind::{Kind, SPEC_AND_STATUS};

const PRECEDENCE_MAX: i64 = 10_000;
/// Says in an older version of the API that a zero was meant, so here it means nothing.
const ZERO_SHARES: &str = "flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares";
const QUEUES_MAX: i64 = 10_000_000;
/// Bits of a request's hash that deal its hand of queues.
const HASH_BITS: f64 = 60.0;
const VERBS: [&str; 9] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];
const SUBJECTS: [(&str, &str); 3] =
    [("Group", "group"), ("ServiceAccount", "serviceAccount"), ("User", "user")];

pub static FLOW_SCHEMA: Kind = Kind {
    status_keeps_metadata: true,
    default: |object| {
        within(object, "spec", |spec| default_number(spec, "matchingPrecedence", 1000));
        within(object, "status", |_| {});
    },
    validate: schema,
    validate_status: |new, _| {
        let mut faults = Faults::new();
        conditions(&mut faults, new);
        faults
    },
    ..SPEC_AND_STATUS
};
pub static PRIORITY_LEVEL: Kind = Kind {
    status_keeps_metadata: true,
    default: |object| {
        within(object, "spec", |spec| {
            with(spec, "limited", |limited| {
                default(limited, "nominalConcurrencyShares", 30);
                default(limited, "lendablePercent", 0);
                with(limited, "limitResponse", |response| {
                    with(response, "queuing", |queuing| {
                        default_number(queuing, "queues", 64);
                        default_number(queuing, "handSize", 8);
                        default_number(queuing, "queueLengthLimit", 50);
                    });
                });
            });
            with(spec, "exempt", |exempt| {
                default(exempt, "nominalConcurrencyShares", 0);
                default(exempt, "lendablePercent", 0);
            });
        });
        within(object, "status", |_| {});
    },
    validate: level,
    validate_status: |new, _| {
        let mut faults = Faults::new();
        conditions(&mut faults, new);
        faults
    },
    ..SPEC_AND_STATUS
};

fn conditions(faults: &mut Faults, object: &Value) {
    let mut seen = HashSet::new();
    for (i, condition) in items(&object["status"]["conditions"]).iter().enumerate() {
        let at = Path::new("status").child("conditions").index(i).child("type");
        if !seen.insert(&condition["type"]) {
            faults.push(Error::duplicate(&at, text(&condition["type"])));
        }
        check::required(faults, &at, &condition["type"]);
    }
}

fn schema(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    let (precedence, at) = (number(&spec["matchingPrecedence"]), path.child("matchingPrecedence"));
    let mut unfit = |detail: &str| faults.push(Error::invalid(&at, precedence, detail));
    if precedence <= 0 {
        unfit("must be a positive value");
    }
    if precedence > PRECEDENCE_MAX {
        unfit("must not be greater than 10000");
    }
    if precedence == 1 && text(&object["metadata"]["name"]) != "exempt" {
        unfit("only the schema named 'exempt' may have matchingPrecedence 1");
    }
    let method = &spec["distinguisherMethod"];
    let methods = ["ByNamespace", "ByUser"];
    if set(method) && !methods.contains(&text(&method["type"])) {
        let at = path.child("distinguisherMethod").child("type");
        let fault = Error::not_supported(&at, Value::Null, &methods);
        faults.push(check::shown_as(fault, &[("Type", text(&method["type"]).into())]));
    }
    let (level, at) = (
        text(&spec["priorityLevelConfiguration"]["name"]),
        path.child("priorityLevelConfiguration").child("name"),
    );
    if level.is_empty() {
        faults.push(Error::required(&at, "must reference a priority level"));
    } else {
        invalid_each(&mut faults, &at, level, dns1123_subdomain(level));
    }
    for (i, rule) in items(&spec["rules"]).iter().enumerate() {
        self::rule(&mut faults, &path.child("rules").index(i), rule);
    }
    let name = text(&object["metadata"]["name"]);
    if mandatory_schema(name).is_some_and(|fixed| !same(spec, &fixed)) {
        let detail = format!("spec of '{name}' must equal the fixed value");
        faults.push(Error::invalid(&path, spec.clone(), detail));
    }
    conditions(&mut faults, object);
    faults
}

/// Two schemas that no administrator may bend: there must be a place for every request.
fn mandatory_schema(name: &str) -> Option<Value> {
    let everything = |level: &str, precedence: i64, groups: &[&str]| {
        let subjects: Vec<Value> =
            groups.iter().map(|group| json!({"kind": "Group", "group": {"name": group}})).collect();
        json!({
            "priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence,
            "rules": [{
                "subjects": subjects,
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"],
                    "namespaces": ["*"], "clusterScope": true}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            }],
        })
    };
    match name {
        "exempt" => Some(everything("exempt", 1, &["system:masters"])),
        "catch-all" => {
            let anyone = ["system:unauthenticated", "system:authenticated"];
            let mut spec = everything("catch-all", PRECEDENCE_MAX, &anyone);
            spec["distinguisherMethod"] = json!({"type": "ByUser"});
            Some(spec)
        }
        _ => None,
    }
}

/// What the exempt level lends is its administrator's; nothing else of the two levels is.
fn mandatory_level(faults: &mut Faults, path: &Path, name: &str, spec: &Value) {
    let (fixed, but) = match name {
        "exempt" => (json!({"type": "Exempt"}), " except the 'spec.exempt' field"),
        "catch-all" => {
            let limited = json!({"nominalConcurrencyShares": 5, "lendablePercent": 0,
                "limitResponse": {"type": "Reject"}});
            (json!({"type": "Limited", "limited": limited}), "")
        }
        _ => return,
    };
    let mut given = spec.clone();
    if name == "exempt" {
        remove(&mut given, "exempt");
    }
    if !same(&given, &fixed) {
        let detail = format!("spec of '{name}'{but} must equal the fixed value");
        faults.push(Error::invalid(path, spec.clone(), detail));
    }
}

fn rule(faults: &mut Faults, path: &Path, rule: &Value) {
    let subjects = items(&rule["subjects"]);
    if subjects.is_empty() {
        faults.push(Error::required(&path.child("subjects"), "subjects must contain at least one value"));
    }
    for (i, subject) in subjects.iter().enumerate() {
        self::subject(faults, &path.child("subjects").index(i), subject);
    }
    let (resources, urls) = (items(&rule["resourceRules"]), items(&rule["nonResourceRules"]));
    if resources.is_empty() && urls.is_empty() {
        let detail = "at least one of resourceRules and nonResourceRules has to be non-empty";
        faults.push(Error::required(path, detail));
    }
    for (i, rule) in resources.iter().enumerate() {
        resource_rule(faults, &path.child("resourceRules").index(i), rule);
    }
    for (i, rule) in urls.iter().enumerate() {
        let at = path.child("nonResourceRules").index(i);
        verbs(faults, &at, &rule["verbs"]);
        let urls = (&rule["nonResourceURLs"], at.child("nonResourceURLs"));
        let missing = "nonResourceURLs must contain at least one value";
        if star_alone(faults, &urls.1, urls.0, missing, "non-resource URLs") {
            for (i, url) in items(urls.0).iter().enumerate() {
                url_path(faults, &urls.1.index(i), text(url));
            }
        }
    }
}

fn subject(faults: &mut Faults, path: &Path, subject: &Value) {
    let kind = text(&subject["kind"]);
    let Some((_, own)) = SUBJECTS.iter().find(|(name, _)| *name == kind) else {
        let kinds = SUBJECTS.map(|(name, _)| name);
        faults.push(Error::not_supported(&path.child("kind"), kind, &kinds));
        return;
    };
    let (value, at) = (&subject[*own], path.child(own));
    if !set(value) {
        faults.push(Error::required(&at, format!("{own} is required when subject kind is '{kind}'")));
    } else {
        let name = text(&value["name"]);
        if name.is_empty() {
            faults.push(Error::required(&at.child("name"), ""));
        } else if kind == "ServiceAccount" && name != "*" {
            invalid_each(faults, &at.child("name"), name, dns1123_subdomain(name));
        }
        if kind == "ServiceAccount" {
            match text(&value["namespace"]) {
                "" => {
                    let detail = "must specify namespace for service account";
                    faults.push(Error::required(&at.child("namespace"), detail));
                }
                namespace => {
                    invalid_each(faults, &at.child("namespace"), namespace, dns1123_label(namespace))
                }
            }
        }
    }
    for (other, field) in ["User", "Group", "ServiceAccount"]
        .iter()
        .filter_map(|name| SUBJECTS.iter().find(|(kind, _)| kind == name))
        .filter(|(other, field)| *other != kind && set(&subject[*field]))
    {
        let detail = format!("{field} is forbidden when subject kind is not '{other}'");
        faults.push(Error::forbidden(&path.child(field), detail));
    }
}

/// Whether the list names things one by one, which then have to be looked at.
fn star_alone(faults: &mut Faults, path: &Path, value: &Value, missing: &str, noun: &str) -> bool {
    let list = items(value);
    let star = list.iter().any(|item| item == "*");
    if list.is_empty() {
        faults.push(Error::required(path, missing));
    } else if star && list.len() > 1 {
        let detail = format!("if '*' is present, must not specify other {noun}");
        faults.push(Error::invalid(path, value.clone(), detail));
    }
    !star
}

fn verbs(faults: &mut Faults, path: &Path, verbs: &Value) {
    let at = path.child("verbs");
    let each = star_alone(faults, &at, verbs, "verbs must contain at least one value", "verbs");
    if each && items(verbs).iter().any(|verb| !VERBS.contains(&text(verb))) {
        faults.push(Error::not_supported(&at, verbs.clone(), &VERBS));
    }
}

fn resource_rule(faults: &mut Faults, path: &Path, rule: &Value) {
    verbs(faults, path, &rule["verbs"]);
    let groups = "resource rules must supply at least one api group";
    star_alone(faults, &path.child("apiGroups"), &rule["apiGroups"], groups, "api groups");
    let resources = "resource rules must supply at least one resource";
    star_alone(faults, &path.child("resources"), &rule["resources"], resources, "resources");
    let (namespaces, at) = (&rule["namespaces"], path.child("namespaces"));
    if items(namespaces).is_empty() && truthy(&rule["clusterScope"]) {
        return;
    }
    let missing = "resource rules that are not cluster scoped must supply at least one namespace";
    if star_alone(faults, &at, namespaces, missing, "namespaces") {
        for (i, namespace) in items(namespaces).iter().enumerate() {
            for detail in dns1123_label(text(namespace)) {
                let detail = format!("each member of this list must be '*' or a DNS-1123 label; {detail}");
                faults.push(Error::invalid(&at.index(i), text(namespace), detail));
            }
        }
    }
}

fn url_path(faults: &mut Faults, path: &Path, url: &str) {
    let stars = url.matches('*').count();
    let detail = if url.is_empty() {
        "must not be empty"
    } else if url == "/" {
        return;
    } else if !url.starts_with('/') {
        "must start with slash"
    } else if url.contains(' ') {
        "must not contain white-space"
    } else if url.contains("//") {
        "must not contain double slash"
    } else if stars > 1 || (stars == 1 && !url.ends_with("/*")) {
        "wildcard can only do suffix matching"
    } else {
        return;
    };
    faults.push(Error::invalid(path, url, detail));
}

fn level(object: &Value) -> Faults {
    let mut faults = Faults::new();
    if set(&object["metadata"]["annotations"][ZERO_SHARES]) {
        let at = Path::new("metadata").child("annotations");
        faults.push(Error::forbidden(&at, format!("annotation '{ZERO_SHARES}' is forbidden")));
    }
    let path = Path::new("spec");
    let spec = &object["spec"];
    let kind = text(&spec["type"]);
    if (text(&object["metadata"]["name"]) == "exempt") != (kind == "Exempt") {
        let detail = "must be 'Exempt' if and only if `name` is 'exempt'";
        faults.push(Error::invalid(&path.child("type"), kind, detail));
    }
    match kind {
        "Exempt" => {
            if set(&spec["limited"]) {
                let detail = "must be nil if the type is not Limited";
                faults.push(Error::forbidden(&path.child("limited"), detail));
            }
            shares(&mut faults, &path.child("exempt"), &spec["exempt"]);
            lendable(&mut faults, &path.child("exempt"), &spec["exempt"]);
        }
        "Limited" => {
            if set(&spec["exempt"]) {
                faults.push(Error::forbidden(&path.child("exempt"), "must be nil if the type is Limited"));
            }
            if set(&spec["limited"]) {
                limited(&mut faults, &path.child("limited"), &spec["limited"]);
            } else {
                let detail = "must not be empty when type is Limited";
                faults.push(Error::required(&path.child("limited"), detail));
            }
        }
        other => faults.push(Error::not_supported(&path.child("type"), other, &["Exempt", "Limited"])),
    }
    mandatory_level(&mut faults, &path, text(&object["metadata"]["name"]), spec);
    conditions(&mut faults, object);
    faults
}

fn shares(faults: &mut Faults, path: &Path, part: &Value) {
    if let Some(shares) = int(&part["nominalConcurrencyShares"]).filter(|shares| *shares < 0) {
        let detail = "must be a non-negative integer";
        faults.push(Error::invalid(&path.child("nominalConcurrencyShares"), shares, detail));
    }
}

fn lendable(faults: &mut Faults, path: &Path, part: &Value) {
    if let Some(percent) = int(&part["lendablePercent"]).filter(|p| !(0..=100).contains(p)) {
        let detail = "must be between 0 and 100, inclusive";
        faults.push(Error::invalid(&path.child("lendablePercent"), percent, detail));
    }
}

fn limited(faults: &mut Faults, path: &Path, limited: &Value) {
    shares(faults, path, limited);
    let (response, at) = (&limited["limitResponse"], path.child("limitResponse"));
    let (queuing, queuing_at) = (&response["queuing"], at.child("queuing"));
    match text(&response["type"]) {
        "Reject" if set(queuing) => {
            let detail = "must be nil if limited.limitResponse.type is not Limited";
            faults.push(Error::forbidden(&queuing_at, detail));
        }
        "Reject" => {}
        "Queue" if set(queuing) => self::queuing(faults, &queuing_at, queuing),
        "Queue" => {
            let detail = "must not be empty if limited.limitResponse.type is Limited";
            faults.push(Error::required(&queuing_at, detail));
        }
        other => faults.push(Error::not_supported(&at.child("type"), other, &["Queue", "Reject"])),
    }
    lendable(faults, path, limited);
    if let Some(percent) = int(&limited["borrowingLimitPercent"]).filter(|percent| *percent < 0) {
        let detail = "if specified, must be a non-negative integer";
        faults.push(Error::invalid(&path.child("borrowingLimitPercent"), percent, detail));
    }
}

fn queuing(faults: &mut Faults, path: &Path, queuing: &Value) {
    let value = |key: &str| number(&queuing[key]);
    let (length, queues, hand) = (value("queueLengthLimit"), value("queues"), value("handSize"));
    let mut unfit = |key: &str, value: i64, detail: String| {
        faults.push(Error::invalid(&path.child(key), value, detail));
    };
    if length <= 0 {
        unfit("queueLengthLimit", length, "must be positive".to_owned());
    }
    if queues <= 0 {
        unfit("queues", queues, "must be positive".to_owned());
    } else if queues > QUEUES_MAX {
        unfit("queues", queues, format!("must not be greater than {QUEUES_MAX}"));
    }
    if hand <= 0 {
        unfit("handSize", hand, "must be positive".to_owned());
    } else if hand > queues {
        unfit("handSize", hand, format!("should not be greater than queues ({queues})"));
    } else if entropy_bits(queues, hand) > HASH_BITS {
        unfit(
            "handSize",
            hand,
            format!(
                "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than 60"
            ),
        );
    }
}

/// Bits it takes to deal `hand` of `deck` cards.
fn entropy_bits(deck: i64, hand: i64) -> f64 {
    // Beyond sixty cards the answer is known.
    let drawn = 0..hand.min(HASH_BITS as i64 + 1);
    drawn.map(|i| ((deck - i).max(1) as f64).log2()).sum::<f64>().ceil()
}

#[cfg(test)]
mod tests {
    use crate::testing::named::{created, merge};
    use serde_json::{Value, json};

    const GROUP: &str = "flowcontrol.apiserver.k8s.io";

    #[test]
    fn schemas() {
        let schema = |patch: Value| {
            let base = json!({"spec": {"priorityLevelConfiguration": {"name": "p"}}});
            merge(base, json!({"spec": patch}))
        };
        for (patch, expected) in [
            (json!({}), vec![]),
            (
                json!({"matchingPrecedence": 1, "priorityLevelConfiguration": null, "distinguisherMethod": {"type": "X"}}),
                vec![
                    "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
                    "spec.distinguisherMethod.type: Unsupported value: {\"Type\":\"X\"}: supported values: \"ByNamespace\", \"ByUser\"",
                    "spec.priorityLevelConfiguration.name: Required value: must reference a priority level",
                ],
            ),
            (
                json!({"rules": [{"subjects": [{"kind": "User", "group": {"name": "g"}}, {"kind": "X"}]}]}),
                vec![
                    "spec.rules[0].subjects[0].user: Required value: user is required when subject kind is 'User'",
                    "spec.rules[0].subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'",
                    "spec.rules[0].subjects[1].kind: Unsupported value: \"X\": supported values: \"Group\", \"ServiceAccount\", \"User\"",
                    "spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty",
                ],
            ),
            (
                json!({"rules": [{"subjects": [{"kind": "Group", "group": {"name": "g"}}],
                    "resourceRules": [{"verbs": ["X"], "apiGroups": ["*", "a"], "resources": []}],
                    "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["a", "/*/b"]}]}]}),
                vec![
                    "spec.rules[0].resourceRules[0].verbs: Unsupported value: [\"X\"]: supported values: \"create\", \"delete\", \"deletecollection\", \"get\", \"list\", \"patch\", \"proxy\", \"update\", \"watch\"",
                    "spec.rules[0].resourceRules[0].apiGroups: Invalid value: [\"*\",\"a\"]: if '*' is present, must not specify other api groups",
                    "spec.rules[0].resourceRules[0].resources: Required value: resource rules must supply at least one resource",
                    "spec.rules[0].resourceRules[0].namespaces: Required value: resource rules that are not cluster scoped must supply at least one namespace",
                    "spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"a\": must start with slash",
                    "spec.rules[0].nonResourceRules[0].nonResourceURLs[1]: Invalid value: \"/*/b\": wildcard can only do suffix matching",
                ],
            ),
        ] {
            assert_eq!(created(GROUP, "flowschemas", schema(patch.clone())), expected, "{patch}");
        }
        let other = json!({"rules": [{"subjects": [{"kind": "Group", "group": {"name": "g"}}],
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["A"]}]}]});
        let faults = created(GROUP, "flowschemas", schema(other));
        assert!(
            faults.len() == 1
                && faults[0].starts_with("spec.rules[0].resourceRules[0].namespaces[0]: Invalid value: \"A\": each member of this list must be '*' or a DNS-1123 label; a lowercase"),
            "{faults:?}"
        );
    }

    #[test]
    fn mandatory_objects_are_as_they_are() {
        for name in ["exempt", "catch-all"] {
            let metadata = json!({"metadata": {"name": name}});
            let spec = super::mandatory_schema(name).expect("a mandatory schema");
            let fixed = merge(metadata.clone(), json!({"spec": spec}));
            assert_eq!(created(GROUP, "flowschemas", fixed.clone()), [""; 0]);
            let bent =
                created(GROUP, "flowschemas", merge(fixed, json!({"spec": {"matchingPrecedence": 7}})));
            let detail = format!("spec of '{name}' must equal the fixed value");
            assert!(bent.len() == 1 && bent[0].ends_with(&detail), "{bent:?}");
        }
        let level = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
        let catch_all = json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 5, "limitResponse": {"type": "Reject"}}});
        let more = merge(catch_all.clone(), json!({"limited": {"nominalConcurrencyShares": 6}}));
        for (object, end) in [
            (level("exempt", json!({"type": "Exempt", "exempt": {"lendablePercent": 50}})), None),
            (
                level("exempt", json!({"type": "Exempt", "exempt": {"lendablePercent": 101}})),
                Some("spec.exempt.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive"),
            ),
            (level("catch-all", catch_all), None),
            (level("catch-all", more), Some("spec of 'catch-all' must equal the fixed value")),
            (
                level("exempt", json!({"type": "Exempt", "limited": {"limitResponse": {"type": "Reject"}}})),
                Some("spec of 'exempt' except the 'spec.exempt' field must equal the fixed value"),
            ),
            (
                merge(
                    level("l", json!({"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}})),
                    json!({"metadata": {"annotations": {super::ZERO_SHARES: ""}}}),
                ),
                Some(
                    "metadata.annotations: Forbidden: annotation 'flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares' is forbidden",
                ),
            ),
        ] {
            let faults = created(GROUP, "prioritylevelconfigurations", object.clone());
            assert_eq!(faults.is_empty(), end.is_none(), "{object}: {faults:?}");
            assert!(
                end.is_none_or(|end| faults.last().is_some_and(|fault| fault.ends_with(end))),
                "{faults:?}"
            );
        }
    }

    #[test]
    fn levels() {
        let limited = |limited: Value| json!({"spec": {"type": "Limited", "limited": limited}});
        for (object, expected) in [
            (limited(json!({"limitResponse": {"type": "Queue", "queuing": {}}})), vec![]),
            (
                json!({"spec": {"type": "Exempt"}}),
                vec![
                    "spec.type: Invalid value: \"Exempt\": must be 'Exempt' if and only if `name` is 'exempt'",
                ],
            ),
            (
                limited(
                    json!({"nominalConcurrencyShares": -1, "lendablePercent": 101, "borrowingLimitPercent": -1, "limitResponse": {"type": "Reject", "queuing": {}}}),
                ),
                vec![
                    "spec.limited.nominalConcurrencyShares: Invalid value: -1: must be a non-negative integer",
                    "spec.limited.limitResponse.queuing: Forbidden: must be nil if limited.limitResponse.type is not Limited",
                    "spec.limited.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive",
                    "spec.limited.borrowingLimitPercent: Invalid value: -1: if specified, must be a non-negative integer",
                ],
            ),
            (
                limited(
                    json!({"limitResponse": {"type": "Queue", "queuing": {"queues": 512, "handSize": 8}}}),
                ),
                vec![
                    "spec.limited.limitResponse.queuing.handSize: Invalid value: 8: required entropy bits of deckSize 512 and handSize 8 should not be greater than 60",
                ],
            ),
        ] {
            assert_eq!(created(GROUP, "prioritylevelconfigurations", object.clone()), expected, "{object}");
        }
    }
}

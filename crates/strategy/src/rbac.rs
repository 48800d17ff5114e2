//! Roles and bindings.

use amphipod_api::field::{Error, Path};
use serde_json::Value;

use crate::check::{self, Faults, invalid_each};
use crate::json::{default, default_text, each, items, set, text, within};
use crate::kind::{Kind, PLAIN};
use crate::metadata::NameRule;

const GROUP: &str = "rbac.authorization.k8s.io";
const SUBJECT_KINDS: [&str; 3] = ["ServiceAccount", "User", "Group"];

pub static ROLE: Kind = Kind {
    name: NameRule::PathSegment,
    create_on_update: true,
    default: |object| default(object, "rules", Value::Array(Vec::new())),
    validate: |object| rules(object, true),
    ..PLAIN
};
pub static CLUSTER_ROLE: Kind = Kind {
    name: NameRule::PathSegment,
    create_on_update: true,
    default: |object| default(object, "rules", Value::Array(Vec::new())),
    validate: |object| {
        let mut faults = rules(object, false);
        let path = Path::new("aggregationRule").child("clusterRoleSelectors");
        let selectors = items(&object["aggregationRule"]["clusterRoleSelectors"]);
        if set(&object["aggregationRule"]) && selectors.is_empty() {
            faults.push(Error::required(
                &path,
                "at least one clusterRoleSelector required if aggregationRule is non-nil",
            ));
        }
        for (i, selector) in selectors.iter().enumerate() {
            let before = faults.len();
            check::label_selector(&mut faults, &path.index(i), selector);
            if faults.len() > before {
                // It cannot be turned into one that selects, either.
                faults.push(Error::invalid(&path.index(i), "null", "invalid label selector."));
            }
        }
        faults
    },
    ..PLAIN
};
pub static ROLE_BINDING: Kind = Kind {
    name: NameRule::PathSegment,
    create_on_update: true,
    default: |object| binding_defaults(object),
    validate: |object| binding(object, true),
    validate_change: role_ref_fixed,
    ..PLAIN
};
pub static CLUSTER_ROLE_BINDING: Kind = Kind {
    name: NameRule::PathSegment,
    create_on_update: true,
    default: |object| binding_defaults(object),
    validate: |object| binding(object, false),
    validate_change: role_ref_fixed,
    ..PLAIN
};

fn binding_defaults(object: &mut Value) {
    within(object, "roleRef", |role| default_text(role, "apiGroup", GROUP));
    each(object, "subjects", |subject| {
        if ["User", "Group"].contains(&text(&subject["kind"])) {
            default_text(subject, "apiGroup", GROUP);
        }
    });
}

fn rules(object: &Value, namespaced: bool) -> Faults {
    let mut faults = Faults::new();
    for (i, rule) in items(&object["rules"]).iter().enumerate() {
        let at = Path::new("rules").index(i);
        if items(&rule["verbs"]).is_empty() {
            faults.push(Error::required(&at.child("verbs"), "verbs must contain at least one value"));
        }
        let (urls, groups) = (items(&rule["nonResourceURLs"]), items(&rule["apiGroups"]));
        let resources = items(&rule["resources"]);
        if !urls.is_empty() {
            if namespaced {
                let detail = "namespaced rules cannot apply to non-resource URLs";
                faults.push(Error::invalid(
                    &at.child("nonResourceURLs"),
                    rule["nonResourceURLs"].clone(),
                    detail,
                ));
            }
            if !groups.is_empty() || !resources.is_empty() || !items(&rule["resourceNames"]).is_empty() {
                let detail = "rules cannot apply to both regular resources and non-resource URLs";
                faults.push(Error::invalid(
                    &at.child("nonResourceURLs"),
                    rule["nonResourceURLs"].clone(),
                    detail,
                ));
            }
            continue;
        }
        if groups.is_empty() {
            let detail = "resource rules must supply at least one api group";
            faults.push(Error::required(&at.child("apiGroups"), detail));
        }
        if resources.is_empty() {
            let detail = "resource rules must supply at least one resource";
            faults.push(Error::required(&at.child("resources"), detail));
        }
    }
    faults
}

fn binding(object: &Value, namespaced: bool) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("roleRef");
    let role = &object["roleRef"];
    if text(&role["apiGroup"]) != GROUP {
        faults.push(Error::not_supported(&path.child("apiGroup"), text(&role["apiGroup"]), &[GROUP]));
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&text(&role["kind"])) {
        faults.push(Error::not_supported(&path.child("kind"), text(&role["kind"]), kinds));
    }
    let name = text(&role["name"]);
    if name.is_empty() {
        faults.push(Error::required(&path.child("name"), ""));
    } else {
        let texts = amphipod_api::names::path_segment_name(name);
        invalid_each(&mut faults, &path.child("name"), name, texts);
    }
    for (i, subject) in items(&object["subjects"]).iter().enumerate() {
        self::subject(&mut faults, &Path::new("subjects").index(i), subject, namespaced);
    }
    faults
}

fn subject(faults: &mut Faults, path: &Path, subject: &Value, namespaced: bool) {
    let (name, group) = (text(&subject["name"]), text(&subject["apiGroup"]));
    if name.is_empty() {
        faults.push(Error::required(&path.child("name"), ""));
    }
    match text(&subject["kind"]) {
        "ServiceAccount" => {
            if !name.is_empty() {
                invalid_each(faults, &path.child("name"), name, check::dns1123_subdomain(name));
            }
            if !group.is_empty() {
                faults.push(Error::not_supported(&path.child("apiGroup"), group, &[""]));
            }
            if !namespaced && text(&subject["namespace"]).is_empty() {
                faults.push(Error::required(&path.child("namespace"), ""));
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                faults.push(Error::not_supported(&path.child("apiGroup"), group, &[GROUP]));
            }
        }
        other => faults.push(Error::not_supported(&path.child("kind"), other, &SUBJECT_KINDS)),
    }
}

fn role_ref_fixed(new: &Value, old: &Value) -> Faults {
    let mut faults = Faults::new();
    if new["roleRef"] != old["roleRef"] {
        let shown = [("APIGroup", "apiGroup"), ("Kind", "kind"), ("Name", "name")];
        let shown = shown.map(|(name, key)| (name, text(&new["roleRef"][key]).into()));
        let fault = Error::invalid(&Path::new("roleRef"), Value::Null, "cannot change roleRef");
        faults.push(check::shown_as(fault, &shown));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::named::created;
    use serde_json::json;

    #[test]
    fn bindings_are_completed_and_fixed() {
        let mut old = json!({"roleRef": {"kind": "ClusterRole", "name": "x", "apiGroup": ""},
            "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s", "namespace": "n"}]});
        binding_defaults(&mut old);
        assert_eq!(old["roleRef"]["apiGroup"], GROUP);
        assert_eq!(old["subjects"][0]["apiGroup"], GROUP);
        assert!(binding(&old, true).is_empty());
        let mut new = old.clone();
        new["roleRef"]["name"] = "y".into();
        assert_eq!(
            role_ref_fixed(&new, &old)[0].to_string(),
            "roleRef: Invalid value: {\"APIGroup\":\"rbac.authorization.k8s.io\",\"Kind\":\"ClusterRole\",\"Name\":\"y\"}: cannot change roleRef"
        );
    }

    #[test]
    fn roles_hold_no_paths() {
        let role = json!({"rules": [{"verbs": ["get"], "nonResourceURLs": ["/x"]}]});
        assert_eq!(rules(&role, true).len(), 1);
        assert!(rules(&role, false).is_empty());
    }

    #[test]
    fn gathered_roles_are_selected() {
        let role = json!({"aggregationRule": {"clusterRoleSelectors": [{"matchExpressions": [{"key": "a", "operator": "In"}]}]}});
        assert_eq!(
            created("rbac.authorization.k8s.io", "clusterroles", role),
            [
                "aggregationRule.clusterRoleSelectors[0].matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
                "aggregationRule.clusterRoleSelectors[0]: Invalid value: \"null\": invalid label selector.",
            ]
        );
    }
}

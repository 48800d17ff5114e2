//! What every object's metadata must look like, and what an update may not touch in it.

use amphipod_api::field::{Error, Path};
use amphipod_api::names;
use serde_json::Value;

use crate::check::{self, Faults, IMMUTABLE};
use crate::json::{copy, fields, items, number, put, set, text, truthy};

/// How a kind's names must look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    Subdomain,
    Label,
    Label1035,
    PathSegment,
    /// An IP address in canonical form.
    Ip,
    /// At most 52 characters: the controller appends to it.
    CronJob,
}

impl NameRule {
    pub fn check(self, name: &str, prefix: bool) -> Vec<String> {
        let rule: fn(&str) -> Vec<String> = match self {
            NameRule::Subdomain | NameRule::CronJob => names::dns1123_subdomain,
            NameRule::Label => names::dns1123_label,
            NameRule::Label1035 => names::dns1035_label,
            NameRule::PathSegment if prefix => return names::path_segment_prefix(name),
            NameRule::PathSegment => names::path_segment_name,
            NameRule::Ip => return crate::addresses::strict_ip(name).into_iter().collect(),
        };
        if prefix { names::as_prefix(rule, name) } else { rule(name) }
    }
}

pub fn validate(object: &Value, namespaced: bool, rule: NameRule) -> Faults {
    let mut faults = Faults::new();
    let metadata = &object["metadata"];
    let path = Path::new("metadata");
    let generate = text(&metadata["generateName"]);
    if !generate.is_empty() {
        check::invalid_each(&mut faults, &path.child("generateName"), generate, rule.check(generate, true));
    }
    let name = text(&metadata["name"]);
    if name.is_empty() {
        faults.push(Error::required(&path.child("name"), "name or generateName is required"));
    } else {
        check::invalid_each(&mut faults, &path.child("name"), name, rule.check(name, false));
        if rule == NameRule::CronJob && name.len() > 52 {
            faults.push(Error::invalid(&path.child("name"), name, "must be no more than 52 characters"));
        }
    }
    let namespace = text(&metadata["namespace"]);
    match (namespaced, namespace.is_empty()) {
        (true, true) => faults.push(Error::required(&path.child("namespace"), "")),
        (true, false) => {
            check::invalid_each(
                &mut faults,
                &path.child("namespace"),
                namespace,
                check::dns1123_label(namespace),
            );
        }
        (false, false) => faults.push(Error::forbidden(&path.child("namespace"), "not allowed on this type")),
        (false, true) => {}
    }
    check::not_negative(&mut faults, &path.child("generation"), &metadata["generation"]);
    common(&mut faults, &path, metadata);
    faults
}

/// Labels, annotations, owners and finalizers.
fn common(faults: &mut Faults, path: &Path, metadata: &Value) {
    check::labels(faults, &path.child("labels"), &metadata["labels"]);
    annotations(faults, &path.child("annotations"), &metadata["annotations"]);
    owner_references(faults, &path.child("ownerReferences"), items(&metadata["ownerReferences"]));
    finalizers(faults, &path.child("finalizers"), items(&metadata["finalizers"]));
}

pub fn annotations(faults: &mut Faults, path: &Path, annotations: &Value) {
    let mut bytes = 0;
    for (key, value) in fields(annotations) {
        check::invalid_each(faults, path, key, check::qualified_name(&key.to_lowercase()));
        bytes += key.len() + text(value).len();
    }
    if bytes > names::TOTAL_ANNOTATION_BYTES_MAX {
        faults.push(Error::too_long(path, names::TOTAL_ANNOTATION_BYTES_MAX));
    }
}

fn owner_references(faults: &mut Faults, path: &Path, owners: &[Value]) {
    let mut controller: Option<&Value> = None;
    for owner in owners {
        // Each second controller shows all owners.
        if faults.is_full() {
            return;
        }
        let version = text(&owner["apiVersion"]);
        if !names_a_version(version) {
            faults.push(Error::invalid(&path.child("apiVersion"), version, "version must not be empty"));
        }
        for key in ["kind", "name", "uid"] {
            if text(&owner[key]).is_empty() {
                faults.push(Error::invalid(&path.child(key), "", "must not be empty"));
            }
        }
        if version == "v1" && text(&owner["kind"]) == "Event" {
            faults.push(Error::invalid(
                path,
                owner.clone(),
                "/v1, Kind=Event is disallowed from being an owner",
            ));
        }
        if truthy(&owner["controller"]) {
            match controller {
                None => controller = Some(owner),
                Some(first) => faults.push(Error::invalid(
                    path,
                    Value::Array(owners.to_vec()),
                    format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {} and {}",
                        shown_owner(first),
                        shown_owner(owner)
                    ),
                )),
            }
        }
    }
}

/// `version` or `group/version`.
fn names_a_version(api_version: &str) -> bool {
    match api_version.split_once('/') {
        Some((_, version)) => !version.is_empty() && !version.contains('/'),
        None => !api_version.is_empty(),
    }
}

fn shown_owner(owner: &Value) -> String {
    format!("{}/{}", text(&owner["kind"]), text(&owner["name"]))
}

fn finalizers(faults: &mut Faults, path: &Path, finalizers: &[Value]) {
    for finalizer in finalizers {
        let name = text(finalizer);
        check::invalid_each(faults, path, name, check::qualified_name(name));
    }
    let has = |name: &str| finalizers.iter().any(|f| text(f) == name);
    if has("orphan") && has("foregroundDeletion") {
        faults.push(Error::invalid(
            path,
            Value::Array(finalizers.to_vec()),
            "finalizer orphan and foregroundDeletion cannot be both set",
        ));
    }
}

/// Built-in kinds know all short finalizers; anybody else's must carry a domain.
pub fn known_finalizers(object: &Value) -> Faults {
    let mut faults = Faults::new();
    for (i, finalizer) in items(&object["metadata"]["finalizers"]).iter().enumerate() {
        let path = Path::new("metadata").child("finalizers").index(i);
        known_finalizer(&mut faults, &path, text(finalizer));
    }
    faults
}

pub fn known_finalizer(faults: &mut Faults, path: &Path, name: &str) {
    if !name.contains('/') && !["orphan", "foregroundDeletion", "kubernetes"].contains(&name) {
        let detail = "name is neither a standard finalizer name nor is it fully qualified";
        faults.push(Error::invalid(path, name, detail));
    }
}

/// Fields of the server: whatever a client sends, the stored ones stay.
pub fn carry_over(object: &mut Value, old: &Value) {
    if !object["metadata"].is_object() {
        put(object, "metadata", serde_json::Map::new());
    }
    let before = &old["metadata"];
    let metadata = &mut object["metadata"];
    copy(metadata, "creationTimestamp", before);
    if text(&metadata["uid"]).is_empty() {
        copy(metadata, "uid", before);
    }
    if set(&before["deletionTimestamp"]) {
        copy(metadata, "deletionTimestamp", before);
        if !set(&metadata["deletionGracePeriodSeconds"]) {
            copy(metadata, "deletionGracePeriodSeconds", before);
        }
    }
    if set(&before["generateName"]) && !set(&metadata["generateName"]) {
        copy(metadata, "generateName", before);
    }
}

/// Call after [`carry_over`].
pub fn validate_update(new: &Value, old: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("metadata");
    let (metadata, before) = (&new["metadata"], &old["metadata"]);
    common(&mut faults, &path, metadata);
    if set(&before["deletionTimestamp"]) {
        no_new_finalizers(&mut faults, &path, items(&metadata["finalizers"]), items(&before["finalizers"]));
    }
    if number(&metadata["generation"]) < number(&before["generation"]) {
        let generation = number(&metadata["generation"]);
        faults.push(Error::invalid(&path.child("generation"), generation, "must not be decremented"));
    }
    for key in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp"] {
        if metadata[key] != before[key] && !(metadata[key].is_null() && text(&before[key]).is_empty()) {
            faults.push(Error::invalid(&path.child(key), metadata[key].clone(), IMMUTABLE));
        }
    }
    if metadata["deletionGracePeriodSeconds"] != before["deletionGracePeriodSeconds"] {
        let value = metadata["deletionGracePeriodSeconds"].clone();
        faults.push(Error::invalid(&path.child("deletionGracePeriodSeconds"), value, IMMUTABLE));
    }
    faults
}

fn no_new_finalizers(faults: &mut Faults, path: &Path, new: &[Value], old: &[Value]) {
    let extra: Vec<String> =
        new.iter().filter(|f| !old.contains(f)).map(|f| amphipod_api::field::go_quote(text(f))).collect();
    if !extra.is_empty() {
        faults.push(Error::forbidden(
            &path.child("finalizers"),
            format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                extra.join(", ")
            ),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(faults: &Faults) -> Vec<String> {
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_and_finalizers() {
        let object = json!({"metadata": {"name": "A_b", "namespace": "default", "finalizers": ["mine"]}});
        let mut found = texts(&validate(&object, true, NameRule::Subdomain));
        found.extend(texts(&known_finalizers(&object)));
        assert_eq!(found.len(), 2);
        assert!(
            found[0].starts_with("metadata.name: Invalid value: \"A_b\": a lowercase RFC 1123 subdomain")
        );
        assert_eq!(
            found[1],
            "metadata.finalizers[0]: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully qualified"
        );
        let missing = texts(&validate(&json!({}), false, NameRule::Subdomain));
        assert_eq!(missing, ["metadata.name: Required value: name or generateName is required"]);
    }

    #[test]
    fn generate_name_may_end_in_a_dash() {
        let object = json!({"metadata": {"name": "a-x", "generateName": "a-", "namespace": "d"}});
        assert!(validate(&object, true, NameRule::Subdomain).is_empty());
    }

    #[test]
    fn owners() {
        let owner = |version: &str| json!({"apiVersion": version, "kind": "K", "name": "n", "uid": "u"});
        for (version, fits) in [("v1", true), ("g/v1", true), ("", false), ("g/", false), ("a/b/c", false)] {
            let object = json!({"metadata": {"name": "a", "ownerReferences": [owner(version)]}});
            let expected = format!(
                "metadata.ownerReferences.apiVersion: Invalid value: \"{version}\": version must not be empty"
            );
            let expected = if fits { vec![] } else { vec![expected] };
            assert_eq!(texts(&validate(&object, false, NameRule::Subdomain)), expected);
        }
    }

    #[test]
    fn updates_are_judged_whole_before_what_changed() {
        let old = json!({"metadata": {"name": "a", "uid": "1", "deletionTimestamp": "t"}});
        let new = json!({"metadata": {"name": "a", "uid": "2", "deletionTimestamp": "t", "labels": {"a": "-"}, "finalizers": ["a/b/c"]}});
        let found = texts(&validate_update(&new, &old));
        let starts = [
            "metadata.labels: Invalid",
            "metadata.finalizers: Invalid",
            "metadata.finalizers: Forbidden",
            "metadata.uid: Invalid",
        ];
        assert_eq!(found.len(), starts.len(), "{found:?}");
        assert!(found.iter().zip(starts).all(|(text, start)| text.starts_with(start)), "{found:?}");
    }

    #[test]
    fn server_fields_survive_updates() {
        let old = json!({"metadata": {"name": "a", "uid": "1", "creationTimestamp": "t", "generation": 2}});
        let mut new = json!({"metadata": {"name": "a", "generation": 2, "creationTimestamp": null}});
        carry_over(&mut new, &old);
        assert!(validate_update(&new, &old).is_empty());
        put(&mut new["metadata"], "uid", "2");
        assert_eq!(
            texts(&validate_update(&new, &old)),
            ["metadata.uid: Invalid value: \"2\": field is immutable"]
        );
    }
}

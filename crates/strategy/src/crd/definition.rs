//! The definition as a whole.

use std::collections::HashSet;

use amphipod_api::field::{Error, Path};
use serde_json::Value;

use super::{is_established, paths, shared, version};
use crate::check::{self, Faults, dns1035_label};
use crate::domains::webhook_client;
use crate::json::{at, items, set, text, truthy};

const APPROVAL: &str = "api-approved.kubernetes.io";
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// `old` is there for an update, which does not ask again for what was accepted before.
pub fn validate(object: &Value, old: Option<&Value>) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    let name = text(&object["metadata"]["name"]);
    if old.is_none() && name != format!("{}.{}", text(&spec["names"]["plural"]), text(&spec["group"])) {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        faults.push(Error::invalid(&Path::new("metadata").child("name"), name, detail));
    }
    group(&mut faults, &path.child("group"), text(&spec["group"]));
    check::one_of(&mut faults, &path.child("scope"), &spec["scope"], &["Cluster", "Namespaced"]);
    versions(&mut faults, &path, spec);
    for key in ["plural", "singular", "kind", "listKind"] {
        check::required(&mut faults, &path.child("names").child(key), &spec["names"][key]);
    }
    names(&mut faults, &path.child("names"), &spec["names"]);
    shared_fields(&mut faults, &path, items(&spec["versions"]));
    conversion(&mut faults, &path.child("conversion"), &spec["conversion"]);
    if let Some(old) = old {
        change(&mut faults, object, old);
    }
    faults.extend(status(object));
    stored_versions(&mut faults, object);
    approval(&mut faults, object, old);
    if truthy(&spec["preserveUnknownFields"])
        && old.is_none_or(|o| !truthy(&o["spec"]["preserveUnknownFields"]))
    {
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        faults.push(Error::invalid(&path.child("preserveUnknownFields"), true, detail));
    }
    faults
}

fn joined(faults: &mut Faults, path: &Path, value: &str, prefix: &str, texts: Vec<String>) {
    if !texts.is_empty() {
        faults.push(Error::invalid(path, value, format!("{prefix}{}", texts.join(","))));
    }
}

fn group(faults: &mut Faults, path: &Path, group: &str) {
    let texts = check::dns1123_subdomain(group);
    if group.is_empty() {
        faults.push(Error::required(path, ""));
    } else if !texts.is_empty() {
        joined(faults, path, group, "", texts);
    } else if !group.contains('.') {
        faults.push(Error::invalid(path, group, "should be a domain with at least one dot"));
    }
}

fn versions(faults: &mut Faults, path: &Path, spec: &Value) {
    let versions = items(&spec["versions"]);
    let list = path.child("versions");
    for (i, _) in versions.iter().enumerate().filter(|(_, v)| !set(&v["schema"]["openAPIV3Schema"])) {
        let at = list.index(i).child("schema").child("openAPIV3Schema");
        faults.push(Error::required(&at, "schemas are required"));
    }
    for (i, version) in versions.iter().enumerate() {
        let (at, name) = (list.index(i), text(&version["name"]));
        joined(faults, &at.child("name"), name, "", dns1035_label(name));
        version::own(faults, &at, version, versions);
    }
    let names: HashSet<&str> = versions.iter().map(|version| text(&version["name"])).collect();
    if names.len() < versions.len() {
        let detail = "must contain unique version names";
        faults.push(Error::invalid(&list, spec["versions"].clone(), detail));
    }
    if versions.iter().filter(|version| truthy(&version["storage"])).count() != 1 {
        let detail = "must have exactly one version marked as storage version";
        faults.push(Error::invalid(&list, spec["versions"].clone(), detail));
    }
}

/// What all versions have alike.
fn shared_fields(faults: &mut Faults, path: &Path, versions: &[Value]) {
    let with_status = versions.iter().any(|v| set(&v["subresources"]["status"]));
    if let Some(schema) = shared(versions, "schema") {
        version::schema(faults, &path.child("validation"), schema, with_status);
    }
    if let Some(subresources) = shared(versions, "subresources") {
        version::subresources(faults, &path.child("subresources"), subresources);
    }
    if let Some(columns) = shared(versions, "additionalPrinterColumns") {
        version::columns(faults, &path.child("additionalPrinterColumns"), columns);
    }
    if let Some(selectable) = shared(versions, "selectableFields") {
        let schema = &versions.first().unwrap_or(&Value::Null)["schema"]["openAPIV3Schema"];
        paths::selectable(faults, &path.child("selectableFields"), items(selectable), schema);
    }
}

fn names(faults: &mut Faults, path: &Path, names: &Value) {
    let mixed = "may have mixed case, but should otherwise match: ";
    for (key, prefix) in [("plural", ""), ("singular", ""), ("kind", mixed), ("listKind", mixed)] {
        let name = text(&names[key]);
        if !name.is_empty() {
            let checked = if prefix.is_empty() { name.to_owned() } else { name.to_lowercase() };
            joined(faults, &path.child(key), name, prefix, dns1035_label(&checked));
        }
    }
    let list = |faults: &mut Faults, key: &str| {
        for (i, name) in items(&names[key]).iter().enumerate() {
            joined(faults, &path.child(key).index(i), text(name), "", dns1035_label(text(name)));
        }
    };
    list(faults, "shortNames");
    let list_kind = text(&names["listKind"]);
    if !list_kind.is_empty() && text(&names["kind"]) == list_kind {
        let detail = "kind and listKind may not be the same";
        faults.push(Error::invalid(&path.child("listKind"), list_kind, detail));
    }
    list(faults, "categories");
}

fn conversion(faults: &mut Faults, path: &Path, conversion: &Value) {
    if !set(conversion) {
        return;
    }
    check::one_of(faults, &path.child("strategy"), &conversion["strategy"], &["None", "Webhook"]);
    let (client, reviews) =
        (&conversion["webhook"]["clientConfig"], &conversion["webhook"]["conversionReviewVersions"]);
    let (client_at, reviews_at) = (path.child("webhookClientConfig"), path.child("conversionReviewVersions"));
    if text(&conversion["strategy"]) == "Webhook" {
        if set(client) {
            webhook_client(faults, &client_at, client);
        } else {
            faults.push(Error::required(&client_at, "required when strategy is set to Webhook"));
        }
        review_versions(faults, &reviews_at, reviews);
        return;
    }
    let refused = "should not be set when strategy is not set to Webhook";
    if set(client) {
        faults.push(Error::forbidden(&client_at, refused));
    }
    if !items(reviews).is_empty() {
        faults.push(Error::forbidden(&reviews_at, refused));
    }
}

fn review_versions(faults: &mut Faults, path: &Path, reviews: &Value) {
    let list = items(reviews);
    if list.is_empty() {
        faults.push(Error::required(path, ""));
        return;
    }
    let mut seen = HashSet::new();
    for (i, version) in list.iter().enumerate() {
        let (at, name) = (path.index(i), text(version));
        if !seen.insert(version) {
            faults.push(Error::invalid(&at, name, "duplicate version"));
            continue;
        }
        check::invalid_each(faults, &at, name, dns1035_label(name));
    }
    if !list.iter().any(|version| REVIEW_VERSIONS.contains(&text(version))) {
        let detail = format!("must include at least one of {}", REVIEW_VERSIONS.join(", "));
        faults.push(Error::invalid(path, reviews.clone(), detail));
    }
}

pub fn status(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("status").child("acceptedNames");
    names(&mut faults, &path, &object["status"]["acceptedNames"]);
    faults
}

fn stored_versions(faults: &mut Faults, object: &Value) {
    let path = Path::new("status").child("storedVersions");
    let list = at(object, &["status", "storedVersions"]);
    let stored = items(list);
    if stored.is_empty() {
        faults.push(Error::invalid(&path, Value::Array(Vec::new()), "must have at least one stored version"));
        return;
    }
    let versions = items(at(object, &["spec", "versions"]));
    let known: HashSet<&str> = stored.iter().map(text).collect();
    for version in versions.iter().filter(|v| truthy(&v["storage"]) && !known.contains(text(&v["name"]))) {
        // Each shows the whole list.
        if faults.is_full() {
            return;
        }
        let detail = format!("must have the storage version {}", text(&version["name"]));
        faults.push(Error::invalid(&path, list.clone(), detail));
    }
    let names: HashSet<&str> = versions.iter().map(|version| text(&version["name"])).collect();
    for (i, name) in stored.iter().enumerate().filter(|(_, name)| !names.contains(text(name))) {
        let name = text(name);
        let detail = format!(
            "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
        );
        faults.push(Error::invalid(&path.index(i), name, detail));
    }
}

/// Kubernetes' own groups take definitions only with a word of who agreed.
#[derive(PartialEq, Eq)]
enum Approval {
    Missing,
    Bypassed,
    Approved,
    Invalid,
}

fn approval_of(object: &Value) -> Approval {
    let word = text(&object["metadata"]["annotations"][APPROVAL]);
    let is_url = word.split_once("://").is_some_and(|(scheme, rest)| {
        !scheme.is_empty()
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric())
            && !rest.trim_start_matches('/').is_empty()
    });
    match word {
        "" => Approval::Missing,
        _ if word.starts_with("unapproved") => Approval::Bypassed,
        _ if is_url => Approval::Approved,
        _ => Approval::Invalid,
    }
}

fn approval(faults: &mut Faults, object: &Value, old: Option<&Value>) {
    let group = text(&object["spec"]["group"]);
    let protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|own| group.strip_suffix(own).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')));
    let state = approval_of(object);
    if !protected || old.is_some_and(|old| approval_of(old) == state) {
        return;
    }
    let path = Path::new("metadata").child("annotations").key(APPROVAL);
    let proposal = "see https://github.com/kubernetes/enhancements/pull/1111";
    match state {
        Approval::Missing => faults.push(Error::required(
            &path,
            format!("protected groups must have approval annotation \"{APPROVAL}\", {proposal}"),
        )),
        Approval::Invalid => faults.push(Error::invalid(
            &path,
            text(&object["metadata"]["annotations"][APPROVAL]),
            format!(
                "protected groups must have approval annotation \"{APPROVAL}\" with either a URL or a reason starting with \"unapproved\", {proposal}"
            ),
        )),
        Approval::Bypassed | Approval::Approved => {}
    }
}

fn change(faults: &mut Faults, new: &Value, old: &Value) {
    let path = Path::new("spec");
    let mut fixed = |field: Path, keys: &[&str]| {
        check::immutable_text(faults, &field, at(&new["spec"], keys), at(&old["spec"], keys));
    };
    if is_established(old) {
        fixed(path.child("scope"), &["scope"]);
        fixed(path.child("names").child("kind"), &["names", "kind"]);
    }
    fixed(path.child("group"), &["group"]);
    fixed(path.child("names").child("plural"), &["names", "plural"]);
}

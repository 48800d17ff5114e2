//! What the server serves, in both discovery forms: the old documents (one per group version) and
//! the aggregated ones (one for `/api`, one for `/apis`). Pure: rows in, JSON out.

use amphipod_api::resource::{Resource, Subresource};
use base64::Engine;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The rows of one group, versions in order of preference.
pub struct Group<'a> {
    pub name: &'a str,
    pub versions: Vec<(&'a str, Vec<&'a Resource>)>,
}

/// Content type of an aggregated answer; client-go decides by its parameters.
pub const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// `/api`
pub fn core_versions(server_address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
    })
}

/// `/apis`
pub fn group_list(groups: &[Group]) -> Value {
    let named = groups.iter().filter(|g| !g.name.is_empty());
    let groups: Vec<Value> = named
        .map(|g| {
            let mut entry = group(g);
            if let Some(entry) = entry.as_object_mut() {
                entry.remove("kind");
                entry.remove("apiVersion");
            }
            entry
        })
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`
pub fn group(group: &Group) -> Value {
    let entry =
        |version: &str| json!({"groupVersion": group_version(group.name, version), "version": version});
    let versions: Vec<Value> = group.versions.iter().map(|(version, _)| entry(version)).collect();
    json!({
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": group.name,
        "preferredVersion": versions.first().cloned().unwrap_or_default(),
        "versions": versions,
    })
}

/// `/api/v1` and `/apis/<group>/<version>`
pub fn resource_list(group: &str, version: &str, resources: &[&Resource]) -> Value {
    let mut entries = Vec::new();
    for resource in sorted(resources) {
        entries.push(old_entry(resource));
        let mut subresources: Vec<&Subresource> = resource.subresources.iter().collect();
        subresources.sort_by(|a, b| a.name.cmp(&b.name));
        entries.extend(subresources.into_iter().map(|sub| old_subresource(resource, sub)));
    }
    let mut list = json!({
        "kind": "APIResourceList",
        "groupVersion": group_version(group, version),
        "resources": entries,
    });
    // The core list has none: old clients expect it so.
    if !group.is_empty() {
        list["apiVersion"] = "v1".into();
    }
    list
}

fn sorted<'a>(resources: &[&'a Resource]) -> Vec<&'a Resource> {
    let mut sorted = resources.to_vec();
    sorted.sort_by(|a, b| a.plural.cmp(&b.plural));
    sorted
}

fn old_entry(resource: &Resource) -> Value {
    let mut entry = json!({
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": resource.verbs,
    });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
    if let Some(storage) = &resource.storage {
        entry["storageVersionHash"] = json!(storage.version_hash);
    }
    entry
}

fn old_subresource(resource: &Resource, sub: &Subresource) -> Value {
    let mut entry = json!({
        "name": format!("{}/{}", resource.plural, sub.name),
        "singularName": "",
        "namespaced": resource.namespaced,
        "kind": sub.kind,
        "verbs": sub.verbs,
    });
    // Empty where the subresource is of its resource's own group and version.
    let own = (resource.group.as_ref(), resource.version.as_ref());
    if !sub.version.is_empty() && (sub.group.as_ref(), sub.version.as_ref()) != own {
        entry["group"] = json!(sub.group);
        entry["version"] = json!(sub.version);
    }
    entry
}

/// The aggregated form of `/api` (the core group alone) or `/apis` (all others).
pub fn aggregated(groups: &[&Group]) -> Value {
    let items: Vec<Value> = groups
        .iter()
        .map(|group| {
            let versions: Vec<Value> = group
                .versions
                .iter()
                .map(|(version, resources)| {
                    let resources: Vec<Value> = sorted(resources).into_iter().map(aggregated_entry).collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let metadata = if group.name.is_empty() { json!({}) } else { json!({"name": group.name}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    })
}

fn kind_of(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

fn aggregated_entry(resource: &Resource) -> Value {
    let scope = if resource.namespaced { "Namespaced" } else { "Cluster" };
    let mut entry = json!({
        "resource": resource.plural,
        "responseKind": kind_of(&resource.group, &resource.version, &resource.kind),
        "scope": scope,
        "singularResource": resource.singular,
        "verbs": resource.verbs,
    });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
    if !resource.subresources.is_empty() {
        let mut subresources: Vec<&Subresource> = resource.subresources.iter().collect();
        subresources.sort_by(|a, b| a.name.cmp(&b.name));
        let entries = subresources.into_iter().map(|sub| {
            json!({
                "subresource": sub.name,
                "responseKind": kind_of(&sub.group, &sub.version, &sub.kind),
                "verbs": sub.verbs,
            })
        });
        entry["subresources"] = entries.collect();
    }
    entry
}

/// The ETag of a discovery answer: a digest of its bytes, quoted.
pub fn etag(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    format!("\"{}\"", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&digest[..16]))
}

//! What each endpoint's writers can own, and the versions a kind's managers may have written at.

use amphipod_api::apply::{OneVersion, Tracked, Versions, Writer};
use amphipod_api::resource::{self, Resource};
use amphipod_api::schema::{self, Node};
use serde_json::Value;

use super::view;
use crate::context::Context;

pub fn writer<'a>(cx: &'a Context, manager: &'a str, api_version: &'a str) -> Writer<'a> {
    Writer {
        manager,
        api_version,
        subresource: cx.subresource(),
        now: &cx.now_text,
        schema: cx.schema(),
        tracked: tracked(&cx.resource, cx.subresource()),
        versions: cx,
    }
}

/// The server itself, writing a kind that is served at one version.
pub fn server_writer<'a>(
    resource: &'a Resource,
    subresource: &'a str,
    manager: &'a str,
    api_version: &'a str,
    now: &'a str,
) -> Writer<'a> {
    Writer {
        manager,
        api_version,
        subresource,
        now,
        schema: Node::of_kind(&resource.group, &resource.version, &resource.kind),
        tracked: tracked(resource, subresource),
        versions: &OneVersion,
    }
}

type Paths = &'static [&'static [&'static str]];

const SPEC: Paths = &[&["spec"]];
const STATUS: Paths = &[&["status"]];
const METADATA_AND_SPEC: Paths = &[&["metadata"], &["spec"]];
const RESIZED: Paths = &[
    &["spec", "containers", "*", "resources"],
    &["spec", "containers", "*", "resizePolicy"],
    &["spec", "initContainers", "*", "resources"],
    &["spec", "initContainers", "*", "resizePolicy"],
    &["spec", "resources"],
];

fn tracked(resource: &Resource, subresource: &str) -> Tracked<'static> {
    match (resource.plural.as_ref(), subresource) {
        ("pods", "ephemeralcontainers") => Tracked::Only(&[&["spec", "ephemeralContainers"]]),
        ("pods", "resize") => Tracked::Only(RESIZED),
        ("pods", "status") => Tracked::AllBut(&[
            &["spec"],
            &["metadata", "deletionTimestamp"],
            &["metadata", "ownerReferences"],
        ]),
        ("deployments", "status") => Tracked::AllBut(&[&["spec"], &["metadata", "labels"]]),
        ("certificatesigningrequests", "approval") => {
            Tracked::AllBut(&[&["spec"], &["status", "certificate"]])
        }
        (
            "volumeattachments"
            | "resourceclaims"
            | "customresourcedefinitions"
            | "flowschemas"
            | "prioritylevelconfigurations",
            "status",
        ) => Tracked::AllBut(METADATA_AND_SPEC),
        (_, "status") => Tracked::AllBut(SPEC),
        _ if resource.subresource("status").is_some() => Tracked::AllBut(STATUS),
        _ => Tracked::AllBut(&[]),
    }
}

/// The resource at another group and version that shows the same stored objects.
fn sibling(resource: &Resource, api_version: &str) -> Option<&'static Resource> {
    let (group, version) = schema::split_api_version(api_version);
    let found = resource::find(group, version, &resource.plural)?;
    let prefix = |r: &Resource| r.storage.as_ref().map(|s| s.prefix.clone());
    (prefix(found) == prefix(resource)).then_some(found)
}

impl Versions for Context {
    fn convert(&self, object: &Value, from: &str, to: &str) -> Option<(Value, Node<'_>)> {
        let (source, target) = (sibling(&self.resource, from)?, sibling(&self.resource, to)?);
        let mut object = object.clone();
        if source.api_version() != target.api_version() {
            view::to_stored(source, &mut object);
            view::to_served(target, &mut object);
        }
        Some((object, Node::of_kind(&target.group, &target.version, &target.kind)))
    }
}

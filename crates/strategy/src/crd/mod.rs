//! CustomResourceDefinition: names, versions, schemas, subresources, columns, conversion. Rules in
//! CEL are checked for their form here, not compiled.

mod definition;
mod paths;
mod schema;
mod structural;
#[cfg(test)]
mod tests;
mod version;

use serde_json::{Value, json};

use crate::json::{at, default, default_number, default_text, items, put, set, text, with, within};
use crate::kind::{Kind, SPEC_AND_STATUS};

pub static CUSTOM_RESOURCE_DEFINITION: Kind = Kind {
    short_finalizers: true,
    unconditional_update: false,
    default: defaults,
    create: |_, object| {
        let stored = storage_versions(object);
        within(object, "status", |status| put(status, "storedVersions", stored));
    },
    update: |context, object, _| {
        if context.subresource == "status" {
            return;
        }
        // What was ever stored stays on record until somebody has migrated it.
        let mut stored = items(at(object, &["status", "storedVersions"])).to_vec();
        for version in storage_versions(object) {
            if !stored.contains(&version) {
                stored.push(version);
            }
        }
        within(object, "status", |status| put(status, "storedVersions", stored));
    },
    validate: |object| definition::validate(object, None),
    revalidate: Some(|new, old| definition::validate(new, Some(old))),
    validate_status: |new, _| definition::status(new),
    ..SPEC_AND_STATUS
};

fn defaults(object: &mut Value) {
    within(object, "spec", |spec| {
        default(spec, "conversion", json!({"strategy": "None"}));
        within(spec, "names", |names| {
            let kind = text(&names["kind"]).to_owned();
            default_text(names, "singular", &kind.to_lowercase());
            if !kind.is_empty() {
                default_text(names, "listKind", &format!("{kind}List"));
            }
        });
        with(spec, "conversion", |conversion| {
            default_text(conversion, "strategy", "None");
            with(conversion, "webhook", |webhook| {
                with(webhook, "clientConfig", |client| {
                    with(client, "service", |service| default_number(service, "port", 443));
                });
            });
        });
    });
    within(object, "status", |status| {
        default(status, "conditions", Value::Null);
        default(status, "storedVersions", Value::Null);
        within(status, "acceptedNames", |names| {
            default(names, "kind", "");
            default(names, "plural", "");
        });
    });
}

fn storage_versions(object: &Value) -> Vec<Value> {
    let versions = items(at(object, &["spec", "versions"])).iter();
    versions.filter(|version| version["storage"] == true).map(|version| version["name"].clone()).collect()
}

/// A field all versions have alike is reported as one of the whole definition.
fn shared<'a>(versions: &'a [Value], field: &str) -> Option<&'a Value> {
    let first = &versions.first()?[field];
    versions.iter().all(|version| version[field] == *first).then_some(first)
}

fn is_established(object: &Value) -> bool {
    let condition = |c: &&Value| text(&c["type"]) == "Established";
    let found = items(at(object, &["status", "conditions"])).iter().find(condition);
    found.is_some_and(|c| set(c) && text(&c["status"]) == "True")
}

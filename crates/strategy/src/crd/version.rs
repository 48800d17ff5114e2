//! One version of a definition.

use amphipod_api::field::{Error, Path};
use serde_json::Value;

use super::{paths, schema, shared};
use crate::check::Faults;
use crate::json::{fields, items, set, text, truthy};

const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 8] =
    ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
const WARNING_MAX: usize = 256;
/// Keywords a root schema may have beside a status subresource, so that the part for the status
/// can be taken out of it; as upstream's message lists them.
const ROOT_KEYWORDS: [&str; 22] = [
    "Description",
    "Type",
    "Format",
    "Title",
    "Maximum",
    "ExclusiveMaximum",
    "Minimum",
    "ExclusiveMinimum",
    "MaxLength",
    "MinLength",
    "Pattern",
    "MaxItems",
    "MinItems",
    "UniqueItems",
    "MultipleOf",
    "Required",
    "Items",
    "Properties",
    "ExternalDocs",
    "Example",
    "XPreserveUnknownFields",
    "XValidations",
];

/// What this version has for itself; what all share is looked at once elsewhere.
pub fn own(faults: &mut Faults, path: &Path, version: &Value, all: &[Value]) {
    deprecation(faults, &path.child("deprecationWarning"), version);
    if shared(all, "schema").is_none() {
        let with_status = set(&version["subresources"]["status"]);
        schema(faults, &path.child("schema"), &version["schema"], with_status);
    }
    if shared(all, "subresources").is_none() {
        subresources(faults, &path.child("subresources"), &version["subresources"]);
    }
    if shared(all, "additionalPrinterColumns").is_none() {
        columns(faults, &path.child("additionalPrinterColumns"), &version["additionalPrinterColumns"]);
    }
    if shared(all, "selectableFields").is_none() {
        let at = path.child("selectableFields");
        let root = &version["schema"]["openAPIV3Schema"];
        paths::selectable(faults, &at, items(&version["selectableFields"]), root);
    }
}

fn deprecation(faults: &mut Faults, path: &Path, version: &Value) {
    let warning = &version["deprecationWarning"];
    if !set(warning) {
        return;
    }
    let shown = text(warning);
    let mut fault = |detail: String| faults.push(Error::invalid(path, shown, detail));
    if !truthy(&version["deprecated"]) {
        fault("can only be set for deprecated versions".to_owned());
        return;
    }
    if shown.len() > WARNING_MAX {
        fault(format!("must be <= {WARNING_MAX} characters long"));
    }
    if shown.is_empty() {
        fault("must not be an empty string".to_owned());
    }
    if let Some((at, _)) =
        shown.char_indices().find(|(_, c)| c.is_control() || (c.is_whitespace() && *c != ' '))
    {
        fault(format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {at}"
        ));
    }
}

pub fn schema(faults: &mut Faults, path: &Path, validation: &Value, with_status: bool) {
    let root = &validation["openAPIV3Schema"];
    if !set(root) {
        return;
    }
    let at = path.child("openAPIV3Schema");
    if with_status {
        beside_status(faults, path, root);
    }
    if truthy(&root["nullable"]) {
        let at = path.child("openAPIV3Schema.nullable");
        faults.push(Error::forbidden(&at, "nullable cannot be true at the root"));
    }
    schema::validate(faults, &at, root);
}

fn beside_status(faults: &mut Faults, path: &Path, root: &Value) {
    if set(&root["type"]) && text(&root["type"]) != "object" {
        let detail = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        faults.push(Error::invalid(&path.child("openAPIV3Schema.type"), text(&root["type"]), detail));
        return;
    }
    let go_name = |key: &str| match key.strip_prefix("x-kubernetes-") {
        Some("preserve-unknown-fields") => "XPreserveUnknownFields".to_owned(),
        Some("validations") => "XValidations".to_owned(),
        _ => key[..1].to_uppercase() + &key[1..],
    };
    let unset = |value: &Value| crate::json::is_empty(value) && !value.is_number();
    let odd =
        fields(root).find(|(key, value)| !unset(value) && !ROOT_KEYWORDS.contains(&go_name(key).as_str()));
    if odd.is_some() {
        let detail = format!(
            "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
            ROOT_KEYWORDS.join(" ")
        );
        faults.push(Error::invalid(&path.child("openAPIV3Schema"), root.clone(), detail));
    }
}

pub fn subresources(faults: &mut Faults, path: &Path, subresources: &Value) {
    let scale = &subresources["scale"];
    if !set(scale) {
        return;
    }
    for (key, roots, place) in [
        ("specReplicasPath", &[".spec."][..], ".spec"),
        ("statusReplicasPath", &[".status."][..], ".status"),
        ("labelSelectorPath", &[".spec.", ".status."][..], "either .spec or .status"),
    ] {
        let (at, route) = (path.child(&format!("scale.{key}")), text(&scale[key]));
        if route.is_empty() {
            if key != "labelSelectorPath" {
                faults.push(Error::required(&at, ""));
            }
        } else if paths::simple(faults, &at, route) && !roots.iter().any(|root| route.starts_with(root)) {
            faults.push(Error::invalid(&at, route, format!("should be a json path under {place}")));
        }
    }
}

pub fn columns(faults: &mut Faults, path: &Path, columns: &Value) {
    let one_of = |words: &[&str]| format!("must be one of {}", words.join(","));
    for (i, column) in items(columns).iter().enumerate() {
        let at = path.index(i);
        if text(&column["name"]).is_empty() {
            faults.push(Error::required(&at.child("name"), ""));
        }
        match text(&column["type"]) {
            "" => faults.push(Error::required(&at.child("type"), one_of(&COLUMN_TYPES))),
            kind if COLUMN_TYPES.contains(&kind) => {}
            kind => faults.push(Error::invalid(&at.child("type"), kind, one_of(&COLUMN_TYPES))),
        }
        let format = text(&column["format"]);
        if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
            faults.push(Error::invalid(&at.child("format"), format, one_of(&COLUMN_FORMATS)));
        }
        match text(&column["jsonPath"]) {
            "" => faults.push(Error::required(&at.child("JSONPath"), "")),
            route => {
                paths::simple(faults, &at.child("JSONPath"), route);
            }
        }
    }
}

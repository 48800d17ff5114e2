//! ResourceSlice: the devices a driver has on a node or for many.

use amphipod_api::field::{Error, Path};
use amphipod_api::quantity::Quantity;
use serde_json::Value;

use super::{DOMAIN_MAX, IDENTIFIER_MAX, label, pool_name, qualified, set_of};
use crate::check::{self, Faults, invalid_each};
use crate::domains::driver_name;
use crate::json::{each, fields, items, number, remove, set, text, with};
use crate::kind::{Kind, PLAIN};
use crate::pod::scheduling::node_selector;

const DEVICES_MAX: usize = 128;
const PROPERTIES_MAX: usize = 32;
const VALUE_BYTES_MAX: usize = 64;
const KEY_BYTES_MAX: usize = DOMAIN_MAX + 1 + IDENTIFIER_MAX;
const OFF: [&str; 9] = [
    "consumesCounters",
    "nodeName",
    "nodeSelector",
    "allNodes",
    "taints",
    "bindsToNode",
    "bindingConditions",
    "bindingFailureConditions",
    "allowMultipleAllocations",
];

pub static RESOURCE_SLICE: Kind = Kind {
    generation: true,
    create: |_, object| without_features(object),
    update: |_, object, _| without_features(object),
    validate: |object| slice(object, object),
    revalidate: Some(slice),
    ..PLAIN
};

fn without_features(object: &mut Value) {
    with(object, "spec", |spec| {
        remove(spec, "sharedCounters");
        remove(spec, "perDeviceNodeSelection");
        each(spec, "devices", |device| {
            OFF.iter().for_each(|key| remove(device, key));
            if let Some(capacities) = device.get_mut("capacity").and_then(Value::as_object_mut) {
                capacities.values_mut().for_each(|capacity| remove(capacity, "requestPolicy"));
            }
        });
    });
}

/// A new one is compared with itself.
fn slice(object: &Value, old: &Value) -> Faults {
    let mut faults = Faults::new();
    let (path, spec) = (Path::new("spec"), &object["spec"]);
    driver_name(&mut faults, &path.child("driver"), text(&spec["driver"]));
    let pool = path.child("pool");
    pool_name(&mut faults, &pool.child("name"), text(&spec["pool"]["name"]));
    let count = number(&spec["pool"]["resourceSliceCount"]);
    if count <= 0 {
        faults.push(Error::invalid(&pool.child("resourceSliceCount"), count, "must be greater than zero"));
    }
    let generation = number(&spec["pool"]["generation"]);
    if generation < 0 {
        let detail = "must be greater than or equal to zero";
        faults.push(Error::invalid(&pool.child("generation"), generation, detail));
    }
    fixed(&mut faults, &path, spec, &old["spec"]);
    place(&mut faults, &path, spec);
    set_of(&mut faults, &path.child("devices"), &spec["devices"], DEVICES_MAX, |d| &d["name"], device);
    faults
}

fn fixed(faults: &mut Faults, path: &Path, spec: &Value, before: &Value) {
    let name = path.child("pool").child("name");
    check::immutable_text(faults, &name, &spec["pool"]["name"], &before["pool"]["name"]);
    check::immutable_text(faults, &path.child("driver"), &spec["driver"], &before["driver"]);
    check::immutable(faults, &path.child("nodeName"), &spec["nodeName"], &before["nodeName"]);
}

/// Which nodes reach the devices.
fn place(faults: &mut Faults, path: &Path, spec: &Value) {
    let mut given: Vec<&str> = Vec::new();
    let (node, selector, all) = (&spec["nodeName"], &spec["nodeSelector"], &spec["allNodes"]);
    if set(node) {
        let (at, name) = (path.child("nodeName"), text(node));
        if name.is_empty() {
            faults.push(Error::invalid(&at, "", "must be either unset or set to a non-empty string"));
        } else {
            given.push("`nodeName`");
            invalid_each(faults, &at, name, check::dns1123_subdomain(name));
        }
    }
    if set(selector) {
        given.push("`nodeSelector`");
        let at = path.child("nodeSelector");
        node_selector(faults, &at, selector);
        let terms = &selector["nodeSelectorTerms"];
        if items(terms).len() != 1 {
            let detail = "must have exactly one node selector term";
            faults.push(Error::invalid(&at.child("nodeSelectorTerms"), terms.clone(), detail));
        }
    }
    if *all == true {
        given.push("`allNodes`");
    } else if set(all) {
        faults.push(Error::invalid(&path.child("allNodes"), false, "must be either unset or set to true"));
    }
    let one = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match given[..] {
        [] => faults.push(Error::required(path, one)),
        [_] => {}
        _ => {
            let detail = format!("{one}, but multiple fields are set");
            faults.push(Error::invalid(path, format!("{{{}}}", given.join(", ")), detail));
        }
    }
}

fn device(faults: &mut Faults, path: &Path, device: &Value) {
    label(faults, &path.child("name"), text(&device["name"]));
    let (attributes, capacity) = (&device["attributes"], &device["capacity"]);
    let count = fields(attributes).count() + fields(capacity).count();
    if count > PROPERTIES_MAX {
        let detail =
            format!("the total number of attributes and capacities must not exceed {PROPERTIES_MAX}");
        faults.push(Error::invalid(path, count, detail));
    }
    for (key, value) in fields(attributes) {
        let at = path.child("attributes").key(&shortened(key));
        qualified(faults, &at, key);
        attribute(faults, &at, value);
    }
    for (key, value) in fields(capacity) {
        let at = path.child("capacity").key(&shortened(key));
        qualified(faults, &at, key);
        if let Err(reason) = Quantity::parse(text(&value["value"])) {
            faults.push(Error::invalid(&at.child("value"), value["value"].clone(), reason.to_string()));
        }
    }
}

/// A key too long to repeat whole keeps its ends.
fn shortened(key: &str) -> String {
    if key.len() <= KEY_BYTES_MAX || !key.is_ascii() {
        return key.to_owned();
    }
    let left = KEY_BYTES_MAX - 3;
    format!("{}...{}", &key[..left.div_ceil(2)], &key[key.len() - left / 2..])
}

fn attribute(faults: &mut Faults, path: &Path, attribute: &Value) {
    for key in ["string", "version"] {
        let (at, value) = (path.child(key), text(&attribute[key]));
        if key == "version" && set(&attribute[key]) && !is_semantic_version(value) {
            let detail = "must be a string compatible with semver.org spec 2.0.0";
            faults.push(Error::invalid(&at, value, detail));
        }
        if value.len() > VALUE_BYTES_MAX {
            faults.push(Error::too_long(&at, VALUE_BYTES_MAX));
        }
    }
    let given = ["bool", "int", "string", "version"].iter().filter(|key| set(&attribute[**key])).count();
    if given != 1 {
        let fault = Error::invalid(path, "", "exactly one value must be specified");
        let values = [
            ("IntValue", "int"),
            ("BoolValue", "bool"),
            ("StringValue", "string"),
            ("VersionValue", "version"),
        ];
        let shown = values.map(|(name, key)| (name, attribute[key].clone()));
        faults.push(if given == 0 { fault } else { check::shown_as(fault, &shown) });
    }
}

fn is_semantic_version(version: &str) -> bool {
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let number = |part: &str| digits(part) && (part == "0" || !part.starts_with('0'));
    let (rest, build) = version.split_once('+').map_or((version, None), |(rest, build)| (rest, Some(build)));
    let (core, before) = rest.split_once('-').map_or((rest, None), |(core, before)| (core, Some(before)));
    let numbers: Vec<&str> = core.split('.').collect();
    numbers.len() == 3
        && numbers.into_iter().all(number)
        && before.is_none_or(|list| list.split('.').all(|part| word(part) && (!digits(part) || number(part))))
        && build.is_none_or(|list| list.split('.').all(word))
}

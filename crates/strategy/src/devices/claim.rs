//! ResourceClaim, ResourceClaimTemplate and DeviceClass.

use amphipod_api::field::{Error, Path};
use serde_json::Value;

use super::{each_of, label, opaque, qualified, set_of, status};
use crate::check::{self, Faults, invalid_each};
use crate::domains::driver_name;
use crate::json::{default_number, default_text, each, items, number, remove, same, set, text, with, within};
use crate::kind::{Kind, PLAIN};

pub const LIST_MAX: usize = 32;
const ALTERNATIVES_MAX: usize = 8;
const EXPRESSION_BYTES_MAX: usize = 10 * 1024;
const MODES: [&str; 2] = ["All", "ExactCount"];
const REFERENCE: &str =
    "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

pub static RESOURCE_CLAIM: Kind = Kind {
    status: true,
    status_keeps_metadata: true,
    default: |object| {
        within(object, "spec", |spec| with(spec, "devices", request_defaults));
        within(object, "status", |_| {});
    },
    create: |_, object| with(object, "spec", without_features),
    update: |context, object, _| {
        if context.subresource == "status" {
            with(object, "status", status::without_features);
        } else {
            with(object, "spec", without_features);
        }
    },
    validate_new: |_, object| {
        let mut faults = Faults::new();
        devices(&mut faults, &Path::new("spec").child("devices"), &object["spec"]["devices"]);
        faults
    },
    validate_change: spec_fixed,
    validate_status: status::change,
    ..PLAIN
};
pub static RESOURCE_CLAIM_TEMPLATE: Kind = Kind {
    default: |object| {
        within(object, "spec", |template| {
            within(template, "spec", |spec| with(spec, "devices", request_defaults));
        });
    },
    create: |_, object| with(object, "spec", |template| with(template, "spec", without_features)),
    update: |_, object, _| with(object, "spec", |template| with(template, "spec", without_features)),
    validate_new: |_, object| {
        let mut faults = Faults::new();
        let (path, template) = (Path::new("spec"), &object["spec"]);
        let at = path.child("metadata");
        check::labels(&mut faults, &at.child("labels"), &template["metadata"]["labels"]);
        crate::metadata::annotations(
            &mut faults,
            &at.child("annotations"),
            &template["metadata"]["annotations"],
        );
        devices(&mut faults, &path.child("spec").child("devices"), &template["spec"]["devices"]);
        faults
    },
    validate_change: spec_fixed,
    ..PLAIN
};
pub static DEVICE_CLASS: Kind = Kind {
    generation: true,
    default: |object| within(object, "spec", |_| {}),
    create: |_, object| with(object, "spec", |spec| remove(spec, "extendedResourceName")),
    update: |_, object, _| with(object, "spec", |spec| remove(spec, "extendedResourceName")),
    validate: |object| {
        let mut faults = Faults::new();
        let (path, spec) = (Path::new("spec"), &object["spec"]);
        selectors(&mut faults, &path.child("selectors"), &spec["selectors"]);
        each_of(&mut faults, &path.child("config"), &spec["config"], LIST_MAX, configuration);
        faults
    },
    ..PLAIN
};

fn request_defaults(devices: &mut Value) {
    each(devices, "requests", |request| {
        with(request, "exactly", count_defaults);
        each(request, "firstAvailable", count_defaults);
    });
}

fn count_defaults(request: &mut Value) {
    default_text(request, "allocationMode", "ExactCount");
    if request["allocationMode"] == "ExactCount" {
        default_number(request, "count", 1);
    }
}

fn without_features(spec: &mut Value) {
    let off = |request: &mut Value| ["tolerations", "capacity"].iter().for_each(|key| remove(request, key));
    with(spec, "devices", |devices| {
        each(devices, "requests", |request| {
            with(request, "exactly", off);
            each(request, "firstAvailable", off);
        });
        each(devices, "constraints", |constraint| remove(constraint, "distinctAttribute"));
    });
}

fn spec_fixed(new: &Value, old: &Value) -> Faults {
    let mut faults = Faults::new();
    if !same(&new["spec"], &old["spec"]) {
        faults.push(Error::invalid(&Path::new("spec"), new["spec"].clone(), check::IMMUTABLE));
    }
    faults
}

fn devices(faults: &mut Faults, path: &Path, devices: &Value) {
    set_of(faults, &path.child("requests"), &devices["requests"], LIST_MAX, |r| &r["name"], request);
    let known = RequestNames::of(devices);
    each_of(
        faults,
        &path.child("constraints"),
        &devices["constraints"],
        LIST_MAX,
        |faults, at, constraint| {
            known.check_all(faults, &at.child("requests"), &constraint["requests"]);
            if set(&constraint["matchAttribute"]) {
                let (name, at) = (text(&constraint["matchAttribute"]), at.child("matchAttribute"));
                qualified(faults, &at, name);
                if !name.contains('/') {
                    let detail = "a fully qualified name must be a domain and a name separated by a slash";
                    faults.push(Error::invalid(&at, name, detail));
                }
            } else {
                faults.push(Error::required(&at.child("matchAttribute"), ""));
            }
        },
    );
    each_of(faults, &path.child("config"), &devices["config"], LIST_MAX, |faults, at, config| {
        known.check_all(faults, &at.child("requests"), &config["requests"]);
        configuration(faults, at, config);
    });
}

/// The requests of a claim, and their alternatives.
pub struct RequestNames<'a> {
    devices: &'a Value,
}

impl<'a> RequestNames<'a> {
    pub fn of(devices: &'a Value) -> Self {
        RequestNames { devices }
    }

    fn has(&self, name: &str) -> bool {
        let (request, alternative) = name.split_once('/').map_or((name, None), |(r, a)| (r, Some(a)));
        let named =
            |list: &'a Value, wanted: &str| items(list).iter().find(|item| text(&item["name"]) == wanted);
        let Some(found) = named(&self.devices["requests"], request) else { return false };
        alternative.is_none_or(|wanted| named(&found["firstAvailable"], wanted).is_some())
    }

    pub fn check(&self, faults: &mut Faults, path: &Path, name: &str) {
        if name.matches('/').count() > 1 {
            faults.push(Error::invalid(path, name, REFERENCE));
            return;
        }
        name.split('/').for_each(|part| label(faults, path, part));
        if !self.has(name) {
            faults.push(Error::invalid(path, name, REFERENCE));
        }
    }

    pub fn check_all(&self, faults: &mut Faults, path: &Path, names: &Value) {
        set_of(
            faults,
            path,
            names,
            LIST_MAX,
            |name| name,
            |faults, at, name| self.check(faults, at, text(name)),
        );
    }
}

fn request(faults: &mut Faults, path: &Path, request: &Value) {
    label(faults, &path.child("name"), text(&request["name"]));
    let (exactly, first) = (&request["exactly"], &request["firstAvailable"]);
    let one = "exactly one of `exactly` or `firstAvailable` is required";
    match (set(exactly), !items(first).is_empty()) {
        (false, false) => faults.push(Error::required(path, one)),
        (true, true) => {
            let detail = format!("{one}, but multiple fields are set");
            faults.push(Error::invalid(path, "null", detail));
        }
        (true, false) => wish(faults, &path.child("exactly"), exactly),
        (false, true) => {
            let at = path.child("firstAvailable");
            set_of(
                faults,
                &at,
                first,
                ALTERNATIVES_MAX,
                |r| &r["name"],
                |faults, at, alternative| {
                    label(faults, &at.child("name"), text(&alternative["name"]));
                    wish(faults, at, alternative);
                },
            );
        }
    }
}

fn wish(faults: &mut Faults, path: &Path, wish: &Value) {
    let (class, at) = (text(&wish["deviceClassName"]), path.child("deviceClassName"));
    if class.is_empty() {
        faults.push(Error::required(&at, ""));
    } else {
        invalid_each(faults, &at, class, check::dns1123_subdomain(class));
    }
    selectors(faults, &path.child("selectors"), &wish["selectors"]);
    let (mode, count, at) = (text(&wish["allocationMode"]), number(&wish["count"]), path.child("count"));
    match mode {
        "All" if count != 0 => {
            let detail = "must not be specified when allocationMode is 'All'";
            faults.push(Error::invalid(&at, count, detail));
        }
        "ExactCount" if count <= 0 => faults.push(Error::invalid(&at, count, "must be greater than zero")),
        "All" | "ExactCount" => {}
        _ => faults.push(Error::not_supported(&path.child("allocationMode"), mode, &MODES)),
    }
}

fn selectors(faults: &mut Faults, path: &Path, list: &Value) {
    each_of(faults, path, list, LIST_MAX, |faults, at, selector| {
        let (cel, at) = (&selector["cel"], at.child("cel"));
        if !set(cel) {
            faults.push(Error::required(&at, ""));
        } else if text(&cel["expression"]).len() > EXPRESSION_BYTES_MAX {
            faults.push(Error::too_long(&at.child("expression"), EXPRESSION_BYTES_MAX));
        }
    });
}

pub fn configuration(faults: &mut Faults, path: &Path, config: &Value) {
    let (parameters, at) = (&config["opaque"], path.child("opaque"));
    if !set(parameters) {
        faults.push(Error::required(&at, ""));
        return;
    }
    driver_name(faults, &at.child("driver"), text(&parameters["driver"]));
    opaque(faults, &at.child("parameters"), &parameters["parameters"]);
}

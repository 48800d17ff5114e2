//! Kinds that extend or steer the server itself: webhooks, admission policies, custom resource
//! definitions, API services, flow control, certificates, runtime classes, devices.

use amphipod_api::field::{Error, Path};
use serde_json::{Map, Value, json};

use crate::check::{self, Faults};
use crate::json::{
    at, copy, default, default_number, default_text, each, items, put, same, set, text, with, within,
};
use crate::kind::{Kind, PLAIN, SPEC_AND_STATUS};
use crate::metadata::NameRule;

pub static WEBHOOKS: Kind = Kind {
    generation: true,
    default: |object| {
        // Only the mutating kind calls hooks again.
        let mutating = object["kind"] == "MutatingWebhookConfiguration";
        each(object, "webhooks", |webhook| {
            default_text(webhook, "failurePolicy", "Fail");
            default_text(webhook, "matchPolicy", "Equivalent");
            default(webhook, "namespaceSelector", Map::new());
            default(webhook, "objectSelector", Map::new());
            default(webhook, "timeoutSeconds", 10);
            if mutating {
                default_text(webhook, "reinvocationPolicy", "Never");
            }
            with(webhook, "clientConfig", |client| {
                with(client, "service", |service| default_number(service, "port", 443));
            });
            each(webhook, "rules", |rule| default_text(rule, "scope", "*"));
        });
    },
    validate: webhooks,
    ..PLAIN
};
pub static ADMISSION_POLICY: Kind = Kind {
    default: |object| {
        within(object, "spec", |spec| {
            default_text(spec, "failurePolicy", "Fail");
            with(spec, "matchConstraints", match_resources);
        });
        if object["kind"] != "MutatingAdmissionPolicy" {
            within(object, "status", |_| {});
        }
    },
    ..SPEC_AND_STATUS
};
pub static ADMISSION_BINDING: Kind = Kind {
    generation: true,
    default: |object| within(object, "spec", |spec| with(spec, "matchResources", match_resources)),
    ..PLAIN
};
pub static CUSTOM_RESOURCE_DEFINITION: Kind = Kind {
    default: |object| {
        within(object, "spec", |spec| {
            default(spec, "conversion", json!({"strategy": "None"}));
            within(spec, "names", |names| {
                let kind = text(&names["kind"]).to_owned();
                default_text(names, "singular", &kind.to_lowercase());
                default_text(names, "listKind", &format!("{kind}List"));
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
    },
    create: |_, object| {
        let stored: Vec<Value> = items(at(object, &["spec", "versions"]))
            .iter()
            .filter(|version| version["storage"] == true)
            .map(|version| version["name"].clone())
            .collect();
        within(object, "status", |status| put(status, "storedVersions", stored));
    },
    validate: custom_resource_definition,
    ..SPEC_AND_STATUS
};
pub static API_SERVICE: Kind = Kind {
    default: |object| {
        within(object, "spec", |spec| {
            with(spec, "service", |service| default_number(service, "port", 443));
        });
        within(object, "status", |_| {});
    },
    status: true,
    ..PLAIN
};
pub static FLOW_SCHEMA: Kind = Kind {
    default: |object| {
        within(object, "spec", |spec| default_number(spec, "matchingPrecedence", 1000));
        within(object, "status", |_| {});
    },
    ..SPEC_AND_STATUS
};
pub static PRIORITY_LEVEL: Kind = Kind {
    default: |object| {
        within(object, "spec", |spec| {
            with(spec, "limited", |limited| {
                default(limited, "nominalConcurrencyShares", 30);
                default(limited, "lendablePercent", 0);
            });
            with(spec, "exempt", |exempt| {
                default(exempt, "nominalConcurrencyShares", 0);
                default(exempt, "lendablePercent", 0);
            });
        });
        within(object, "status", |_| {});
    },
    ..SPEC_AND_STATUS
};
pub static SIGNING_REQUEST: Kind = Kind {
    status: true,
    name: NameRule::PathSegment,
    default: |object| {
        within(object, "spec", |spec| {
            let usages = json!(["digital signature", "key encipherment"]);
            default(spec, "usages", usages);
        });
        within(object, "status", |_| {});
    },
    update: |context, object, old| {
        match context.subresource {
            // Approving adds conditions, signing the certificate; the request itself is fixed.
            "approval" => {
                let conditions = object["status"]["conditions"].clone();
                copy(object, "spec", old);
                copy(object, "status", old);
                within(object, "status", |status| match conditions {
                    Value::Null => {}
                    conditions => put(status, "conditions", conditions),
                });
            }
            "status" => {}
            _ => copy(object, "spec", old),
        }
    },
    validate: |object| {
        let mut faults = Faults::new();
        let path = Path::new("spec");
        check::required(&mut faults, &path.child("signerName"), &object["spec"]["signerName"]);
        check::required(&mut faults, &path.child("request"), &object["spec"]["request"]);
        faults
    },
    ..PLAIN
};
pub static RUNTIME_CLASS: Kind = Kind {
    default: |object| {
        with(object, "overhead", |overhead| with(overhead, "podFixed", crate::pod::defaults::canonical_list));
    },
    validate: |object| {
        let mut faults = Faults::new();
        let handler = text(&object["handler"]);
        check::invalid_each(&mut faults, &Path::new("handler"), handler, check::dns1123_label(handler));
        faults
    },
    validate_change: |new, old| {
        let mut faults = Faults::new();
        check::immutable(&mut faults, &Path::new("handler"), &new["handler"], &old["handler"]);
        faults
    },
    ..PLAIN
};
pub static RESOURCE_CLAIM: Kind = Kind {
    status: true,
    default: |object| {
        within(object, "spec", |spec| with(spec, "devices", device_requests));
        within(object, "status", |_| {});
    },
    validate_change: spec_fixed,
    ..PLAIN
};
pub static RESOURCE_CLAIM_TEMPLATE: Kind = Kind {
    default: |object| {
        within(object, "spec", |template| {
            within(template, "spec", |spec| with(spec, "devices", device_requests));
        });
    },
    validate_change: spec_fixed,
    ..PLAIN
};
pub static RESOURCE_SLICE: Kind = Kind { generation: true, ..PLAIN };
pub static DEVICE_CLASS: Kind = Kind { generation: true, ..PLAIN };
pub static IP_ADDRESS: Kind = Kind { name: NameRule::Address, validate_change: spec_fixed, ..PLAIN };
pub static SERVICE_CIDR: Kind =
    Kind { status: true, default: |object| within(object, "status", |_| {}), ..PLAIN };

fn match_resources(resources: &mut Value) {
    default_text(resources, "matchPolicy", "Equivalent");
    default(resources, "namespaceSelector", Map::new());
    default(resources, "objectSelector", Map::new());
    for list in ["resourceRules", "excludeResourceRules"] {
        each(resources, list, |rule| default_text(rule, "scope", "*"));
    }
}

fn device_requests(devices: &mut Value) {
    each(devices, "requests", |request| {
        with(request, "exactly", exact_request);
        each(request, "firstAvailable", exact_request);
    });
}
fn exact_request(request: &mut Value) {
    default_text(request, "allocationMode", "ExactCount");
    if request["allocationMode"] == "ExactCount" {
        default_number(request, "count", 1);
    }
}

fn spec_fixed(new: &Value, old: &Value) -> Faults {
    let mut faults = Faults::new();
    if !same(&new["spec"], &old["spec"]) {
        faults.push(Error::invalid(&Path::new("spec"), new["spec"].clone(), check::IMMUTABLE));
    }
    faults
}

fn webhooks(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let mut names: Vec<&str> = Vec::new();
    for (i, webhook) in items(&object["webhooks"]).iter().enumerate() {
        let at = Path::new("webhooks").index(i);
        let name = text(&webhook["name"]);
        if name.is_empty() {
            faults.push(Error::required(&at.child("name"), ""));
        } else if check::dns1123_subdomain(name).is_empty() && name.matches('.').count() < 2 {
            let detail = "should be a domain with at least three segments separated by dots";
            faults.push(Error::invalid(&at.child("name"), name, detail));
        } else {
            check::invalid_each(&mut faults, &at.child("name"), name, check::dns1123_subdomain(name));
        }
        if names.contains(&name) {
            faults.push(Error::duplicate(&at.child("name"), name));
        }
        names.push(name);
        let effects = ["None", "NoneOnDryRun"];
        check::one_of(&mut faults, &at.child("sideEffects"), &webhook["sideEffects"], &effects);
        if items(&webhook["admissionReviewVersions"]).is_empty() {
            let detail = "must specify one of v1, v1beta1";
            faults.push(Error::required(&at.child("admissionReviewVersions"), detail));
        }
        let timeout = webhook["timeoutSeconds"].as_i64().unwrap_or(10);
        if !(1..=30).contains(&timeout) {
            let detail = "the timeout value must be between 1 and 30 seconds";
            faults.push(Error::invalid(&at.child("timeoutSeconds"), timeout, detail));
        }
        let client = &webhook["clientConfig"];
        if set(&client["url"]) == set(&client["service"]) {
            let detail = "exactly one of url or service is required";
            faults.push(Error::required(&at.child("clientConfig"), detail));
        }
    }
    faults
}

fn custom_resource_definition(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    let (group, plural) = (text(&spec["group"]), text(&spec["names"]["plural"]));
    let wanted = format!("{plural}.{group}");
    let name = text(&object["metadata"]["name"]);
    if !plural.is_empty() && name != wanted {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        faults.push(Error::invalid(&Path::new("metadata").child("name"), name, detail));
    }
    if group.is_empty() {
        faults.push(Error::required(&path.child("group"), ""));
    } else if !group.contains('.') {
        faults.push(Error::invalid(&path.child("group"), group, "should be a domain with at least one dot"));
    }
    for key in ["plural", "singular", "kind", "listKind"] {
        check::required(&mut faults, &path.child("names").child(key), &spec["names"][key]);
    }
    check::one_of(&mut faults, &path.child("scope"), &spec["scope"], &["Cluster", "Namespaced"]);
    let versions = items(&spec["versions"]);
    let storage = versions.iter().filter(|version| version["storage"] == true).count();
    if storage != 1 {
        let detail = "must have exactly one version marked as storage version";
        faults.push(Error::invalid(&path.child("versions"), spec["versions"].clone(), detail));
    }
    for (i, version) in versions.iter().enumerate() {
        if !set(&version["schema"]["openAPIV3Schema"]) {
            let at = path.child("versions").index(i).child("schema").child("openAPIV3Schema");
            faults.push(Error::required(&at, "schemas are required"));
        }
    }
    faults
}

//! CertificateSigningRequest: fixed once made; approved through one subresource, signed through
//! another.

use amphipod_api::field::{Error, Path, go_quote};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::check::{self, Faults};
use crate::contract::Context;
use crate::domains::signer_name;
use crate::json::{copy, default, each, int, items, put, same, set, text, within};
use crate::kind::{Kind, PLAIN};
use crate::metadata::NameRule;

const LASTING: [&str; 3] = ["Approved", "Denied", "Failed"];
const SECONDS_MIN: i64 = 600;
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

pub static SIGNING_REQUEST: Kind = Kind {
    name: NameRule::PathSegment,
    status: true,
    default: |object| {
        within(object, "spec", |spec| {
            default(spec, "usages", json!(["digital signature", "key encipherment"]));
        });
        within(object, "status", |_| {});
    },
    update,
    validate,
    // A plain update leaves the status as it was; what can change here, an approver changed.
    validate_change: |new, old| changes(new, old, Writer::Approver),
    validate_status: |new, old| {
        let mut faults = validate(new);
        faults.extend(changes(new, old, Writer::Signer));
        faults
    },
    ..PLAIN
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Writer {
    Approver,
    Signer,
}

fn update(context: &Context, object: &mut Value, old: &Value) {
    copy(object, "spec", old);
    match context.subresource {
        // Approving adds conditions and nothing else.
        "approval" => {
            let conditions = object["status"]["conditions"].clone();
            copy(object, "status", old);
            within(object, "status", |status| put(status, "conditions", conditions));
        }
        "status" => {
            for verdict in ["Approved", "Denied"] {
                keep_verdict(object, old, verdict);
            }
        }
        _ => return,
    }
    stamp(context, object, old);
    if items(&object["status"]["conditions"]).is_empty() {
        crate::json::with(object, "status", |status| crate::json::remove(status, "conditions"));
    }
}

/// The verdict is not the signer's to change: what says it stays as it was, and where one came or
/// went the validation says so.
fn keep_verdict(object: &mut Value, old: &Value, verdict: &str) {
    let is_verdict = |condition: &&Value| text(&condition["type"]) == verdict;
    let before = items(&old["status"]["conditions"]).iter().filter(is_verdict);
    if items(&object["status"]["conditions"]).iter().filter(is_verdict).count() != before.clone().count() {
        return;
    }
    let sent = object["status"]["conditions"].as_array_mut().into_iter().flatten();
    for (condition, kept) in sent.filter(|c| is_verdict(&&**c)).zip(before) {
        condition.clone_from(kept);
    }
}

/// Conditions say when they came and when they last turned.
fn stamp(context: &Context, object: &mut Value, old: &Value) {
    let before = items(&old["status"]["conditions"]);
    within(object, "status", |status| {
        each(status, "conditions", |condition| {
            let known = before.iter().find(|c| c["type"] == condition["type"]);
            if !set(&condition["lastUpdateTime"]) {
                put(condition, "lastUpdateTime", context.now);
            }
            if !set(&condition["lastTransitionTime"]) {
                match known.filter(|c| c["status"] == condition["status"] && set(&c["lastTransitionTime"])) {
                    Some(known) => copy(condition, "lastTransitionTime", known),
                    None => put(condition, "lastTransitionTime", context.now),
                }
            }
        });
    });
}

fn pem_is(encoded: &Value, kind: &str) -> bool {
    let bytes = BASE64.decode(text(encoded)).unwrap_or_default();
    let decoded = String::from_utf8_lossy(&bytes);
    let begin = format!("-----BEGIN {kind}-----");
    let first = decoded.lines().find(|line| line.starts_with("-----BEGIN "));
    first.is_some_and(|line| line.trim_end() == begin) && decoded.contains(&format!("-----END {kind}-----"))
}

fn validate(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    if !pem_is(&spec["request"], "CERTIFICATE REQUEST") {
        let detail = "PEM block type must be CERTIFICATE REQUEST";
        faults.push(Error::invalid(&path.child("request"), spec["request"].clone(), detail));
    }
    let (usages, at) = (items(&spec["usages"]), path.child("usages"));
    if usages.is_empty() {
        faults.push(Error::required(&at, "usages must be provided"));
    }
    for (i, usage) in usages.iter().enumerate().filter(|(_, usage)| !USAGES.contains(&text(usage))) {
        faults.push(Error::not_supported(&at.index(i), text(usage), &USAGES));
    }
    for (i, usage) in usages.iter().enumerate().filter(|(i, usage)| usages[..*i].contains(usage)) {
        faults.push(Error::duplicate(&at.index(i), text(usage)));
    }
    let (signer, at) = (text(&spec["signerName"]), path.child("signerName"));
    if signer == "kubernetes.io/legacy-unknown" {
        let detail = "the legacy signerName is not allowed via this API version";
        faults.push(Error::invalid(&at, signer, detail));
    } else {
        signer_name(&mut faults, &at, signer);
    }
    if let Some(seconds) = int(&spec["expirationSeconds"]).filter(|seconds| *seconds < SECONDS_MIN) {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        faults.push(Error::invalid(&path.child("expirationSeconds"), seconds, detail));
    }
    conditions(&mut faults, items(&object["status"]["conditions"]));
    let certificate = &object["status"]["certificate"];
    if !text(certificate).is_empty() && !pem_is(certificate, "CERTIFICATE") {
        let detail = "must contain at least one CERTIFICATE PEM block";
        let at = Path::new("status").child("certificate");
        faults.push(Error::invalid(&at, "<certificate data>", detail));
    }
    faults
}

fn conditions(faults: &mut Faults, list: &[Value]) {
    for (i, condition) in list.iter().enumerate() {
        let at = Path::new("status").child("conditions").index(i);
        let kind = text(&condition["type"]);
        check::required(faults, &at.child("type"), &condition["type"]);
        let allowed: &[&str] =
            if LASTING.contains(&kind) { &["True"] } else { &["False", "True", "Unknown"] };
        check::one_of(faults, &at.child("status"), &condition["status"], allowed);
        let earlier = |wanted: &str| list[..i].iter().any(|c| text(&c["type"]) == wanted);
        if (kind == "Approved" && earlier("Denied")) || (kind == "Denied" && earlier("Approved")) {
            let detail = "Approved and Denied conditions are mutually exclusive";
            faults.push(Error::invalid(&at.child("type"), kind, detail));
        }
        if earlier(kind) {
            faults.push(Error::duplicate(&at.child("type"), kind));
        }
    }
}

fn changes(new: &Value, old: &Value, writer: Writer) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("status");
    for kind in LASTING {
        let of = |object: &Value| -> Vec<Value> {
            let list = items(&object["status"]["conditions"]).iter();
            list.filter(|c| text(&c["type"]) == kind).cloned().collect()
        };
        let (now, then) = (of(new), of(old));
        let may_add = match writer {
            Writer::Approver => kind != "Failed",
            Writer::Signer => kind == "Failed",
        };
        let verb = if now.len() < then.len() {
            "remove"
        } else if now.len() > then.len() && !may_add {
            "add"
        } else if now.len() == then.len() && !now.iter().zip(&then).all(|(a, b)| same(a, b)) {
            "modify"
        } else {
            continue;
        };
        let detail = format!("updates may not {verb} a condition of type {}", go_quote(kind));
        faults.push(Error::forbidden(&path.child("conditions"), detail));
    }
    let certificate = |object: &Value| text(&object["status"]["certificate"]).to_owned();
    if certificate(new) != certificate(old) {
        let at = path.child("certificate");
        if writer != Writer::Signer {
            faults.push(Error::forbidden(&at, "updates may not set certificate content"));
        } else if !certificate(old).is_empty() {
            faults.push(Error::forbidden(&at, "updates may not modify existing certificate content"));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::named::{created, merge, patched, stored};

    const GROUP: &str = "certificates.k8s.io";
    const PLURAL: &str = "certificatesigningrequests";

    fn pem(kind: &str) -> String {
        BASE64.encode(format!("-----BEGIN {kind}-----\nAA==\n-----END {kind}-----\n"))
    }

    fn request(patch: Value) -> Value {
        let base = json!({"spec": {"signerName": "a.b/c", "usages": ["client auth"], "request": pem("CERTIFICATE REQUEST")}});
        merge(base, json!({"spec": patch}))
    }

    #[test]
    fn requests() {
        assert_eq!(created(GROUP, PLURAL, request(json!({}))), [""; 0]);
        let bad = json!({"signerName": "kubernetes.io/legacy-unknown", "usages": ["x", "any", "any"], "request": "eA==", "expirationSeconds": 1});
        let faults = created(GROUP, PLURAL, request(bad));
        assert!(faults[1].starts_with(
            "spec.usages[0]: Unsupported value: \"x\": supported values: \"any\", \"cert sign\""
        ));
        let others: Vec<&str> =
            faults.iter().enumerate().filter(|(i, _)| *i != 1).map(|(_, f)| f.as_str()).collect();
        assert_eq!(
            others,
            [
                "spec.request: Invalid value: \"eA==\": PEM block type must be CERTIFICATE REQUEST",
                "spec.usages[2]: Duplicate value: \"any\"",
                "spec.signerName: Invalid value: \"kubernetes.io/legacy-unknown\": the legacy signerName is not allowed via this API version",
                "spec.expirationSeconds: Invalid value: 1: may not specify a duration less than 600 seconds (10 minutes)",
            ]
        );
    }

    #[test]
    fn who_may_write_what() {
        let old = stored(GROUP, PLURAL, request(json!({})));
        let approve = json!({"spec": {"signerName": "x.y/z"}, "status": {"conditions": [{"type": "Approved", "status": "True"}], "certificate": "eA=="}});
        let (approved, faults) = patched(GROUP, PLURAL, "approval", &old, approve.clone());
        assert_eq!(faults, [""; 0]);
        assert_eq!((&approved["spec"], &approved["status"]["certificate"]), (&old["spec"], &Value::Null));
        assert_eq!(approved["status"]["conditions"][0]["lastUpdateTime"], "2026-01-01T00:00:00Z");
        let (plain, faults) = patched(GROUP, PLURAL, "", &old, approve);
        assert_eq!((&plain["status"], faults), (&old["status"], vec![]), "a plain update leaves the status");
        let (_, faults) =
            patched(GROUP, PLURAL, "approval", &approved, json!({"status": {"conditions": []}}));
        assert_eq!(
            faults,
            ["status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""]
        );
        let without = json!({"status": {"conditions": []}});
        let (_, faults) = patched(GROUP, PLURAL, "status", &approved, without);
        assert_eq!(
            faults,
            ["status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""]
        );
        let denied = json!({"status": {"conditions": [{"type": "Denied", "status": "True"}]}});
        let (_, faults) = patched(GROUP, PLURAL, "status", &old, denied);
        assert_eq!(
            faults,
            ["status.conditions: Forbidden: updates may not add a condition of type \"Denied\""]
        );
        let sign = json!({"status": {"conditions": [{"type": "Approved", "status": "False"}],
            "certificate": pem("CERTIFICATE")}});
        let (signed, faults) = patched(GROUP, PLURAL, "status", &approved, sign);
        assert_eq!(faults, [""; 0]);
        assert_eq!(signed["status"]["conditions"], approved["status"]["conditions"]);
        let other = BASE64.encode("-----BEGIN CERTIFICATE-----\nAQ==\n-----END CERTIFICATE-----\n");
        let (_, faults) =
            patched(GROUP, PLURAL, "status", &signed, json!({"status": {"certificate": other}}));
        assert_eq!(
            faults,
            ["status.certificate: Forbidden: updates may not modify existing certificate content"]
        );
        let both = json!({"status": {"conditions": [{"type": "Approved", "status": "True"}, {"type": "Denied", "status": "False"}]}});
        let (_, faults) = patched(GROUP, PLURAL, "approval", &old, both);
        assert_eq!(
            faults,
            [
                "status.conditions[1].status: Unsupported value: \"False\": supported values: \"True\"",
                "status.conditions[1].type: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive",
            ]
        );
    }
}

//! CertificateSigningRequest: fixed once made; approved through one subresource, signed through
//! another.

use std::collections::{HashMap, HashSet};

use amphipod_api::field::{Error, Path, go_quote};
use serde_json::Value;

use crate::check::{self, Faults};
use crate::contract::Context;
use crate::domains::signer_name;
use crate::json::{copy, each, int, items, put, same, set, text, within};
use crate::kind::{Kind, PLAIN};
use crate::metadata::NameRule;

mod pem;

pub use pem::organizations;

/// Conditions that stay once they are there, and are never anything but true.
const LASTING: [&str; 3] = ["Approved", "Denied", "Failed"];
const VERDICTS: [&str; 2] = ["Approved", "Denied"];
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
    default: |object| within(object, "status", |_| {}),
    update,
    validate,
    // A plain update leaves the status as it was; what can change here, an approver changed.
    revalidate: Some(|new, old| changed(new, old, Writer::Approver)),
    validate_status: |new, old| changed(new, old, Writer::Signer),
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
            for verdict in VERDICTS {
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
    // Of several of one type the first is known.
    let before: HashMap<&str, &Value> =
        items(&old["status"]["conditions"]).iter().rev().map(|c| (text(&c["type"]), c)).collect();
    within(object, "status", |status| {
        each(status, "conditions", |condition| {
            let known = before.get(text(&condition["type"])).copied();
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

fn validate(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    if let Err(why) = pem::request(text(&spec["request"])) {
        faults.push(Error::invalid(&path.child("request"), text(&spec["request"]), why));
    }
    let (usages, at) = (items(&spec["usages"]), path.child("usages"));
    if usages.is_empty() {
        faults.push(Error::required(&at, ""));
    }
    for (i, usage) in usages.iter().enumerate().filter(|(_, usage)| !USAGES.contains(&text(usage))) {
        faults.push(Error::not_supported(&at.index(i), text(usage), &USAGES));
    }
    let mut seen = HashSet::new();
    for (i, usage) in usages.iter().enumerate().filter(|(_, usage)| !seen.insert(text(usage))) {
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
    if let Err(why) = pem::certificates(text(&object["status"]["certificate"])) {
        let at = Path::new("status").child("certificate");
        faults.push(Error::invalid(&at, "<certificate data>", why));
    }
    faults
}

fn conditions(faults: &mut Faults, list: &[Value]) {
    let mut seen = HashSet::new();
    let all = Path::new("status").child("conditions");
    for (i, condition) in list.iter().enumerate() {
        let at = all.index(i);
        let kind = text(&condition["type"]);
        check::required(faults, &at.child("type"), &condition["type"]);
        let allowed: &[&str] =
            if LASTING.contains(&kind) { &["True"] } else { &["False", "True", "Unknown"] };
        check::one_of(faults, &at.child("status"), &condition["status"], allowed);
        if (kind == "Approved" && seen.contains("Denied")) || (kind == "Denied" && seen.contains("Approved"))
        {
            let detail = "Approved and Denied conditions are mutually exclusive";
            faults.push(Error::invalid(&all, kind, detail));
        }
        if !seen.insert(kind) {
            faults.push(Error::duplicate(&at.child("type"), kind));
        }
    }
}

/// What a request was once stored with is no reason to refuse its updates.
fn changed(new: &Value, old: &Value, writer: Writer) -> Faults {
    let mut faults = validate(new);
    if !faults.is_empty() {
        let before: HashSet<String> = validate(old).iter().map(Error::to_string).collect();
        faults.retain(|fault| !before.contains(&fault.to_string()));
    }
    faults.extend(changes(new, old, writer));
    faults
}

fn changes(new: &Value, old: &Value, writer: Writer) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("status");
    let of = |object: &Value, kind: &str| -> Vec<Value> {
        let list = items(&object["status"]["conditions"]).iter();
        list.filter(|c| text(&c["type"]) == kind).cloned().collect()
    };
    let mut forbid = |verb: &str, kind: &str| {
        let detail = format!("updates may not {verb} a condition of type {}", go_quote(kind));
        faults.push(Error::forbidden(&path.child("conditions"), detail));
    };
    for kind in LASTING.into_iter().filter(|kind| of(new, kind).len() < of(old, kind).len()) {
        forbid("remove", kind);
    }
    for kind in VERDICTS.into_iter().filter(|_| writer == Writer::Signer) {
        let (now, then) = (of(new, kind), of(old, kind));
        if now.len() > then.len() {
            forbid("add", kind);
        } else if now.len() == then.len() && !now.iter().zip(&then).all(|(a, b)| same(a, b)) {
            forbid("modify", kind);
        }
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
mod tests;

//! Projected volumes: many sources in one folder, whose paths must not meet.

use std::collections::HashSet;

use amphipod_api::field::{Error, Path};
use serde_json::Value;

use super::volume_source::{downward_file, key_path, mode};
use crate::check::{self, Faults};
use crate::domains::signer_name;
use crate::json::{fields, int, items, number, set, text};

const TOKEN_SECONDS_MIN: i64 = 600;
const TOKEN_SECONDS_MAX: i64 = 1 << 32;
const CERTIFICATE_SECONDS_MIN: i64 = 3600;
/// 91 days; a day for the signers of Kubernetes itself.
const CERTIFICATE_SECONDS_MAX: i64 = 91 * 86400;
const OWN_CERTIFICATE_SECONDS_MAX: i64 = 86400;
const KEY_TYPES: [&str; 6] = ["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
const KINDS: [&str; 6] =
    ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"];

pub fn check(faults: &mut Faults, path: &Path, volume: &Value) {
    mode(faults, &path.child("defaultMode"), &volume["defaultMode"]);
    let mut taken = Taken { path, files: HashSet::new() };
    for (i, source) in items(&volume["sources"]).iter().enumerate() {
        let at = path.child("sources").index(i);
        let kinds = KINDS.iter().filter(|kind| set(&source[**kind]));
        let mut count = 0;
        for kind in kinds {
            count += 1;
            source_of_kind(faults, &at.child(kind), kind, &source[*kind], &mut taken);
        }
        if count > 1 {
            faults.push(Error::forbidden(&at, "may not specify more than 1 volume type per source"));
        }
    }
}

/// The files all sources together have claimed so far.
struct Taken<'a> {
    path: &'a Path,
    files: HashSet<&'a str>,
}

impl<'a> Taken<'a> {
    /// `shown` is what the refusal names.
    fn claim(&mut self, faults: &mut Faults, file: &'a str, shown: &str) {
        if !self.files.insert(file) {
            faults.push(Error::invalid(self.path, shown, "conflicting duplicate paths"));
        }
    }
}

fn source_of_kind<'a>(
    faults: &mut Faults,
    path: &Path,
    kind: &str,
    source: &'a Value,
    taken: &mut Taken<'a>,
) {
    match kind {
        "secret" | "configMap" => {
            check::required(faults, &path.child("name"), &source["name"]);
            for (i, item) in items(&source["items"]).iter().enumerate() {
                key_path(faults, &path.child("items").index(i), item);
                let file = text(&item["path"]);
                if !file.is_empty() {
                    taken.claim(faults, file, text(&source["name"]));
                }
            }
        }
        "downwardAPI" => {
            for file in items(&source["items"]) {
                downward_file(faults, path, file);
                let file = text(&file["path"]);
                if !file.is_empty() {
                    taken.claim(faults, file, file);
                }
            }
        }
        "serviceAccountToken" => token(faults, path, taken.path, source),
        "clusterTrustBundle" => {
            trust_bundle(faults, path, source);
            taken.claim(faults, text(&source["path"]), text(&source["path"]));
        }
        _ => certificate(faults, path, source, taken),
    }
}

/// The token's path is reported at the volume's.
fn token(faults: &mut Faults, path: &Path, volume: &Path, source: &Value) {
    let seconds = number(&source["expirationSeconds"]);
    let at = path.child("expirationSeconds");
    if seconds < TOKEN_SECONDS_MIN {
        faults.push(Error::invalid(&at, seconds, "may not specify a duration less than 10 minutes"));
    }
    if seconds > TOKEN_SECONDS_MAX {
        faults.push(Error::invalid(&at, seconds, "may not specify a duration larger than 2^32 seconds"));
    }
    if check::required(faults, &volume.child("path"), &source["path"]) {
        check::local_path(faults, &volume.child("path"), text(&source["path"]));
    }
}

fn trust_bundle(faults: &mut Faults, path: &Path, source: &Value) {
    let (name, selector) = (&source["name"], &source["labelSelector"]);
    match (set(name), set(&source["signerName"])) {
        (true, true) => {
            let detail = "only one of name and signerName may be used";
            faults.push(Error::invalid(path, source.clone(), detail));
        }
        (true, false) => {
            if text(name).is_empty() {
                faults.push(Error::required(&path.child("name"), "must be a valid object name"));
            }
            if set(selector) {
                let detail = "labelSelector must be unset if name is specified";
                faults.push(Error::invalid(&path.child("labelSelector"), selector.clone(), detail));
            }
        }
        (false, true) => {
            let signer = text(&source["signerName"]);
            if signer.is_empty() {
                faults.push(Error::required(&path.child("signerName"), "must be a valid signer name"));
            }
            signer_name(faults, &path.child("signerName"), signer);
            check::label_selector(faults, &path.child("labelSelector"), selector);
        }
        (false, false) => {
            faults.push(Error::required(path, "either name or signerName must be specified"));
        }
    }
    check::required(faults, &path.child("path"), &source["path"]);
    check::local_path(faults, &path.child("path"), text(&source["path"]));
}

fn certificate<'a>(faults: &mut Faults, path: &Path, source: &'a Value, taken: &mut Taken<'a>) {
    let signer = text(&source["signerName"]);
    signer_name(faults, &path.child("signerName"), signer);
    for (key, _) in fields(&source["userAnnotations"]) {
        let at = path.child("userAnnotations");
        check::invalid_each(faults, &at, key, check::qualified_name(&key.to_lowercase()));
    }
    let key_type = text(&source["keyType"]);
    if !KEY_TYPES.contains(&key_type) {
        faults.push(Error::not_supported(&path.child("keyType"), key_type, &KEY_TYPES));
    }
    if let Some(seconds) = int(&source["maxExpirationSeconds"]) {
        let own = signer
            .split_once('/')
            .is_some_and(|(domain, _)| domain == "kubernetes.io" || domain.ends_with(".kubernetes.io"));
        let most = if own { OWN_CERTIFICATE_SECONDS_MAX } else { CERTIFICATE_SECONDS_MAX };
        let at = path.child("maxExpirationSeconds");
        if seconds < CERTIFICATE_SECONDS_MIN {
            let detail = format!("if provided, maxExpirationSeconds must be >= {CERTIFICATE_SECONDS_MIN}");
            faults.push(Error::invalid(&at, seconds, detail));
        }
        if seconds > most {
            let detail = format!("if provided, maxExpirationSeconds must be <= {most}");
            faults.push(Error::invalid(&at, seconds, detail));
        }
    }
    let mut given = false;
    for key in ["credentialBundlePath", "keyPath", "certificateChainPath"] {
        let file = text(&source[key]);
        if !file.is_empty() {
            given = true;
            check::local_path(faults, &path.child(key), file);
            taken.claim(faults, file, file);
        }
    }
    if !given {
        let detail = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        faults.push(Error::required(path, detail));
    }
}

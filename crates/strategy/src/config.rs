//! ConfigMaps and Secrets.

use amphipod_api::field::{Error, Path};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use crate::check::{self, Faults, invalid_each};
use crate::json::{default_text, fields, put, remove, same, set, text, truthy, within};
use crate::kind::{Kind, PLAIN};

const MAX_BYTES: usize = 1024 * 1024;
const IMMUTABLE_WHEN_SET: &str = "field is immutable when `immutable` is set";
const SERVICE_ACCOUNT_ANNOTATION: &str = "kubernetes.io/service-account.name";

pub static CONFIG_MAP: Kind = Kind { validate: config_map, validate_change: config_map_change, ..PLAIN };
pub static SECRET: Kind = Kind {
    default: secret_defaults,
    update: |_, object, old| {
        // Clients that never read the type may leave it out.
        if text(&object["type"]).is_empty() {
            put(object, "type", old["type"].clone());
        }
    },
    validate: secret,
    validate_change: secret_change,
    ..PLAIN
};

fn config_map(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let mut size = 0;
    for (key, value) in fields(&object["data"]) {
        let at = Path::new("data").key(key);
        invalid_each(&mut faults, &at, key, check::config_map_key(key));
        if set(&object["binaryData"][key]) {
            faults.push(Error::invalid(&at, key, "duplicate of key present in binaryData"));
        }
        size += text(value).len();
    }
    for (key, value) in fields(&object["binaryData"]) {
        let at = Path::new("binaryData").key(key);
        invalid_each(&mut faults, &at, key, check::config_map_key(key));
        size += decoded_size(value);
    }
    if size > MAX_BYTES {
        faults.push(Error::too_long(&Path::default(), MAX_BYTES));
    }
    faults
}

fn decoded_size(value: &Value) -> usize {
    let encoded = text(value).trim_end_matches('=').len();
    encoded * 3 / 4
}

fn frozen(faults: &mut Faults, new: &Value, old: &Value, parts: &[&str]) {
    if !truthy(&old["immutable"]) {
        return;
    }
    if !truthy(&new["immutable"]) {
        faults.push(Error::forbidden(&Path::new("immutable"), IMMUTABLE_WHEN_SET));
    }
    for part in parts {
        if !same(&new[*part], &old[*part]) {
            faults.push(Error::forbidden(&Path::new(part), IMMUTABLE_WHEN_SET));
        }
    }
}

fn config_map_change(new: &Value, old: &Value) -> Faults {
    let mut faults = Faults::new();
    frozen(&mut faults, new, old, &["data", "binaryData"]);
    faults
}

fn secret_defaults(object: &mut Value) {
    default_text(object, "type", "Opaque");
    // The write-only plain form goes into data and is never stored.
    let plain = object["stringData"].clone();
    if set(&plain) {
        within(object, "data", |data| {
            for (key, value) in fields(&plain) {
                put(data, key, BASE64.encode(text(value)));
            }
        });
    }
    remove(object, "stringData");
}

fn data(object: &Value, key: &str) -> Option<Vec<u8>> {
    let value = &object["data"][key];
    set(value).then(|| BASE64.decode(text(value)).unwrap_or_default())
}

fn secret(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("data");
    let mut size = 0;
    for (key, value) in fields(&object["data"]) {
        invalid_each(&mut faults, &path.key(key), key, check::config_map_key(key));
        size += decoded_size(value);
    }
    if size > MAX_BYTES {
        faults.push(Error::too_long(&path, MAX_BYTES));
    }
    let mut required = |key: &str| faults.push(Error::required(&path.key(key), ""));
    let missing = |key: &str| !set(&object["data"][key]);
    match text(&object["type"]) {
        "kubernetes.io/service-account-token"
            if text(&object["metadata"]["annotations"][SERVICE_ACCOUNT_ANNOTATION]).is_empty() =>
        {
            let at = Path::new("metadata").child("annotations").key(SERVICE_ACCOUNT_ANNOTATION);
            faults.push(Error::required(&at, ""));
        }
        "kubernetes.io/dockercfg" => json_key(&mut faults, &path, object, ".dockercfg"),
        "kubernetes.io/dockerconfigjson" => json_key(&mut faults, &path, object, ".dockerconfigjson"),
        "kubernetes.io/basic-auth" if missing("username") && missing("password") => {
            required("username");
            required("password");
        }
        "kubernetes.io/ssh-auth" if data(object, "ssh-privatekey").is_none_or(|key| key.is_empty()) => {
            required("ssh-privatekey");
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                if missing(key) {
                    required(key);
                }
            }
        }
        _ => {}
    }
    faults
}

fn json_key(faults: &mut Faults, path: &Path, object: &Value, key: &str) {
    let at = path.key(key);
    match data(object, key) {
        None => faults.push(Error::required(&at, "")),
        Some(bytes) => {
            if let Err(error) = serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes) {
                faults.push(Error::invalid(&at, "<secret contents redacted>", error.to_string()));
            }
        }
    }
}

fn secret_change(new: &Value, old: &Value) -> Faults {
    let mut faults = Faults::new();
    check::immutable(&mut faults, &Path::new("type"), &new["type"], &old["type"]);
    frozen(&mut faults, new, old, &["data"]);
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn string_data_becomes_data() {
        let mut object = json!({"stringData": {"a": "b"}, "data": {"a": "eA=="}});
        secret_defaults(&mut object);
        assert_eq!(object, json!({"type": "Opaque", "data": {"a": "Yg=="}}));
    }

    #[test]
    fn types_demand_their_keys() {
        let texts = |object: Value| secret(&object).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            texts(json!({"type": "kubernetes.io/tls", "data": {}})),
            ["data[tls.crt]: Required value", "data[tls.key]: Required value"]
        );
        assert!(texts(json!({"type": "Opaque", "data": {"k": "eA=="}})).is_empty());
    }

    #[test]
    fn immutable_means_it() {
        let old = json!({"immutable": true, "data": {"a": "1"}});
        let new = json!({"immutable": true, "data": {"a": "2"}});
        assert_eq!(
            config_map_change(&new, &old)[0].to_string(),
            "data: Forbidden: field is immutable when `immutable` is set"
        );
    }
}

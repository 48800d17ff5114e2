//! ConfigMaps and Secrets.

use amphipod_api::field::{Error, Path};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use crate::check::{self, Faults, invalid_each};
use crate::contract::Warnings;
use crate::json::{default_text, fields, put, remove, same, set, text, truthy, within};
use crate::kind::{Kind, PLAIN};

const MAX_BYTES: usize = 1024 * 1024;
const IMMUTABLE_WHEN_SET: &str = "field is immutable when `immutable` is set";
const SERVICE_ACCOUNT_ANNOTATION: &str = "kubernetes.io/service-account.name";

pub static CONFIG_MAP: Kind = Kind {
    validate: config_map,
    revalidate: Some(|new, old| {
        let mut faults = config_map_change(new, old);
        faults.extend(config_map(new));
        faults
    }),
    ..PLAIN
};
pub static SECRET: Kind = Kind {
    default: secret_defaults,
    update: |_, object, old| {
        // Clients that never read the type may leave it out.
        if text(&object["type"]).is_empty() {
            put(object, "type", old["type"].clone());
        }
    },
    validate: secret,
    revalidate: Some(|new, old| {
        let mut faults = secret_change(new, old);
        faults.extend(secret(new));
        faults
    }),
    warn: pair_warnings,
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
        // The whole object, which upstream's paths call so.
        faults.push(Error::too_long(&Path::default().key(""), MAX_BYTES));
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
            if let Some(reason) = not_an_object(&bytes) {
                faults.push(Error::invalid(&at, "<secret contents redacted>", reason));
            }
        }
    }
}

/// Why the bytes are no JSON object, as Go's decoder puts it where it has a word for it.
fn not_an_object(bytes: &[u8]) -> Option<String> {
    let kind = match serde_json::from_slice::<Value>(bytes) {
        Ok(Value::Object(_) | Value::Null) => return None,
        Ok(Value::Array(_)) => "array",
        Ok(Value::String(_)) => "string",
        Ok(Value::Number(_)) => "number",
        Ok(Value::Bool(_)) => "bool",
        Err(error) if error.is_eof() => return Some("unexpected end of JSON input".to_owned()),
        Err(error) => {
            let first = bytes.iter().find(|b| !b.is_ascii_whitespace()).copied().unwrap_or_default();
            let starts_a_value = b"{[\"-0123456789tfn".contains(&first);
            return Some(match starts_a_value {
                true => error.to_string(),
                false => {
                    let shown = char::from(first);
                    format!("invalid character '{shown}' looking for beginning of value")
                }
            });
        }
    };
    Some(format!("json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"))
}

/// A TLS pair that cannot work is stored all the same.
fn pair_warnings(object: &Value, _: Option<&Value>) -> Warnings {
    if text(&object["type"]) != "kubernetes.io/tls" {
        return Warnings::new();
    }
    let blocks = |key: &str| pem_types(&data(object, key).unwrap_or_default());
    let (certificates, keys) = (blocks("tls.crt"), blocks("tls.key"));
    let is_key = |block: &String| block == "PRIVATE KEY" || block.ends_with(" PRIVATE KEY");
    let is_certificate = |block: &String| block == "CERTIFICATE";
    let warning = if certificates.is_empty() {
        "tls: failed to find any PEM data in certificate input"
    } else if !certificates.iter().any(is_certificate) && certificates.len() == 1 && is_key(&certificates[0])
    {
        "tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may have been switched"
    } else if keys.is_empty() {
        "tls: failed to find any PEM data in key input"
    } else if keys.iter().all(is_certificate) {
        "tls: found a certificate rather than a key in the PEM for the private key"
    } else {
        return Warnings::new();
    };
    Warnings::from(warning.to_owned())
}

fn pem_types(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let begins =
        text.lines().filter_map(|line| line.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----"));
    begins.filter(|kind| text.contains(&format!("-----END {kind}-----"))).map(str::to_owned).collect()
}

fn secret_change(new: &Value, old: &Value) -> Faults {
    let mut faults = Faults::new();
    check::immutable_text(&mut faults, &Path::new("type"), &new["type"], &old["type"]);
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
    fn contents_are_judged_without_being_shown() {
        let secret = |config: &str| {
            let object = json!({"type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": config}});
            crate::testing::named::created("", "secrets", object)
        };
        let at = "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\"";
        assert_eq!(secret("{}"), [""; 0]);
        assert_eq!(secret("x"), [format!("{at}: invalid character 'x' looking for beginning of value")]);
        assert_eq!(secret(""), [format!("{at}: unexpected end of JSON input")]);
        assert_eq!(
            secret("[]"),
            [format!("{at}: json: cannot unmarshal array into Go value of type map[string]interface {{}}")]
        );
        let large = json!({"data": {"a": "x".repeat(MAX_BYTES + 1)}});
        assert_eq!(
            crate::testing::named::created("", "configmaps", large),
            ["[]: Too long: may not be more than 1048576 bytes"]
        );
    }

    #[test]
    fn pairs_that_cannot_work() {
        let pem = |kind: &str| format!("-----BEGIN {kind}-----\nAA==\n-----END {kind}-----\n");
        for (certificate, key, expected) in [
            (String::new(), pem("PRIVATE KEY"), "tls: failed to find any PEM data in certificate input"),
            (pem("CERTIFICATE"), String::new(), "tls: failed to find any PEM data in key input"),
            (
                pem("CERTIFICATE"),
                pem("CERTIFICATE"),
                "tls: found a certificate rather than a key in the PEM for the private key",
            ),
        ] {
            let object =
                json!({"type": "kubernetes.io/tls", "stringData": {"tls.crt": certificate, "tls.key": key}});
            assert_eq!(crate::testing::named::warned("", "secrets", object), [expected]);
        }
        let good = json!({"type": "kubernetes.io/tls", "stringData": {"tls.crt": pem("CERTIFICATE"), "tls.key": pem("EC PRIVATE KEY")}});
        assert_eq!(crate::testing::named::warned("", "secrets", good), [""; 0]);
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

//! Checks of single values, each answering Kubernetes' texts, and the helper that turns texts into
//! field errors.

use std::net::IpAddr;

use amphipod_api::field::{Error, Path};
use serde_json::Value;

use crate::json::{fields, items, number, set, text};

pub type Faults = Vec<Error>;

pub const IMMUTABLE: &str = "field is immutable";
pub const NEGATIVE: &str = "must be greater than or equal to 0";
const LABEL_MAX: usize = 63;
const SUBDOMAIN_MAX: usize = 253;

/// One `Invalid` per text.
pub fn invalid_each(faults: &mut Faults, path: &Path, value: &str, texts: Vec<String>) {
    faults.extend(texts.into_iter().map(|message| Error::invalid(path, value, message)));
}

fn alphanumeric(byte: u8, upper: bool) -> bool {
    byte.is_ascii_digit() || byte.is_ascii_lowercase() || (upper && byte.is_ascii_uppercase())
}
fn label_shape(value: &str, upper: bool, inner: &[u8]) -> bool {
    let bytes = value.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => {
            alphanumeric(*first, upper)
                && alphanumeric(*last, upper)
                && bytes.iter().all(|b| alphanumeric(*b, upper) || inner.contains(b))
        }
        _ => false,
    }
}
fn too_long(max: usize) -> String {
    format!("must be no more than {max} bytes")
}
fn shape_error(message: &str, format: &str, examples: &[&str]) -> String {
    let examples: Vec<String> = examples.iter().map(|e| format!("'{e}'")).collect();
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{format}')");
    }
    format!("{message} (e.g. {}, regex used for validation is '{format}')", examples.join(" or ").replace("' or '", "', or '"))
}

pub fn dns_label(value: &str) -> Vec<String> {
    let mut texts = Vec::new();
    if value.len() > LABEL_MAX {
        texts.push(too_long(LABEL_MAX));
    }
    if !label_shape(value, false, b"-") {
        texts.push(shape_error(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
            "[a-z0-9]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "123-abc"],
        ));
    }
    texts
}
pub fn dns_1035_label(value: &str) -> Vec<String> {
    let mut texts = Vec::new();
    if value.len() > LABEL_MAX {
        texts.push(too_long(LABEL_MAX));
    }
    let starts = value.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
    if !starts || !label_shape(value, false, b"-") {
        texts.push(shape_error(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    texts
}
pub fn dns_subdomain(value: &str) -> Vec<String> {
    let mut texts = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        texts.push(too_long(SUBDOMAIN_MAX));
    }
    if !value.split('.').all(|label| label_shape(label, false, b"-")) {
        texts.push(shape_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
            &["example.com"],
        ));
    }
    texts
}
/// Search paths may have underscores.
pub fn dns_subdomain_underscore(value: &str) -> Vec<String> {
    let ok = value.len() <= SUBDOMAIN_MAX
        && value.split('.').all(|label| {
            let bytes = label.as_bytes();
            let edge = |b: Option<&u8>| b.is_some_and(|b| alphanumeric(*b, false) || *b == b'_');
            edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(|b| alphanumeric(*b, false) || b"-_".contains(b))
        });
    if ok { Vec::new() } else { dns_subdomain(value) }
}
pub fn qualified_name(value: &str) -> Vec<String> {
    let mut texts = Vec::new();
    let parts: Vec<&str> = value.split('/').collect();
    let name = match parts.as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                texts.push("prefix part must be non-empty".to_owned());
            } else {
                texts.extend(dns_subdomain(prefix).into_iter().map(|t| format!("prefix part {t}")));
            }
            *name
        }
        _ => {
            return vec![format!(
                "a qualified name {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                shape_error(QUALIFIED_TEXT, QUALIFIED_REGEX, &QUALIFIED_EXAMPLES)
            )];
        }
    };
    if name.is_empty() {
        texts.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        texts.push(format!("name part {}", too_long(LABEL_MAX)));
    }
    if !label_shape(name, true, b"-_.") {
        texts.push(format!("name part {}", shape_error(QUALIFIED_TEXT, QUALIFIED_REGEX, &QUALIFIED_EXAMPLES)));
    }
    texts
}
const QUALIFIED_TEXT: &str =
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const QUALIFIED_REGEX: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const QUALIFIED_EXAMPLES: [&str; 3] = ["MyName", "my.name", "123-abc"];

pub fn label_value(value: &str) -> Vec<String> {
    let mut texts = Vec::new();
    if value.len() > LABEL_MAX {
        texts.push(too_long(LABEL_MAX));
    }
    if !value.is_empty() && !label_shape(value, true, b"-_.") {
        texts.push(shape_error(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
            &["MyValue", "my_value", "12345"],
        ));
    }
    texts
}
/// Names that become one path element: RBAC objects and a few more.
pub fn path_segment(value: &str) -> Vec<String> {
    if value == "." || value == ".." {
        return vec![format!("may not be '{value}'")];
    }
    let bad: Vec<String> =
        ["/", "%"].iter().filter(|c| value.contains(**c)).map(|c| format!("may not contain '{c}'")).collect();
    bad.into_iter().collect()
}
pub fn config_map_key(value: &str) -> Vec<String> {
    let mut texts = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        texts.push(too_long(SUBDOMAIN_MAX));
    }
    if value.is_empty() || !value.bytes().all(|b| alphanumeric(b, true) || b"-_.".contains(&b)) {
        texts.push(shape_error(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    texts.extend(dot_names(value));
    texts
}
fn dot_names(value: &str) -> Option<String> {
    match value {
        "." | ".." => Some(format!("must not be '{value}'")),
        v if v.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}
/// Names of environment variables, as relaxed since 1.32: printable ASCII but '='.
pub fn env_name(value: &str) -> Vec<String> {
    if value.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    if value.bytes().all(|b| (0x20..=0x7e).contains(&b) && b != b'=') {
        return Vec::new();
    }
    vec![shape_error(
        "a valid environment variable name must consist only of printable ASCII characters other than '='",
        "^[ -<>-~]+$",
        &[],
    )]
}
pub fn port_number(port: i64) -> Option<String> {
    (!(1..=65535).contains(&port)).then(|| "must be between 1 and 65535, inclusive".to_owned())
}
pub fn port_name(value: &str) -> Vec<String> {
    let mut texts = Vec::new();
    if value.len() > 15 {
        texts.push("must be no more than 15 characters".to_owned());
    }
    if !value.bytes().all(|b| alphanumeric(b, false) || b == b'-') {
        texts.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !value.bytes().any(|b| b.is_ascii_lowercase()) {
        texts.push("must contain at least one letter (a-z)".to_owned());
    }
    if value.contains("--") {
        texts.push("must not contain consecutive hyphens".to_owned());
    }
    if value.starts_with('-') || value.ends_with('-') {
        texts.push("must not begin or end with a hyphen".to_owned());
    }
    texts
}
pub fn port_number_or_name(faults: &mut Faults, path: &Path, port: &Value) {
    match port {
        Value::String(name) => invalid_each(faults, path, name, port_name(name)),
        other => {
            if let Some(message) = port_number(number(other)) {
                faults.push(Error::invalid(path, number(other), message));
            }
        }
    }
}
pub fn ip(faults: &mut Faults, path: &Path, value: &str) {
    if value.parse::<IpAddr>().is_err() {
        faults.push(Error::invalid(path, value, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"));
    }
}
pub fn cidr(faults: &mut Faults, path: &Path, value: &str) {
    if !value.contains('/') || value.parse::<ipnet::IpNet>().is_err() {
        faults.push(Error::invalid(path, value, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"));
    }
}
/// Addresses that mean something only on one machine make no endpoints.
pub fn ordinary_ip(faults: &mut Faults, path: &Path, value: &str) {
    let Ok(address) = value.parse::<IpAddr>() else {
        faults.push(Error::invalid(path, value, "must be a valid IP address"));
        return;
    };
    if address.is_unspecified() {
        faults.push(Error::invalid(path, value, format!("may not be unspecified ({value})")));
    }
    if address.is_loopback() {
        faults.push(Error::invalid(path, value, "may not be in the loopback range (127.0.0.0/8, ::1/128)"));
    }
    let (link_local, multicast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[0] == 224 && v4.octets()[1] == 0 && v4.octets()[2] == 0),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    if link_local {
        faults.push(Error::invalid(path, value, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"));
    }
    if multicast {
        faults.push(Error::invalid(
            path,
            value,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
        ));
    }
}
pub fn not_negative(faults: &mut Faults, path: &Path, value: &Value) {
    if number(value) < 0 {
        faults.push(Error::invalid(path, number(value), NEGATIVE));
    }
}
/// `Required` when empty, `Unsupported value` when not of the list.
pub fn one_of(faults: &mut Faults, path: &Path, value: &Value, supported: &[&str]) {
    match text(value) {
        "" => faults.push(Error::required(path, "")),
        other if supported.contains(&other) => {}
        other => faults.push(Error::not_supported(path, other, supported)),
    }
}
/// The same, but the field may be left out.
pub fn optional_one_of(faults: &mut Faults, path: &Path, value: &Value, supported: &[&str]) {
    if set(value) && !supported.contains(&text(value)) {
        faults.push(Error::not_supported(path, text(value), supported));
    }
}
pub fn required(faults: &mut Faults, path: &Path, value: &Value) -> bool {
    let missing = text(value).is_empty();
    if missing {
        faults.push(Error::required(path, ""));
    }
    !missing
}
pub fn immutable(faults: &mut Faults, path: &Path, new: &Value, old: &Value) {
    if !crate::json::same(new, old) {
        faults.push(Error::invalid(path, new.clone(), IMMUTABLE));
    }
}
pub fn labels(faults: &mut Faults, path: &Path, labels: &Value) {
    for (key, value) in fields(labels) {
        invalid_each(faults, path, key, qualified_name(key));
        invalid_each(faults, path, text(value), label_value(text(value)));
    }
}
/// `metav1.LabelSelector`.
pub fn label_selector(faults: &mut Faults, path: &Path, selector: &Value) {
    labels(faults, &path.child("matchLabels"), &selector["matchLabels"]);
    for (i, requirement) in items(&selector["matchExpressions"]).iter().enumerate() {
        let at = path.child("matchExpressions").index(i);
        let values = items(&requirement["values"]);
        match text(&requirement["operator"]) {
            "In" | "NotIn" if values.is_empty() => faults.push(Error::required(
                &at.child("values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "In" | "NotIn" => {}
            "Exists" | "DoesNotExist" if !values.is_empty() => faults.push(Error::forbidden(
                &at.child("values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "Exists" | "DoesNotExist" => {}
            other => {
                faults.push(Error::invalid(&at.child("operator"), other, "not a valid selector operator"));
            }
        }
        let key = text(&requirement["key"]);
        invalid_each(faults, &at.child("key"), key, qualified_name(key));
        for (v, value) in values.iter().enumerate() {
            invalid_each(faults, &at.child("values").index(v), text(value), label_value(text(value)));
        }
    }
}
/// Whether a `metav1.LabelSelector` selects these labels; absent selects nothing, empty everything.
pub fn selector_matches(selector: &Value, labels: &Value) -> bool {
    let plain = fields(&selector["matchLabels"]).all(|(key, value)| labels[key] == *value);
    set(selector)
        && plain
        && items(&selector["matchExpressions"]).iter().all(|requirement| {
            let value = labels.get(text(&requirement["key"])).and_then(Value::as_str);
            let listed = value.is_some_and(|v| items(&requirement["values"]).iter().any(|x| text(x) == v));
            match text(&requirement["operator"]) {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}
pub fn selector_is_empty(selector: &Value) -> bool {
    fields(&selector["matchLabels"]).next().is_none() && items(&selector["matchExpressions"]).is_empty()
}
pub fn no_backsteps(faults: &mut Faults, path: &Path, value: &str) {
    if value.split('/').any(|part| part == "..") {
        faults.push(Error::invalid(path, value, "must not contain '..'"));
    }
}
pub fn local_descending_path(faults: &mut Faults, path: &Path, value: &str) {
    if value.starts_with('/') {
        faults.push(Error::invalid(path, value, "must be a relative path"));
    }
    no_backsteps(faults, path, value);
}
pub fn local_path(faults: &mut Faults, path: &Path, value: &str) {
    local_descending_path(faults, path, value);
    if value.starts_with("..") && !value.starts_with("../") {
        faults.push(Error::invalid(path, value, "must not start with '..'"));
    }
}
/// `minAvailable`, `maxSurge` and the like: a count or a percentage.
pub fn count_or_percent(faults: &mut Faults, path: &Path, value: &Value) {
    match value {
        Value::String(s) => {
            if percent(value).is_none() {
                faults.push(Error::invalid(
                    path,
                    s.as_str(),
                    "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%', or '93%', regex used for validation is '[0-9]+%')",
                ));
            }
        }
        other => not_negative(faults, path, other),
    }
}
/// 25 of "25%".
pub fn percent(value: &Value) -> Option<i64> {
    let digits = text(value).strip_suffix('%')?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_are_worded_as_upstream() {
        assert_eq!(
            dns_label("A"),
            ["a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name', or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"]
        );
        assert!(dns_subdomain("a.b-c.1").is_empty());
        assert!(!dns_subdomain("a..b").is_empty());
        assert!(qualified_name("example.com/My_Name").is_empty());
        assert!(!qualified_name("a/b/c").is_empty());
        assert!(label_value("").is_empty());
        assert_eq!(env_name("a=b").len(), 1);
        assert!(port_name("http-1").is_empty());
    }

    #[test]
    fn selectors_match() {
        let selector = json!({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "In", "values": ["x"]}]});
        assert!(selector_matches(&selector, &json!({"a": "1", "b": "x"})));
        assert!(!selector_matches(&selector, &json!({"a": "1", "b": "y"})));
        assert!(!selector_matches(&Value::Null, &json!({})));
        assert!(selector_matches(&json!({}), &json!({"any": "thing"})));
    }
}

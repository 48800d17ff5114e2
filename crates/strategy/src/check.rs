//! Checks of single values, each answering Kubernetes' texts, and the helper that turns texts into
//! field errors.

use std::net::IpAddr;

pub use amphipod_api::names::{
    config_map_key, dns1035_label, dns1123_label, dns1123_subdomain, env_var_name, http_header_name,
    label_value, port_name, qualified_name,
};

use amphipod_api::field::{Error, Path};
use amphipod_api::names;
use amphipod_api::selector::LabelSelector;
use serde_json::Value;

use crate::json::{fields, items, number, set, text};

pub use amphipod_api::field::Faults;

pub const IMMUTABLE: &str = "field is immutable";
pub const NEGATIVE: &str = "must be greater than or equal to 0";

/// One `Invalid` per text.
pub fn invalid_each(faults: &mut Faults, path: &Path, value: &str, texts: Vec<String>) {
    faults.extend(texts.into_iter().map(|message| Error::invalid(path, value, message)));
}

/// `Invalid value` where the value itself would say nothing.
pub fn invalid_unshown(path: &Path, detail: impl Into<String>) -> Error {
    let mut fault = Error::invalid(path, Value::Null, detail);
    fault.value = None;
    fault
}
/// A fault that shows its value the way Kubernetes shows its internal types: each field, set or
/// not, in the type's own order.
pub fn shown_as(fault: Error, fields: &[(&str, Value)]) -> Error {
    shown_text(fault, &as_shown(fields))
}
/// The text of one such value, which may stand within another.
pub fn as_shown<T: std::fmt::Display>(fields: &[(&str, T)]) -> String {
    let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", fields.join(","))
}
pub fn shown_text(mut fault: Error, shown: &str) -> Error {
    fault.detail =
        if fault.detail.is_empty() { shown.to_owned() } else { format!("{shown}: {}", fault.detail) };
    fault.value = None;
    fault
}
/// A refusal of the object as a whole: its field is the empty name.
pub fn forbidden_whole(detail: impl Into<String>) -> Error {
    let mut fault = Error::forbidden(&Path::default(), detail);
    fault.field = String::new();
    fault
}
/// Search paths may have underscores.
pub fn dns_subdomain_underscore(value: &str) -> Vec<String> {
    names::dns1123_subdomain(&value.replace('_', "a"))
}
pub fn port_number_or_name(faults: &mut Faults, path: &Path, port: &Value) {
    match port {
        Value::String(name) => invalid_each(faults, path, name, port_name(name)),
        other => {
            port_number(faults, path, number(other));
        }
    }
}
pub fn port_number(faults: &mut Faults, path: &Path, port: i64) {
    faults.extend(names::port_number(port).into_iter().map(|text| Error::invalid(path, port, text)));
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
        IpAddr::V4(v4) => {
            (v4.is_link_local(), v4.octets()[0] == 224 && v4.octets()[1] == 0 && v4.octets()[2] == 0)
        }
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    if link_local {
        faults.push(Error::invalid(
            path,
            value,
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        ));
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
/// A field that is a pointer in Go or always set.
pub fn immutable(faults: &mut Faults, path: &Path, new: &Value, old: &Value) {
    if !crate::json::same(new, old) {
        faults.push(Error::invalid(path, pointer(new), IMMUTABLE));
    }
}
/// A field that is a plain string in Go.
pub fn immutable_text(faults: &mut Faults, path: &Path, new: &Value, old: &Value) {
    if text(new) != text(old) {
        faults.push(Error::invalid(path, text(new), IMMUTABLE));
    }
}
/// The value as a fault shows it: the pointer that Go has for what is not set comes in quotes.
pub fn pointer(value: &Value) -> Value {
    if value.is_null() { "null".into() } else { value.clone() }
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
/// A selector that cannot be parsed is reported elsewhere and passes here.
pub fn selector_matches(selector: &Value, labels: &Value) -> bool {
    match LabelSelector::from_object(selector) {
        Ok(parsed) => set(selector) && parsed.matches_labels(labels.as_object()),
        Err(_) => true,
    }
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
            invalid_each(faults, path, s, names::percent(s));
        }
        other => not_negative(faults, path, other),
    }
}
/// 25 of "25%"; what no number can hold is the most there is.
pub fn percent(value: &Value) -> Option<i64> {
    let digits = text(value).strip_suffix('%')?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn percentages() {
        for (text, expected) in [
            ("25%", Some(25)),
            ("99999999999999999999%", Some(i64::MAX)),
            ("%", None),
            ("-1%", None),
            ("25", None),
        ] {
            assert_eq!(percent(&json!(text)), expected, "{text}");
        }
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

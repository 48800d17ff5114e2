//! Selectors of typed objects, on top of the API crate's.

use std::collections::BTreeMap;

use amphipod_api::selector::LabelSelector;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use serde_json::{Map, Value, json};

/// An object's labels.
pub type Labels<'a> = Option<&'a BTreeMap<String, String>>;

/// None for an absent or unusable selector, which selects nothing.
pub fn from_object(selector: Option<&meta::LabelSelector>) -> Option<LabelSelector> {
    let selector = selector?;
    let expressions: Vec<Value> = selector
        .match_expressions
        .iter()
        .flatten()
        .map(|e| json!({"key": e.key, "operator": e.operator, "values": e.values}))
        .collect();
    let object = json!({"matchLabels": selector.match_labels, "matchExpressions": expressions});
    LabelSelector::from_object(&object).ok()
}

/// Whether a selector takes these labels: the hot form, without building a selector where labels say
/// it all.
pub fn object_matches(selector: Option<&meta::LabelSelector>, labels: Labels<'_>) -> bool {
    let Some(selector) = selector else { return false };
    let mut wanted = selector.match_labels.iter().flatten();
    if !wanted.all(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value)) {
        return false;
    }
    selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
        || from_object(Some(selector)).is_some_and(|built| matches(&built, labels))
}

/// An empty map selects nothing here: services and replication controllers without a selector have
/// their dependents managed by hand.
pub fn from_map(labels: Labels<'_>) -> Option<LabelSelector> {
    let labels = labels.filter(|labels| !labels.is_empty())?;
    let map: Map<String, Value> = labels.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
    Some(LabelSelector::from_map(&map))
}

pub fn matches(selector: &LabelSelector, labels: Labels<'_>) -> bool {
    selector.matches(|key| labels.and_then(|l| l.get(key)).map(String::as_str))
}

/// Whether all of a map selector's labels are there: the hot form, without building a selector. An
/// empty or absent map selects nothing.
pub fn map_matches(selector: Option<&BTreeMap<String, String>>, labels: Labels<'_>) -> bool {
    let Some(selector) = selector.filter(|selector| !selector.is_empty()) else { return false };
    selector.iter().all(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_and_objects() {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let labels = map(&[("a", "1"), ("b", "2")]);
        assert!(map_matches(Some(&map(&[("a", "1")])), Some(&labels)));
        assert!(!map_matches(Some(&map(&[("a", "2")])), Some(&labels)));
        assert!(!map_matches(Some(&map(&[])), Some(&labels)) && !map_matches(None, Some(&labels)));
        assert!(from_object(None).is_none());
        let selector = |object: Value| -> meta::LabelSelector { serde_json::from_value(object).unwrap() };
        for (object, takes) in [
            (json!({}), true),
            (json!({"matchLabels": {"a": "1"}}), true),
            (json!({"matchLabels": {"a": "1", "c": "1"}}), false),
            (
                json!({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]}),
                true,
            ),
            (json!({"matchExpressions": [{"key": "b", "operator": "NotIn", "values": ["2"]}]}), false),
            (json!({"matchExpressions": [{"key": "b", "operator": "Like"}]}), false),
        ] {
            assert_eq!(object_matches(Some(&selector(object.clone())), Some(&labels)), takes, "{object}");
        }
        assert!(!object_matches(None, Some(&labels)));
        let everything = from_object(Some(&meta::LabelSelector::default())).unwrap();
        assert!(matches(&everything, None));
    }
}

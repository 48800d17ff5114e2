//! Selectors of typed objects, on top of the API crate's.

use std::collections::BTreeMap;

use amphipod_api::selector::LabelSelector;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use serde_json::{Map, Value, json};

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

/// An empty map selects nothing here: services and replication controllers without a selector have
/// their dependents managed by hand.
pub fn from_map(labels: Option<&BTreeMap<String, String>>) -> Option<LabelSelector> {
    let labels = labels.filter(|labels| !labels.is_empty())?;
    let map: Map<String, Value> = labels.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
    Some(LabelSelector::from_map(&map))
}

pub fn matches(selector: &LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    selector.matches(|key| labels.and_then(|l| l.get(key)).map(String::as_str))
}

/// Whether all of a map selector's labels are there: the hot form, without building a selector. An
/// empty or absent map selects nothing.
pub fn map_matches(
    selector: Option<&BTreeMap<String, String>>,
    labels: Option<&BTreeMap<String, String>>,
) -> bool {
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
        let everything = from_object(Some(&meta::LabelSelector::default())).unwrap();
        assert!(matches(&everything, None));
    }
}

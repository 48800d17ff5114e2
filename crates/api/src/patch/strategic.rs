//! Strategic merge: maps merge, lists merge where the schema names a merge key or says so, and
//! directives (`$patch`, `$retainKeys`, `$setElementOrder/...`, `$deleteFromPrimitiveList/...`)
//! replace, delete and order.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::order::{Index, identity, normalise};
use crate::go_text::plain;
use crate::schema::{Node, Strategy};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";

/// Patches nest no deeper than documents may.
const MAX_DEPTH: usize = 120;

#[derive(Debug, thiserror::Error, PartialEq)]
pub(super) enum Error {
    #[error("unknown patch type: {kind} in map: {map}")]
    BadPatchType { kind: String, map: String },
    #[error("map: {map} does not contain declared merge key: {key}")]
    NoMergeKey { map: String, key: String },
    #[error("invalid patch format of primitive list")]
    PrimitiveList,
    #[error("invalid patch format of retainKeys")]
    RetainKeys,
    #[error("invalid patch format of setElementOrder list")]
    SetElementOrder,
    #[error("merging lists cannot yet be specified in the patch")]
    MergeList,
    #[error("lists of lists are not supported")]
    ListOfLists,
    #[error("list element types are not identical: {0}")]
    MixedList(String),
    #[error("cannot merge lists without merge key for type {0}")]
    Keyless(&'static str),
    #[error("The order in patch list:\n{patch}\n doesn't match $setElementOrder list:\n{order}\n")]
    Order { patch: String, order: String },
    #[error("invalid JSON document: exceeded max depth")]
    Depth,
}

impl Error {
    /// The code of the refusal: faults of form are the client's, what is left is unexpected.
    pub fn code(&self) -> u16 {
        match self {
            Error::PrimitiveList | Error::RetainKeys | Error::SetElementOrder | Error::Depth => 400,
            Error::ListOfLists => 422,
            _ => 500,
        }
    }
    fn bad_type(kind: &Value, map: &Object) -> Self {
        let map = plain(&Value::Object(map.clone()));
        Error::BadPatchType { kind: plain(kind), map }
    }
}

type Object = Map<String, Value>;

pub(super) fn merge(original: Object, patch: Object, schema: Node<'_>) -> Result<Object, Error> {
    merge_map(original, patch, schema, 0)
}

fn merge_map(
    mut original: Object,
    mut patch: Object,
    schema: Node<'_>,
    depth: usize,
) -> Result<Object, Error> {
    if depth > MAX_DEPTH {
        return Err(Error::Depth);
    }
    match patch.get(PATCH).map(|p| (p, p.as_str())) {
        None => {}
        Some((_, Some("replace"))) => return Ok(without_directives(patch)),
        Some((_, Some("delete"))) => return Ok(Object::new()),
        Some((other, _)) => return Err(Error::bad_type(other, &patch)),
    }
    retain_keys(&mut original, &mut patch)?;
    merge_ordered_lists(&mut original, &mut patch, schema, depth)?;
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix(DELETE_PRIMITIVES) {
            delete_primitives(&mut original, list, &value)?;
            continue;
        }
        let merged = merge_value(original.remove(&key), value, schema.child(&key), depth)?;
        if let Some(merged) = merged {
            original.insert(key, merged);
        }
    }
    Ok(original)
}

/// The merged value, `None` where it is deleted.
fn merge_value(
    original: Option<Value>,
    patch: Value,
    schema: Option<Node<'_>>,
    depth: usize,
) -> Result<Option<Value>, Error> {
    let schema = schema.unwrap_or(Node::Deduced);
    let (strategy, merge_key) = schema.patch_facts();
    Ok(match (original, patch) {
        (_, Value::Null) => None,
        (original, Value::Object(patch)) => {
            let original = match original {
                Some(Value::Object(original)) if strategy != Strategy::Replace => original,
                _ => Object::new(),
            };
            let deleted = patch.get(PATCH).and_then(Value::as_str) == Some("delete") && original.is_empty();
            let merged = merge_map(original, patch, schema, depth + 1)?;
            if deleted { None } else { Some(Value::Object(merged)) }
        }
        (Some(Value::Array(original)), Value::Array(patch)) if merges(strategy) => {
            Some(Value::Array(merge_list(original, patch, schema, merge_key, depth)?))
        }
        (_, Value::Array(patch)) if merges(strategy) => {
            Some(Value::Array(merge_list(Vec::new(), patch, schema, merge_key, depth)?))
        }
        (_, Value::Array(patch)) => {
            let replaced =
                patch.iter().filter(|i| i.get(PATCH).is_none() || i.get(PATCH) == Some(&"merge".into()));
            Some(Value::Array(replaced.cloned().map(clean).collect()))
        }
        (_, scalar) => Some(scalar),
    })
}

fn merges(strategy: Strategy) -> bool {
    matches!(strategy, Strategy::Merge | Strategy::MergeRetainKeys)
}

fn merge_list(
    original: Vec<Value>,
    patch: Vec<Value>,
    schema: Node<'_>,
    merge_key: &str,
    depth: usize,
) -> Result<Vec<Value>, Error> {
    if !holds_maps(&original, &patch)? {
        let nothing = original.is_empty() && patch.is_empty();
        if !merge_key.is_empty() && !nothing {
            return Err(Error::NoMergeKey { map: plain(&Value::Array(patch)), key: merge_key.to_owned() });
        }
        return Ok(merge_primitives(original, &patch));
    }
    if merge_key.is_empty() {
        return Err(Error::Keyless("struct"));
    }
    let (original, patch) = split_directives(original, patch, merge_key)?;
    let Some(patch) = patch else { return Ok(original.into_iter().map(clean).collect()) };
    let mut merged = original.clone();
    let mut places = Index::new(&merged, merge_key);
    for item in &patch {
        key_of(item, merge_key)?;
        let Value::Object(content) = item.clone() else { continue };
        let place = places.find(item);
        let existing = place.and_then(|p| merged[p].as_object().cloned()).unwrap_or_default();
        let new = Value::Object(merge_map(existing, content, schema.item(), depth + 1)?);
        match place {
            Some(place) => merged[place] = new,
            None => {
                places.insert(&new, merged.len());
                merged.push(new);
            }
        }
    }
    Ok(normalise(merged, &patch, &original, merge_key))
}

/// Whether the items are maps; lists hold one kind of item.
fn holds_maps(original: &[Value], patch: &[Value]) -> Result<bool, Error> {
    let mut items = original.iter().chain(patch);
    let Some(first) = items.next() else { return Ok(false) };
    if first.is_array() {
        return Err(Error::ListOfLists);
    }
    if items.any(|i| std::mem::discriminant(i) != std::mem::discriminant(first)) {
        let (original, patch) = (Value::from(original.to_vec()), Value::from(patch.to_vec()));
        return Err(Error::MixedList(format!("[{} {}]", plain(&original), plain(&patch))));
    }
    Ok(first.is_object())
}

fn merge_primitives(original: Vec<Value>, patch: &[Value]) -> Vec<Value> {
    let mut seen = HashSet::new();
    let all = original.iter().chain(patch);
    let merged = all.filter(|item| seen.insert(item.to_string())).cloned().collect();
    normalise(merged, patch, &original, "")
}

/// Carries out deletions; what is left of the patch, or `None` where it replaces the list.
fn split_directives(
    original: Vec<Value>,
    patch: Vec<Value>,
    merge_key: &str,
) -> Result<(Vec<Value>, Option<Vec<Value>>), Error> {
    let (directed, plain): (Vec<Value>, Vec<Value>) = patch.into_iter().partition(|i| i.get(PATCH).is_some());
    let mut deleted = Index::new(&[], merge_key);
    let mut replace = false;
    for item in &directed {
        match (item[PATCH].as_str(), item) {
            (Some("delete"), _) => {
                key_of(item, merge_key)?;
                deleted.insert(item, 0);
            }
            (Some("replace"), _) => replace = true,
            (Some("merge"), _) => return Err(Error::MergeList),
            (_, Value::Object(map)) => return Err(Error::bad_type(&item[PATCH], map)),
            _ => {}
        }
    }
    if replace {
        return Ok((plain, None));
    }
    let kept = original.into_iter().filter(|i| deleted.find(i).is_none()).collect();
    Ok((kept, Some(plain)))
}

fn key_of(item: &Value, merge_key: &str) -> Result<Value, Error> {
    let missing = || Error::NoMergeKey { map: plain(item), key: merge_key.to_owned() };
    identity(item, merge_key).cloned().ok_or_else(missing)
}

/// Drops from the original what `$retainKeys` does not list.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), Error> {
    let Some(list) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(list) = list else { return Err(Error::RetainKeys) };
    let listed: HashSet<&str> = list.iter().filter_map(Value::as_str).collect();
    if patch.iter().any(|(k, v)| !v.is_null() && !is_directive(k) && !listed.contains(k.as_str())) {
        return Err(Error::RetainKeys);
    }
    original.retain(|key, _| listed.contains(key.as_str()));
    Ok(())
}

/// Merges the lists that come with a `$setElementOrder` and puts them into that order.
fn merge_ordered_lists(
    original: &mut Object,
    patch: &mut Object,
    schema: Node<'_>,
    depth: usize,
) -> Result<(), Error> {
    let directives: Vec<String> = patch.keys().filter(|k| k.starts_with(SET_ORDER)).cloned().collect();
    for directive in directives {
        let name = &directive[SET_ORDER.len()..];
        let Some(Value::Array(order)) = patch.remove(&directive) else { return Err(Error::SetElementOrder) };
        let child = schema.child(name).unwrap_or(Node::Deduced);
        let (_, merge_key) = child.patch_facts();
        if !order.iter().all(|o| identity(o, merge_key).is_some()) {
            return Err(Error::SetElementOrder);
        }
        if let Some(items) = patch.remove(&format!("{DELETE_PRIMITIVES}{name}")) {
            delete_primitives(original, name, &items)?;
        }
        let before = match original.get(name) {
            Some(Value::Array(list)) => list.clone(),
            _ => Vec::new(),
        };
        if let Some(Value::Array(items)) = patch.get(name) {
            check_order(items, &order, merge_key)?;
        }
        let merged = match patch.remove(name) {
            None => before.clone(),
            Some(Value::Null) => {
                original.remove(name);
                continue;
            }
            Some(value) => {
                match merge_value(Some(Value::Array(before.clone())), value, Some(child), depth)? {
                    Some(Value::Array(merged)) => merged,
                    _ => return Err(Error::SetElementOrder),
                }
            }
        };
        if !merged.is_empty() || original.contains_key(name) {
            original.insert(name.to_owned(), Value::Array(normalise(merged, &order, &before, merge_key)));
        }
    }
    Ok(())
}

/// The patch's items must be listed in the order, and stand in it.
fn check_order(items: &[Value], order: &[Value], merge_key: &str) -> Result<(), Error> {
    let mut wanted = items.iter().filter(|i| i.get(PATCH).is_none()).peekable();
    for place in order {
        if let Some(item) = wanted.peek() {
            let same = key_of(item, merge_key)? == key_of(place, merge_key)?;
            wanted.next_if(|_| same);
        }
    }
    if order.is_empty() || wanted.peek().is_none() {
        return Ok(());
    }
    let text = |list: &[Value]| plain(&Value::from(list.to_vec()));
    Err(Error::Order { patch: text(items), order: text(order) })
}

fn delete_primitives(original: &mut Object, list: &str, items: &Value) -> Result<(), Error> {
    let Value::Array(items) = items else { return Err(Error::PrimitiveList) };
    if let Some(Value::Array(existing)) = original.get_mut(list) {
        let deleted = Index::new(items, "");
        existing.retain(|i| deleted.find(i).is_none());
    }
    Ok(())
}

/// `$ref` and `$schema` are fields of real kinds; directives are these four.
fn is_directive(key: &str) -> bool {
    key == PATCH || key == RETAIN_KEYS || key.starts_with(SET_ORDER) || key.starts_with(DELETE_PRIMITIVES)
}

fn without_directives(map: Object) -> Object {
    let plain = map.into_iter().filter(|(k, v)| !is_directive(k) && !v.is_null());
    plain.map(|(k, v)| (k, clean(v))).collect()
}

fn clean(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(without_directives(map)),
        Value::Array(list) => Value::Array(list.into_iter().map(clean).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::super::apply_strategic_merge_patch;
    use super::*;
    use serde_json::json;

    fn pod(original: Value, patch: Value) -> Value {
        let schema = Node::of_kind("", "v1", "Pod");
        apply_strategic_merge_patch(&original, &patch, schema).expect("applies")
    }

    #[test]
    fn lists_merge_by_key_with_new_items_first() {
        let original =
            json!({"spec": {"containers": [{"name": "a", "image": "x", "args": ["1"]}, {"name": "b"}]}});
        let patch =
            json!({"spec": {"containers": [{"name": "n"}, {"name": "b", "image": "y", "args": ["2"]}]}});
        assert_eq!(
            pod(original, patch),
            json!({"spec": {"containers": [{"name": "n"}, {"name": "a", "image": "x", "args": ["1"]},
                {"name": "b", "image": "y", "args": ["2"]}]}})
        );
    }

    #[test]
    fn directives() {
        let original = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}], "nodeSelector": {"x": "1", "y": "2"}}});
        let cases = [
            (json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}), json!([{"name": "b"}])),
            (json!({"spec": {"containers": [{"name": "z"}, {"$patch": "replace"}]}}), json!([{"name": "z"}])),
            (
                json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "c"}, {"name": "a"}],
                    "containers": [{"name": "c"}]}}),
                json!([{"name": "b"}, {"name": "c"}, {"name": "a"}]),
            ),
        ];
        for (patch, containers) in cases {
            assert_eq!(pod(original.clone(), patch)["spec"]["containers"], containers);
        }
        let replaced =
            pod(original.clone(), json!({"spec": {"nodeSelector": {"$patch": "replace", "z": "3"}}}));
        assert_eq!(replaced["spec"]["nodeSelector"], json!({"z": "3"}));
        let dropped = pod(original, json!({"spec": {"nodeSelector": {"x": null}}}));
        assert_eq!(dropped["spec"]["nodeSelector"], json!({"y": "2"}));
    }

    #[test]
    fn primitive_lists_and_retained_keys() {
        let original = json!({"metadata": {"finalizers": ["a", "b"]},
            "spec": {"volumes": [{"name": "v", "emptyDir": {}}]}});
        let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"]},
            "spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}]}});
        let patched = pod(original, patch);
        assert_eq!(patched["metadata"]["finalizers"], json!(["c", "b"]));
        assert_eq!(patched["spec"]["volumes"], json!([{"name": "v", "hostPath": {"path": "/"}}]));
    }

    #[test]
    fn owner_references_merge_by_uid() {
        let original = json!({"metadata": {"ownerReferences": [{"uid": "1", "name": "a"}]}});
        let patched = pod(original, json!({"metadata": {"ownerReferences": [{"uid": "2"}]}}));
        assert_eq!(patched["metadata"]["ownerReferences"].as_array().map(Vec::len), Some(2));
    }

    #[test]
    fn faults() {
        let schema = Node::of_kind("", "v1", "Pod");
        let fault = |patch: Value| {
            apply_strategic_merge_patch(&json!({}), &patch, schema).expect_err("refused").message
        };
        assert_eq!(fault(json!({"spec": {"$patch": "x"}})), "unknown patch type: x in map: map[$patch:x]");
        assert_eq!(
            fault(json!({"spec": {"containers": [{"$patch": "merge", "name": "a"}]}})),
            "merging lists cannot yet be specified in the patch"
        );
        assert_eq!(
            fault(json!({"spec": {"$setElementOrder/containers": [{"name": "a"}, {"name": "b"}],
                "containers": [{"name": "b"}, {"name": "a"}]}})),
            "The order in patch list:\n[map[name:b] map[name:a]]\n doesn't match $setElementOrder list:\n[map[name:a] map[name:b]]\n"
        );
        let nested = json!({"spec": {"containers": [["x"]]}});
        let status = apply_strategic_merge_patch(&json!({}), &nested, schema).expect_err("refused");
        let cause = status.details.map(|d| d.causes[0].message.clone());
        assert_eq!((status.code, cause.as_deref()), (422, Some("lists of lists are not supported")));
        assert_eq!(
            fault(json!({"spec": {"containers": [{"name": "a"}, "b"]}})),
            "list element types are not identical: [[] [map[name:a] b]]"
        );
        assert!(
            fault(json!({"spec": {"containers": [{"image": "x"}]}}))
                .contains("does not contain declared merge key: name")
        );
        assert_eq!(fault(json!({"spec": {"$retainKeys": 1}})), Error::RetainKeys.to_string());
    }
}

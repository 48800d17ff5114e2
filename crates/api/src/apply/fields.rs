//! Sets of field paths: what a manager owns. Kept as a tree whose edges are path elements in the
//! written form of `FieldsV1` (`f:name`, `k:{"name":"a"}`, `v:1`, `i:0`).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::fmt::Write;

use serde_json::{Map, Value};

use super::typed::is_struct;
use crate::schema::Node;

/// A set of paths, seen from one place. `here` says that the place itself belongs to the set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    here: bool,
    children: BTreeMap<String, Fields>,
}

/// Owned paths nest no deeper than documents may.
const MAX_DEPTH: usize = 256;

impl Fields {
    pub fn is_empty(&self) -> bool {
        !self.here && self.children.values().all(Fields::is_empty)
    }
    /// Empty, and not even places without members are kept.
    pub fn is_blank(&self) -> bool {
        !self.here && self.children.is_empty()
    }
    pub fn contains_here(&self) -> bool {
        self.here
    }
    pub fn child(&self, element: &str) -> Option<&Fields> {
        self.children.get(element)
    }
    pub fn children(&self) -> impl Iterator<Item = (&String, &Fields)> {
        self.children.iter()
    }
    /// Puts a set below an element; an empty one leaves no trace.
    pub fn attach(&mut self, element: String, below: Fields) {
        if below.is_blank() {
            return;
        }
        match self.children.entry(element) {
            Slot::Occupied(existing) => existing.into_mut().union(&below),
            Slot::Vacant(free) => drop(free.insert(below)),
        }
    }
    pub fn insert_here(&mut self) {
        self.here = true;
    }
    pub fn insert(&mut self, path: &[String]) {
        let mut place = self;
        for element in path {
            place = place.children.entry(element.clone()).or_default();
        }
        place.here = true;
    }
    /// The place of a path of field names, created when absent.
    pub fn at_mut(&mut self, element: &str) -> &mut Fields {
        self.children.entry(element.to_owned()).or_default()
    }
    pub fn contains(&self, path: &[String]) -> bool {
        let mut place = self;
        for element in path {
            match place.children.get(element) {
                Some(child) => place = child,
                None => return false,
            }
        }
        place.here
    }

    /// Whether `other` has all members.
    pub fn is_within(&self, other: &Fields) -> bool {
        (!self.here || other.here)
            && self.children.iter().all(|(element, ours)| {
                other.children.get(element).map_or_else(|| ours.is_empty(), |theirs| ours.is_within(theirs))
            })
    }

    pub fn union(&mut self, other: &Fields) {
        if self.is_blank() {
            self.clone_from(other);
            return;
        }
        self.here |= other.here;
        for (element, theirs) in &other.children {
            self.children.entry(element.clone()).or_default().union(theirs);
        }
    }
    /// Removes the members of `other`.
    pub fn subtract(&mut self, other: &Fields) {
        self.here &= !other.here;
        for (element, theirs) in &other.children {
            if let Some(ours) = self.children.get_mut(element) {
                ours.subtract(theirs);
                if ours.is_empty() {
                    self.children.remove(element);
                }
            }
        }
    }
    /// Removes the members of `other` and everything below them.
    pub fn subtract_below(&mut self, other: &Fields) {
        if other.here {
            *self = Fields::default();
            return;
        }
        for (element, theirs) in &other.children {
            if let Some(ours) = self.children.get_mut(element) {
                ours.subtract_below(theirs);
                if ours.is_empty() {
                    self.children.remove(element);
                }
            }
        }
    }
    pub fn intersection(&self, other: &Fields) -> Fields {
        let mut common = Fields { here: self.here && other.here, children: BTreeMap::new() };
        for (element, ours) in &self.children {
            if let Some(theirs) = other.children.get(element) {
                let both = ours.intersection(theirs);
                if !both.is_empty() {
                    common.children.insert(element.clone(), both);
                }
            }
        }
        common
    }
    /// Every declared field on the way to a member becomes a member; entries of maps do not.
    pub fn with_named_fields(&self, node: &Node<'_>) -> Fields {
        let declares = is_struct(node);
        let children = self.children.iter().map(|(element, child)| {
            let (below, declared) = match element.strip_prefix("f:") {
                Some(name) => (node.child(name), declares && node.child(name).is_some()),
                None => (Some(node.item()), false),
            };
            let mut child = child.with_named_fields(&below.unwrap_or(Node::Deduced));
            child.here |= declared;
            (element.clone(), child)
        });
        Fields { here: self.here, children: children.collect() }
    }
    /// Where a place is owned as a whole now, what was owned below it counts as owning it.
    pub fn collapse_atomic(&mut self, node: &Node<'_>) {
        if self.children.is_empty() {
            return;
        }
        if is_atomic(node) {
            *self = Fields { here: true, children: BTreeMap::new() };
            return;
        }
        for (element, child) in &mut self.children {
            let below = match element.strip_prefix("f:") {
                Some(name) => node.child(name).unwrap_or(Node::Deduced),
                None => node.item(),
            };
            child.collapse_atomic(&below);
        }
    }
    /// Keeps only what lies at or below one of the places; `*` stands for any element.
    pub fn keep_below(&self, places: &[&[&str]]) -> Fields {
        if places.iter().any(|place| place.is_empty()) {
            return self.clone();
        }
        let mut kept = Fields::default();
        for (element, child) in &self.children {
            let name = element.strip_prefix("f:").unwrap_or("*");
            let matching = places.iter().filter(|p| p[0] == "*" || p[0] == name).map(|p| &p[1..]);
            let below: Vec<&[&str]> = matching.collect();
            if !below.is_empty() {
                kept.attach(element.clone(), child.keep_below(&below));
            }
        }
        kept
    }

    /// All member paths; those of one place come before those below it.
    pub fn paths(&self) -> Vec<Vec<String>> {
        let mut found = Vec::new();
        if self.here {
            found.push(Vec::new());
        }
        self.collect(&mut Vec::new(), &mut found);
        found
    }
    fn collect(&self, at: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
        for (element, _) in self.children.iter().filter(|(_, child)| child.here) {
            found.push(at.iter().chain([element]).cloned().collect());
        }
        for (element, child) in &self.children {
            at.push(element.clone());
            child.collect(at, found);
            at.pop();
        }
    }

    /// `metav1.FieldsV1`.
    pub fn into_json(self) -> Value {
        let mut map = Map::new();
        for (element, child) in self.children {
            let here = child.here;
            if child.children.is_empty() {
                if here {
                    map.insert(element, Value::Object(Map::new()));
                }
                continue;
            }
            let mut below = child.into_json();
            if here && let Value::Object(below) = &mut below {
                below.insert(".".to_owned(), Value::Object(Map::new()));
            }
            map.insert(element, below);
        }
        Value::Object(map)
    }
    pub fn from_json(value: &Value) -> Option<Fields> {
        Self::read(value, 0)
    }
    fn read(value: &Value, depth: usize) -> Option<Fields> {
        if depth > MAX_DEPTH {
            return None;
        }
        let mut fields = Fields::default();
        for (element, child) in value.as_object()? {
            if element == "." {
                fields.here = true;
                continue;
            }
            let mut below = Self::read(child, depth + 1)?;
            below.here |= below.children.is_empty();
            fields.children.insert(canonical(element)?, below);
        }
        Some(fields)
    }
}

fn is_atomic(node: &Node<'_>) -> bool {
    use crate::schema::{ListKind, NodeKind};
    matches!(
        node.kind(),
        NodeKind::Scalar | NodeKind::Map { atomic: true } | NodeKind::List { kind: ListKind::Atomic, .. }
    )
}

/// Checks an element and gives its JSON part the one spelling sets compare by.
fn canonical(element: &str) -> Option<String> {
    let (kind, rest) = element.split_once(':')?;
    match kind {
        "f" => Some(element.to_owned()),
        "i" => rest.parse::<u64>().ok().map(|i| format!("i:{i}")),
        "k" | "v" if is_plain(rest) => Some(element.to_owned()),
        "k" | "v" => serde_json::from_str::<Value>(rest).ok().map(|v| format!("{kind}:{v}")),
        _ => None,
    }
}

/// A text, or an object of one text, without escapes and spaces: most elements by far, and there is
/// no other spelling of them.
fn is_plain(json: &str) -> bool {
    let mut parts = json.split('"');
    let spelled: [Option<&str>; 6] = std::array::from_fn(|_| parts.next());
    let plain = |text: &str| text.bytes().all(|b| b >= b' ' && b != b'\\');
    match spelled {
        [Some(""), Some(text), Some(""), None, ..] => plain(text),
        [Some("{"), Some(key), Some(":"), Some(text), Some("}"), None] => plain(key) && plain(text),
        _ => false,
    }
}

pub fn field_element(name: &str) -> String {
    ["f:", name].concat()
}

/// A path as conflicts print it: `.spec.containers[name="a"].image`.
pub fn path_text(path: &[String]) -> String {
    let mut out = String::new();
    for element in path {
        let (kind, rest) = element.split_once(':').unwrap_or(("f", element));
        // Writing to a String cannot fail.
        let _ = match kind {
            "f" => write!(out, ".{rest}"),
            "v" => write!(out, "[={rest}]"),
            "k" => write!(out, "[{}]", key_text(rest)),
            _ => write!(out, "[{rest}]"),
        };
    }
    out
}

fn key_text(json: &str) -> String {
    let parsed: Option<Map<String, Value>> = serde_json::from_str(json).ok();
    let pairs: Vec<String> = parsed.iter().flatten().map(|(k, v)| format!("{k}={v}")).collect();
    pairs.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_v1_round_trip() {
        let json = json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}},
            "f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}},
                "f:finalizers": {"v:\"x\"": {}}}});
        let fields = Fields::from_json(&json).expect("parses");
        assert_eq!(fields.paths().len(), 5);
        assert_eq!(fields.into_json(), json);
        let spaced = json!({"f:p": {"k:{ \"b\": 1, \"a\": 2 }": {}}});
        let fields = Fields::from_json(&spaced).expect("parses");
        assert_eq!(fields.into_json(), json!({"f:p": {"k:{\"a\":2,\"b\":1}": {}}}));
        assert!(Fields::from_json(&json!({"x:y": {}})).is_none());
        for (given, spelling) in [
            (r#"v:"a b""#, Some(r#"v:"a b""#)),
            (r#"v:"\u0041""#, Some(r#"v:"A""#)),
            (r#"v: "a" "#, Some(r#"v:"a""#)),
            (r#"k:{"a":"b"}"#, Some(r#"k:{"a":"b"}"#)),
            (r#"k:{"a" :"b"}"#, Some(r#"k:{"a":"b"}"#)),
            ("v:\"a\u{1}\"", None),
            (r#"k:{"a":"b""#, None),
            (r#"v:"a"b""#, None),
        ] {
            assert_eq!(canonical(given).as_deref(), spelling, "{given}");
        }
    }

    #[test]
    fn algebra() {
        let set = |json: Value| Fields::from_json(&json).expect("fields");
        let mut a = set(json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}}));
        a.subtract(&set(json!({"f:a": {}})));
        assert_eq!(a.clone().into_json(), json!({"f:a": {"f:b": {}}, "f:c": {}}));
        a.subtract_below(&set(json!({"f:a": {}})));
        assert_eq!(a.clone().into_json(), json!({"f:c": {}}));
        a.union(&set(json!({"f:d": {"f:e": {}}})));
        assert!(a.is_within(&a) && set(json!({})).is_within(&a));
        assert!(set(json!({"f:d": {"f:e": {}}})).is_within(&a));
        assert!(!set(json!({"f:d": {".": {}, "f:e": {}}})).is_within(&a));
        assert!(!set(json!({"f:e": {}})).is_within(&a));
        assert_eq!(a.with_named_fields(&Node::Deduced), a);
        let pod = Node::of_kind("", "v1", "Pod");
        let labels = set(json!({"f:metadata": {"f:labels": {"f:a": {}}}}));
        let named = json!({"f:metadata": {".": {}, "f:labels": {".": {}, "f:a": {}}}});
        assert_eq!(labels.with_named_fields(&pod).into_json(), named);
        let mut selector = set(json!({"f:spec": {"f:nodeSelector": {"f:x": {}}}}));
        selector.collapse_atomic(&pod);
        assert_eq!(selector.into_json(), json!({"f:spec": {"f:nodeSelector": {}}}));
        let texts: Vec<String> =
            set(json!({"f:a": {"f:b": {}}, "f:c": {}})).paths().iter().map(|p| path_text(p)).collect();
        assert_eq!(texts, [".c", ".a.b"]);
        let containers = set(
            json!({"f:a": {}, "f:spec": {"f:containers": {"k:{\"name\":\"x\"}": {".": {}, "f:image": {}, "f:resources": {"f:limits": {}}}}}}),
        );
        let kept = containers.keep_below(&[&["spec", "containers", "*", "resources"]]);
        assert_eq!(
            kept.into_json(),
            json!({"f:spec": {"f:containers": {"k:{\"name\":\"x\"}": {"f:resources": {"f:limits": {}}}}}})
        );
        let path = ["f:spec".to_owned(), "k:{\"name\":\"x\"}".to_owned(), "v:\"y\"".to_owned()];
        assert_eq!(path_text(&path), ".spec[name=\"x\"][=\"y\"]");
    }
}

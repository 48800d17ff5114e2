//! Reads from an object's JSON bytes only what selectors and the cache need (labels, selectable
//! fields, where `resourceVersion` stands) without building a value tree: at half a million
//! objects a parsed form would cost ten times the bytes themselves.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The paths wanted from every object of one collection.
#[derive(Debug, Default)]
pub struct Wanted {
    root: Node,
    fields: usize,
}

#[derive(Debug, Default)]
struct Node {
    children: Vec<(Box<str>, Node)>,
    role: Role,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Role {
    #[default]
    Inner,
    Field(usize),
    Labels,
    ResourceVersion,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// One per wanted field; `None` where absent or null.
    pub fields: Vec<Option<String>>,
    pub labels: Vec<(String, String)>,
    /// Byte offset and length of the resourceVersion's digits.
    pub stamp: Option<(usize, usize)>,
}

impl Wanted {
    /// `pointers` are JSON pointers such as `/spec/nodeName`, numbered in order.
    pub fn new(pointers: &[String]) -> Self {
        let mut wanted = Wanted { root: Node::default(), fields: pointers.len() };
        wanted.insert("/metadata/labels", Role::Labels);
        wanted.insert("/metadata/resourceVersion", Role::ResourceVersion);
        for (index, pointer) in pointers.iter().enumerate() {
            wanted.insert(pointer, Role::Field(index));
        }
        wanted
    }

    fn insert(&mut self, pointer: &str, role: Role) {
        let mut node = &mut self.root;
        for part in pointer.split('/').skip(1) {
            let index = match node.children.iter().position(|(name, _)| &**name == part) {
                Some(index) => index,
                None => {
                    node.children.push((part.into(), Node::default()));
                    node.children.len() - 1
                }
            };
            node = &mut node.children[index].1;
        }
        node.role = role;
    }

    pub fn extract(&self, bytes: &[u8]) -> Result<Found, serde_json::Error> {
        let mut found = Found { fields: vec![None; self.fields], ..Found::default() };
        let mut deserializer = serde_json::Deserializer::from_slice(bytes);
        let start = bytes.as_ptr() as usize;
        Seed { node: &self.root, found: &mut found, start }.deserialize(&mut deserializer)?;
        Ok(found)
    }
}

impl Node {
    fn child(&self, name: &str) -> Option<&Node> {
        self.children.iter().find(|(n, _)| &**n == name).map(|(_, node)| node)
    }
}

struct Seed<'a> {
    node: &'a Node,
    found: &'a mut Found,
    /// Address of the input, to turn borrowed strings into offsets.
    start: usize,
}

impl Seed<'_> {
    fn keep(self, text: impl FnOnce() -> String) {
        if let Role::Field(index) = self.node.role {
            self.found.fields[index] = Some(text());
        }
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if self.node.role == Role::Labels {
            while let Some(key) = map.next_key::<Cow<'de, str>>()? {
                if let Some(value) = map.next_value::<Option<Cow<'de, str>>>()? {
                    self.found.labels.push((key.into_owned(), value.into_owned()));
                }
            }
            return Ok(());
        }
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match self.node.child(&key) {
                Some(node) => {
                    map.next_value_seed(Seed { node, found: self.found, start: self.start })?;
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut index = 0usize;
        loop {
            let more = match self.node.child(&index.to_string()) {
                Some(node) => {
                    seq.next_element_seed(Seed { node, found: self.found, start: self.start })?.is_some()
                }
                None => seq.next_element::<IgnoredAny>()?.is_some(),
            };
            if !more {
                return Ok(());
            }
            index += 1;
        }
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<(), E> {
        if self.node.role == Role::ResourceVersion {
            self.found.stamp = Some((text.as_ptr() as usize - self.start, text.len()));
        }
        self.keep(|| text.to_owned());
        Ok(())
    }
    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.keep(|| text.to_owned());
        Ok(())
    }
    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.keep(|| value.to_string());
        Ok(())
    }
    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.keep(|| value.to_string());
        Ok(())
    }
    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.keep(|| value.to_string());
        Ok(())
    }
    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.keep(|| value.to_string());
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_fields_labels_and_the_stamp() {
        let pointers = ["/spec/nodeName", "/spec/hostNetwork", "/status/podIPs/0/ip", "/spec/gone"];
        let wanted = Wanted::new(&pointers.map(str::to_owned));
        let text = r#"{"kind":"Pod","metadata":{"annotations":{"resourceVersion":"no"},"labels":{"a":"b"},
            "resourceVersion":"17"},"spec":{"hostNetwork":true,"nodeName":"n1","x":[{}]},
            "status":{"podIPs":[{"ip":"10.0.0.1"},{"ip":"::1"}]}}"#;
        let found = wanted.extract(text.as_bytes()).expect("valid");
        assert_eq!(found.fields, [Some("n1".to_owned()), Some("true".into()), Some("10.0.0.1".into()), None]);
        assert_eq!(found.labels, [("a".to_owned(), "b".to_owned())]);
        let (at, length) = found.stamp.expect("stamp");
        assert_eq!(&text[at..at + length], "17");
    }

    #[test]
    fn an_empty_stamp_has_a_place() {
        let text = r#"{"metadata":{"resourceVersion":""}}"#;
        let found = Wanted::new(&[]).extract(text.as_bytes()).expect("valid");
        assert_eq!(found.stamp, Some((text.len() - 3, 0)));
    }
}

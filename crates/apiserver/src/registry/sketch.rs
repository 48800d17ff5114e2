//! An object of which a few fields are parsed, for writes that look at and change little of it. What
//! else it says stays the text it is.

use std::collections::BTreeMap;

use amphipod_api::status::Status;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::encode::{self, Encoded, Tree};

type Texts = BTreeMap<String, Box<RawValue>>;

/// What is to be parsed, by top-level fields: some fields of one, or all of it.
pub type Wanted<'a> = &'a [(&'a str, Option<&'a [&'a str]>)];

/// The part of an object that was not parsed.
pub struct Sketch {
    whole: Texts,
    /// Of the fields that were opened.
    opened: BTreeMap<String, Texts>,
}

impl Sketch {
    /// The object as far as it is wanted, and the rest of it.
    pub fn new(stored: &[u8], wanted: Wanted<'_>) -> Result<(Value, Sketch), Status> {
        let mut sketch = Sketch {
            whole: serde_json::from_slice(stored).map_err(Status::internal)?,
            opened: BTreeMap::new(),
        };
        let mut value = Map::new();
        for (name, fields) in wanted {
            let Some((name, text)) = sketch.whole.remove_entry(*name) else { continue };
            let Some(fields) = fields else {
                value.insert(name, parse(&text)?);
                continue;
            };
            let mut texts: Texts = serde_json::from_str(text.get()).map_err(Status::internal)?;
            let mut seen = Map::new();
            for (field, text) in fields.iter().filter_map(|field| texts.remove_entry(*field)) {
                seen.insert(field, parse(&text)?);
            }
            value.insert(name.clone(), seen.into());
            sketch.opened.insert(name, texts);
        }
        Ok((value.into(), sketch))
    }

    /// The whole object, with what has become of the fields that were parsed.
    pub fn encode(&self, value: &Value) -> Result<Encoded, Status> {
        let mut root: BTreeMap<&str, Piece<'_>> = texts(&self.whole).collect();
        for (name, part) in value.as_object().into_iter().flatten() {
            let piece = match self.opened.get(name) {
                Some(rest) => {
                    let seen = part.as_object().into_iter().flatten();
                    let seen = seen.map(|(field, value)| (field.as_str(), Piece::Value(value)));
                    Piece::Members(texts(rest).chain(seen).collect())
                }
                None => Piece::Value(part),
            };
            root.insert(name, piece);
        }
        encode::object(&Piece::Members(root))
    }
}

fn parse(text: &RawValue) -> Result<Value, Status> {
    serde_json::from_str(text.get()).map_err(Status::internal)
}

fn texts(texts: &Texts) -> impl Iterator<Item = (&str, Piece<'_>)> {
    texts.iter().map(|(field, text)| (field.as_str(), Piece::Text(text)))
}

enum Piece<'a> {
    Text(&'a RawValue),
    Value(&'a Value),
    Members(BTreeMap<&'a str, Piece<'a>>),
}

impl Serialize for Piece<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Piece::Text(text) => text.serialize(serializer),
            Piece::Value(value) => value.serialize(serializer),
            Piece::Members(members) => members.serialize(serializer),
        }
    }
}

impl Tree for Piece<'_> {
    fn members(&self) -> Vec<(&str, &Self)> {
        match self {
            Piece::Members(members) => members.iter().map(|(field, piece)| (*field, piece)).collect(),
            Piece::Text(_) | Piece::Value(_) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const WANTED: Wanted<'_> =
        &[("metadata", Some(&["name", "labels"])), ("spec", Some(&["b", "new"])), ("status", None)];

    fn stored() -> Value {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "uid": "u", "managedFields": [{"f:a": {"k:{\"b\":1}": {}}}], "resourceVersion": "7"},
            "spec": {"a": [1, "\u{1F980}\"\\"], "b": "x", "c": {"d": null}},
            "status": {"phase": "Pending"}, "extra": 1.5})
    }

    #[test]
    fn what_is_not_looked_at_stays_and_what_is_changed_is_encoded_as_ever() {
        let text = stored().to_string();
        let (mut value, sketch) = Sketch::new(text.as_bytes(), WANTED).expect("a sketch");
        let seen = json!({"metadata": {"name": "p"}, "spec": {"b": "x"}, "status": {"phase": "Pending"}});
        assert_eq!(value, seen);
        let mut whole = stored();
        for object in [&mut value, &mut whole] {
            object["metadata"]["labels"] = json!({"l": "v"});
            object["spec"]["new"] = json!("n");
            object["spec"].as_object_mut().expect("a map").remove("b");
            object["status"]["conditions"] = json!([{"type": "T"}]);
        }
        let (ours, plain) =
            (sketch.encode(&value).expect("encodes"), encode::object(&whole).expect("encodes"));
        assert_eq!((ours.bytes, ours.stamp), (plain.bytes, plain.stamp));
    }

    #[test]
    fn what_is_not_there_may_come() {
        let (mut value, sketch) = Sketch::new(br#"{"kind":"Pod","metadata":{}}"#, WANTED).expect("a sketch");
        assert_eq!(value, json!({"metadata": {}}));
        value["status"] = json!({"phase": "Pending"});
        let encoded = sketch.encode(&value).expect("encodes");
        let text = r#"{"kind":"Pod","metadata":{"resourceVersion":""},"status":{"phase":"Pending"}}"#;
        assert_eq!(encoded.bytes, text);
        assert!(Sketch::new(b"{", WANTED).is_err());
    }
}

//! A JSON object read field by field. What nobody asked for is an unknown field, and what has the
//! wrong type is told in the words of Go's decoder, both with the path of the field.

use amphipod_api::codec::parse_go_duration;
use amphipod_api::field::{Path, go_quote};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

/// What is wrong with an object as a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    /// The first value of a wrong type; nothing can be made of the object then.
    pub mismatch: Option<String>,
    /// Unknown and duplicate fields: the object is understood, and yet refused.
    pub strict: Vec<String>,
}

impl Problems {
    pub fn mismatch(text: String) -> Self {
        Problems { mismatch: Some(text), strict: Vec::new() }
    }
    pub fn is_empty(&self) -> bool {
        self.mismatch.is_none() && self.strict.is_empty()
    }
    pub fn add(&mut self, other: Problems) {
        self.mismatch = self.mismatch.take().or(other.mismatch);
        self.strict.extend(other.strict);
    }
    /// As Kubernetes' strict decoder tells it.
    pub fn text(&self) -> String {
        match &self.mismatch {
            Some(mismatch) => mismatch.clone(),
            None => format!("strict decoding error: {}", self.strict.join(", ")),
        }
    }
}

/// The fields of one object that were not asked for yet.
pub struct Fields {
    /// The type type errors name.
    kind: String,
    path: Path,
    map: Map<String, Value>,
    problems: Problems,
}

impl Fields {
    /// Reads an object to its end; an absent one (`null`) has no fields.
    pub fn read<T>(kind: &str, value: Value, read: impl FnOnce(&mut Fields) -> T) -> (T, Problems) {
        let mut root = Fields::new(kind, Path::default());
        root.fill(value);
        let result = read(&mut root);
        (result, root.end())
    }

    fn new(kind: &str, path: Path) -> Self {
        Fields { kind: kind.to_owned(), path, map: Map::new(), problems: Problems::default() }
    }
    fn fill(&mut self, value: Value) {
        match value {
            Value::Object(map) => self.map = map,
            Value::Null => {}
            other => self.mismatch(&self.path.clone(), &other, &self.kind.clone()),
        }
    }
    fn end(mut self) -> Problems {
        let unknown = self.map.keys().map(|name| unknown_field(&self.path.child(name)));
        self.problems.strict.extend(unknown);
        self.problems
    }

    fn mismatch(&mut self, path: &Path, value: &Value, go_type: &str) {
        let shown = match value {
            Value::Number(number) if go_type.starts_with("int") => format!("number {number}"),
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        let place = match path.as_str() {
            "" => format!("Go value of type {go_type}"),
            path => format!("Go struct field {}.{path} of type {go_type}", self.kind),
        };
        self.fail(format!("json: cannot unmarshal {shown} into {place}"));
    }
    pub fn fail(&mut self, text: String) {
        self.problems.mismatch.get_or_insert(text);
    }

    /// A field as it is; `None` where it is absent or null.
    pub fn value(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }
    pub fn string(&mut self, name: &str) -> Option<String> {
        match self.value(name)? {
            Value::String(text) => Some(text),
            other => {
                self.mismatch(&self.path.child(name), &other, "string");
                None
            }
        }
    }
    /// A string that is empty where it is absent.
    pub fn text(&mut self, name: &str) -> String {
        self.string(name).unwrap_or_default()
    }
    pub fn boolean(&mut self, name: &str) -> Option<bool> {
        let value = self.value(name)?;
        if value.as_bool().is_none() {
            self.mismatch(&self.path.child(name), &value, "bool");
        }
        value.as_bool()
    }
    pub fn int32(&mut self, name: &str) -> Option<i32> {
        let value = self.value(name)?;
        let number = value.as_i64().and_then(|number| i32::try_from(number).ok());
        if number.is_none() {
            self.mismatch(&self.path.child(name), &value, "int32");
        }
        number
    }
    pub fn int64(&mut self, name: &str) -> Option<i64> {
        let value = self.value(name)?;
        if value.as_i64().is_none() {
            self.mismatch(&self.path.child(name), &value, "int64");
        }
        value.as_i64()
    }
    pub fn float(&mut self, name: &str) -> Option<f64> {
        let value = self.value(name)?;
        if value.as_f64().is_none() {
            self.mismatch(&self.path.child(name), &value, "float32");
        }
        value.as_f64()
    }
    /// In nanoseconds.
    pub fn duration(&mut self, name: &str) -> Option<i64> {
        let text = self.string(name)?;
        let duration = parse_go_duration(&text);
        if duration.is_none() {
            self.fail(format!("{}: time: invalid duration {}", self.path.child(name), go_quote(&text)));
        }
        duration
    }
    /// Bytes are written in base64.
    pub fn bytes(&mut self, name: &str) -> Vec<u8> {
        let text = self.text(name);
        match STANDARD.decode(&text) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.fail(format!("{}: illegal base64 data: {error}", self.path.child(name)));
                Vec::new()
            }
        }
    }
    pub fn strings(&mut self, name: &str) -> Vec<String> {
        let mut texts = Vec::new();
        for (index, item) in self.values(name).into_iter().enumerate() {
            match item {
                Value::String(text) => texts.push(text),
                other => self.mismatch(&self.path.child(name).index(index), &other, "string"),
            }
        }
        texts
    }
    pub fn object<T>(&mut self, name: &str, read: impl FnOnce(&mut Fields) -> T) -> Option<T> {
        let value = self.value(name)?;
        Some(self.nested(self.path.child(name), value, read))
    }
    /// An object whose fields have their defaults where it is absent.
    pub fn object_or_empty<T>(&mut self, name: &str, read: impl FnOnce(&mut Fields) -> T) -> T {
        let value = self.value(name).unwrap_or_default();
        self.nested(self.path.child(name), value, read)
    }
    pub fn objects<T>(&mut self, name: &str, mut read: impl FnMut(&mut Fields) -> T) -> Vec<T> {
        let items = self.values(name).into_iter().enumerate();
        items.map(|(index, item)| self.nested(self.path.child(name).index(index), item, &mut read)).collect()
    }

    /// The items of a list as they are.
    pub fn values(&mut self, name: &str) -> Vec<Value> {
        match self.value(name) {
            None => Vec::new(),
            Some(Value::Array(items)) => items,
            Some(other) => {
                self.mismatch(&self.path.child(name), &other, "array");
                Vec::new()
            }
        }
    }
    fn nested<T>(&mut self, path: Path, value: Value, read: impl FnOnce(&mut Fields) -> T) -> T {
        let mut inner = Fields::new(&self.kind, path);
        inner.fill(value);
        let result = read(&mut inner);
        self.problems.add(inner.end());
        result
    }
    /// What another decoder found below a field.
    pub fn found(&mut self, problems: Problems) {
        self.problems.add(problems);
    }
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn unknown_field(path: &Path) -> String {
    format!("unknown field {}", go_quote(path.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let value = json!({"a": "x", "b": {"c": 1, "d": 2}, "e": [{"f": true}, {"g": 1}], "n": null, "z": 0});
        let (read, problems) = Fields::read("T", value, |fields| {
            let a = fields.text("a");
            let c = fields.object("b", |b| b.int32("c"));
            let e = fields.objects("e", |e| e.boolean("f"));
            (a, c, e, fields.string("n"))
        });
        assert_eq!(read, ("x".to_owned(), Some(Some(1)), vec![Some(true), None], None));
        let text =
            "strict decoding error: unknown field \"b.d\", unknown field \"e[1].g\", unknown field \"z\"";
        assert_eq!(problems.text(), text);

        let wrong = |value: Value| {
            let (_, problems) = Fields::read("T", value, |fields| {
                (fields.int32("i"), fields.strings("s"), fields.duration("d"), fields.bytes("b"))
            });
            problems.text()
        };
        let field = |what: &str| format!("json: cannot unmarshal {what}");
        assert_eq!(wrong(json!({"i": "1"})), field("string into Go struct field T.i of type int32"));
        let too_large = field("number 5000000000 into Go struct field T.i of type int32");
        assert_eq!(wrong(json!({"i": 5_000_000_000_i64, "s": [1]})), too_large, "the first is told");
        assert_eq!(wrong(json!({"s": [1]})), field("number into Go struct field T.s[0] of type string"));
        assert_eq!(wrong(json!({"d": "5"})), "d: time: invalid duration \"5\"");
        assert_eq!(wrong(json!([])), field("array into Go value of type T"));
    }
}

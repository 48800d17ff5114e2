//! Text to value in one pass that also notes, in the order of the document, duplicate keys and
//! fields the schema does not declare.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::go_yaml;
use crate::field::go_quote;
use crate::schema::Node;

/// Deeper documents are refused; the deepest real kinds nest about forty levels.
const MAX_DEPTH: usize = 120;
/// The YAML reader takes several large stack frames for each level: less than half as many fit the
/// stack of a worker thread, and overflowing it ends the process.
const MAX_YAML_DEPTH: usize = 64;
/// Problems reported of one document, as upstream bounds them.
const MAX_PROBLEMS: usize = 100;

pub(super) fn parse(body: &[u8], is_yaml: bool, schema: Node<'_>) -> Result<(Value, Vec<String>), String> {
    let starts_as_json = body.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{');
    if starts_as_json || !is_yaml {
        let mut log = Log::new(false);
        let read = parse_json(body, schema, &mut log);
        // A map in brackets that is no JSON can still be YAML.
        if read.is_ok() || !is_yaml {
            return Ok((read?, log.problems));
        }
    }
    let mut log = Log::new(true);
    let value = parse_yaml(body, schema, &mut log)?;
    if let Some(key) = &log.duplicate {
        log.problems.insert(0, yaml_duplicate(body, key));
    }
    Ok((value, log.problems))
}

fn parse_json(body: &[u8], schema: Node<'_>, log: &mut Log) -> Result<Value, String> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let seed = Seed { schema: Some(schema), log };
    let value = seed.deserialize(&mut deserializer).map_err(|e| go_syntax_error(&e, body))?;
    deserializer.end().map_err(|e| go_syntax_error(&e, body))?;
    Ok(value)
}

/// serde_json's complaint in Go's words.
fn go_syntax_error(error: &serde_json::Error, body: &[u8]) -> String {
    if error.is_eof() {
        return "unexpected end of JSON input".to_owned();
    }
    let text = error.to_string();
    if text.contains("recursion limit") || text.contains(TOO_DEEP) {
        return TOO_DEEP.to_owned();
    }
    let line_start =
        body.split(|b| *b == b'\n').take(error.line().saturating_sub(1)).map(|l| l.len() + 1).sum::<usize>();
    let at = (line_start + error.column()).saturating_sub(1);
    let character = body.get(at).map(|b| go_character(*b)).unwrap_or_default();
    let place = if text.contains("trailing comma") && body.get(at) == Some(&b'}') {
        "looking for beginning of object key string"
    } else if text.contains("control character") {
        "in string literal"
    } else if text.contains("invalid escape") {
        "in string escape code"
    } else if text.contains("invalid number") {
        "in numeric literal"
    } else if text.contains("trailing characters") {
        "after top-level value"
    } else if text.contains("key must be a string") {
        "looking for beginning of object key string"
    } else if text.contains("expected `,` or `}`") {
        "after object key:value pair"
    } else if text.contains("expected `,` or `]`") {
        "after array element"
    } else if text.contains("expected `:`") {
        "after object key"
    } else {
        "looking for beginning of value"
    };
    format!("invalid character '{character}' {place}")
}

/// A byte between single quotes, as Go's JSON reader shows it.
fn go_character(byte: u8) -> String {
    match byte {
        b'\'' => "\\'".to_owned(),
        b'"' => "\"".to_owned(),
        other => go_quote(&char::from(other).to_string()).trim_matches('"').to_owned(),
    }
}

fn yaml_options(duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy) -> serde_saphyr::Options {
    serde_saphyr::options! {
        duplicate_keys: duplicate_keys,
        with_snippet: false,
        budget: serde_saphyr::budget! { max_depth: MAX_YAML_DEPTH },
    }
}

/// The first document: Go's reader takes no notice of what follows.
fn parse_yaml(body: &[u8], schema: Node<'_>, log: &mut Log) -> Result<Value, String> {
    let options = yaml_options(serde_saphyr::options::DuplicateKeyPolicy::LastWins);
    let mut first = None;
    let read = serde_saphyr::with_deserializer_from_slice_with_options(body, options, |deserializer| {
        first = Some(Seed { schema: Some(schema), log }.deserialize(deserializer)?);
        Ok(())
    });
    match read {
        Ok(()) | Err(serde_saphyr::Error::MultipleDocuments { .. }) => Ok(first.unwrap_or_default()),
        Err(error) => Err(format!("error converting YAML to JSON: {}", go_yaml::fault(&error, body))),
    }
}

/// Go's text for the first duplicate key of a YAML document, with its line.
fn yaml_duplicate(body: &[u8], key: &str) -> String {
    let options = yaml_options(serde_saphyr::options::DuplicateKeyPolicy::Error);
    let error = serde_saphyr::from_slice_with_options::<Value>(body, options).err();
    let line = error.and_then(|e| e.location()).map_or(0, |at| at.line());
    format!("yaml: unmarshal errors:\n  line {line}: key {} already set in map", go_quote(key))
}

struct Log {
    path: String,
    problems: Vec<String>,
    /// The first duplicate key of a YAML document.
    duplicate: Option<String>,
    is_yaml: bool,
    depth: usize,
}

impl Log {
    fn new(is_yaml: bool) -> Self {
        Log { path: String::new(), problems: Vec::new(), duplicate: None, is_yaml, depth: 0 }
    }
    /// Extends the path by a field and returns the length to truncate to.
    fn enter(&mut self, key: &str) -> usize {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(key);
        length
    }
    fn report(&mut self, problem: &str) {
        let text = format!("{problem} field {}", go_quote(&self.path));
        if self.problems.len() < MAX_PROBLEMS && !self.problems.contains(&text) {
            self.problems.push(text);
        }
    }
}

const TOO_DEEP: &str = "exceeded max depth";

/// Below an undeclared field the schema is `None` and nothing more is reported.
struct Seed<'a, 'n> {
    schema: Option<Node<'n>>,
    log: &'a mut Log,
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.log.depth += 1;
        if self.log.depth > if self.log.is_yaml { MAX_YAML_DEPTH } else { MAX_DEPTH } {
            return Err(D::Error::custom(TOO_DEEP));
        }
        let Seed { schema, log } = self;
        let value = deserializer.deserialize_any(Seed { schema, log: &mut *log });
        log.depth -= 1;
        value
    }
}

impl<'de> Visitor<'de> for Seed<'_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        // YAML passes through JSON upstream, where a whole float is written without a fraction.
        if self.log.is_yaml && value.fract() == 0.0 && value.abs() < 9.0e15 {
            return Ok((value as i64).into());
        }
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let Seed { schema, log } = self;
        let item = schema.map(|s| s.item());
        let mut items = Vec::new();
        let length = log.path.len();
        loop {
            log.path.push_str(&format!("[{}]", items.len()));
            let next = access.next_element_seed(Seed { schema: item, log: &mut *log })?;
            log.path.truncate(length);
            match next {
                Some(value) => items.push(value),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let Seed { schema, log } = self;
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let length = log.enter(&key);
            let child = schema.and_then(|s| s.child(&key));
            if schema.is_some() && child.is_none() {
                log.report("unknown");
            } else if schema.is_some() && map.contains_key(&key) {
                if log.is_yaml {
                    log.duplicate.get_or_insert_with(|| key.clone());
                } else {
                    log.report("duplicate");
                }
            }
            let value = access.next_value_seed(Seed { schema: child, log: &mut *log })?;
            log.path.truncate(length);
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

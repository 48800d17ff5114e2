//! Field selectors: equality terms over the few fields a resource can be selected by.

use std::fmt;

use serde_json::Value;

use crate::resource::Resource;
use crate::status::Status;

/// One `label=value` or `label!=value` of a field selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    pub label: String,
    pub value: String,
    pub equals: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    pub terms: Vec<FieldTerm>,
}

impl FieldSelector {
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts: Vec<&str> = split_unescaped(text, ',');
        parts.sort_unstable();
        let mut terms = Vec::new();
        for part in parts.into_iter().filter(|p| !p.is_empty()) {
            let refuse = || format!("invalid selector: '{text}'; can't understand '{part}'");
            let (label, equals, value) = split_term(part).ok_or_else(refuse)?;
            let value = unescape(value)?;
            terms.push(FieldTerm { label: label.to_owned(), value, equals });
        }
        Ok(FieldSelector { terms })
    }

    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Refuses labels the resource does not select by.
    pub fn check(&self, resource: &Resource) -> Result<(), Status> {
        for term in &self.terms {
            let known = matches!(term.label.as_str(), "metadata.name" | "metadata.namespace")
                || resource.selectable_fields.iter().any(|f| f.label == term.label);
            if known {
                continue;
            }
            return Err(Status::bad_request(if resource.selectable_fields.is_empty() {
                format!(
                    "{} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
                    crate::field::go_quote(&term.label)
                )
            } else {
                format!("field label not supported: {}", term.label)
            }));
        }
        Ok(())
    }

    /// The value a term demands of this label, if one does.
    pub fn required(&self, label: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.equals && t.label == label).map(|t| t.value.as_str())
    }

    /// `field` gives the value of each label (absent fields as the row says).
    pub fn matches<'a>(&self, field: impl Fn(&str) -> std::borrow::Cow<'a, str>) -> bool {
        self.terms.iter().all(|t| (field(&t.label) == t.value.as_str()) == t.equals)
    }

    pub fn matches_object(&self, resource: &Resource, object: &Value) -> bool {
        self.matches(|label| field_value(resource, object, label))
    }
}

/// What an object's field compares as.
pub fn field_value<'a>(resource: &Resource, object: &'a Value, label: &str) -> std::borrow::Cow<'a, str> {
    match label {
        "metadata.name" => return crate::object::name(object).into(),
        "metadata.namespace" => return crate::object::namespace(object).into(),
        _ => {}
    }
    let Some(field) = resource.selectable_fields.iter().find(|f| f.label == label) else { return "".into() };
    let present = object.pointer(&field.pointer).filter(|value| !value.is_null());
    let instead = || field.instead().and_then(|pointer| object.pointer(pointer));
    match present.or_else(instead) {
        Some(Value::String(s)) => s.as_str().into(),
        Some(Value::Bool(b)) => b.to_string().into(),
        Some(Value::Number(n)) => n.to_string().into(),
        _ if field.instead().is_some() => "".into(),
        _ => field.absent.to_string().into(),
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, term) in self.terms.iter().enumerate() {
            let sign = if term.equals { "=" } else { "!=" };
            let comma = if i > 0 { "," } else { "" };
            let value = term.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(f, "{comma}{}{sign}{value}", term.label)?;
        }
        Ok(())
    }
}

fn split_unescaped(text: &str, separator: char) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == separator {
            parts.push(&text[start..at]);
            start = at + separator.len_utf8();
        }
    }
    parts.push(&text[start..]);
    parts
}

fn split_term(part: &str) -> Option<(&str, bool, &str)> {
    for (at, _) in part.char_indices() {
        let rest = &part[at..];
        for (sign, equals) in [("!=", false), ("==", true), ("=", true)] {
            if let Some(value) = rest.strip_prefix(sign) {
                return Some((&part[..at], equals, value));
            }
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(e @ ('\\' | ',' | '=')) => out.push(e),
                other => {
                    let rest = other.map(String::from).unwrap_or_default();
                    return Err(format!("invalid field selector: invalid escape sequence: \\{rest}"));
                }
            },
            ',' | '=' => {
                return Err(format!("invalid field selector: unescaped character in value: {}", c as u32));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_and_their_escapes() {
        let parsed = FieldSelector::parse("b==2,a!=x\\,y\\=z,").expect("parses");
        let term = |label: &str, value: &str, equals: bool| FieldTerm {
            label: label.to_owned(),
            value: value.to_owned(),
            equals,
        };
        assert_eq!(parsed.terms, [term("a", "x,y=z", false), term("b", "2", true)]);
        assert_eq!(FieldSelector::parse(&parsed.to_string()), Ok(parsed));
        let refusals = [
            ("a", "invalid selector: 'a'; can't understand 'a'"),
            ("b,a=1", "invalid selector: 'b,a=1'; can't understand 'b'"),
            ("a=\\x", "invalid field selector: invalid escape sequence: \\x"),
            ("a=\\", "invalid field selector: invalid escape sequence: \\"),
            ("a=b=c", "invalid field selector: unescaped character in value: 61"),
        ];
        for (text, refusal) in refusals {
            assert_eq!(FieldSelector::parse(text).err().as_deref(), Some(refusal), "{text}");
        }
    }
}

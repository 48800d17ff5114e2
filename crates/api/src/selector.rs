//! Label selectors (their string and their object form) and field selectors.

use std::fmt;

use serde_json::{Map, Value};

use crate::field::{Error as FieldError, Path};
use crate::names;
use crate::resource::Resource;
use crate::status::Status;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    In,
    NotIn,
    Equals,
    DoubleEquals,
    NotEquals,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    pub values: Vec<String>,
}

/// All requirements hold; without any it selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    pub fn everything() -> Self {
        Self::default()
    }
    pub fn nothing() -> Self {
        LabelSelector { requirements: Vec::new(), nothing: true }
    }
    /// The query form: `app=web,tier in (a, b),!canary`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut requirements = Parser::new(text).parse()?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(LabelSelector { requirements, nothing: false })
    }
    /// The object form (`metav1.LabelSelector`): null selects nothing, `{}` everything.
    pub fn from_object(selector: &Value) -> Result<Self, String> {
        let Some(selector) = selector.as_object() else { return Ok(Self::nothing()) };
        let mut requirements = Vec::new();
        for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            requirements.push(Requirement::new(key, Operator::Equals, vec![value])?);
        }
        for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            requirements.push(Requirement::from_expression(expression)?);
        }
        Ok(LabelSelector { requirements, nothing: false })
    }
    /// The map form (`spec.selector` of services and replication controllers).
    pub fn from_map(labels: &Map<String, Value>) -> Self {
        let requirement = |(key, value): (&String, &Value)| Requirement {
            key: key.clone(),
            operator: Operator::Equals,
            values: vec![value.as_str().unwrap_or_default().to_owned()],
        };
        LabelSelector { requirements: labels.iter().map(requirement).collect(), nothing: false }
    }
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }
    pub fn is_nothing(&self) -> bool {
        self.nothing
    }
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(label(&r.key)))
    }
    pub fn matches_labels(&self, labels: Option<&Map<String, Value>>) -> bool {
        self.matches(|key| labels.and_then(|l| l.get(key)).and_then(Value::as_str))
    }
    pub fn matches_object(&self, object: &Value) -> bool {
        self.matches_labels(crate::object::labels(object))
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

impl Requirement {
    pub fn new(key: &str, operator: Operator, values: Vec<String>) -> Result<Self, String> {
        let mut faults = key_fault(key, &Path::new("key")).into_iter().collect::<Vec<_>>();
        let path = Path::new("values");
        let fault = match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                Some("for 'in', 'notin' operators, values set can't be empty")
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
                Some("exact-match compatibility requires one single value")
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                Some("values set must be empty for exists and does not exist")
            }
            Operator::GreaterThan | Operator::LessThan if values.len() != 1 => {
                Some("for 'Gt', 'Lt' operators, exactly one value is required")
            }
            _ => None,
        };
        faults.extend(fault.map(|text| FieldError::invalid(&path, values.clone(), text)));
        for (i, value) in values.iter().enumerate() {
            let comparing = matches!(operator, Operator::GreaterThan | Operator::LessThan);
            if comparing && value.parse::<i64>().is_err() {
                let text = "for 'Gt', 'Lt' operators, the value must be an integer";
                faults.push(FieldError::invalid(&path.index(i), value.as_str(), text));
            }
            let bad = names::label_value(value);
            if !bad.is_empty() {
                faults.push(FieldError::invalid(&path.index(i).key(key), value.as_str(), bad.join("; ")));
            }
        }
        match faults.as_slice() {
            [] => Ok(Requirement { key: key.to_owned(), operator, values }),
            [one] => Err(one.to_string()),
            many => Err(format!("[{}]", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))),
        }
    }

    fn from_expression(expression: &Value) -> Result<Self, String> {
        let text = |name: &str| expression.get(name).and_then(Value::as_str).unwrap_or_default();
        let operator = match text("operator") {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            other => {
                return Err(format!(
                    "{} is not a valid label selector operator",
                    crate::field::go_quote(other)
                ));
            }
        };
        let values = expression.get("values").and_then(Value::as_array);
        let values = values.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        Requirement::new(text("key"), operator, values)
    }

    pub fn matches(&self, label: Option<&str>) -> bool {
        let has = |value: &str| self.values.iter().any(|v| v == value);
        match (self.operator, label) {
            (Operator::In | Operator::Equals | Operator::DoubleEquals, label) => label.is_some_and(has),
            (Operator::NotIn | Operator::NotEquals, label) => !label.is_some_and(has),
            (Operator::Exists, label) => label.is_some(),
            (Operator::DoesNotExist, label) => label.is_none(),
            (Operator::GreaterThan | Operator::LessThan, label) => {
                let (Some(left), Some(right)) = (
                    label.and_then(|l| l.parse::<i64>().ok()),
                    self.values.first().and_then(|v| v.parse::<i64>().ok()),
                ) else {
                    return false;
                };
                if self.operator == Operator::GreaterThan { left > right } else { left < right }
            }
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut values = self.values.clone();
        values.sort();
        let values = values.join(",");
        let key = &self.key;
        match self.operator {
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
        }
    }
}

fn key_fault(key: &str, path: &Path) -> Option<FieldError> {
    let faults = names::qualified_name(key);
    if faults.is_empty() { None } else { Some(FieldError::invalid(path, key, faults.join("; "))) }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    End,
    Symbol(&'a str),
    Word(&'a str),
    Unknown(&'a str),
}

impl<'a> Token<'a> {
    fn text(self) -> String {
        match self {
            Token::End => String::new(),
            Token::Symbol(s) | Token::Word(s) => s.to_owned(),
            Token::Unknown(s) => format!("error expected: keyword found '{s}'"),
        }
    }
}

fn is_symbol(byte: u8) -> bool {
    matches!(byte, b'=' | b'!' | b'(' | b')' | b',' | b'>' | b'<')
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        if is_blank(bytes[at]) {
            at += 1;
        } else if is_symbol(bytes[at]) {
            at += match &bytes[at..] {
                [b'=' | b'!', b'=', ..] => 2,
                _ => 1,
            };
            found.push(Token::Symbol(&text[start..at]));
        } else {
            while at < bytes.len() && !is_symbol(bytes[at]) && !is_blank(bytes[at]) {
                at += 1;
            }
            let word = &text[start..at];
            found.push(if word.contains('\0') { Token::Unknown(word) } else { Token::Word(word) });
        }
    }
    found.push(Token::End);
    found
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        Parser { tokens: tokens(text), at: 0 }
    }
    fn peek(&self) -> Token<'a> {
        self.tokens.get(self.at).copied().unwrap_or(Token::End)
    }
    fn next(&mut self) -> Token<'a> {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn parse(mut self) -> Result<Vec<Requirement>, String> {
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                Token::End => return Ok(requirements),
                Token::Word(_) | Token::Symbol("!") => {}
                other => {
                    return Err(format!(
                        "found '{}', expected: !, identifier, or 'end of string'",
                        other.text()
                    ));
                }
            }
            let requirement = self.requirement().map_err(|e| format!("unable to parse requirement: {e}"))?;
            requirements.push(requirement);
            match self.next() {
                Token::End => return Ok(requirements),
                Token::Symbol(",") => match self.peek() {
                    Token::Word(_) | Token::Symbol("!") => {}
                    other => return Err(format!("found '{}', expected: identifier after ','", other.text())),
                },
                other => return Err(format!("found '{}', expected: ',' or 'end of string'", other.text())),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let mut first = self.next();
        let negated = first == Token::Symbol("!");
        if negated {
            first = self.next();
        }
        let Token::Word(key) = first else {
            return Err(format!("found '{}', expected: identifier", first.text()));
        };
        if let Some(fault) = key_fault(key, &Path::default()) {
            return Err(fault.to_string());
        }
        if negated {
            return Requirement::new(key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek(), Token::End | Token::Symbol(",")) {
            return Requirement::new(key, Operator::Exists, Vec::new());
        }
        let operator = self.operator()?;
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => self.exact_value()?,
        };
        Requirement::new(key, operator, values)
    }

    fn operator(&mut self) -> Result<Operator, String> {
        Ok(match self.next() {
            Token::Word("in") => Operator::In,
            Token::Word("notin") => Operator::NotIn,
            Token::Symbol("=") => Operator::Equals,
            Token::Symbol("==") => Operator::DoubleEquals,
            Token::Symbol("!=") => Operator::NotEquals,
            Token::Symbol(">") => Operator::GreaterThan,
            Token::Symbol("<") => Operator::LessThan,
            other => return Err(format!("found '{}', expected: in, notin, =, ==, !=, gt, lt", other.text())),
        })
    }

    fn exact_value(&mut self) -> Result<Vec<String>, String> {
        match self.peek() {
            Token::End | Token::Symbol(",") => Ok(vec![String::new()]),
            Token::Word(word) => {
                self.at += 1;
                Ok(vec![word.to_owned()])
            }
            other => Err(format!("found '{}', expected: identifier", other.text())),
        }
    }

    /// `(a, b)`, where nothing between commas or parentheses is the empty value.
    fn values(&mut self) -> Result<Vec<String>, String> {
        match self.next() {
            Token::Symbol("(") => {}
            other => return Err(format!("found '{}' expected: '('", other.text())),
        }
        let mut values = Vec::new();
        loop {
            let value = match self.peek() {
                Token::Word(word) => {
                    self.at += 1;
                    word
                }
                Token::Symbol("," | ")") => "",
                other if values.is_empty() => {
                    return Err(format!("found '{}', expected: ',', ')' or identifier", other.text()));
                }
                other => return Err(format!("found '{}', expected: ',', or identifier", other.text())),
            };
            if !values.iter().any(|v| v == value) {
                values.push(value.to_owned());
            }
            match self.next() {
                Token::Symbol(",") => {}
                Token::Symbol(")") => break,
                other => return Err(format!("found '{}', expected: ',' or ')'", other.text())),
            }
        }
        values.sort();
        Ok(values)
    }
}

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
            let value = unescape(value).ok_or_else(refuse)?;
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
    match object.pointer(&field.pointer) {
        Some(Value::String(s)) => s.as_str().into(),
        Some(Value::Bool(b)) => b.to_string().into(),
        Some(Value::Number(n)) => n.to_string().into(),
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
    for (at, c) in part.char_indices() {
        let rest = &part[at..];
        for (sign, equals) in [("!=", false), ("==", true), ("=", true)] {
            if let Some(value) = rest.strip_prefix(sign) {
                return Some((&part[..at], equals, value));
            }
        }
        if c == '\\' {
            return None;
        }
    }
    None
}

fn unescape(value: &str) -> Option<String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next()? {
                e @ ('\\' | ',' | '=') => out.push(e),
                _ => return None,
            },
            ',' | '=' => return None,
            c => out.push(c),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn label_selectors() {
        let labels = json!({"app": "web", "tier": "a", "n": "5"});
        let cases = [
            ("", true),
            ("app=web", true),
            ("app==web,tier in (a, b)", true),
            ("app!=web", false),
            ("missing!=x", true),
            ("!missing", true),
            ("app,!tier", false),
            ("tier notin (a)", false),
            ("n>4,n<6", true),
            ("app in ()", false),
            ("in in (in)", false),
        ];
        for (text, expected) in cases {
            let selector = LabelSelector::parse(text).expect(text);
            assert_eq!(selector.matches_labels(labels.as_object()), expected, "{text}");
        }
        assert_eq!(LabelSelector::parse("b in (y,x),a").expect("ok").to_string(), "a,b in (x,y)");
    }

    #[test]
    fn label_selector_refusals() {
        for (text, error) in [
            ("a,", "found '', expected: identifier after ','"),
            ("=a", "found '=', expected: !, identifier, or 'end of string'"),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ] {
            assert_eq!(LabelSelector::parse(text).expect_err(text), error);
        }
        let bad = LabelSelector::parse("a/b/c=d").expect_err("bad key");
        assert!(
            bad.starts_with(
                "unable to parse requirement: <nil>: Invalid value: \"a/b/c\": a valid label key"
            )
        );
    }

    #[test]
    fn object_form() {
        assert!(LabelSelector::from_object(&Value::Null).expect("ok").is_nothing());
        assert!(LabelSelector::from_object(&json!({})).expect("ok").is_everything());
        let selector =
            json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "Exists"}]});
        assert_eq!(LabelSelector::from_object(&selector).expect("ok").to_string(), "a=b,c");
        let selector = json!({"matchExpressions": [{"key": "c", "operator": "Is"}]});
        let error = LabelSelector::from_object(&selector).expect_err("operator");
        assert_eq!(error, "\"Is\" is not a valid label selector operator");
    }

    #[test]
    fn field_selectors() {
        let pods = crate::resource::find("", "v1", "pods").expect("pods");
        let pod = json!({"metadata": {"name": "x"}, "spec": {"nodeName": "n1"}});
        for (text, expected) in [
            ("spec.nodeName=n1,metadata.name==x", true),
            ("spec.nodeName!=n1", false),
            ("status.phase=", true),
            ("spec.hostNetwork=false", true),
        ] {
            let selector = FieldSelector::parse(text).expect(text);
            selector.check(pods).expect("known labels");
            assert_eq!(selector.matches_object(pods, &pod), expected, "{text}");
        }
        let unknown = FieldSelector::parse("spec.foo=1").expect("parses");
        assert_eq!(unknown.check(pods).expect_err("unknown").message, "field label not supported: spec.foo");
        assert!(FieldSelector::parse("nonsense").is_err());
        let escaped = FieldSelector::parse("metadata.name=a\\,b").expect("parses");
        assert_eq!(escaped.terms[0].value, "a,b");
    }
}

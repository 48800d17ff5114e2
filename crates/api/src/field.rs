//! Field paths and field errors, worded as Kubernetes words them, so that a user who knows one
//! system can read the other's refusals.

use std::ops::Deref;
use std::{fmt, io};

use serde_json::Value;

/// A path to a field, e.g. `spec.containers[0].name` or `metadata.labels[app]`. One is made for every
/// field that is looked at, whether or not anything is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    pub fn new(name: &str) -> Self {
        Path(name.to_owned())
    }
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Path(name.to_owned()) } else { Path([&self.0, ".", name].concat()) }
    }
    pub fn index(&self, index: usize) -> Self {
        self.key(&index.to_string())
    }
    pub fn key(&self, key: &str) -> Self {
        Path([&self.0, "[", key, "]"].concat())
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

/// The kinds of fault a field can have; the wire names are `metav1.CauseType`s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorType {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    InternalError,
    TypeInvalid,
}

impl ErrorType {
    /// `metav1.StatusCause.reason`.
    pub fn cause(self) -> &'static str {
        match self {
            ErrorType::NotFound => "FieldValueNotFound",
            ErrorType::Required => "FieldValueRequired",
            ErrorType::Duplicate => "FieldValueDuplicate",
            ErrorType::Invalid => "FieldValueInvalid",
            ErrorType::NotSupported => "FieldValueNotSupported",
            ErrorType::Forbidden => "FieldValueForbidden",
            ErrorType::TooLong => "FieldValueTooLong",
            ErrorType::TooMany => "FieldValueTooMany",
            ErrorType::InternalError => "InternalError",
            ErrorType::TypeInvalid => "FieldValueTypeInvalid",
        }
    }
    fn label(self) -> &'static str {
        match self {
            ErrorType::NotFound => "Not found",
            ErrorType::Required => "Required value",
            ErrorType::Duplicate => "Duplicate value",
            ErrorType::Invalid => "Invalid value",
            ErrorType::NotSupported => "Unsupported value",
            ErrorType::Forbidden => "Forbidden",
            ErrorType::TooLong => "Too long",
            ErrorType::TooMany => "Too many",
            ErrorType::InternalError => "Internal error",
            ErrorType::TypeInvalid => "Invalid value",
        }
    }
}

/// One fault of one field.
#[derive(Clone, Debug, PartialEq)]
pub struct Error {
    pub kind: ErrorType,
    pub field: String,
    /// As it is shown, cut where it is long.
    pub value: Option<String>,
    pub detail: String,
}

/// Text of one fault's field, value or detail that is shown: many times what a person reads, and
/// little beside the largest body.
const SHOWN_BYTES_MAX: usize = 16 << 10;
const CUT: &str = "...";

impl Error {
    fn make(kind: ErrorType, path: &Path, value: Option<Value>, detail: impl Into<String>) -> Self {
        Error { kind, field: path.to_string(), value: value.as_ref().map(go_value), detail: detail.into() }
    }
    pub fn required(path: &Path, detail: impl Into<String>) -> Self {
        Self::make(ErrorType::Required, path, None, detail)
    }
    pub fn invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::make(ErrorType::Invalid, path, Some(value.into()), detail)
    }
    pub fn type_invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::make(ErrorType::TypeInvalid, path, Some(value.into()), detail)
    }
    pub fn not_supported<S: AsRef<str>>(path: &Path, value: impl Into<Value>, supported: &[S]) -> Self {
        let quoted: Vec<String> = supported.iter().map(|s| go_quote(s.as_ref())).collect();
        let detail = if quoted.is_empty() {
            String::new()
        } else {
            format!("supported values: {}", quoted.join(", "))
        };
        Self::make(ErrorType::NotSupported, path, Some(value.into()), detail)
    }
    pub fn forbidden(path: &Path, detail: impl Into<String>) -> Self {
        Self::make(ErrorType::Forbidden, path, None, detail)
    }
    pub fn duplicate(path: &Path, value: impl Into<Value>) -> Self {
        Self::make(ErrorType::Duplicate, path, Some(value.into()), "")
    }
    pub fn not_found(path: &Path, value: impl Into<Value>) -> Self {
        Self::make(ErrorType::NotFound, path, Some(value.into()), "")
    }
    pub fn internal(path: &Path, detail: impl Into<String>) -> Self {
        Self::make(ErrorType::InternalError, path, None, detail)
    }
    pub fn too_long(path: &Path, max_bytes: usize) -> Self {
        Self::make(ErrorType::TooLong, path, None, format!("may not be more than {max_bytes} bytes"))
    }
    pub fn too_many(path: &Path, actual: usize, max: usize) -> Self {
        let noun = if max == 1 { "item" } else { "items" };
        Self::make(ErrorType::TooMany, path, Some(actual.into()), format!("must have at most {max} {noun}"))
    }

    /// Upstream's word for rules that were left out.
    fn not_checked() -> Self {
        Self::invalid(&Path::default(), Value::Null, NOT_CHECKED)
    }
    fn is_not_checked(&self) -> bool {
        self.detail == NOT_CHECKED
    }

    /// The text without the field, as `StatusCause.message` carries it.
    pub fn body(&self) -> String {
        let label = self.kind.label();
        let mut text = match (self.kind, &self.value) {
            (
                ErrorType::Required | ErrorType::Forbidden | ErrorType::TooLong | ErrorType::InternalError,
                _,
            )
            | (_, None) => label.to_owned(),
            (_, Some(value)) => format!("{label}: {value}"),
        };
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// Go's `%q` for the characters that occur in API values.
pub fn go_quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn go_value(value: &Value) -> String {
    match value {
        Value::String(s) if s.len() > SHOWN_BYTES_MAX => go_quote(&cut(s.clone())),
        Value::String(s) => go_quote(s),
        other => {
            let mut shown = Shown(Vec::new());
            match serde_json::to_writer(&mut shown, other) {
                Ok(()) => String::from_utf8_lossy(&shown.0).into_owned(),
                Err(_) => format!("{}{CUT}", String::from_utf8_lossy(&shown.0)),
            }
        }
    }
}

/// Takes JSON until there is too much of it.
struct Shown(Vec<u8>);

impl io::Write for Shown {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match SHOWN_BYTES_MAX - self.0.len() {
            0 if !bytes.is_empty() => Err(io::ErrorKind::FileTooLarge.into()),
            room => io::Write::write(&mut self.0, &bytes[..room.min(bytes.len())]),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The text, or as much of it as is shown.
fn cut(mut text: String) -> String {
    if text.len() > SHOWN_BYTES_MAX {
        text.truncate(text.floor_char_boundary(SHOWN_BYTES_MAX));
        text.push_str(CUT);
    }
    text
}

const NOT_CHECKED: &str = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
/// Faults of one object that are told: more than anybody mends at once, and what keeps an answer
/// from growing with every port of a hostile object.
const FAULTS_MAX: usize = 1000;
/// Their texts together; an answer carries them twice.
const FAULT_BYTES_MAX: usize = 1 << 20;

/// The faults of one object, in the order they were found, as many as are told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults {
    all: Vec<Error>,
    bytes: usize,
    closed: bool,
}

impl Faults {
    pub fn new() -> Self {
        Self::default()
    }
    /// The last that fits is followed by a word that there may be more: whatever is forgiven later,
    /// an object with faults that nobody counted stays refused.
    pub fn push(&mut self, mut fault: Error) {
        if self.closed {
            return;
        }
        self.closed = fault.is_not_checked();
        fault.field = cut(fault.field);
        fault.detail = cut(fault.detail);
        self.bytes += fault.field.len() + fault.detail.len() + fault.value.as_ref().map_or(0, String::len);
        self.all.push(fault);
        if !self.closed && (self.all.len() >= FAULTS_MAX || self.bytes >= FAULT_BYTES_MAX) {
            self.all.push(Error::not_checked());
            self.closed = true;
        }
    }
    /// Nothing more will be told.
    pub fn is_full(&self) -> bool {
        self.closed
    }
    pub fn retain(&mut self, mut keep: impl FnMut(&Error) -> bool) {
        self.all.retain(|fault| fault.is_not_checked() || keep(fault));
    }
    /// By their texts.
    pub fn sort(&mut self) {
        let counted = self.all.len() - usize::from(self.closed);
        self.all[..counted].sort_by_cached_key(ToString::to_string);
    }
}

impl Deref for Faults {
    type Target = [Error];
    fn deref(&self) -> &[Error] {
        &self.all
    }
}

impl Extend<Error> for Faults {
    fn extend<I: IntoIterator<Item = Error>>(&mut self, faults: I) {
        faults.into_iter().for_each(|fault| self.push(fault));
    }
}

impl FromIterator<Error> for Faults {
    fn from_iter<I: IntoIterator<Item = Error>>(faults: I) -> Self {
        let mut all = Faults::new();
        all.extend(faults);
        all
    }
}

impl From<Error> for Faults {
    fn from(fault: Error) -> Self {
        Self::from_iter([fault])
    }
}

impl IntoIterator for Faults {
    type Item = Error;
    type IntoIter = std::vec::IntoIter<Error>;
    fn into_iter(self) -> Self::IntoIter {
        self.all.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_match_kubernetes() {
        let name = Path::new("spec").child("containers").index(0).child("name");
        assert_eq!(Error::required(&name, "").to_string(), "spec.containers[0].name: Required value");
        assert_eq!(
            Error::invalid(&name, "A", "must be lower case").to_string(),
            "spec.containers[0].name: Invalid value: \"A\": must be lower case"
        );
        assert_eq!(
            Error::not_supported(&Path::new("spec").child("type"), "X", &["B", "A"]).to_string(),
            "spec.type: Unsupported value: \"X\": supported values: \"B\", \"A\""
        );
    }

    #[test]
    fn long_values_are_cut_where_they_are_shown() {
        let path = Path::new("spec");
        let long = "ä".repeat(SHOWN_BYTES_MAX);
        for value in [Value::from(long.as_str()), Value::from(vec![long.as_str(); 3])] {
            let text = Error::invalid(&path, value, "no").to_string();
            assert!(text.len() < SHOWN_BYTES_MAX + 100 && text.ends_with("no"), "{}", text.len());
        }
        let whole = Error::invalid(&path, vec!["ä"; 1000], "").to_string();
        assert!(whole.ends_with("\"ä\"]"), "{whole}");
    }

    #[test]
    fn faults_end_with_a_word_about_the_rest() {
        let path = Path::new("spec");
        let mut many = Faults::new();
        many.extend((0..=FAULTS_MAX).map(|i| Error::invalid(&path.index(i), i, "")));
        many.push(Error::required(&path, ""));
        assert_eq!(many.len(), FAULTS_MAX + 1);
        assert!(
            many[FAULTS_MAX].to_string().starts_with("<nil>: Invalid value: null: some validation rules")
        );
        many.retain(|fault| !fault.field.starts_with("spec["));
        assert_eq!(many.len(), 1, "a refusal does not become an acceptance");

        let long = "x".repeat(3 << 20);
        let few: Faults = (0..1000).map(|_| Error::forbidden(&path.key(&long), long.as_str())).collect();
        let size: usize = few.iter().map(|fault| fault.to_string().len()).sum();
        assert!(size < FAULT_BYTES_MAX + 4 * SHOWN_BYTES_MAX, "{size}");
    }
}

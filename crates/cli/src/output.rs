//! Printing objects: YAML and JSON as kubectl writes them, names, and the one-line confirmations.

use serde_json::Value;

use crate::Error;
use crate::discovery::Kind;
use crate::error::usage;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Table,
    Wide,
    Yaml,
    Json,
    Name,
}

impl Format {
    pub fn parse(text: Option<&str>) -> Result<Self, Error> {
        Ok(match text {
            None | Some("") => Format::Table,
            Some("wide") => Format::Wide,
            Some("yaml") => Format::Yaml,
            Some("json") => Format::Json,
            Some("name") => Format::Name,
            Some(other) => {
                return Err(usage(format!(
                    "unable to match a printer suitable for the output format \"{other}\", allowed formats are: \
                     json,name,wide,yaml"
                )));
            }
        })
    }
}

/// kubectl hides field ownership unless asked.
pub fn without_managed_fields(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    for item in object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
        without_managed_fields(item);
    }
}

pub fn yaml(object: &Value) -> Result<String, Error> {
    let mut options = serde_saphyr::ser_options! {};
    // Long lines stay whole, as kubectl leaves them.
    options.folded_wrap_chars = usize::MAX;
    serde_saphyr::to_string_with_options(object, options).map_err(|e| usage(e.to_string()))
}

/// Prints an object in a format that is not a table.
pub fn object(kind: &Kind, value: &Value, format: Format) -> Result<String, Error> {
    let mut value = value.clone();
    without_managed_fields(&mut value);
    match format {
        Format::Yaml => yaml(&value),
        Format::Json => Ok(indented(&value)?),
        _ => Ok(format!("{}/{}\n", kind.display(), amphipod_api::object::name(&value))),
    }
}

/// JSON with the four spaces kubectl indents by.
fn indented(value: &Value) -> Result<String, Error> {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    serde::Serialize::serialize(value, &mut serializer)?;
    out.push(b'\n');
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// `deployment.apps/demo scaled`
pub fn confirm(kind: &Kind, name: &str, what: &str) {
    println!("{}/{name} {what}", kind.display());
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn yaml_is_laid_out_as_kubectl_does() {
        let value =
            json!({"a": [{"b": "1", "c": 2}], "d": {}, "e": "true", "f": "line one\nline two\n", "g": ""});
        let expected = "a:\n- b: \"1\"\n  c: 2\nd: {}\ne: \"true\"\nf: |\n  line one\n  line two\ng: \"\"\n";
        assert_eq!(yaml(&value).unwrap(), expected);
    }

    #[test]
    fn formats_are_checked() {
        assert_eq!(Format::parse(Some("wide")).unwrap(), Format::Wide);
        assert!(Format::parse(Some("xml")).unwrap_err().to_string().contains("json,name,wide,yaml"));
    }
}

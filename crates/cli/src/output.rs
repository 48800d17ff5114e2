//! Printing objects: YAML and JSON as kubectl writes them, names, and the one-line confirmations.

use amphipod_api::codec::yaml;
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

/// Prints an object in a format that is not a table.
pub fn object(kind: &Kind, value: &Value, format: Format) -> Result<String, Error> {
    let mut value = value.clone();
    without_managed_fields(&mut value);
    match format {
        Format::Yaml => Ok(yaml::to_string(&value)),
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

    #[test]
    fn formats_are_checked() {
        assert_eq!(Format::parse(Some("wide")).unwrap(), Format::Wide);
        assert!(Format::parse(Some("xml")).unwrap_err().to_string().contains("json,name,wide,yaml"));
    }
}

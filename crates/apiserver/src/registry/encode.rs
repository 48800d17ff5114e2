//! The stored form of an object: compact JSON that begins with kind, apiVersion and metadata (so
//! that lists and metadata-only answers can cut it without parsing), and a hole where the store
//! puts the resourceVersion.

use std::io::Write;

use amphipod_api::status::Status;
use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;

/// Bytes and the offset at which the store inserts the revision.
pub struct Encoded {
    pub bytes: Bytes,
    pub stamp: usize,
}

/// What an object can be encoded from.
pub trait Tree: Serialize {
    /// None where it is no map.
    fn members(&self) -> Vec<(&str, &Self)>;
}

impl Tree for Value {
    fn members(&self) -> Vec<(&str, &Self)> {
        self.as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value)).collect()
    }
}

/// Encodes an object for the store.
pub fn object(value: &impl Tree) -> Result<Encoded, Status> {
    let mut out = Vec::with_capacity(1024);
    let mut stamp = 0;
    encode(&value.members(), &mut out, &mut stamp).map_err(Status::internal)?;
    Ok(Encoded { bytes: out.into(), stamp })
}

fn encode<T: Tree>(members: &[(&str, &T)], out: &mut Vec<u8>, stamp: &mut usize) -> std::io::Result<()> {
    let find = |wanted: &str| members.iter().find(|(key, _)| *key == wanted).map(|(_, value)| *value);
    out.push(b'{');
    for key in ["kind", "apiVersion"] {
        if let Some(value) = find(key) {
            member(out, key, value)?;
        }
    }
    *stamp = metadata(&find("metadata").map(T::members).unwrap_or_default(), out)?;
    for (key, value) in members {
        if !matches!(*key, "kind" | "apiVersion" | "metadata") {
            member(out, key, value)?;
        }
    }
    out.push(b'}');
    Ok(())
}

fn member(out: &mut Vec<u8>, key: &str, value: &impl Serialize) -> std::io::Result<()> {
    if !matches!(out.last(), Some(b'{')) {
        out.push(b',');
    }
    serde_json::to_writer(&mut *out, key)?;
    out.push(b':');
    serde_json::to_writer(&mut *out, value)?;
    Ok(())
}

/// Returns the offset between the quotes of resourceVersion.
fn metadata<T: Tree>(members: &[(&str, &T)], out: &mut Vec<u8>) -> std::io::Result<usize> {
    if !matches!(out.last(), Some(b'{')) {
        out.push(b',');
    }
    out.write_all(b"\"metadata\":{\"resourceVersion\":\"")?;
    let stamp = out.len();
    out.push(b'"');
    for (key, value) in members {
        if *key != "resourceVersion" {
            member(out, key, value)?;
        }
    }
    out.push(b'}');
    Ok(stamp)
}

/// How long `{"kind":"Pod","apiVersion":"v1",` is, if the bytes begin so: list items go without.
pub fn type_prefix(kind: &str, api_version: &str) -> Vec<u8> {
    let mut out = vec![b'{'];
    for (key, value) in [("kind", kind), ("apiVersion", api_version)] {
        // Writing strings to memory cannot fail.
        let _ = member(&mut out, key, &Value::from(value));
    }
    out.push(b',');
    out
}

/// The metadata object within encoded bytes: a scan for the matching brace, no parsing.
pub fn metadata_slice(bytes: &[u8]) -> Option<&[u8]> {
    const KEY: &[u8] = b"\"metadata\":";
    let start = bytes.windows(KEY.len()).position(|w| w == KEY)? + KEY.len();
    let (mut depth, mut in_text, mut escaped) = (0usize, false, false);
    for (index, byte) in bytes[start..].iter().enumerate() {
        match (in_text, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (true, b'"') => in_text = false,
            (true, _) => {}
            (false, b'"') => in_text = true,
            (false, b'{') => depth += 1,
            (false, b'}') => {
                depth -= 1;
                if depth == 0 {
                    return Some(&bytes[start..=start + index]);
                }
            }
            _ => {}
        }
    }
    None
}

/// A stored value as JSON.
pub fn decode(bytes: &[u8]) -> Result<Value, Status> {
    serde_json::from_slice(bytes).map_err(Status::internal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_stamp_lies_between_the_quotes() {
        let value = json!({"apiVersion": "v1", "data": {"metadata": "x"}, "kind": "ConfigMap",
            "metadata": {"name": "a", "resourceVersion": "3", "labels": {"q": "}\"{"}}});
        let encoded = object(&value).expect("encodes");
        let mut bytes = encoded.bytes.to_vec();
        bytes.splice(encoded.stamp..encoded.stamp, *b"42");
        let text = String::from_utf8(bytes.clone()).expect("utf-8");
        assert!(
            text.starts_with(r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"42","#)
        );
        assert!(text.as_bytes().starts_with(&type_prefix("ConfigMap", "v1")));
        let mut want = value;
        want["metadata"]["resourceVersion"] = "42".into();
        assert_eq!(decode(&bytes).expect("decodes"), want);
        let slice = metadata_slice(&bytes).expect("metadata");
        assert_eq!(decode(slice).expect("metadata decodes"), want["metadata"]);
    }
}

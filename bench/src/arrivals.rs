//! Objects as one watch first shows them. Of an event only its type and the object's name are looked
//! at, as bytes: the load shares its processors with the server.

use std::time::Instant;

use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::Outcome;
use crate::wire::{Call, Wire};

const ADDED: &[u8] = br#"{"type":"ADDED""#;
/// What comes before it in an object of this load has no such key; in managedFields its quotes are escaped.
const NAME: &[u8] = br#""name":""#;
const EVENT_END: u8 = b'\n';
/// Pods that have a node; a watch shows each as added when it gets one.
pub const BOUND: &str = "&fieldSelector=spec.nodeName!%3D";

/// A watch that has begun.
pub struct Arrivals(Incoming);

impl Arrivals {
    /// Of what comes from now on to a collection; `query` may narrow it.
    pub async fn watch(wire: &Wire, collection: &str, query: &str) -> Outcome<Self> {
        let list = wire.call(Call::get(&format!("{collection}?limit=1"))).await?;
        let list: serde_json::Value = serde_json::from_slice(&list)?;
        let version = list["metadata"]["resourceVersion"].as_str().unwrap_or("");
        let path = format!("{collection}?watch=1&resourceVersion={version}{query}");
        Ok(Arrivals(wire.send(Call::get(&path)).await?.into_body()))
    }

    /// Tells the name of each, and when it came, until told to stop.
    pub async fn until(mut self, mut is_last: impl FnMut(&str, Instant) -> bool) -> Outcome<()> {
        let mut rest: Vec<u8> = Vec::new();
        while let Some(frame) = self.0.frame().await {
            let frame = frame?;
            let Some(data) = frame.data_ref() else { continue };
            let now = Instant::now();
            for piece in data.split_inclusive(|byte| *byte == EVENT_END) {
                rest.extend_from_slice(piece);
                if rest.last() != Some(&EVENT_END) {
                    continue;
                }
                if added(&rest).is_some_and(|name| is_last(name, now)) {
                    return Ok(());
                }
                rest.clear();
            }
        }
        Err("the server ended a watch before all was seen".into())
    }
}

/// The name of what an event adds.
fn added(event: &[u8]) -> Option<&str> {
    let event = event.strip_prefix(ADDED)?;
    let start = event.windows(NAME.len()).position(|window| window == NAME)? + NAME.len();
    let length = event[start..].iter().position(|byte| *byte == b'"')?;
    std::str::from_utf8(&event[start..start + length]).ok()
}

#[cfg(test)]
mod tests {
    use super::added;

    #[test]
    fn names_of_what_is_added() {
        let pod = br#"{"type":"ADDED","object":{"kind":"Pod","metadata":{"name":"pod-7","labels":{}}}}"#;
        assert_eq!(added(pod), Some("pod-7"));
        let managed = br#"{"type":"ADDED","object":{"metadata":{"managedFields":[{"fieldsV1":{"k:{\"name\":\"main\"}":{}}}],"name":"pod-8"}}}"#;
        assert_eq!(added(managed), Some("pod-8"), "a key in managedFields is no name");
        assert_eq!(added(br#"{"type":"MODIFIED","object":{"metadata":{"name":"pod-7"}}}"#), None);
        assert_eq!(added(br#"{"type":"ADDED","object":{}}"#), None);
    }
}

//! The protobuf form of cached objects, made when first asked for and kept: clients that speak
//! protobuf list and watch the same objects again and again. What all collections keep together is
//! bounded; beyond the bound a message is made anew each time.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use amphipod_api::protobuf::{Error, Writer};
use amphipod_store::Text;

/// 200,000 pods' worth at 1.2 KB each, which is what they do not share with their texts.
const MAX_KEPT_BYTES: usize = 256 << 20;

static KEPT_BYTES: AtomicUsize = AtomicUsize::new(0);

/// One object's message, if it is kept.
#[derive(Debug, Default)]
pub struct Message(OnceLock<Kept>);

#[derive(Debug)]
struct Kept {
    message: Text,
    /// Beside the object's text.
    bytes: usize,
}

impl Message {
    pub fn get(&self, writer: Writer, json: &Text) -> Result<Text, Error> {
        if let Some(kept) = self.0.get() {
            return Ok(kept.message.clone());
        }
        // Who owns which fields is said as JSON in both.
        let message = Text::like(json, &writer.message(&json.contiguous())?);
        let bytes = message.held_bytes(Some(json));
        if KEPT_BYTES.fetch_add(bytes, Ordering::Relaxed) + bytes > MAX_KEPT_BYTES
            || self.0.set(Kept { message: message.clone(), bytes }).is_err()
        {
            KEPT_BYTES.fetch_sub(bytes, Ordering::Relaxed);
        }
        Ok(message)
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        if let Some(kept) = self.0.get() {
            KEPT_BYTES.fetch_sub(kept.bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_shares_what_its_text_says_alike() {
        let set = format!(r#"{{"f:metadata":{{"f:labels":{{"f:{}":{{}}}}}}}}"#, "x".repeat(1000));
        let json = format!(
            r#"{{"kind":"Pod","apiVersion":"v1","metadata":{{"name":"p","managedFields":[{{"manager":"m",
               "operation":"Update","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{set}}}]}}}}"#
        );
        let writer = Writer::new("v1", "Pod").expect("has a protobuf form");
        let (text, kept) = (Text::from(&json), Message::default());
        let message = kept.get(writer, &text).expect("is written");
        assert_eq!(message, writer.message(json.as_bytes()).expect("is written"));
        assert!(message.len() > 1000 && message.held_bytes(Some(&text)) < 300, "{message:?}");
        assert_eq!(kept.get(writer, &text).expect("is kept").place(), message.place());
    }
}

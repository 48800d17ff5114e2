//! Guesses which stretches of a value other values repeat: the sets of fields in `managedFields`.
//!
//! Values are bytes here, JSON or not, so this neither parses nor trusts them: it looks for the one name
//! (`fieldsV1`) that nothing else in Kubernetes has, and for the brace that closes what follows. Where
//! that is something else, something else is shared. The time is linear whatever the bytes.

use std::ops::Range;
use std::sync::LazyLock;

use memchr::memchr;
use memchr::memmem::Finder;

/// Shorter stretches stay where they are. A shared one takes 16 bytes of each text that has it, and about
/// 80 once for being known; a text that shares nothing should not pay for it visibly. The sets of an Event
/// and of a Lease are about 170 bytes.
pub(super) const MIN_SHARED_BYTES: usize = 128;

/// Most stretches of a value that are shared. An object has a manager or two, and no more than about ten
/// that update it; texts that are compared piece by piece should not take long over one that has thousands.
const MAX_STRETCHES: usize = 64;

const SET: &[u8] = br#""fieldsV1":{"#;
/// Begins the key of a list's item, which names the item by some of its fields.
const ITEM: &[u8] = br#""k:{\""#;
/// Fields that name an item of this one object: a pod's address, the owner of a ReplicaSet. What stands
/// around them is repeated. (Others, such as a container's name, all objects of a template have alike.)
const OWN_FIELDS: [&[u8]; 2] = [br#"ip\":\""#, br#"uid\":\""#];

static SETS: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(SET));
static ITEMS: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(ITEM));

/// In order, none overlapping.
pub(super) fn find(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = SETS.find(&bytes[from..]) {
        let start = from + at + SET.len() - 1;
        // What does not end is no JSON; to look on behind it would take more than linear time.
        let Some(len) = object_len(&bytes[start..]) else { break };
        from = start + len;
        split(bytes, start..from, &mut found);
        if found.len() >= MAX_STRETCHES {
            found.truncate(MAX_STRETCHES);
            break;
        }
    }
    found
}

/// A set without the values that only this object has.
fn split(bytes: &[u8], set: Range<usize>, found: &mut Vec<Range<usize>>) {
    let mut push = |range: Range<usize>| {
        if range.len() >= MIN_SHARED_BYTES {
            found.push(range);
        }
    };
    let (mut start, mut from) = (set.start, set.start);
    while let Some(at) = ITEMS.find(&bytes[from..set.end]) {
        from += at + ITEM.len();
        let rest = &bytes[from..set.end];
        let Some(field) = OWN_FIELDS.iter().find(|field| rest.starts_with(field)) else { continue };
        push(start..from + field.len());
        let value = &rest[field.len()..];
        from += field.len() + memchr(b'\\', value).unwrap_or(value.len());
        start = from;
    }
    push(start..set.end);
}

/// How long the JSON object is that begins here; `None` where it does not end.
fn object_len(bytes: &[u8]) -> Option<usize> {
    let mut depth = 0usize;
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'"' => at += string_len(&bytes[at..])?,
            b'{' => depth += 1,
            b'}' if depth <= 1 => return Some(at),
            b'}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// How long the rest of a string is, with the quote that ends it.
fn string_len(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<&str> {
        let ranges = find(text.as_bytes());
        ranges.into_iter().map(|range| std::str::from_utf8(&text.as_bytes()[range]).unwrap()).collect()
    }

    #[test]
    fn sets_of_fields_are_found_to_their_end() {
        let long = "x".repeat(MIN_SHARED_BYTES);
        let plain = format!(r#"{{"f:metadata":{{"f:labels":{{".":{{}},"f:{long}":{{}}}}}}}}"#);
        let braces = format!(r#"{{"k:{{\"name\":\"}}{{\"}}":{{"f:{long}\\":{{}}}}}}"#);
        for (text, want) in [
            (format!(r#"{{"managedFields":[{{"fieldsV1":{plain},"manager":"m"}}]}}"#), vec![&plain]),
            (format!(r#"[{{"fieldsV1":{plain}}},{{"fieldsV1":{braces}}}]"#), vec![&plain, &braces]),
            (format!(r#"{{"fieldsV1":{braces}"#), vec![&braces]),
            (r#"{"fieldsV1":{"f:data":{}}}"#.to_owned(), vec![]),
            (format!(r#"{{"fieldsV1":"{long}"}}"#), vec![]),
            (format!(r#"{{"note":"\"fieldsV1\":{{{long}"}}"#), vec![]),
            (format!(r#""fieldsV1":{{{long}"fieldsV1":{plain}"#), vec![]),
            (format!(r#""fieldsV1":{{"{long}\"#), vec![]),
            (r#""fieldsV1":{"#.to_owned(), vec![]),
            (String::new(), vec![]),
        ] {
            assert_eq!(found(&text), want, "{text}");
        }
    }

    #[test]
    fn there_is_an_end_to_sharing() {
        let set = format!(r#""fieldsV1":{{"{}"}},"#, "x".repeat(MIN_SHARED_BYTES));
        assert_eq!(found(&set.repeat(3 * MAX_STRETCHES)).len(), MAX_STRETCHES);
    }

    #[test]
    fn what_names_one_object_is_left_out() {
        let long = "x".repeat(MIN_SHARED_BYTES);
        let set = |address: &str, short: &str| {
            format!(
                r#"{{"k:{{\"type\":\"{long}\"}}":{{}},"k:{{\"ip\":\"{address}\"}}":{{"f:{short}":{{}}}},"k:{{\"uid\":\"1-2\"}}":{{"f:{long}":{{}}}}}}"#
            )
        };
        let text = format!(r#"{{"fieldsV1":{}}}"#, set("10.0.0.7", "ip"));
        let head = format!(r#"{{"k:{{\"type\":\"{long}\"}}":{{}},"k:{{\"ip\":\""#);
        let tail = format!(r#"\"}}":{{"f:{long}":{{}}}}}}"#);
        assert_eq!(found(&text), [&head, &tail], "what lies between them is short");
        let text = format!(r#"{{"fieldsV1":{}}}"#, set("::1", &long));
        let between = format!(r#"\"}}":{{"f:{long}":{{}}}},"k:{{\"uid\":\""#);
        assert_eq!(found(&text), [&head, &between, &tail]);
    }
}

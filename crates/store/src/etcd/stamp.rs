//! The revision in a value: etcd tells it only once the value is stored, so the value is stored with
//! an empty `metadata.resourceVersion`, and reading fills the revision in.

use crate::contract::Revision;
use crate::text::Text;

/// The place between the quotes of an empty `metadata.resourceVersion` of a JSON object.
pub(super) fn hole(value: &[u8]) -> Option<usize> {
    let mut scan = Scan { bytes: value, at: 0 };
    let metadata = scan.member(b"metadata")?;
    let mut scan = Scan { bytes: value, at: metadata };
    let version = scan.member(b"resourceVersion")?;
    value[version..].starts_with(b"\"\"").then_some(version + 1)
}

/// The value as the contract shows it: a copy, for what etcd sends is a slice of a whole answer.
pub(super) fn filled(value: &[u8], revision: Revision) -> Text {
    let Some(at) = hole(value) else { return value.into() };
    let (before, after) = value.split_at(at);
    Text::new(&[before, revision.to_string().as_bytes(), after])
}

/// Steps over JSON text without understanding more of it than where things end.
struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    /// Where the value of this member begins, in the object that begins here.
    fn member(&mut self, name: &[u8]) -> Option<usize> {
        self.blanks();
        if self.peek()? != b'{' {
            return None;
        }
        self.at += 1;
        loop {
            self.blanks();
            let key = self.text()?;
            self.blanks();
            if self.peek()? != b':' {
                return None;
            }
            self.at += 1;
            self.blanks();
            if &self.bytes[key.0..key.1] == name {
                return Some(self.at);
            }
            self.value()?;
            self.blanks();
            if self.peek()? != b',' {
                return None;
            }
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn blanks(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    /// A string's bounds without its quotes.
    fn text(&mut self) -> Option<(usize, usize)> {
        if self.peek()? != b'"' {
            return None;
        }
        let start = self.at + 1;
        self.at = start;
        loop {
            match self.peek()? {
                b'\\' => self.at += 2,
                b'"' => break,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        Some((start, self.at - 1))
    }

    /// Steps over one value.
    fn value(&mut self) -> Option<()> {
        let mut depth = 0usize;
        loop {
            match self.peek()? {
                b'"' => {
                    self.text()?;
                }
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' | b',' if depth == 0 => return Some(()),
                b'}' | b']' => {
                    depth -= 1;
                    self.at += 1;
                }
                _ => self.at += 1,
            }
            if depth == 0 && matches!(self.peek(), Some(b',' | b'}' | b']')) {
                return Some(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_objects_own_hole_is_filled() {
        let cases = [
            (
                r#"{"kind":"X","metadata":{"resourceVersion":"","name":"a"}}"#,
                r#"{"kind":"X","metadata":{"resourceVersion":"42","name":"a"}}"#,
            ),
            (
                r#"{"a":{"metadata":{"resourceVersion":""}},"b":["metadata",{"x":"}"}],"metadata":{"labels":{"resourceVersion":""},"resourceVersion":""}}"#,
                r#"{"a":{"metadata":{"resourceVersion":""}},"b":["metadata",{"x":"}"}],"metadata":{"labels":{"resourceVersion":""},"resourceVersion":"42"}}"#,
            ),
            (
                "{ \"n\" : 1.5e3 ,\n \"metadata\" : { \"resourceVersion\" : \"\" } }",
                "{ \"n\" : 1.5e3 ,\n \"metadata\" : { \"resourceVersion\" : \"42\" } }",
            ),
        ];
        for (before, after) in cases {
            assert_eq!(filled(before.as_bytes(), 42), *after);
        }
        for untouched in [
            "",
            "x",
            "{",
            "{}",
            "[]",
            "k8s\0",
            "\"",
            "{\"metadata\"",
            "{\"metadata\":",
            "{\"metadata\":[]}",
            r#"{"metadata":{"resourceVersion":"7"}}"#,
            r#"{"text":"\"metadata\":{\"resourceVersion\":\"\"}"}"#,
            r#"{"spec":{"resourceVersion":""}}"#,
            "{\"a\":\"\\",
        ] {
            assert_eq!(filled(untouched.as_bytes(), 42), *untouched);
        }
    }
}

//! What is wrong with a YAML document, in the words and with the line of the reader that Kubernetes uses:
//! people search for these texts, and tools match them. Pure.

use serde_saphyr::Error;

/// Where that reader sees a fault.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// By the character. Its lines count from 1.
    Here,
    /// The same, where the line after it begins.
    Next,
    /// By the token, when it is put in its place. Its lines count from 0.
    Token,
    /// The same, where the document ends.
    End,
    /// When the tree is made; no line is told.
    Tree,
}

/// What our reader says, without where and while doing what; what Go's says.
const WORDS: [(&str, &str, Seen); 18] = [
    ("did not find expected key", "", Seen::Token),
    ("did not find expected node content", "", Seen::Token),
    ("did not find expected '-' indicator", "", Seen::Token),
    ("did not find expected <document start>", "", Seen::Token),
    ("did not find expected ',' or '}'", "", Seen::Token),
    ("expected ',' or ']'", "did not find expected ',' or ']'", Seen::Token),
    ("illegal placement of ':' indicator", "did not find expected ',' or ']'", Seen::Token),
    ("the handle wasn't declared", "found undefined tag handle", Seen::Token),
    ("misplaced bracket", "did not find expected node content", Seen::Token),
    ("simple key expected ':'", "could not find expected ':'", Seen::Next),
    ("found a tab", "found a tab character that violates indentation", Seen::Next),
    ("tabs disallowed in this context", CHARACTER, Seen::Here),
    ("tabs disallowed within this context (block indentation)", CHARACTER, Seen::Here),
    ("tab cannot be used as indentation", CHARACTER, Seen::Here),
    ("unclosed quote", "found unexpected end of stream", Seen::Here),
    ("invalid indentation in multiline quoted scalar", "found unexpected end of stream", Seen::Here),
    ("alias references unknown anchor", "unknown anchor '*' referenced", Seen::Tree),
    ("recursive references require weak recursion types", "anchor '*' value contains itself", Seen::Tree),
];
const CHARACTER: &str = "found character that cannot start any token";
const CONTROL: &str = "control characters are not allowed";

/// The fault as upstream tells it, from `yaml: ` on.
pub(super) fn fault(error: &Error, body: &[u8]) -> String {
    let text = error.to_string();
    // The first line says what is wrong; what follows draws the place.
    let first = text.lines().next().unwrap_or_default();
    let what = first.rsplit_once(" at line ").map_or(first, |(what, _)| what);
    let what = what.split_once(", ").filter(|_| what.starts_with("while ")).map_or(what, |(_, what)| what);
    let at = error.location().map_or((0, 0), |at| {
        let index = |place: u64| usize::try_from(place).unwrap_or(usize::MAX).saturating_sub(1);
        (index(at.line()), index(at.column()))
    });
    let (told, seen) = words(what, body);
    let line = match seen {
        Seen::Here => Some(at.0 + 1).filter(|line| *line > 1),
        Seen::Next => Some(at.0 + 2),
        Seen::Token => Some(at.0).filter(|line| *line > 0),
        Seen::End => Some(body.trim_ascii_end().split(|byte| *byte == b'\n').count()),
        Seen::Tree => None,
    };
    let place = line.map_or_else(String::new, |line| format!("line {line}: "));
    format!("yaml: {place}{}", told.replace('*', &name(body, at)))
}

fn words<'a>(what: &'a str, body: &[u8]) -> (&'a str, Seen) {
    if let Some((same, other, seen)) = WORDS.iter().find(|(ours, ..)| *ours == what) {
        return (if other.is_empty() { same } else { other }, *seen);
    }
    if let Some(character) = what.strip_prefix("unexpected character: `") {
        // Those that cannot be shown are refused before anything is scanned.
        let is_control = character.starts_with("\\u");
        return if is_control { (CONTROL, Seen::Tree) } else { (CHARACTER, Seen::Here) };
    }
    let Some(open) = what.strip_prefix("unclosed bracket ") else { return (what, Seen::Here) };
    // It ended where a value had to follow, or with what could have gone on.
    let awaits = body.trim_ascii_end().last().is_some_and(|last| b"[{,:".contains(last));
    let told = match open {
        _ if awaits => "did not find expected node content",
        "'['" => "did not find expected ',' or ']'",
        _ => "did not find expected ',' or '}'",
    };
    (told, Seen::End)
}

/// The anchor that is named at this place.
fn name(body: &[u8], (line, column): (usize, usize)) -> String {
    let text = String::from_utf8_lossy(body);
    let rest = text.lines().nth(line).unwrap_or_default().chars().skip(column).skip_while(|c| *c == '*');
    rest.take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '-')).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn faults_are_told_as_upstream_tells_them() {
        let table = [
            ("a: [1, 2\nb: 3\n", "line 1: did not find expected ',' or ']'"),
            ("a: [\n", "line 1: did not find expected node content"),
            ("{{", "line 1: did not find expected node content"),
            ("{\"a\": 1", "line 1: did not find expected ',' or '}'"),
            ("b: 1\na: [1,\n2\n", "line 3: did not find expected ',' or ']'"),
            ("a: ]\n", "did not find expected node content"),
            ("b: 1\na: ]\n", "line 1: did not find expected node content"),
            ("a:\n  - 1\n b: 2\n", "line 2: did not find expected key"),
            ("a: b: c\n", "mapping values are not allowed in this context"),
            ("a: 1\n b: 2\n", "line 2: mapping values are not allowed in this context"),
            ("a: 1\nb\nc: 2\n", "line 3: could not find expected ':'"),
            ("a: 1\n\tb: 2\n", "line 2: found a tab character that violates indentation"),
            ("a: @x\n", "found character that cannot start any token"),
            ("b: 1\na: %x\n", "line 2: found character that cannot start any token"),
            ("a: \u{1}\n", "control characters are not allowed"),
            ("a: 'x\n", "line 2: found unexpected end of stream"),
            ("b: 1\na: \"\\q\"\n", "line 2: found unknown escape character"),
            ("a: *x-1\n", "unknown anchor 'x-1' referenced"),
            ("a: &x [*x]\n", "anchor 'x' value contains itself"),
        ];
        for (document, expected) in table {
            let told = super::super::parse_document(document.as_bytes(), true).expect_err(document);
            assert_eq!(told, format!("error converting YAML to JSON: yaml: {expected}"), "{document}");
        }
    }

    #[test]
    fn maps_in_brackets_are_yaml_too() {
        let read = super::super::parse_document(b"{a: [1, 'x'], b: yes}", true);
        assert_eq!(read, Ok(serde_json::json!({"a": [1, "x"], "b": true})));
        assert!(super::super::parse_document(b"{a: 1}", false).is_err());
    }

    #[test]
    fn the_first_document_is_the_one() {
        for text in ["a: 1\n---\nb: 2\n", "---\na: 1\n---\n", "a: 1\n---\nb: 2\n---\nc: 3\n"] {
            let read = super::super::parse_document(text.as_bytes(), true);
            assert_eq!(read, Ok(serde_json::json!({"a": 1})), "{text}");
        }
    }
}

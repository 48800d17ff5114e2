//! YAML as kubectl prints it: keys sorted, two spaces, list items not indented below their key.

use std::fmt::Write as _;

use serde_json::Value;

/// One document, with a trailing newline.
pub fn to_string(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => write_map(value, 0, &mut out),
        Value::Array(list) if !list.is_empty() => write_list(list, 0, &mut out),
        other => {
            write_inline(other, 0, &mut out);
            out.push('\n');
        }
    }
    out
}

/// All documents of a stream; empty ones are skipped.
pub fn documents(bytes: &[u8]) -> Result<Vec<Value>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "yaml: invalid UTF-8".to_owned())?;
    let mut found = Vec::new();
    for part in split_documents(text) {
        let blank = part.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#'));
        if !blank {
            let value = super::parse_document(part.as_bytes(), true)?;
            if !value.is_null() {
                found.push(value);
            }
        }
    }
    Ok(found)
}

/// Splits at lines that begin with `---`, as Kubernetes' reader does.
fn split_documents(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if line.starts_with("---") {
            parts.push(&text[start..at]);
            // What follows the dashes on their line belongs to the document unless it is a comment.
            start = at + 3;
        }
        at += line.len();
    }
    parts.push(&text[start..]);
    parts
}

fn indent(depth: usize, out: &mut String) {
    out.extend(std::iter::repeat_n("  ", depth));
}

/// Longer keys are announced: readers give up on an unannounced one.
const MAX_SIMPLE_KEY: usize = 128;

fn write_map(value: &Value, depth: usize, out: &mut String) {
    let Value::Object(map) = value else { return };
    for (i, (key, child)) in map.iter().enumerate() {
        if i > 0 {
            indent(depth, out);
        }
        let long = key.len() > MAX_SIMPLE_KEY;
        if long {
            out.push_str("? ");
        }
        match key.contains('\n') {
            // A key has no block form.
            true => out.push_str(&escaped(key)),
            false => write_text(key, depth, out),
        }
        if long {
            out.push('\n');
            indent(depth, out);
        }
        out.push(':');
        write_child(child, depth, out);
    }
}

fn write_child(child: &Value, depth: usize, out: &mut String) {
    match child {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            indent(depth + 1, out);
            write_map(child, depth + 1, out);
        }
        Value::Array(list) if !list.is_empty() => {
            out.push('\n');
            indent(depth, out);
            write_list(list, depth, out);
        }
        other => {
            out.push(' ');
            write_inline(other, depth + 1, out);
            out.push('\n');
        }
    }
}

fn write_list(list: &[Value], depth: usize, out: &mut String) {
    for (i, item) in list.iter().enumerate() {
        if i > 0 {
            indent(depth, out);
        }
        out.push_str("- ");
        match item {
            Value::Object(map) if !map.is_empty() => write_map(item, depth + 1, out),
            Value::Array(inner) if !inner.is_empty() => write_list(inner, depth + 1, out),
            other => {
                write_inline(other, depth + 1, out);
                out.push('\n');
            }
        }
    }
}

fn write_inline(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Number(n) => {
            // Writing to a String cannot fail.
            let _ = write!(out, "{n}");
        }
        Value::String(text) => write_text(text, depth, out),
        Value::Array(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
    }
}

/// Characters YAML does not allow as they are, or takes for line ends.
fn is_special(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

/// Double-quoted: JSON's form, with more characters escaped.
fn escaped(text: &str) -> String {
    let json = Value::String(text.to_owned()).to_string();
    json.chars().fold(String::with_capacity(json.len()), |mut out, c| {
        if is_special(c) {
            // Writing to a String cannot fail.
            let _ = write!(out, "\\u{:04x}", c as u32);
        } else {
            out.push(c);
        }
        out
    })
}

fn write_text(text: &str, depth: usize, out: &mut String) {
    let printable = text.chars().all(|c| c == '\n' || c == '\t' || !is_special(c));
    if !printable {
        out.push_str(&escaped(text));
    } else if text.contains('\n') {
        write_block(text, depth, out);
    } else if looks_typed(text) {
        let _ = write!(out, "{}", Value::String(text.to_owned()));
    } else if is_plain(text) {
        out.push_str(text);
    } else {
        let _ = write!(out, "'{}'", text.replace('\'', "''"));
    }
}

fn write_block(text: &str, depth: usize, out: &mut String) {
    let leading_blank = text.starts_with([' ', '\n', '\t']);
    let keep = match (text.ends_with("\n\n") || text == "\n", text.ends_with('\n')) {
        (true, _) => "+",
        (false, true) => "",
        (false, false) => "-",
    };
    out.push('|');
    if leading_blank {
        out.push('2');
    }
    out.push_str(keep);
    let body = text.strip_suffix('\n').unwrap_or(text);
    for line in body.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            indent(depth, out);
            out.push_str(line);
        }
    }
}

/// Texts a YAML reader would take for something else than a text are double-quoted.
fn looks_typed(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "", "~", "null", "true", "false", "yes", "no", "on", "off", "y", "n", ".nan", ".inf", "-.inf",
        "+.inf",
    ];
    let lower = text.to_ascii_lowercase();
    if WORDS.contains(&lower.as_str()) || text == "=" || text == "<<" {
        return true;
    }
    let number = lower.replace('_', "");
    let digits = number.trim_start_matches(['+', '-']);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return false;
    }
    let radix = ["0x", "0o", "0b"].iter().any(|p| {
        digits
            .strip_prefix(p)
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_hexdigit()))
    });
    radix || digits.parse::<f64>().is_ok() || looks_like_time(text) || is_sexagesimal(digits)
}

fn is_sexagesimal(digits: &str) -> bool {
    digits.contains(':') && digits.split(':').all(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
}

/// `2024-01-02` or `2024-01-02T...`
fn looks_like_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() >= 10
        && bytes[..4].iter().all(u8::is_ascii_digit)
        && bytes[4] == b'-'
        && bytes[7] == b'-'
        && (bytes.len() == 10 || text.parse::<jiff::Timestamp>().is_ok())
}

fn is_plain(text: &str) -> bool {
    let Some(first) = text.chars().next() else { return false };
    let indicator = "-?:,[]{}#&*!|>'\"%@`".contains(first);
    let allowed_first = matches!(first, '-' | '?' | ':') && text.chars().nth(1).is_some_and(|c| c != ' ');
    if (indicator && !allowed_first) || text.starts_with(' ') || text.ends_with([' ', ':']) {
        return false;
    }
    !text.contains(": ") && !text.contains(" #") && !text.contains('\t') && !text.starts_with("---")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn prints_as_kubectl_does() {
        let value = json!({"spec": {"containers": [{"name": "a", "args": ["-c", "x: y"], "env": []}], "num": 1},
            "data": {"yes": "true", "text": "a\nb\n", "bare": "a\nb", "time": "2024-01-02T03:04:05Z", "empty": {},
            "ip": "10.0.0.1", "star": "*", "ok": "nginx:1.2"}});
        let expected = "\
data:
  bare: |-
    a
    b
  empty: {}
  ip: 10.0.0.1
  ok: nginx:1.2
  star: '*'
  text: |
    a
    b
  time: \"2024-01-02T03:04:05Z\"
  \"yes\": \"true\"
spec:
  containers:
  - args:
    - -c
    - 'x: y'
    env: []
    name: a
  num: 1
";
        assert_eq!(to_string(&value), expected);
        assert_eq!(documents(expected.as_bytes()).expect("own output is readable"), [value]);
    }

    #[test]
    fn documents_are_split() {
        let found = documents(b"# c\n---\na: 1\n---\n\n--- \nb: [x]\n").expect("parses");
        assert_eq!(found, [json!({"a": 1}), json!({"b": ["x"]})]);
    }
}

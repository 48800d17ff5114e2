//! Laying out `Name:  value` lines: values of neighbouring lines are aligned, as kubectl's
//! tab writer does, two spaces after the longest name of the run.

use amphipod_api::object;
use serde_json::Value;

const PADDING: usize = 2;

/// Lines of cells; a run of lines with the same cell position filled is aligned together.
#[derive(Default)]
pub struct Text {
    lines: Vec<Vec<String>>,
}

impl Text {
    /// `indent` levels of two spaces, then `name:` and a value in the next column.
    pub fn field(&mut self, indent: usize, name: &str, value: &str) {
        self.lines.push(vec![format!("{}{name}:", "  ".repeat(indent)), value.to_owned()]);
    }
    /// A line of its own that takes no part in any alignment.
    pub fn line(&mut self, indent: usize, text: &str) {
        self.lines.push(vec![format!("{}{text}", "  ".repeat(indent))]);
    }
    pub fn cells(&mut self, indent: usize, cells: &[&str]) {
        let mut line: Vec<String> = cells.iter().map(|c| (*c).to_owned()).collect();
        if let Some(first) = line.first_mut() {
            *first = format!("{}{first}", "  ".repeat(indent));
        }
        self.lines.push(line);
    }
    /// A list under one name: the first beside it, the others below in the same column.
    pub fn list(&mut self, indent: usize, name: &str, items: &[String]) {
        match items.split_first() {
            None => self.field(indent, name, "<none>"),
            Some((first, rest)) => {
                self.field(indent, name, first);
                for item in rest {
                    self.cells(indent, &["", item]);
                }
            }
        }
    }
    /// A JSON value as nested lines.
    pub fn value(&mut self, name: &str, value: &Value, indent: usize) {
        match value {
            Value::Object(map) if !map.is_empty() => {
                self.line(indent, &format!("{name}:"));
                for (key, value) in map {
                    self.value(&spaced(key), value, indent + 1);
                }
            }
            Value::Array(items) if !items.is_empty() => {
                self.line(indent, &format!("{name}:"));
                for item in items {
                    match item {
                        Value::Object(map) => {
                            for (key, value) in map {
                                self.value(&spaced(key), value, indent + 1);
                            }
                        }
                        other => self.line(indent + 1, &scalar(other)),
                    }
                }
            }
            Value::Object(_) | Value::Array(_) => self.line(indent, &format!("{name}:")),
            other => self.field(indent, name, &scalar(other)),
        }
    }

    /// Cells of a column are aligned over each run of consecutive lines that have that column and
    /// one after it.
    pub fn finish(self) -> String {
        let mut widths: Vec<Vec<usize>> =
            self.lines.iter().map(|line| line.iter().map(|c| c.chars().count()).collect()).collect();
        let columns = self.lines.iter().map(Vec::len).max().unwrap_or(0);
        for column in 0..columns.saturating_sub(1) {
            let mut start = 0;
            while start < self.lines.len() {
                let in_run = |line: &Vec<String>| line.len() > column + 1;
                let length = self.lines[start..].iter().take_while(|l| in_run(l)).count();
                let widest = widths[start..start + length].iter().map(|w| w[column]).max().unwrap_or(0);
                for line in &mut widths[start..start + length] {
                    line[column] = widest + PADDING;
                }
                start += length.max(1);
            }
        }
        let mut out = String::new();
        for (line, widths) in self.lines.iter().zip(&widths) {
            let mut text = String::new();
            for (index, cell) in line.iter().enumerate() {
                text.push_str(cell);
                if index + 1 < line.len() {
                    let fill = widths[index].saturating_sub(cell.chars().count());
                    text.extend(std::iter::repeat_n(' ', fill));
                }
            }
            out.push_str(text.trim_end_matches(' '));
            out.push('\n');
        }
        out
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".to_owned(),
        other => other.to_string(),
    }
}

/// `creationTimestamp` becomes `Creation Timestamp`.
pub fn spaced(name: &str) -> String {
    let mut out = String::new();
    for (index, c) in name.chars().enumerate() {
        if index == 0 {
            out.extend(c.to_uppercase());
        } else {
            if c.is_uppercase() && !out.ends_with(char::is_uppercase) {
                out.push(' ');
            }
            out.push(c);
        }
    }
    out
}

pub fn name_and_namespace(out: &mut Text, object: &Value) {
    out.field(0, "Name", object::name(object));
    if !object::namespace(object).is_empty() {
        out.field(0, "Namespace", object::namespace(object));
    }
}

fn pairs(map: &Value, separator: &str) -> Vec<String> {
    let hidden = "kubectl.kubernetes.io/last-applied-configuration";
    let entries = map.as_object().into_iter().flatten().filter(|(key, _)| *key != hidden);
    entries.map(|(key, value)| format!("{key}{separator}{}", value.as_str().unwrap_or(""))).collect()
}

pub fn labels_and_annotations(out: &mut Text, object: &Value) {
    out.list(0, "Labels", &pairs(&object["metadata"]["labels"], "="));
    out.list(0, "Annotations", &pairs(&object["metadata"]["annotations"], ": "));
}

pub fn label_list(out: &mut Text, indent: usize, name: &str, map: &Value) {
    out.list(indent, name, &pairs(map, "="));
}

/// `Kind/name` of the controlling owner.
pub fn controlled_by(object: &Value) -> Option<String> {
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array)?;
    let owner = owners.iter().find(|o| o["controller"] == true)?;
    Some(format!("{}/{}", owner["kind"].as_str()?, owner["name"].as_str()?))
}

/// Go's RFC1123Z: `Mon, 02 Jan 2006 15:04:05 +0000`.
pub fn time(text: Option<&str>) -> String {
    let parsed = text.and_then(|t| t.parse::<jiff::Timestamp>().ok());
    let format = |t: jiff::Timestamp| t.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string();
    parsed.map_or_else(|| "<unset>".to_owned(), format)
}

pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_aligned_on_their_own() {
        let mut out = Text::default();
        out.field(0, "Name", "demo");
        out.field(0, "Namespace", "default");
        out.line(0, "Containers:");
        out.field(1, "Image", "x");
        out.list(1, "Labels", &["a=b".into(), "c=d".into()]);
        let expected = "Name:       demo\nNamespace:  default\nContainers:\n  Image:   x\n  Labels:  a=b\n           c=d\n";
        assert_eq!(out.finish(), expected);
        assert_eq!(spaced("creationTimestamp"), "Creation Timestamp");
        assert_eq!(spaced("podIP"), "Pod IP");
    }
}

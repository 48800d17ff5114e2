//! Printing tables in kubectl's layout: columns padded to the widest cell and three spaces.

use std::fmt::Write;

use serde_json::Value;

const PADDING: usize = 3;
const MIN_CELL: usize = 6;

/// Column widths, which only ever grow, so that rows printed later line up.
#[derive(Default)]
pub struct Widths(Vec<usize>);

impl Widths {
    pub fn print(&mut self, rows: &[Vec<String>]) -> String {
        for row in rows {
            for (index, cell) in row.iter().enumerate() {
                if self.0.len() <= index {
                    self.0.push(MIN_CELL);
                }
                // The last column is never padded.
                if index + 1 < row.len() {
                    self.0[index] = self.0[index].max(cell.chars().count() + PADDING);
                }
            }
        }
        let mut out = String::new();
        for row in rows {
            for (index, cell) in row.iter().enumerate() {
                if index + 1 == row.len() {
                    out.push_str(cell);
                } else {
                    // Writing to a String cannot fail.
                    let _ = write!(out, "{cell:<width$}", width = self.0[index]);
                }
            }
            out.push('\n');
        }
        out
    }
}

/// What of a `meta.k8s.io/v1` Table is shown.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub wide: bool,
    pub namespace: bool,
    pub show_labels: bool,
    pub label_columns: Vec<String>,
    /// `pod/` where several kinds are listed together.
    pub name_prefix: String,
}

pub fn header(table: &Value, view: &View) -> Vec<String> {
    let mut cells = Vec::new();
    if view.namespace {
        cells.push("NAMESPACE".to_owned());
    }
    let columns = table["columnDefinitions"].as_array().into_iter().flatten();
    let shown = columns.filter(|c| view.wide || c["priority"].as_i64().unwrap_or(0) == 0);
    cells.extend(shown.map(|c| c["name"].as_str().unwrap_or("").to_uppercase()));
    let last_part = |label: &String| label.rsplit('/').next().unwrap_or(label).to_uppercase();
    cells.extend(view.label_columns.iter().map(last_part));
    if view.show_labels {
        cells.push("LABELS".to_owned());
    }
    cells
}

pub fn rows(table: &Value, view: &View) -> Vec<Vec<String>> {
    let columns: Vec<&Value> = table["columnDefinitions"].as_array().into_iter().flatten().collect();
    let shown = |index: usize| {
        columns.get(index).is_none_or(|c| view.wide || c["priority"].as_i64().unwrap_or(0) == 0)
    };
    let mut rows = Vec::new();
    for row in table["rows"].as_array().into_iter().flatten() {
        let metadata = &row["object"]["metadata"];
        let mut cells = Vec::new();
        if view.namespace {
            cells.push(metadata["namespace"].as_str().unwrap_or("").to_owned());
        }
        for (index, cell) in row["cells"].as_array().into_iter().flatten().enumerate() {
            if shown(index) {
                let is_name = columns.get(index).is_some_and(|c| c["format"] == "name");
                let prefix = if is_name { view.name_prefix.as_str() } else { "" };
                cells.push(format!("{prefix}{}", cell_text(cell)));
            }
        }
        for label in &view.label_columns {
            cells.push(metadata["labels"][label].as_str().unwrap_or("").to_owned());
        }
        if view.show_labels {
            cells.push(labels(&metadata["labels"]));
        }
        rows.push(cells);
    }
    rows
}

fn cell_text(cell: &Value) -> String {
    match cell {
        Value::String(text) => text.lines().next().unwrap_or("").to_owned(),
        Value::Null => "<none>".to_owned(),
        other => other.to_string(),
    }
}

pub fn labels(labels: &Value) -> String {
    let pairs: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or("")))
        .collect();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn layout_is_kubectls() {
        let table = json!({
            "columnDefinitions": [
                {"name": "Name", "format": "name", "priority": 0}, {"name": "Ready", "priority": 0},
                {"name": "Status", "priority": 0}, {"name": "IP", "priority": 1},
            ],
            "rows": [
                {"cells": ["demo", "1/1", "Running", "10.0.0.1"], "object": {"metadata": {"namespace": "a", "labels": {"x": "y"}}}},
            ],
        });
        let view = View::default();
        let mut all = vec![header(&table, &view)];
        all.extend(rows(&table, &view));
        assert_eq!(Widths::default().print(&all), "NAME   READY   STATUS\ndemo   1/1     Running\n");
        let view =
            View { wide: true, namespace: true, show_labels: true, name_prefix: "pod/".into(), ..view };
        assert_eq!(header(&table, &view), ["NAMESPACE", "NAME", "READY", "STATUS", "IP", "LABELS"]);
        assert_eq!(rows(&table, &view), [["a", "pod/demo", "1/1", "Running", "10.0.0.1", "x=y"]]);
    }
}

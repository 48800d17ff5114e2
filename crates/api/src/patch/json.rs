//! JSON patch (RFC 6902) as Kubernetes applies it: negative indices count from an array's end,
//! `replace` sets what is missing in an object, and refusals come in the words clients know.

use serde_json::{Map, Value};

/// What copies may add to a document altogether: the bound on a request body.
const MAX_COPIED_BYTES: usize = 3 << 20;
/// How deep the patched document may nest: as deep as one that is sent.
const MAX_DEPTH: usize = 120;
/// How many values all operations together may walk through or shift: some forty times those of the
/// largest document, and less than a second's work. Unbounded, moves of a large value take minutes.
const MAX_STEPS: usize = 1 << 26;

static NULL: Value = Value::Null;

/// Applies operations in order; the first that does not apply ends it.
pub(super) fn apply(document: &mut Value, operations: &[Map<String, Value>]) -> Result<(), String> {
    let mut effort = Effort::default();
    operations.iter().try_for_each(|operation| step(document, &Operation(operation), &mut effort))
}

/// What the operations have cost so far.
#[derive(Default)]
struct Effort {
    copied_bytes: usize,
    steps: usize,
}

impl Effort {
    fn copy(&mut self, bytes: usize) -> Result<(), String> {
        self.copied_bytes += bytes;
        if self.copied_bytes > MAX_COPIED_BYTES {
            return Err(format!(
                "Unable to complete the copy, the accumulated size increase of copy is {}, exceeding the limit \
                 {MAX_COPIED_BYTES}",
                self.copied_bytes
            ));
        }
        Ok(())
    }

    fn step(&mut self, values: usize) -> Result<(), String> {
        self.steps += values;
        if self.steps > MAX_STEPS {
            return Err(format!("the operations walk through more than {MAX_STEPS} values"));
        }
        Ok(())
    }

    /// How deep a value nests. Parsed bodies and patched documents are bounded, so this may recurse.
    fn depth(&mut self, value: &Value) -> Result<usize, String> {
        self.step(1)?;
        let mut deepest = 0;
        match value {
            Value::Array(list) => {
                for item in list {
                    deepest = deepest.max(self.depth(item)?);
                }
            }
            Value::Object(map) => {
                for member in map.values() {
                    deepest = deepest.max(self.depth(member)?);
                }
            }
            _ => return Ok(0),
        }
        Ok(1 + deepest)
    }
}

struct Operation<'a>(&'a Map<String, Value>);

impl<'a> Operation<'a> {
    fn kind(&self) -> &'a str {
        self.0.get("op").and_then(Value::as_str).unwrap_or("unknown")
    }
    fn path(&self) -> Result<&'a str, String> {
        let missing = || "operation missing path field: missing value".to_owned();
        self.0.get("path").and_then(Value::as_str).ok_or_else(missing)
    }
    fn from(&self) -> Result<&'a str, String> {
        let missing = || "operation, missing from field: missing value".to_owned();
        self.0.get("from").and_then(Value::as_str).ok_or_else(missing)
    }
    fn value(&self) -> &'a Value {
        self.0.get("value").unwrap_or(&NULL)
    }
}

fn step(document: &mut Value, operation: &Operation<'_>, effort: &mut Effort) -> Result<(), String> {
    match operation.kind() {
        "add" => add(document, operation, effort),
        "remove" => remove(document, operation, effort),
        "replace" => replace(document, operation, effort),
        "move" => relocate(document, operation, effort),
        "test" => test(document, operation),
        "copy" => copy(document, operation, effort),
        other => Err(format!("Unexpected kind: {other}")),
    }
}

/// An object or array and what is named in it.
struct Place<'a> {
    container: &'a mut Value,
    key: String,
    depth: usize,
}

fn unescaped(part: &str) -> String {
    part.replace("~1", "/").replace("~0", "~")
}

/// `None` where the path leads through something that is absent or no container.
fn place<'a>(document: &'a mut Value, path: &str) -> Option<Place<'a>> {
    let (_, path) = path.split_once('/')?;
    let (parents, key) = path.rsplit_once('/').map_or((None, path), |(parents, key)| (Some(parents), key));
    let (mut container, mut depth) = (document, 1);
    for part in parents.into_iter().flat_map(|p| p.split('/')) {
        let part = unescaped(part);
        container = match container {
            Value::Object(map) => map.get_mut(&part)?,
            Value::Array(list) => {
                let index = index(&part, list.len()).ok()?;
                list.get_mut(index)?
            }
            _ => return None,
        };
        depth += 1;
    }
    let is_container = container.is_object() || container.is_array();
    is_container.then(|| Place { container, key: unescaped(key), depth })
}

fn not_an_index(key: &str) -> String {
    format!("strconv.Atoi: parsing {}: invalid syntax", crate::field::go_quote(key))
}

fn parsed(key: &str) -> Option<i64> {
    let digits = key.strip_prefix(['-', '+']).unwrap_or(key);
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if plain { key.parse().ok() } else { None }
}

/// The place of an item among `length`.
fn index(key: &str, length: usize) -> Result<usize, String> {
    let given = parsed(key).ok_or_else(|| not_an_index(key))?;
    let length = length as i64;
    let counted = if given < 0 { given + length } else { given };
    if (0..length).contains(&counted) {
        return Ok(counted as usize);
    }
    Err(format!("Unable to access invalid index: {given}: invalid index referenced"))
}

impl Place<'_> {
    /// What is there; an absent member of an object is null.
    fn get(&self) -> Result<&Value, String> {
        Ok(match &*self.container {
            Value::Array(list) => &list[index(&self.key, list.len())?],
            other => other.get(&self.key).unwrap_or(&NULL),
        })
    }

    fn fits(&self, value: &Value, effort: &mut Effort) -> Result<(), String> {
        if self.depth + effort.depth(value)? > MAX_DEPTH {
            return Err("exceeded max depth".to_owned());
        }
        Ok(())
    }

    fn add(self, value: Value, effort: &mut Effort) -> Result<(), String> {
        self.fits(&value, effort)?;
        match self.container {
            Value::Array(list) if self.key == "-" => list.push(value),
            Value::Array(list) => {
                if parsed(&self.key).is_none() {
                    let fault = not_an_index(&self.key);
                    return Err(format!("value was not a proper array index: '{}': {fault}", self.key));
                }
                // One more place than there are items: the end.
                let at = index(&self.key, list.len() + 1)?;
                effort.step(list.len() - at)?;
                list.insert(at, value);
            }
            Value::Object(map) => drop(map.insert(self.key, value)),
            _ => {}
        }
        Ok(())
    }

    fn set(self, value: Value, effort: &mut Effort) -> Result<(), String> {
        self.fits(&value, effort)?;
        match self.container {
            Value::Array(list) => {
                let at = index(&self.key, list.len())?;
                list[at] = value;
            }
            Value::Object(map) => drop(map.insert(self.key, value)),
            _ => {}
        }
        Ok(())
    }

    fn remove(self, effort: &mut Effort) -> Result<Value, String> {
        match self.container {
            Value::Array(list) => {
                let at = index(&self.key, list.len())?;
                effort.step(list.len() - at)?;
                Ok(list.remove(at))
            }
            Value::Object(map) => map
                .remove(&self.key)
                .ok_or_else(|| format!("Unable to remove nonexistent key: {}: missing value", self.key)),
            _ => Ok(Value::Null),
        }
    }
}

fn add(document: &mut Value, operation: &Operation<'_>, effort: &mut Effort) -> Result<(), String> {
    let path =
        operation.path().map_err(|_| "add operation failed to decode path: missing value".to_owned())?;
    let missing = || format!("add operation does not apply: doc is missing path: \"{path}\": missing value");
    let place = place(document, path).ok_or_else(missing)?;
    place.add(operation.value().clone(), effort).map_err(|e| format!("error in add for path: '{path}': {e}"))
}

fn remove(document: &mut Value, operation: &Operation<'_>, effort: &mut Effort) -> Result<(), String> {
    let path =
        operation.path().map_err(|_| "remove operation failed to decode path: missing value".to_owned())?;
    let missing =
        || format!("remove operation does not apply: doc is missing path: \"{path}\": missing value");
    let place = place(document, path).ok_or_else(missing)?;
    place.remove(effort).map(drop).map_err(|e| format!("error in remove for path: '{path}': {e}"))
}

fn replace(document: &mut Value, operation: &Operation<'_>, effort: &mut Effort) -> Result<(), String> {
    let path = operation.path().map_err(|e| format!("replace operation failed to decode path: {e}"))?;
    let value = operation.value();
    if path.is_empty() {
        if !value.is_object() && !value.is_array() {
            return Err("replace operation value must be object or array: %!w(<nil>)".to_owned());
        }
        *document = value.clone();
        return Ok(());
    }
    let missing = |what: &str| {
        format!("replace operation does not apply: doc is missing {what}: {path}: missing value")
    };
    let place = place(document, path).ok_or_else(|| missing("path"))?;
    place.get().map_err(|_| missing("key"))?;
    place.set(value.clone(), effort).map_err(|e| format!("error in remove for path: '{path}': {e}"))
}

fn relocate(document: &mut Value, operation: &Operation<'_>, effort: &mut Effort) -> Result<(), String> {
    let from = operation.from().map_err(|e| format!("move operation failed to decode from: {e}"))?;
    let missing = |what: &str, path: &str| {
        format!("move operation does not apply: doc is missing {what}: {path}: missing value")
    };
    let source = place(document, from).ok_or_else(|| missing("from path", from))?;
    let key = source.key.clone();
    let value = source.remove(effort).map_err(|e| format!("error in move for path: '{key}': {e}"))?;
    let path = operation.path().map_err(|e| format!("move operation failed to decode path: {e}"))?;
    let target = place(document, path).ok_or_else(|| missing("destination path", path))?;
    target.add(value, effort).map_err(|e| format!("error in move for path: '{path}': {e}"))
}

fn test(document: &mut Value, operation: &Operation<'_>) -> Result<(), String> {
    let path = operation.path().map_err(|e| format!("test operation failed to decode path: {e}"))?;
    let holds = if path.is_empty() {
        document == operation.value()
    } else {
        let missing = || format!("test operation does not apply: is missing path: {path}: missing value");
        let place = place(document, path).ok_or_else(missing)?;
        place.get().map_err(|e| format!("error in test for path: '{path}': {e}"))? == operation.value()
    };
    if holds { Ok(()) } else { Err(format!("testing value {path} failed: test failed")) }
}

fn copy(document: &mut Value, operation: &Operation<'_>, effort: &mut Effort) -> Result<(), String> {
    let from = operation.from().map_err(|e| format!("copy operation failed to decode from: {e}"))?;
    let missing = |what: &str, path: &str| {
        format!("copy operation does not apply: doc is missing {what}: {path}: missing value")
    };
    let source = place(document, from).ok_or_else(|| missing("from path", from))?;
    let value = source.get().map_err(|e| format!("error in copy for from: '{from}': {e}"))?.clone();
    let path =
        operation.path().map_err(|_| "copy operation failed to decode path: missing value".to_owned())?;
    let target = place(document, path).ok_or_else(|| missing("destination path", path))?;
    effort.copy(if value.is_null() { 0 } else { value.to_string().len() })?;
    target.add(value, effort).map_err(|e| format!("error while adding value during copy: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(document: Value, operations: Value) -> Result<Value, String> {
        let operations: Vec<Map<String, Value>> = serde_json::from_value(operations).expect("operations");
        let mut document = document;
        apply(&mut document, &operations).map(|()| document)
    }

    #[test]
    fn all_six() {
        let cases = [
            (json!([{"op": "add", "path": "/a/1", "value": 9}]), json!({"a": [1, 9, 2], "b": {"c": 3}})),
            (json!([{"op": "add", "path": "/a/-", "value": 9}]), json!({"a": [1, 2, 9], "b": {"c": 3}})),
            (json!([{"op": "add", "path": "/a/-1", "value": 9}]), json!({"a": [1, 2, 9], "b": {"c": 3}})),
            (json!([{"op": "remove", "path": "/a/-1"}]), json!({"a": [1], "b": {"c": 3}})),
            (
                json!([{"op": "replace", "path": "/b/new", "value": 4}]),
                json!({"a": [1, 2], "b": {"c": 3, "new": 4}}),
            ),
            (
                json!([{"op": "move", "from": "/b/c", "path": "/d~1e"}]),
                json!({"a": [1, 2], "b": {}, "d/e": 3}),
            ),
            (
                json!([{"op": "copy", "from": "/b", "path": "/a/0"}]),
                json!({"a": [{"c": 3}, 1, 2], "b": {"c": 3}}),
            ),
            (json!([{"op": "test", "path": "/b/none", "value": null}]), json!({"a": [1, 2], "b": {"c": 3}})),
            (json!([{"op": "replace", "path": "", "value": {"z": 1}}]), json!({"z": 1})),
        ];
        for (operations, expected) in cases {
            let text = operations.to_string();
            assert_eq!(run(json!({"a": [1, 2], "b": {"c": 3}}), operations), Ok(expected), "{text}");
        }
    }

    #[test]
    fn refusals() {
        let cases = [
            (
                json!({"op": "remove", "path": "/b/x"}),
                "error in remove for path: '/b/x': Unable to remove nonexistent key: x: missing value",
            ),
            (
                json!({"op": "remove", "path": "/x/y"}),
                "remove operation does not apply: doc is missing path: \"/x/y\": missing value",
            ),
            (
                json!({"op": "remove", "path": "/a/7"}),
                "error in remove for path: '/a/7': Unable to access invalid index: 7: invalid index referenced",
            ),
            (
                json!({"op": "add", "path": "/a/x", "value": 1}),
                "error in add for path: '/a/x': value was not a proper array index: 'x': strconv.Atoi: parsing \"x\": invalid syntax",
            ),
            (
                json!({"op": "add", "path": "/a/-4", "value": 1}),
                "error in add for path: '/a/-4': Unable to access invalid index: -4: invalid index referenced",
            ),
            (
                json!({"op": "add", "path": "x", "value": 1}),
                "add operation does not apply: doc is missing path: \"x\": missing value",
            ),
            (
                json!({"op": "replace", "path": "/a/9", "value": 1}),
                "replace operation does not apply: doc is missing key: /a/9: missing value",
            ),
            (
                json!({"op": "replace", "path": "/x/9", "value": 1}),
                "replace operation does not apply: doc is missing path: /x/9: missing value",
            ),
            (
                json!({"op": "move", "from": "/b/x", "path": "/c"}),
                "error in move for path: 'x': Unable to remove nonexistent key: x: missing value",
            ),
            (
                json!({"op": "copy", "from": "/x/y", "path": "/c"}),
                "copy operation does not apply: doc is missing from path: /x/y: missing value",
            ),
            (json!({"op": "test", "path": "/a/0", "value": 5}), "testing value /a/0 failed: test failed"),
            (
                json!({"op": "test"}),
                "test operation failed to decode path: operation missing path field: missing value",
            ),
            (json!({"path": "/a"}), "Unexpected kind: unknown"),
        ];
        for (operation, text) in cases {
            assert_eq!(run(json!({"a": [1, 2], "b": {"c": 3}}), json!([operation])), Err(text.to_owned()));
        }
    }

    #[test]
    fn copies_cannot_blow_a_document_up() {
        let nested = |depth: usize| json!({"op": "add", "path": "/a".repeat(depth), "value": {}});
        let operations: Vec<Value> = (1..200).map(nested).collect();
        let text = run(json!({}), json!(operations)).expect_err("too deep");
        assert!(text.ends_with("exceeded max depth"), "{text}");
        let wide = json!({"a": "x".repeat(1 << 20), "l": []});
        let copy = json!({"op": "copy", "from": "/a", "path": "/l/-"});
        let text = run(wide, json!(vec![copy; 4])).expect_err("too large");
        assert!(text.starts_with("Unable to complete the copy"), "{text}");
    }

    #[test]
    fn operations_cannot_walk_a_large_document_for_ever() {
        let large = json!({"a": vec![0; 1 << 20]});
        let there = json!({"op": "move", "from": "/a", "path": "/b"});
        let back = json!({"op": "move", "from": "/b", "path": "/a"});
        let shift = json!({"op": "move", "from": "/a/0", "path": "/a/-"});
        for pair in [[there, back], [shift.clone(), shift]] {
            let few = run(large.clone(), pair.iter().cloned().collect());
            assert!(few.is_ok(), "{few:?}");
            let text = run(large.clone(), pair.iter().cycle().take(1000).cloned().collect());
            let text = text.expect_err("too much work");
            assert!(text.contains("walk through more than 67108864 values"), "{text}");
        }
    }
}

//! Paths into objects: of columns, of the scale subresource, of fields that can be selected by.

use amphipod_api::field::{Error, Path};
use serde_json::Value;

use crate::check::Faults;
use crate::json::{set, text};

const SELECTABLE_MAX: usize = 8;

/// Says whether the path is sound.
pub fn simple(faults: &mut Faults, path: &Path, route: &str) -> bool {
    let sound = route.starts_with('.');
    if !sound {
        faults.push(Error::invalid(path, route, "must be a simple json path starting with ."));
    }
    sound
}

pub fn selectable(faults: &mut Faults, path: &Path, list: &[Value], root: &Value) {
    let mut unique: Vec<Vec<String>> = Vec::new();
    for (i, field) in list.iter().enumerate() {
        let (at, route) = (path.index(i).child("jsonPath"), text(&field["jsonPath"]));
        if route.is_empty() {
            faults.push(Error::required(&at, ""));
            continue;
        }
        let (steps, schema) = match resolve(route, root) {
            Ok(found) => found,
            Err(reason) => {
                faults.push(Error::invalid(&at, route, format!("is an invalid path: {reason}")));
                continue;
            }
        };
        if steps.first().is_some_and(|step| step == "metadata") {
            faults.push(Error::invalid(&at, route, "must not point to fields in metadata"));
        }
        if !["string", "boolean", "integer"].contains(&text(&schema["type"])) {
            let detail = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            faults.push(Error::invalid(&at, route, detail));
        }
        if unique.contains(&steps) {
            faults.push(Error::duplicate(&at, route));
        } else {
            unique.push(steps);
        }
    }
    if unique.len() > SELECTABLE_MAX {
        faults.push(Error::too_many(path, unique.len(), SELECTABLE_MAX));
    }
}

/// The steps of `.a.b` or `.a['b']` and the schema they lead to.
pub fn resolve<'a>(route: &str, root: &'a Value) -> Result<(Vec<String>, &'a Value), String> {
    let mut steps = Vec::new();
    let mut schema = root;
    let mut rest = route;
    while !rest.is_empty() {
        let (step, tail) = match (rest.strip_prefix('.'), rest.strip_prefix("['")) {
            (Some(after), _) => after.split_at(after.find(['.', '[']).unwrap_or(after.len())),
            (None, Some(after)) => {
                after.split_once("']").ok_or_else(|| "unexpected end of JSON path".to_owned())?
            }
            (None, None) => {
                return Err(format!("expected [ or . but got: {}", rest.chars().next().unwrap_or_default()));
            }
        };
        schema = step_into(schema, step).ok_or_else(|| "does not refer to a valid field".to_owned())?;
        steps.push(step.to_owned());
        rest = tail;
    }
    Ok((steps, schema))
}

fn step_into<'a>(schema: &'a Value, step: &str) -> Option<&'a Value> {
    let property = &schema["properties"][step];
    if set(property) {
        return Some(property);
    }
    Some(&schema["additionalProperties"]).filter(|more| more.is_object())
}

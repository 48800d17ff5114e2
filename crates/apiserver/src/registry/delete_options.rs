//! DeleteOptions, from the body or the query, and what they make of an object. Pure.

use amphipod_api::field::{Error as FieldError, Path};
use amphipod_api::object::{self, metadata_mut};
use amphipod_api::status::Status;
use amphipod_api::{codec, resource::Resource};
use amphipod_strategy::{Graceful, Strategy};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::options;
use crate::context::{Context, dry_run_fault, time_text};
use crate::http::path::Query;

pub const ORPHAN: &str = "orphan";
pub const FOREGROUND: &str = "foregroundDeletion";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    pub grace: Option<i64>,
    pub propagation: Option<Propagation>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub dry_run: bool,
    /// `orphanDependents: false` was said: not deleting at once is then a 202.
    pub cascading: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

impl DeleteOptions {
    pub fn parse(cx: &Context, body: &[u8]) -> Result<Self, Status> {
        let value = if body.is_empty() { from_query(&cx.query)? } else { from_body(cx, body)? };
        let mut options = Self::from_value(&value)?;
        options.dry_run |= cx.dry_run()?;
        Ok(options)
    }

    pub fn from_value(value: &Value) -> Result<Self, Status> {
        // Whatever the request is: an eviction carries options of this kind in its body.
        let refuse = |fault: FieldError| Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &[fault]));
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let orphan = value.get("orphanDependents").and_then(Value::as_bool);
        let policy = text("/propagationPolicy");
        if orphan.is_some() && policy.is_some() {
            let path = Path::new("propagationPolicy");
            let why = "orphanDependents and deletionPropagation cannot be both set";
            return refuse(FieldError::invalid(&path, policy.unwrap_or_default(), why));
        }
        let propagation = match (policy.as_deref(), orphan) {
            (None, None) => None,
            (Some("Background"), _) | (None, Some(false)) => Some(Propagation::Background),
            (Some("Foreground"), _) => Some(Propagation::Foreground),
            (Some("Orphan"), _) | (None, Some(true)) => Some(Propagation::Orphan),
            (Some(other), _) => {
                let path = Path::new("propagationPolicy");
                let known = r#""Foreground", "Background", "Orphan", "nil""#;
                return refuse(options::unsupported(&path, other, known));
            }
        };
        let dry_runs: Vec<&str> = value
            .get("dryRun")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        if let Some(fault) = dry_run_fault(&dry_runs) {
            return refuse(fault);
        }
        let dry_run = !dry_runs.is_empty();
        // Less than nothing is read as one second, as upstream reads it.
        let grace = value.get("gracePeriodSeconds").and_then(Value::as_i64);
        let grace = grace.map(|seconds| if seconds < 0 { 1 } else { seconds });
        Ok(DeleteOptions {
            grace,
            propagation,
            uid: text("/preconditions/uid"),
            resource_version: text("/preconditions/resourceVersion"),
            dry_run,
            cascading: orphan == Some(false),
        })
    }

    /// 409 where the object is not the one meant.
    pub fn check_preconditions(&self, resource: &Resource, old: &Value) -> Result<(), Status> {
        let name = object::name(old);
        // Upstream names the kind here, not the resource.
        let conflict = |why: String| Err(Status::conflict(&resource.group, &resource.kind, name, &why));
        if let Some(uid) = self.uid.as_deref().filter(|uid| *uid != object::uid(old)) {
            return conflict(format!(
                "the UID in the precondition ({uid}) does not match the UID in record ({}). \
                 The object might have been deleted and then recreated",
                object::uid(old)
            ));
        }
        let version = object::resource_version(old);
        if let Some(given) = self.resource_version.as_deref().filter(|given| *given != version) {
            return conflict(format!(
                "the ResourceVersion in the precondition ({given}) does not match the ResourceVersion in record \
                 ({version}). The object might have been modified"
            ));
        }
        Ok(())
    }
}

fn from_body(cx: &Context, body: &[u8]) -> Result<Value, Status> {
    let expected = codec::Expected::builtin("meta.k8s.io", "v1", "DeleteOptions");
    let decoded = codec::decode(body, cx.content_type(), expected, codec::FieldValidation::Ignore)?;
    Ok(decoded.value)
}

fn from_query(query: &Query) -> Result<Value, Status> {
    let mut value = json!({});
    if let Some(seconds) = options::integer(query, "gracePeriodSeconds")? {
        value["gracePeriodSeconds"] = seconds.into();
    }
    if let Some(policy) = query.get("propagationPolicy").filter(|t| !t.is_empty()) {
        value["propagationPolicy"] = policy.into();
    }
    if query.contains("orphanDependents") {
        value["orphanDependents"] = query.flag("orphanDependents").into();
    }
    Ok(value)
}

/// What a delete does to an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// It goes away.
    Remove,
    /// It is marked (or marked anew) and someone else finishes.
    Mark(Value),
    /// It is on its way already; nothing changes.
    Leave,
}

pub fn plan(strategy: &dyn Strategy, old: &Value, options: &DeleteOptions, now: Timestamp) -> Plan {
    let mut new = old.clone();
    let graceful = mark_graceful(strategy, &mut new, options, now);
    set_finalizers(strategy, &mut new, options);
    let held = !object::finalizers(&new).is_empty() || held_by_spec(&new);
    if graceful {
        return if new == *old { Plan::Leave } else { Plan::Mark(new) };
    }
    if !held {
        return Plan::Remove;
    }
    let metadata = metadata_mut(&mut new);
    metadata.entry("deletionTimestamp").or_insert_with(|| time_text(now).into());
    metadata.insert("deletionGracePeriodSeconds".into(), 0.into());
    if object::kind(&new) == "Namespace" {
        object::child_mut(&mut new, "status").insert("phase".into(), "Terminating".into());
    }
    if new == *old { Plan::Leave } else { Plan::Mark(new) }
}

fn held_by_spec(value: &Value) -> bool {
    object::kind(value) == "Namespace"
        && value.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|l| !l.is_empty())
}

/// True while the object is kept for its grace period.
fn mark_graceful(strategy: &dyn Strategy, new: &mut Value, options: &DeleteOptions, now: Timestamp) -> bool {
    let deleting = object::deletion_timestamp(new).map(str::to_owned);
    let before = new.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
    let wanted = match strategy.graceful(new, options.grace) {
        Graceful::No => 0,
        Graceful::Seconds(seconds) => seconds,
    };
    let since = match (&deleting, before) {
        (None, _) => now,
        (Some(_), None | Some(0)) => return false,
        // A deletion under way can only be made shorter.
        (Some(_), Some(before)) if options.grace.is_none() || wanted >= before => return true,
        (Some(at), Some(before)) => {
            at.parse::<Timestamp>().map_or(now, |at| at - SignedDuration::from_secs(before))
        }
    };
    if wanted == 0 {
        return false;
    }
    let end = since.checked_add(SignedDuration::from_secs(wanted)).unwrap_or(since);
    let metadata = metadata_mut(new);
    metadata.insert("deletionTimestamp".into(), time_text(end).into());
    metadata.insert("deletionGracePeriodSeconds".into(), wanted.into());
    if let Some(generation) = metadata.get("generation").and_then(Value::as_i64).filter(|g| *g > 0) {
        metadata.insert("generation".into(), (generation + 1).into());
    }
    true
}

/// Who takes care of dependents is written into the object.
fn set_finalizers(strategy: &dyn Strategy, new: &mut Value, options: &DeleteOptions) {
    let had: Vec<String> = object::finalizers(new).into_iter().map(str::to_owned).collect();
    let has = |name: &str| had.iter().any(|f| f == name);
    let (orphan, foreground) = match options.propagation {
        Some(Propagation::Orphan) => (true, false),
        Some(Propagation::Foreground) => (false, true),
        Some(Propagation::Background) => (false, false),
        None if has(ORPHAN) || has(FOREGROUND) => (has(ORPHAN), has(FOREGROUND)),
        None => (strategy.default_propagation() == "Orphan", false),
    };
    let mut list: Vec<String> = had.iter().filter(|f| *f != ORPHAN && *f != FOREGROUND).cloned().collect();
    if orphan {
        list.push(ORPHAN.into());
    }
    if foreground {
        list.push(FOREGROUND.into());
    }
    if list.len() == had.len() && list.iter().all(|f| had.contains(f)) {
        return;
    }
    let metadata = metadata_mut(new);
    if list.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".into(), json!(list));
    }
}

#[cfg(test)]
mod tests {
    use amphipod_api::codec::FieldValidation;

    use super::*;

    fn pod(extra: Value) -> Value {
        let pod = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a", "generation": 1},
            "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}, "status": {"phase": "Running"}});
        amphipod_api::patch::apply_merge_patch(&pod, &extra, FieldValidation::Ignore).expect("a patch")
    }

    fn run(value: &Value, options: &DeleteOptions) -> Plan {
        let now = "2026-01-01T00:00:00Z".parse().expect("time");
        plan(amphipod_strategy::for_resource("", "pods"), value, options, now)
    }

    #[test]
    fn plans() {
        let default = DeleteOptions::default();
        let Plan::Mark(marked) = run(&pod(json!({})), &default) else { panic!("marked") };
        assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-01-01T00:00:30Z");
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
        assert_eq!(marked["metadata"]["generation"], 2);
        assert_eq!(run(&marked, &default), Plan::Leave);
        assert_eq!(run(&pod(json!({"spec": {"nodeName": null}})), &default), Plan::Remove);
        let now = DeleteOptions { grace: Some(0), ..default.clone() };
        assert_eq!(run(&marked, &now), Plan::Remove);
        let sooner = DeleteOptions { grace: Some(5), ..default.clone() };
        let Plan::Mark(shorter) = run(&marked, &sooner) else { panic!("shorter") };
        assert_eq!(shorter["metadata"]["deletionTimestamp"], "2026-01-01T00:00:05Z");
        let held = pod(json!({"metadata": {"finalizers": ["a/b"]}}));
        let Plan::Mark(kept) = run(&held, &now) else { panic!("kept") };
        assert_eq!(kept["metadata"]["deletionGracePeriodSeconds"], 0);
        let foreground = DeleteOptions { propagation: Some(Propagation::Foreground), ..now };
        let Plan::Mark(waits) = run(&pod(json!({})), &foreground) else { panic!("waits") };
        assert_eq!(waits["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    }
}

//! Jobs and what makes them on a schedule.

use amphipod_api::field::{Error, Path};
use serde_json::{Value, json};

use crate::check::{self, Faults};
use crate::contract::Context;
use crate::json::{
    at, copy, default, default_text, each, is_empty, items, number, put, remove, same, set, text, truthy,
    with, within,
};
use crate::kind::{Kind, SPEC_AND_STATUS};
use crate::metadata::NameRule;
use crate::pod::{defaults as pod_defaults, spec as pod_spec, warnings as pod_warnings};

pub const UID_LABEL: &str = "batch.kubernetes.io/controller-uid";
pub const NAME_LABEL: &str = "batch.kubernetes.io/job-name";
const LEGACY_UID_LABEL: &str = "controller-uid";
const LEGACY_NAME_LABEL: &str = "job-name";
const BACKOFF_LIMIT_DEFAULT: i64 = 6;
const MAX_PARALLELISM_INDEXED: i64 = 100_000;
const MAX_COMPLETIONS_INDEXED: i64 = 2_147_483_647;

pub static JOB: Kind = Kind {
    default: |object| {
        within(object, "spec", job_spec_defaults);
        let labels = at(object, &["spec", "template", "metadata", "labels"]).clone();
        if is_empty(at(object, &["metadata", "labels"]))
            && !is_empty(&labels)
            && object["metadata"].is_object()
        {
            put(&mut object["metadata"], "labels", labels);
        }
        within(object, "status", |_| {});
    },
    create,
    validate: |object| {
        let mut faults = Faults::new();
        let path = Path::new("spec");
        let spec = &object["spec"];
        job_spec(&mut faults, &path, spec);
        selector(&mut faults, &path, object);
        faults
    },
    validate_change,
    warn: |object, old| {
        let old = old.map(|old| at(old, &["spec", "template"]));
        pod_warnings::for_template(
            &Path::new("spec").child("template"),
            at(object, &["spec", "template"]),
            old,
        )
    },
    orphans: true,
    ..SPEC_AND_STATUS
};
pub static CRON_JOB: Kind = Kind {
    name: NameRule::CronJob,
    default: |object| {
        within(object, "spec", |spec| {
            default_text(spec, "concurrencyPolicy", "Allow");
            default(spec, "suspend", false);
            default(spec, "successfulJobsHistoryLimit", 3);
            default(spec, "failedJobsHistoryLimit", 1);
            within(spec, "jobTemplate", |template| {
                within(template, "metadata", |_| {});
                within(template, "spec", |spec| within(spec, "template", pod_defaults::template));
            });
        });
        within(object, "status", |_| {});
    },
    validate: cron_job,
    warn: |object, _| {
        let zone = text(at(object, &["spec", "timeZone"]));
        let schedule = text(at(object, &["spec", "schedule"]));
        let mut texts = Vec::new();
        if zone.is_empty() && schedule.contains("TZ=") {
            texts.push("cannot use TZ or CRON_TZ in schedule, use timeZone field instead".to_owned());
        }
        texts
    },
    ..SPEC_AND_STATUS
};

fn job_spec_defaults(spec: &mut Value) {
    within(spec, "template", pod_defaults::template);
    if !set(&spec["completions"]) && !set(&spec["parallelism"]) {
        put(spec, "completions", 1);
    }
    default(spec, "parallelism", 1);
    let per_index = set(&spec["backoffLimitPerIndex"]);
    default(spec, "backoffLimit", if per_index { i64::from(i32::MAX) } else { BACKOFF_LIMIT_DEFAULT });
    default_text(spec, "completionMode", "NonIndexed");
    default(spec, "suspend", false);
    default(spec, "manualSelector", false);
    let replacement = if set(&spec["podFailurePolicy"]) { "Failed" } else { "TerminatingOrFailed" };
    default(spec, "podReplacementPolicy", replacement);
    with(spec, "podFailurePolicy", |policy| {
        each(policy, "rules", |rule| {
            each(rule, "onPodConditions", |pattern| default_text(pattern, "status", "True"));
        });
    });
}

/// A job finds its pods by its own uid, unless the client insists on a selector.
fn create(_: &Context, object: &mut Value) {
    if truthy(at(object, &["spec", "manualSelector"])) {
        return;
    }
    let uid = text(at(object, &["metadata", "uid"])).to_owned();
    let name = text(at(object, &["metadata", "name"])).to_owned();
    if uid.is_empty() || !object["spec"].is_object() {
        return;
    }
    within(object, "spec", |spec| {
        within(spec, "template", |template| {
            within(template, "metadata", |metadata| {
                within(metadata, "labels", |labels| {
                    for (key, value) in [
                        (LEGACY_NAME_LABEL, &name),
                        (NAME_LABEL, &name),
                        (LEGACY_UID_LABEL, &uid),
                        (UID_LABEL, &uid),
                    ] {
                        default(labels, key, value.as_str());
                    }
                });
            });
        });
        within(spec, "selector", |selector| {
            within(selector, "matchLabels", |labels| default(labels, UID_LABEL, uid.as_str()));
        });
    });
}

fn job_spec(faults: &mut Faults, path: &Path, spec: &Value) {
    for key in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        check::not_negative(faults, &path.child(key), &spec[key]);
    }
    let indexed = text(&spec["completionMode"]) == "Indexed";
    if set(&spec["completionMode"]) {
        let modes = ["Indexed", "NonIndexed"];
        check::one_of(faults, &path.child("completionMode"), &spec["completionMode"], &modes);
    }
    if indexed {
        indexed_limits(faults, path, spec);
    } else {
        for key in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if set(&spec[key]) {
                let detail = "requires indexed completion mode";
                faults.push(Error::invalid(&path.child(key), number(&spec[key]), detail));
            }
        }
    }
    if set(&spec["podReplacementPolicy"]) {
        let at = path.child("podReplacementPolicy");
        let policies: &[&str] =
            if set(&spec["podFailurePolicy"]) { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
        check::one_of(faults, &at, &spec["podReplacementPolicy"], policies);
    }
    managed_by(faults, &path.child("managedBy"), text(&spec["managedBy"]));
    failure_policy(faults, path, spec);
    let template_path = path.child("template");
    pod_spec::template(faults, &template_path, &spec["template"]);
    let policy = text(at(spec, &["template", "spec", "restartPolicy"]));
    let restart_path = template_path.child("spec").child("restartPolicy");
    if policy == "Always" {
        faults.push(Error::required(&restart_path, "valid values: \"OnFailure\", \"Never\""));
    } else if !["OnFailure", "Never"].contains(&policy) {
        faults.push(Error::not_supported(&restart_path, policy, &["OnFailure", "Never"]));
    } else if set(&spec["podFailurePolicy"]) && policy != "Never" {
        let detail = "only \"Never\" is supported when podFailurePolicy is specified";
        faults.push(Error::invalid(&restart_path, policy, detail));
    }
}

fn indexed_limits(faults: &mut Faults, path: &Path, spec: &Value) {
    if !set(&spec["completions"]) {
        let detail = "when completion mode is Indexed";
        faults.push(Error::required(&path.child("completions"), detail));
    }
    if number(&spec["parallelism"]) > MAX_PARALLELISM_INDEXED {
        let detail = format!(
            "must be less than or equal to {MAX_PARALLELISM_INDEXED} when completion mode is Indexed"
        );
        faults.push(Error::invalid(&path.child("parallelism"), number(&spec["parallelism"]), detail));
    }
    if number(&spec["completions"]) > MAX_COMPLETIONS_INDEXED {
        let detail = format!(
            "must be less than or equal to {MAX_COMPLETIONS_INDEXED} when completion mode is Indexed"
        );
        faults.push(Error::invalid(&path.child("completions"), number(&spec["completions"]), detail));
    }
    let failed = &spec["maxFailedIndexes"];
    if set(failed) && !set(&spec["backoffLimitPerIndex"]) {
        let detail = "when maxFailedIndexes is specified";
        faults.push(Error::required(&path.child("backoffLimitPerIndex"), detail));
    }
    if set(failed) && set(&spec["completions"]) && number(failed) > number(&spec["completions"]) {
        let detail = "must be less than or equal to completions";
        faults.push(Error::invalid(&path.child("maxFailedIndexes"), number(failed), detail));
    }
}

fn managed_by(faults: &mut Faults, path: &Path, name: &str) {
    if name.is_empty() {
        return;
    }
    let shaped = name
        .split_once('/')
        .is_some_and(|(domain, rest)| !rest.is_empty() && check::dns1123_subdomain(domain).is_empty());
    if !shaped {
        let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        faults.push(Error::invalid(path, name, detail));
    }
}

fn failure_policy(faults: &mut Faults, path: &Path, spec: &Value) {
    let path = path.child("podFailurePolicy").child("rules");
    for (i, rule) in items(&spec["podFailurePolicy"]["rules"]).iter().enumerate() {
        let at = path.index(i);
        let actions = ["Count", "FailIndex", "FailJob", "Ignore"];
        check::one_of(faults, &at.child("action"), &rule["action"], &actions);
        match (set(&rule["onExitCodes"]), !items(&rule["onPodConditions"]).is_empty()) {
            (true, true) => {
                let detail = "specifying both OnExitCodes and OnPodConditions is not supported";
                faults.push(Error::invalid(&at, rule.clone(), detail));
            }
            (false, false) => {
                let detail = "specifying one of OnExitCodes and OnPodConditions is required";
                faults.push(Error::invalid(&at, rule.clone(), detail));
            }
            (true, false) => exit_codes(faults, &at.child("onExitCodes"), &rule["onExitCodes"]),
            (false, true) => {}
        }
    }
}

fn exit_codes(faults: &mut Faults, path: &Path, codes: &Value) {
    check::one_of(faults, &path.child("operator"), &codes["operator"], &["In", "NotIn"]);
    let values = items(&codes["values"]);
    if values.is_empty() {
        faults.push(Error::invalid(
            &path.child("values"),
            codes["values"].clone(),
            "at least one value is required",
        ));
    }
    for (i, code) in values.iter().enumerate() {
        let at = path.child("values").index(i);
        if values[..i].contains(code) {
            faults.push(Error::duplicate(&at, number(code)));
        }
        if number(code) == 0 && text(&codes["operator"]) == "In" {
            faults.push(Error::invalid(&at, 0, "must not be 0 for the In operator"));
        }
    }
}

/// Without a manual selector it must be exactly what the server made.
fn selector(faults: &mut Faults, path: &Path, object: &Value) {
    let spec = &object["spec"];
    let selector_path = path.child("selector");
    let labels = at(spec, &["template", "metadata", "labels"]);
    if set(&spec["selector"]) {
        check::label_selector(faults, &selector_path, &spec["selector"]);
    } else {
        faults.push(Error::required(&selector_path, ""));
        return;
    }
    if !truthy(&spec["manualSelector"]) {
        let uid = text(at(object, &["metadata", "uid"]));
        let labels_path = path.child("template").child("metadata").child("labels");
        for (key, expected) in [(UID_LABEL, uid), (NAME_LABEL, text(at(object, &["metadata", "name"])))] {
            if text(&labels[key]) != expected {
                let detail = format!("must be '{expected}'");
                faults.push(Error::invalid(&labels_path.key(key), text(&labels[key]), detail));
            }
        }
        let wanted = json!({"matchLabels": {UID_LABEL: uid}});
        let legacy = json!({"matchLabels": {LEGACY_UID_LABEL: uid}});
        if !same(&spec["selector"], &wanted) && !same(&spec["selector"], &legacy) {
            let detail = "`selector` not auto-generated";
            faults.push(Error::invalid(&selector_path, spec["selector"].clone(), detail));
        }
    }
    if !check::selector_matches(&spec["selector"], labels) {
        let detail = "`selector` does not match template `labels`";
        faults.push(Error::invalid(
            &path.child("template").child("metadata").child("labels"),
            labels.clone(),
            detail,
        ));
    }
}

fn validate_change(new: &Value, old: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let (spec, before) = (&new["spec"], &old["spec"]);
    let indexed = text(&before["completionMode"]) == "Indexed";
    if !same(&spec["completions"], &before["completions"]) {
        let elastic = indexed && spec["completions"] == spec["parallelism"];
        if !indexed {
            check::immutable(
                &mut faults,
                &path.child("completions"),
                &spec["completions"],
                &before["completions"],
            );
        } else if !elastic {
            let detail = "can only be modified in tandem with parallelism";
            faults.push(Error::invalid(
                &path.child("completions"),
                spec["completions"].clone(),
                format!("{detail} such that completions == parallelism"),
            ));
        }
    }
    check::immutable(&mut faults, &path.child("selector"), &spec["selector"], &before["selector"]);
    let mut template = spec["template"].clone();
    if not_started(old) {
        munge_scheduling(&mut template, &before["template"]);
    }
    if !same(&template, &before["template"]) {
        let value = spec["template"].clone();
        faults.push(Error::invalid(&path.child("template"), value, check::IMMUTABLE));
    }
    for key in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        check::immutable(&mut faults, &path.child(key), &spec[key], &before[key]);
    }
    faults
}

/// A suspended job that never ran may still be steered to other nodes.
fn not_started(job: &Value) -> bool {
    truthy(at(job, &["spec", "suspend"])) && !set(at(job, &["status", "startTime"]))
}

fn munge_scheduling(template: &mut Value, old: &Value) {
    within(template, "metadata", |metadata| {
        for key in ["labels", "annotations"] {
            copy(metadata, key, &old["metadata"]);
        }
    });
    within(template, "spec", |spec| {
        for key in ["nodeSelector", "tolerations", "schedulingGates"] {
            copy(spec, key, &old["spec"]);
        }
        let node = old["spec"]["affinity"]["nodeAffinity"].clone();
        if set(&spec["affinity"]) || set(&node) {
            within(spec, "affinity", |affinity| match node {
                Value::Null => remove(affinity, "nodeAffinity"),
                node => put(affinity, "nodeAffinity", node),
            });
        }
    });
}

fn cron_job(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    let schedule = text(&spec["schedule"]);
    let at = path.child("schedule");
    if schedule.is_empty() {
        faults.push(Error::required(&at, ""));
    } else if schedule.contains("TZ=") {
        let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        faults.push(Error::invalid(&at, schedule, detail));
    } else if let Some(fault) = schedule_fault(schedule) {
        faults.push(Error::invalid(&at, schedule, fault));
    }
    check::not_negative(
        &mut faults,
        &path.child("startingDeadlineSeconds"),
        &spec["startingDeadlineSeconds"],
    );
    time_zone(&mut faults, &path.child("timeZone"), &spec["timeZone"]);
    let policies = ["Allow", "Forbid", "Replace"];
    check::one_of(&mut faults, &path.child("concurrencyPolicy"), &spec["concurrencyPolicy"], &policies);
    for key in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        check::not_negative(&mut faults, &path.child(key), &spec[key]);
    }
    let template = path.child("jobTemplate").child("spec");
    let job = &spec["jobTemplate"]["spec"];
    if truthy(&job["manualSelector"]) {
        let supported: [&str; 2] = ["nil", "false"];
        faults.push(Error::not_supported(&template.child("manualSelector"), true, &supported));
    }
    job_spec(&mut faults, &template, job);
    faults
}

fn time_zone(faults: &mut Faults, path: &Path, zone: &Value) {
    if !set(zone) {
        return;
    }
    match text(zone) {
        "" => faults.push(Error::invalid(path, "", "timeZone must be nil or non-empty string")),
        "Local" => faults.push(Error::invalid(
            path,
            "Local",
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
        )),
        name if name.starts_with('/') || name.contains("..") || name.contains('\\') => {
            faults.push(Error::invalid(path, name, format!("unknown time zone {name}")));
        }
        _ => {}
    }
}

/// What is wrong with a cron schedule; the shapes Kubernetes takes: five fields or `@daily`.
fn schedule_fault(schedule: &str) -> Option<String> {
    if let Some(rest) = schedule.strip_prefix('@') {
        let known = ["yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly"];
        let every = rest.strip_prefix("every ").is_some_and(|d| !d.is_empty());
        return (!known.contains(&rest) && !every).then(|| format!("unrecognized descriptor: {schedule}"));
    }
    let parts: Vec<&str> = schedule.split_whitespace().collect();
    if parts.len() != 5 {
        return Some(format!("expected exactly 5 fields, found {}: [{}]", parts.len(), parts.join(" ")));
    }
    let bounds = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 6)];
    parts.iter().zip(bounds).find_map(|(part, bounds)| cron_field_fault(part, bounds))
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

fn cron_field_fault(field: &str, (low, high): (u32, u32)) -> Option<String> {
    let number = |value: &str| -> Result<u32, String> {
        let lower = value.to_lowercase();
        let named = match high {
            12 => MONTHS.iter().position(|m| *m == lower).map(|i| i + 1),
            6 => DAYS.iter().position(|d| *d == lower),
            _ => None,
        };
        if let Some(named) = named {
            return u32::try_from(named).map_err(|e| e.to_string());
        }
        value.parse().map_err(|_| {
            format!("failed to parse int from {value}: strconv.Atoi: parsing \"{value}\": invalid syntax")
        })
    };
    for part in field.split(',') {
        let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
        let ends = if range == "*" || range == "?" {
            Ok((low, high))
        } else {
            let (from, to) = range.split_once('-').unwrap_or((range, range));
            number(from).and_then(|from| number(to).map(|to| (from, to)))
        };
        let (from, to) = match ends {
            Ok(ends) => ends,
            Err(text) => return Some(text),
        };
        if from < low {
            return Some(format!("beginning of range ({from}) below minimum ({low}): {part}"));
        }
        if to > high {
            return Some(format!("end of range ({to}) above maximum ({high}): {part}"));
        }
        if from > to {
            return Some(format!("beginning of range ({from}) beyond end of range ({to}): {part}"));
        }
        match step.map(number) {
            Some(Ok(0)) => return Some(format!("step of range should be a positive number: {part}")),
            Some(Err(text)) => return Some(text),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules() {
        for good in ["*/1 * * * ?", "0 0 1 jan mon-fri", "@daily", "1,2,3 0-5 * * *"] {
            assert_eq!(schedule_fault(good), None, "{good}");
        }
        for bad in ["* * * *", "60 * * * *", "a * * * *", "@sometimes", "*/0 * * * *"] {
            assert!(schedule_fault(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn a_job_selects_by_its_uid() {
        let mut object = json!({"metadata": {"name": "j", "namespace": "n", "uid": "u"}, "spec": {"template": {"spec":
            {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
        let row = amphipod_api::resource::find("batch", "v1", "jobs").expect("a built-in row");
        let context = Context { resource: row, subresource: "", now: "2026-01-01T00:00:00Z" };
        crate::contract::Strategy::prepare_create(&JOB, &context, &mut object);
        assert_eq!(object["spec"]["selector"]["matchLabels"][UID_LABEL], "u");
        assert_eq!(object["metadata"]["labels"]["job-name"], "j");
        assert_eq!(object["spec"]["completions"], 1);
        assert!((JOB.validate)(&object).is_empty(), "{:?}", (JOB.validate)(&object));
    }
}

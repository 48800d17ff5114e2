//! Jobs: pods that run to their end.

use amphipod_api::field::{Error, Path};
use serde_json::{Value, json};

use crate::check::{self, Faults};
use crate::contract::{Context, Warnings};
use crate::domains::domain_prefixed_path;
use crate::job_policy;
use crate::json::{
    at, copy, default, default_text, each, is_empty, number, put, remove, same, set, text, truthy, with,
    within,
};
use crate::kind::{Kind, SPEC_AND_STATUS};
use crate::pod::{defaults as pod_defaults, spec as pod_spec, warnings as pod_warnings};
use crate::{job_status, workload};

pub const UID_LABEL: &str = "batch.kubernetes.io/controller-uid";
pub const NAME_LABEL: &str = "batch.kubernetes.io/job-name";
const LEGACY_UID_LABEL: &str = "controller-uid";
const LEGACY_NAME_LABEL: &str = "job-name";
const BACKOFF_LIMIT_DEFAULT: i64 = 6;
const MAX_PARALLELISM_INDEXED: i64 = 100_000;
const MAX_FAILED_INDEXES: i64 = 100_000;
/// Above this many completions each index costs: fewer may run or fail at once.
const MANY_COMPLETIONS: i64 = 100_000;
const MAX_PARALLELISM_OF_MANY: i64 = 10_000;
const MAX_FAILED_INDEXES_OF_MANY: i64 = 10_000;
const MANAGER_MAX: usize = 63;

pub static JOB: Kind = Kind {
    default: |object| {
        within(object, "spec", spec_defaults);
        let labels = at(object, &["spec", "template", "metadata", "labels"]).clone();
        if is_empty(at(object, &["metadata", "labels"]))
            && !is_empty(&labels)
            && object["metadata"].is_object()
        {
            put(&mut object["metadata"], "labels", labels);
        }
        within(object, "status", |_| {});
    },
    create: |context, object| {
        create(context, object);
        workload::drop_fields(object, &Value::Null);
    },
    update: |_, object, old| workload::drop_fields(object, old),
    validate: |object| {
        let mut faults = Faults::new();
        generated_selector(&mut faults, object);
        faults.extend(whole_spec(object));
        hostname(&mut faults, object);
        faults
    },
    revalidate: Some(|new, old| {
        let mut faults = workload::forgiven(whole_spec, new, old);
        change(&mut faults, new, old);
        faults
    }),
    validate_status: job_status::change,
    warn: |object, old| {
        let mut texts = Warnings::new();
        if old.is_none() {
            texts = pod_warnings::for_name(object, "Pod names and hostnames");
        }
        let generation = |object: &Value| number(&object["metadata"]["generation"]);
        if old.is_none_or(|old| generation(old) != generation(object)) {
            texts.extend(spec_warnings(&Path::new("spec"), &object["spec"]));
        }
        texts
    },
    orphans: true,
    ..SPEC_AND_STATUS
};

fn spec_defaults(spec: &mut Value) {
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
    pattern_defaults(spec);
}

/// A condition that a failure policy waits for is one that became true.
pub fn pattern_defaults(spec: &mut Value) {
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

pub fn spec_warnings(path: &Path, spec: &Value) -> Warnings {
    let mut texts = Warnings::new();
    if indexed(spec)
        && number(&spec["completions"]) > MANY_COMPLETIONS
        && number(&spec["parallelism"]) > MAX_PARALLELISM_OF_MANY
    {
        texts.push(format!(
            "{path}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
        ));
    }
    texts.extend(pod_warnings::for_template(&path.child("template"), &spec["template"]));
    texts
}

pub fn indexed(spec: &Value) -> bool {
    text(&spec["completionMode"]) == "Indexed"
}

fn whole_spec(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    spec_faults(&mut faults, &path, spec);
    let at = path.child("selector");
    if set(&spec["selector"]) {
        check::label_selector(&mut faults, &at, &spec["selector"]);
    } else {
        faults.push(Error::required(&at, ""));
    }
    workload::template_is_selected(&mut faults, &path, spec);
    faults
}

/// The spec of a job or of a template of jobs.
pub fn spec_faults(faults: &mut Faults, path: &Path, spec: &Value) {
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
    if set(&spec["maxFailedIndexes"]) && !set(&spec["backoffLimitPerIndex"]) {
        let at = path.child("backoffLimitPerIndex");
        faults.push(Error::required(&at, "when maxFailedIndexes is specified"));
    }
    if set(&spec["managedBy"]) {
        managed_by(faults, &path.child("managedBy"), text(&spec["managedBy"]));
    }
    let modes = ["NonIndexed", "Indexed"];
    check::optional_one_of(faults, &path.child("completionMode"), &spec["completionMode"], &modes);
    if indexed(spec) {
        indexed_limits(faults, path, spec);
    }
    if ["", "NonIndexed"].contains(&text(&spec["completionMode"])) {
        for key in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if set(&spec[key]) {
                let detail = "requires indexed completion mode";
                faults.push(Error::invalid(&path.child(key), number(&spec[key]), detail));
            }
        }
    }
    job_policy::failure(faults, &path.child("podFailurePolicy"), spec);
    job_policy::success(faults, &path.child("successPolicy"), spec);
    let policies: &[&str] =
        if set(&spec["podFailurePolicy"]) { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    let at = path.child("podReplacementPolicy");
    check::optional_one_of(faults, &at, &spec["podReplacementPolicy"], policies);
    let template_path = path.child("template");
    pod_spec::template(faults, &template_path, &spec["template"]);
    restart_policy(faults, &template_path.child("spec").child("restartPolicy"), spec);
}

fn restart_policy(faults: &mut Faults, path: &Path, spec: &Value) {
    match text(at(spec, &["template", "spec", "restartPolicy"])) {
        "Always" | "" => faults.push(Error::required(path, "valid values: \"OnFailure\", \"Never\"")),
        "Never" => {}
        policy @ "OnFailure" => {
            if set(&spec["podFailurePolicy"]) {
                let detail = "only \"Never\" is supported when podFailurePolicy is specified";
                faults.push(Error::invalid(path, policy, detail));
            }
        }
        policy => faults.push(Error::not_supported(path, policy, &["OnFailure", "Never"])),
    }
}

fn indexed_limits(faults: &mut Faults, path: &Path, spec: &Value) {
    let (completions, parallelism) = (number(&spec["completions"]), number(&spec["parallelism"]));
    let failed = &spec["maxFailedIndexes"];
    let (parallelism_path, failed_path) = (path.child("parallelism"), path.child("maxFailedIndexes"));
    if !set(&spec["completions"]) {
        faults.push(Error::required(&path.child("completions"), "when completion mode is Indexed"));
    }
    if parallelism > MAX_PARALLELISM_INDEXED {
        let detail = format!(
            "must be less than or equal to {MAX_PARALLELISM_INDEXED} when completion mode is Indexed"
        );
        faults.push(Error::invalid(&parallelism_path, parallelism, detail));
    }
    if set(failed) && set(&spec["completions"]) && number(failed) > completions {
        let detail = "must be less than or equal to completions";
        faults.push(Error::invalid(&failed_path, number(failed), detail));
    }
    if number(failed) > MAX_FAILED_INDEXES {
        let detail = format!("must be less than or equal to {MAX_FAILED_INDEXES}");
        faults.push(Error::invalid(&failed_path, number(failed), detail));
    }
    if completions <= MANY_COMPLETIONS || !set(&spec["backoffLimitPerIndex"]) {
        return;
    }
    if !set(failed) {
        let detail = format!("must be specified when completions is above {MANY_COMPLETIONS}");
        faults.push(Error::required(&failed_path, detail));
    }
    for (at, value, most) in [
        (&parallelism_path, parallelism, MAX_PARALLELISM_OF_MANY),
        (&failed_path, number(failed), MAX_FAILED_INDEXES_OF_MANY),
    ] {
        if value > most {
            let detail = format!(
                "must be less than or equal to {most} when completions are above {MANY_COMPLETIONS} and used with backoff limit per index"
            );
            faults.push(Error::invalid(at, value, detail));
        }
    }
}

/// `acme.io/foo`.
fn managed_by(faults: &mut Faults, path: &Path, name: &str) {
    domain_prefixed_path(faults, path, name);
    if name.len() > MANAGER_MAX {
        faults.push(Error::too_long(path, MANAGER_MAX));
    }
}

/// Without a manual selector it must be exactly what the server made.
fn generated_selector(faults: &mut Faults, object: &Value) {
    let spec = &object["spec"];
    if truthy(&spec["manualSelector"]) || !set(&spec["selector"]) {
        return;
    }
    let (uid, name) = (text(&object["metadata"]["uid"]), text(&object["metadata"]["name"]));
    if uid.is_empty() {
        faults.push(Error::required(&Path::new("metadata").child("uid"), ""));
    }
    let labels = at(spec, &["template", "metadata", "labels"]);
    let path = Path::new("spec").child("template").child("metadata").child("labels");
    let expected = [(LEGACY_UID_LABEL, uid), (LEGACY_NAME_LABEL, name), (UID_LABEL, uid), (NAME_LABEL, name)];
    for (key, value) in expected {
        let detail = format!("must be '{value}'");
        match labels.get(key) {
            None => faults.push(Error::required(&path.key(key), detail)),
            Some(found) if text(found) != value => {
                faults.push(Error::invalid(&path.key(key), labels.clone(), detail));
            }
            Some(_) => {}
        }
    }
    let own: Value = expected.iter().map(|(key, value)| (*key, json!(value))).collect();
    if !check::selector_matches(&spec["selector"], &own) {
        let detail = "`selector` not auto-generated";
        let at = Path::new("spec").child("selector");
        faults.push(Error::invalid(&at, spec["selector"].clone(), detail));
    }
}

/// The last pod of an indexed job is called after the job and its index.
fn hostname(faults: &mut Faults, object: &Value) {
    let spec = &object["spec"];
    let (name, completions) = (text(&object["metadata"]["name"]), number(&spec["completions"]));
    if !indexed(spec) || completions <= 0 {
        return;
    }
    let last = format!("{name}-{}", completions - 1);
    if !check::dns1123_label(&last).is_empty() {
        let detail = format!("will not able to create pod with invalid DNS label: {last}");
        faults.push(Error::invalid(&Path::new("metadata").child("name"), name, detail));
    }
}

fn change(faults: &mut Faults, new: &Value, old: &Value) {
    let path = Path::new("spec");
    let (spec, before) = (&new["spec"], &old["spec"]);
    let completions = path.child("completions");
    if !indexed(spec) {
        check::immutable(faults, &completions, &spec["completions"], &before["completions"]);
    } else if set(&spec["completions"])
        && spec["completions"] != before["completions"]
        && spec["completions"] != spec["parallelism"]
    {
        let detail = "can only be modified in tandem with spec.parallelism";
        faults.push(Error::invalid(&completions, spec["completions"].clone(), detail));
    }
    check::immutable(faults, &path.child("selector"), &spec["selector"], &before["selector"]);
    let mut template = spec["template"].clone();
    if not_started(old) {
        munge_scheduling(&mut template, &before["template"]);
    }
    if !same(&template, &before["template"]) {
        let value = spec["template"].clone();
        faults.push(Error::invalid(&path.child("template"), value, check::IMMUTABLE));
    }
    for key in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        check::immutable(faults, &path.child(key), &spec[key], &before[key]);
    }
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

#[cfg(test)]
mod tests;

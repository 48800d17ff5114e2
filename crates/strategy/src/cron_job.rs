//! CronJob: jobs made on a schedule.

use amphipod_api::codec::parse_go_duration;
use amphipod_api::field::{Error, Path, go_quote};
use serde_json::Value;

use crate::check::{self, Faults};
use crate::contract::Warnings;
use crate::job;
use crate::json::{at, default, default_text, number, set, text, truthy, with, within};
use crate::kind::{Kind, SPEC_AND_STATUS};
use crate::metadata::NameRule;
use crate::pod::{defaults as pod_defaults, dropped, tolerated, warnings as pod_warnings};

const POLICIES: [&str; 3] = ["Allow", "Forbid", "Replace"];
const ZONE_PART_MAX: usize = 14;

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
                within(template, "spec", |spec| {
                    within(spec, "template", pod_defaults::template);
                    job::pattern_defaults(spec);
                });
            });
        });
        within(object, "status", |_| {});
    },
    create: |_, object| drop_fields(object, &Value::Null),
    update: |_, object, old| drop_fields(object, old),
    validate: |object| cron_job(object, &Value::Null),
    revalidate: Some(|new, old| {
        let mut faults = cron_job(new, &old["spec"]);
        tolerated::forgive(&mut faults, || cron_job(old, &old["spec"]));
        faults
    }),
    warn: warnings,
    ..SPEC_AND_STATUS
};

const TEMPLATE: [&str; 4] = ["spec", "jobTemplate", "spec", "template"];

fn drop_fields(object: &mut Value, old: &Value) {
    let old = at(old, &TEMPLATE);
    with(object, "spec", |spec| {
        with(spec, "jobTemplate", |job| {
            with(job, "spec", |spec| with(spec, "template", |t| dropped::from_template(t, old)));
        });
    });
}

fn warnings(object: &Value, old: Option<&Value>) -> Warnings {
    let mut texts = Warnings::new();
    if old.is_none() {
        texts = pod_warnings::for_name(object, "Pod names and hostnames");
    }
    let generation = |object: &Value| number(&object["metadata"]["generation"]);
    if old.is_none_or(|old| generation(old) != generation(object)) {
        let path = Path::new("spec").child("jobTemplate").child("spec");
        texts.extend(job::spec_warnings(&path, at(object, &["spec", "jobTemplate", "spec"])));
    }
    if text(&object["spec"]["schedule"]).contains("TZ") {
        texts.push(
            "CRON_TZ or TZ used in spec.spec.schedule is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
                .to_owned(),
        );
    }
    texts
}

/// `old` is the spec before an update, null at creation.
fn cron_job(object: &Value, old: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let spec = &object["spec"];
    schedule(&mut faults, &path.child("schedule"), spec, old);
    let deadline = &spec["startingDeadlineSeconds"];
    check::not_negative(&mut faults, &path.child("startingDeadlineSeconds"), deadline);
    if !set(old) || old["timeZone"] != spec["timeZone"] {
        time_zone(&mut faults, &path.child("timeZone"), &spec["timeZone"]);
    }
    check::one_of(&mut faults, &path.child("concurrencyPolicy"), &spec["concurrencyPolicy"], &POLICIES);
    let template = path.child("jobTemplate").child("spec");
    let job = &spec["jobTemplate"]["spec"];
    job::spec_faults(&mut faults, &template, job);
    if set(&job["selector"]) {
        let detail = "`selector` will be auto-generated";
        faults.push(Error::invalid(&template.child("selector"), job["selector"].clone(), detail));
    }
    if truthy(&job["manualSelector"]) {
        faults.push(Error::not_supported(&template.child("manualSelector"), true, &["nil", "false"]));
    }
    for key in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        check::not_negative(&mut faults, &path.child(key), &spec[key]);
    }
    faults
}

fn schedule(faults: &mut Faults, path: &Path, spec: &Value, old: &Value) {
    let schedule = text(&spec["schedule"]);
    if schedule.is_empty() {
        faults.push(Error::required(path, ""));
        return;
    }
    let zoned = ["TZ=", "CRON_TZ="].iter().any(|prefix| schedule.starts_with(prefix));
    let plain = if zoned { schedule.split_once(' ').map_or("", |(_, rest)| rest.trim()) } else { schedule };
    if let Some(fault) = schedule_fault(plain) {
        faults.push(Error::invalid(path, schedule, fault));
    }
    if !schedule.contains("TZ") {
        return;
    }
    if !text(&old["schedule"]).contains("TZ") {
        let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        faults.push(Error::invalid(path, schedule, detail));
    } else if set(&spec["timeZone"]) {
        let detail = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
        faults.push(Error::invalid(path, schedule, detail));
    }
}

fn time_zone(faults: &mut Faults, path: &Path, zone: &Value) {
    if !set(zone) {
        return;
    }
    let name = text(zone);
    if name.is_empty() {
        faults.push(Error::invalid(path, "", "timeZone must be nil or non-empty string"));
        return;
    }
    let fits = |part: &str| {
        (1..=ZONE_PART_MAX).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_+".contains(&b))
            && !part.starts_with('-')
            && part != "."
            && part != ".."
    };
    let unknown = || Error::invalid(path, name, format!("unknown time zone {name}"));
    if !name.split('/').all(fits) {
        faults.push(unknown());
        return;
    }
    if name.eq_ignore_ascii_case("local") {
        let detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        faults.push(Error::invalid(path, name, detail));
    }
    if name != "Local" && jiff::tz::db().get(name).is_err() {
        faults.push(unknown());
    }
}

/// What is wrong with a cron schedule; the shapes Kubernetes takes: five fields or `@daily`.
fn schedule_fault(schedule: &str) -> Option<String> {
    if let Some(rest) = schedule.strip_prefix('@') {
        let known = ["yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly"];
        if let Some(period) = rest.strip_prefix("every ") {
            return parse_go_duration(period).is_none().then(|| {
                let why = format!("time: invalid duration {}", go_quote(period));
                format!("failed to parse duration {schedule}: {why}")
            });
        }
        return (!known.contains(&rest)).then(|| format!("unrecognized descriptor: {schedule}"));
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
    use serde_json::json;

    use super::*;
    use crate::testing::{Resource, creates, stored, updates};

    const CRON_JOBS: Resource = ("batch", "v1", "cronjobs");

    #[test]
    fn schedules() {
        for good in
            ["*/1 * * * ?", "0 0 1 jan mon-fri", "@daily", "1,2,3 0-5 * * *", "@every 1h30m", "@every 1.5h"]
        {
            assert_eq!(schedule_fault(good), None, "{good}");
        }
        for bad in [
            "* * * *",
            "60 * * * *",
            "a * * * *",
            "@sometimes",
            "@every ",
            "@every 5",
            "@every x",
            "*/0 * * * *",
        ] {
            assert!(schedule_fault(bad).is_some(), "{bad}");
        }
        assert_eq!(
            schedule_fault("@every x").as_deref(),
            Some("failed to parse duration @every x: time: invalid duration \"x\"")
        );
    }

    fn object() -> Value {
        json!({"metadata": {"name": "c", "namespace": "n"}, "spec": {"schedule": "@daily", "jobTemplate": {"spec": {"template": {"spec":
            {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}}})
    }

    #[test]
    fn faults() {
        creates(
            CRON_JOBS,
            &object(),
            &[
                (json!({"spec": {"timeZone": "Europe/Paris"}}), &[]),
                (
                    json!({"metadata": {"name": "c".repeat(53)}, "spec": {"schedule": "TZ=UTC 0 0 * * *", "timeZone": "Mars//X", "concurrencyPolicy": "x"}}),
                    &[
                        &format!(
                            "metadata.name: Invalid value: \"{}\": must be no more than 52 characters",
                            "c".repeat(53)
                        ),
                        "spec.schedule: Invalid value: \"TZ=UTC 0 0 * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
                        "spec.timeZone: Invalid value: \"Mars//X\": unknown time zone Mars//X",
                        "spec.concurrencyPolicy: Unsupported value: \"x\": supported values: \"Allow\", \"Forbid\", \"Replace\"",
                    ],
                ),
                (
                    json!({"spec": {"schedule": "", "timeZone": "", "startingDeadlineSeconds": -1, "failedJobsHistoryLimit": -1,
                        "jobTemplate": {"spec": {"manualSelector": true, "selector": {}}}}}),
                    &[
                        "spec.schedule: Required value",
                        "spec.startingDeadlineSeconds: Invalid value: -1: must be greater than or equal to 0",
                        "spec.timeZone: Invalid value: \"\": timeZone must be nil or non-empty string",
                        "spec.jobTemplate.spec.selector: Invalid value: {}: `selector` will be auto-generated",
                        "spec.jobTemplate.spec.manualSelector: Unsupported value: true: supported values: \"nil\", \"false\"",
                        "spec.failedJobsHistoryLimit: Invalid value: -1: must be greater than or equal to 0",
                    ],
                ),
            ],
        );
    }

    #[test]
    fn an_old_zone_in_the_schedule_may_stay() {
        let mut old = stored(CRON_JOBS, &object());
        old["spec"]["schedule"] = "TZ=UTC 0 0 * * *".into();
        updates(
            CRON_JOBS,
            "",
            &old,
            &[
                (json!({"spec": {"suspend": true}}), &[]),
                (
                    json!({"spec": {"timeZone": "Etc/UTC"}}),
                    &[
                        "spec.schedule: Invalid value: \"TZ=UTC 0 0 * * *\": cannot use both timeZone field and TZ or CRON_TZ in schedule",
                    ],
                ),
            ],
        );
    }
}

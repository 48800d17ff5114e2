//! When a job has failed or succeeded before all its pods have: failure and success policies, and
//! the lists of indexes that they and the status are written in.

use amphipod_api::field::{Error, Path, go_quote};
use serde_json::Value;

use crate::check::{self, Faults, invalid_unshown};
use crate::job::indexed;
use crate::json::{items, number, set, text};

const RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const PATTERNS_MAX: usize = 20;
const SUCCEEDED_INDEXES_BYTES_MAX: usize = 64 * 1024;
const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
const STATUSES: [&str; 3] = ["False", "True", "Unknown"];
const OPERATORS: [&str; 2] = ["In", "NotIn"];

pub fn failure(faults: &mut Faults, path: &Path, spec: &Value) {
    let rules = items(&spec["podFailurePolicy"]["rules"]);
    let path = path.child("rules");
    if rules.len() > RULES_MAX {
        faults.push(Error::too_many(&path, rules.len(), RULES_MAX));
    }
    for (i, rule) in rules.iter().enumerate() {
        failure_rule(faults, &path.index(i), rule, spec);
    }
}

fn failure_rule(faults: &mut Faults, path: &Path, rule: &Value, spec: &Value) {
    let action = text(&rule["action"]);
    if action == "FailIndex" && !set(&spec["backoffLimitPerIndex"]) {
        let detail = "requires the backoffLimitPerIndex to be set";
        faults.push(Error::invalid(&path.child("action"), action, detail));
    }
    listed(faults, &path.child("action"), action, &ACTIONS);
    let (codes, patterns) = (&rule["onExitCodes"], items(&rule["onPodConditions"]));
    if set(codes) {
        exit_codes(faults, &path.child("onExitCodes"), codes, spec);
    }
    let patterns_path = path.child("onPodConditions");
    if patterns.len() > PATTERNS_MAX {
        faults.push(Error::too_many(&patterns_path, patterns.len(), PATTERNS_MAX));
    }
    for (i, pattern) in patterns.iter().enumerate() {
        let (at, kind) = (patterns_path.index(i), text(&pattern["type"]));
        check::invalid_each(faults, &at.child("type"), kind, check::qualified_name(kind));
        listed(faults, &at.child("status"), text(&pattern["status"]), &STATUSES);
    }
    match (set(codes), !patterns.is_empty()) {
        (true, true) => {
            let detail = "specifying both OnExitCodes and OnPodConditions is not supported";
            faults.push(invalid_unshown(path, detail));
        }
        (false, false) => {
            let detail = "specifying one of OnExitCodes and OnPodConditions is required";
            faults.push(invalid_unshown(path, detail));
        }
        _ => {}
    }
}

/// One of the list; where nothing is given the refusal lists it too.
fn listed(faults: &mut Faults, path: &Path, value: &str, supported: &[&str]) {
    if value.is_empty() {
        let list: Vec<String> = supported.iter().map(|name| go_quote(name)).collect();
        faults.push(Error::required(path, format!("valid values: [{}]", list.join(" "))));
    } else if !supported.contains(&value) {
        faults.push(Error::not_supported(path, value, supported));
    }
}

fn exit_codes(faults: &mut Faults, path: &Path, codes: &Value, spec: &Value) {
    listed(faults, &path.child("operator"), text(&codes["operator"]), &OPERATORS);
    let pod = &spec["template"]["spec"];
    let container = text(&codes["containerName"]);
    let known = ["containers", "initContainers"]
        .iter()
        .flat_map(|list| items(&pod[*list]))
        .any(|c| text(&c["name"]) == container);
    if set(&codes["containerName"]) && !known {
        let detail = "must be one of the container or initContainer names in the pod template";
        faults.push(Error::invalid(&path.child("containerName"), container, detail));
    }
    let (values, at) = (items(&codes["values"]), path.child("values"));
    if values.is_empty() {
        faults.push(Error::invalid(&at, codes["values"].clone(), "at least one value is required"));
    } else if values.len() > EXIT_CODES_MAX {
        faults.push(Error::too_many(&at, values.len(), EXIT_CODES_MAX));
    }
    for (i, code) in values.iter().enumerate() {
        if number(code) == 0 && text(&codes["operator"]) == "In" {
            faults.push(Error::invalid(&at.index(i), 0, "must not be 0 for the In operator"));
        }
        if values[..i].contains(code) {
            faults.push(Error::duplicate(&at.index(i), number(code)));
        }
    }
    if values.windows(2).any(|pair| number(&pair[0]) > number(&pair[1])) {
        faults.push(Error::invalid(&at, codes["values"].clone(), "must be ordered"));
    }
}

pub fn success(faults: &mut Faults, path: &Path, spec: &Value) {
    let policy = &spec["successPolicy"];
    if !set(policy) {
        return;
    }
    if !indexed(spec) {
        faults.push(Error::invalid(path, policy.clone(), "requires indexed completion mode"));
        return;
    }
    let rules = items(&policy["rules"]);
    let path = path.child("rules");
    if rules.is_empty() {
        let detail = "at least one rules must be specified when the successPolicy is specified";
        faults.push(Error::required(&path, detail));
    }
    if rules.len() > RULES_MAX {
        faults.push(Error::too_many(&path, rules.len(), RULES_MAX));
    }
    for (i, rule) in rules.iter().enumerate() {
        success_rule(faults, &path.index(i), rule, number(&spec["completions"]));
    }
}

fn success_rule(faults: &mut Faults, path: &Path, rule: &Value, completions: i64) {
    let (count, indexes) = (&rule["succeededCount"], &rule["succeededIndexes"]);
    if !set(count) && !set(indexes) {
        let detail = "at least one of succeededCount or succeededIndexes must be specified";
        faults.push(Error::required(path, detail));
    }
    let mut listed = 0;
    if set(indexes) {
        let at = path.child("succeededIndexes");
        if text(indexes).len() > SUCCEEDED_INDEXES_BYTES_MAX {
            faults.push(Error::too_long(&at, SUCCEEDED_INDEXES_BYTES_MAX));
        }
        match count_indexes(text(indexes), completions) {
            Ok(total) => listed = total,
            Err(why) => {
                let detail = format!("error parsing succeededIndexes: {why}");
                faults.push(Error::invalid(&at, text(indexes), detail));
            }
        }
    }
    if !set(count) {
        return;
    }
    let (at, count) = (path.child("succeededCount"), number(count));
    check::not_negative(faults, &at, &rule["succeededCount"]);
    if count > completions {
        let detail =
            format!("must be less than or equal to {completions} (the number of specified completions)");
        faults.push(Error::invalid(&at, count, detail));
    }
    if set(indexes) && count > listed {
        let detail = format!(
            "must be less than or equal to {listed} (the number of indexes in the specified succeededIndexes field)"
        );
        faults.push(Error::invalid(&at, count, detail));
    }
}

/// How many indexes a list such as `1,3-5` has, or what is wrong with it.
pub fn count_indexes(list: &str, completions: i64) -> Result<i64, String> {
    let mut total = 0;
    let mut last: Option<i64> = None;
    for interval in list.split(',').filter(|_| !list.is_empty()) {
        let (first, end) = interval_of(interval, completions)?;
        if let Some(last) = last.filter(|last| *last >= first) {
            return Err(format!("non-increasing order, previous: {last}, current: {first}"));
        }
        total += end - first + 1;
        last = Some(end);
    }
    Ok(total)
}

/// The first index that both lists have; fragments that cannot be read are somebody else's to report.
pub fn first_overlap(completed: &str, failed: &str, completions: i64) -> Option<i64> {
    let read = |list: &str| -> Vec<(i64, i64)> {
        list.split(',').filter_map(|interval| interval_of(interval, completions).ok()).collect()
    };
    // In order, so that one walk over both lists finds it. A list out of order is refused elsewhere.
    let (mut completed, mut failed) = (read(completed), read(failed));
    completed.sort_unstable();
    failed.sort_unstable();
    let (mut completed, mut failed) = (completed.iter().peekable(), failed.iter().peekable());
    while let (Some((a, b)), Some((c, d))) = (completed.peek(), failed.peek()) {
        if a <= d && c <= b {
            return Some(*a.max(c));
        }
        if b < c {
            completed.next();
        } else {
            failed.next();
        }
    }
    None
}

fn interval_of(interval: &str, completions: i64) -> Result<(i64, i64), String> {
    let parts: Vec<&str> = interval.split('-').collect();
    if parts.len() > 2 {
        return Err(format!(
            "the fragment {} violates the requirement that an index interval can have at most two parts separated by '-'",
            go_quote(interval)
        ));
    }
    let index = |part: &str| {
        let index: i64 = part
            .parse()
            .map_err(|_| format!("cannot convert string to integer for index: {}", go_quote(part)))?;
        if index >= completions { Err(format!("too large index: {}", go_quote(part))) } else { Ok(index) }
    };
    let first = index(parts[0])?;
    let Some(part) = parts.get(1) else { return Ok((first, first)) };
    let last = index(part)?;
    if first >= last {
        return Err(format!("non-increasing order, previous: {first}, current: {last}"));
    }
    Ok((first, last))
}

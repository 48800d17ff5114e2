//! What the status of a job may become: a job that has ended stays so, counts that count upwards do,
//! and conditions do not contradict each other. A rule applies where the write changed what it is
//! about, so that older statuses that break it can still be written.

use std::collections::HashSet;

use amphipod_api::field::{Error, Path};
use serde_json::Value;

use crate::check::{self, Faults, invalid_unshown};
use crate::job::indexed;
use crate::job_policy::{count_indexes, first_overlap};
use crate::json::{int, is_empty, items, number, same, set, text, truthy};

struct Change<'a> {
    job: &'a Value,
    new: &'a Value,
    old: &'a Value,
}

impl Change<'_> {
    fn spec(&self) -> &Value {
        &self.job["spec"]
    }
    fn now(&self, condition: &str) -> bool {
        is_true(self.new, condition)
    }
    fn then(&self, condition: &str) -> bool {
        is_true(self.old, condition)
    }
    /// Whether any of the conditions came or went.
    fn turned(&self, conditions: &[&str]) -> bool {
        conditions.iter().any(|condition| self.now(condition) != self.then(condition))
    }
    fn changed(&self, key: &str) -> bool {
        !same(&self.new[key], &self.old[key])
    }
    fn finished(&self) -> bool {
        self.now("Complete") || self.now("Failed")
    }
    fn finish_changed(&self) -> bool {
        self.finished() != (self.then("Complete") || self.then("Failed"))
    }
}

fn is_true(status: &Value, condition: &str) -> bool {
    items(&status["conditions"]).iter().any(|c| text(&c["type"]) == condition && text(&c["status"]) == "True")
}

pub fn change(new: &Value, old: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("status");
    let change = Change { job: new, new: &new["status"], old: &old["status"] };
    for key in ["active", "succeeded", "failed", "ready", "terminating"] {
        check::not_negative(&mut faults, &path.child(key), &change.new[key]);
    }
    uncounted(&mut faults, &path.child("uncountedTerminatedPods"), change.new);
    times_and_conditions(&mut faults, &path, &change);
    finished(&mut faults, &path, &change);
    indexes(&mut faults, &path, &change);
    if change.finished()
        && (change.finish_changed() || change.changed("terminating"))
        && number(&change.new["terminating"]) > 0
    {
        let value = number(&change.new["terminating"]);
        let detail = "terminating>0 is invalid for finished job";
        faults.push(Error::invalid(&path.child("terminating"), value, detail));
    }
    let (ready, active) = (number(&change.new["ready"]), number(&change.new["active"]));
    if (change.changed("ready") || change.changed("active")) && set(&change.new["ready"]) && ready > active {
        let detail = "cannot set more ready pods than active";
        faults.push(Error::invalid(&path.child("ready"), ready, detail));
    }
    contradictions(&mut faults, &path.child("conditions"), &change);
    steps_back(&mut faults, &path, &change);
    faults
}

fn uncounted(faults: &mut Faults, path: &Path, status: &Value) {
    let mut seen = HashSet::new();
    for list in ["succeeded", "failed"] {
        for (i, uid) in items(&status["uncountedTerminatedPods"][list]).iter().enumerate() {
            let (at, uid) = (path.child(list).index(i), text(uid));
            if uid.is_empty() {
                faults.push(Error::invalid(&at, "", "must not be empty"));
            } else if !seen.insert(uid) {
                faults.push(Error::duplicate(&at, uid));
            }
        }
    }
}

fn times_and_conditions(faults: &mut Faults, path: &Path, change: &Change) {
    let conditions = path.child("conditions");
    let mut refuse = |broken: bool, detail: &str| {
        if broken {
            faults.push(invalid_unshown(&conditions, detail));
        }
    };
    let (complete, failed) = (change.now("Complete"), change.now("Failed"));
    refuse(
        change.turned(&["Complete", "Failed"]) && complete && failed,
        "cannot set Complete=True and Failed=true conditions",
    );
    refuse(
        change.turned(&["Complete", "FailureTarget"]) && complete && change.now("FailureTarget"),
        "cannot set Complete=True and FailureTarget=true conditions",
    );
    let (ended, started) = (&change.new["completionTime"], &change.new["startTime"]);
    let at = path.child("completionTime");
    if change.turned(&["Complete"]) || change.changed("completionTime") {
        if set(ended) && !complete {
            let detail = "cannot set completionTime when there is no Complete=True condition";
            faults.push(Error::invalid(&at, ended.clone(), detail));
        }
        if !set(ended) && complete {
            faults.push(Error::required(&at, "completionTime is required for Complete jobs"));
        }
    }
    // Times in one format and zone compare as texts.
    if (change.changed("startTime") || change.changed("completionTime"))
        && set(started)
        && set(ended)
        && text(ended) < text(started)
    {
        faults.push(Error::invalid(&at, ended.clone(), "must be equal to or after `startTime`"));
    }
    let mut refuse = |broken: bool, detail: &str| {
        if broken {
            faults.push(invalid_unshown(&conditions, detail));
        }
    };
    refuse(
        change.turned(&["Failed", "FailureTarget"]) && failed && !change.now("FailureTarget"),
        "cannot set Failed=True condition without the FailureTarget=true condition",
    );
    refuse(
        change.turned(&["Complete", "SuccessCriteriaMet"]) && complete && !change.now("SuccessCriteriaMet"),
        "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
    );
}

fn finished(faults: &mut Faults, path: &Path, change: &Change) {
    if !change.finished() {
        return;
    }
    let active = number(&change.new["active"]);
    if (change.finish_changed() || change.changed("active")) && active > 0 {
        let detail = "active>0 is invalid for finished job";
        faults.push(Error::invalid(&path.child("active"), active, detail));
    }
    // A suspended job with nothing to do ends without having started.
    let never_starts = truthy(&change.spec()["suspend"]) && int(&change.spec()["completions"]) == Some(0);
    if (change.finish_changed() || change.changed("startTime"))
        && !never_starts
        && !set(&change.new["startTime"])
    {
        let detail = "startTime is required for finished job";
        faults.push(Error::required(&path.child("startTime"), detail));
    }
    let pods = &change.new["uncountedTerminatedPods"];
    let some = ["failed", "succeeded"].iter().any(|list| !items(&pods[*list]).is_empty());
    if (change.finish_changed() || change.changed("uncountedTerminatedPods")) && some {
        let at = path.child("uncountedTerminatedPods");
        faults.push(Error::invalid(&at, pods.clone(), "must be empty for finished job"));
    }
}

fn indexes(faults: &mut Faults, path: &Path, change: &Change) {
    let (completed, failed) = (&change.new["completedIndexes"], &change.new["failedIndexes"]);
    let (completed_path, failed_path) = (path.child("completedIndexes"), path.child("failedIndexes"));
    let completions = int(&change.spec()["completions"]);
    let per_index = set(&change.spec()["backoffLimitPerIndex"]);
    let (completed_changed, failed_changed) =
        (change.changed("completedIndexes"), change.changed("failedIndexes"));
    if let Some(completions) = completions {
        if completed_changed && let Err(why) = count_indexes(text(completed), completions) {
            let detail = format!("error parsing completedIndexes: {why}");
            faults.push(Error::invalid(&completed_path, text(completed), detail));
        }
        if failed_changed
            && per_index
            && set(failed)
            && let Err(why) = count_indexes(text(failed), completions)
        {
            let detail = format!("error parsing failedIndexes: {why}");
            faults.push(Error::invalid(&failed_path, text(failed), detail));
        }
    }
    if completed_changed && !text(completed).is_empty() && !indexed(change.spec()) {
        let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
        faults.push(Error::invalid(&completed_path, text(completed), detail));
    }
    if failed_changed && !per_index && set(failed) {
        let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        faults.push(Error::invalid(&failed_path, text(failed), detail));
    }
    if (completed_changed || failed_changed)
        && let Some(completions) = completions
        && let Some(index) = first_overlap(text(completed), text(failed), completions)
    {
        let detail = format!("failedIndexes and completedIndexes overlap at index: {index}");
        faults.push(Error::invalid(&failed_path, text(failed), detail));
    }
}

fn contradictions(faults: &mut Faults, path: &Path, change: &Change) {
    let met = change.now("SuccessCriteriaMet");
    let rules = [
        (met && change.now("Failed"), "cannot set SuccessCriteriaMet=True and Failed=true conditions"),
        (
            met && change.now("FailureTarget"),
            "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions",
        ),
        (
            !is_empty(&change.spec()["successPolicy"]) && !met && change.now("Complete"),
            "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
        ),
    ];
    faults
        .extend(rules.iter().filter(|(broken, _)| *broken).map(|(_, detail)| invalid_unshown(path, *detail)));
}

fn steps_back(faults: &mut Faults, path: &Path, change: &Change) {
    let conditions = path.child("conditions");
    for condition in ["Failed", "Complete", "FailureTarget"] {
        if change.then(condition) && !change.now(condition) {
            let detail = format!("cannot disable the terminal {condition}=True condition");
            faults.push(invalid_unshown(&conditions, detail));
        }
    }
    // Jobs as wide as they are long can be scaled down, which uncounts what succeeded.
    let elastic = change.spec()["completions"] == change.spec()["parallelism"];
    for (key, applies) in [("failed", true), ("succeeded", !elastic)] {
        let (now, then) = (number(&change.new[key]), number(&change.old[key]));
        if applies && now < then {
            let detail = format!("cannot decrease the {key} counter");
            faults.push(Error::invalid(&path.child(key), now, detail));
        }
    }
    let (now, then) = (&change.new["completionTime"], &change.old["completionTime"]);
    if set(now) && set(then) && now != then {
        faults.push(Error::invalid(&path.child("completionTime"), now.clone(), check::IMMUTABLE));
    }
    let (now, then) = (&change.new["startTime"], &change.old["startTime"]);
    if set(then) && now != then && !truthy(&change.spec()["suspend"]) {
        let detail = "field is immutable for unsuspended job once set";
        faults.push(Error::invalid(&path.child("startTime"), now.clone(), detail));
    }
    let met = (change.now("SuccessCriteriaMet"), change.then("SuccessCriteriaMet"));
    if met == (false, true) {
        let detail = "cannot disable the SuccessCriteriaMet=True condition";
        faults.push(invalid_unshown(&conditions, detail));
    }
    if met == (true, false) && change.then("Complete") {
        let detail = "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
        faults.push(invalid_unshown(&conditions, detail));
    }
}

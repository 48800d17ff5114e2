//! Jobs, case by case.

use serde_json::{Value, json};

use super::*;
use crate::testing::{Resource, creates, merged, stored, updates, warnings};

const JOBS: Resource = ("batch", "v1", "jobs");

fn job() -> Value {
    json!({"metadata": {"name": "j", "namespace": "n", "uid": "u"}, "spec": {"template": {"spec":
        {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}})
}

fn spec(patch: Value) -> Value {
    json!({"spec": patch})
}

fn indexed_job() -> Value {
    merged(&job(), &spec(json!({"completionMode": "Indexed", "completions": 5, "parallelism": 5})))
}

#[test]
fn a_job_selects_by_its_uid() {
    let object = stored(JOBS, &job());
    assert_eq!(object["spec"]["selector"]["matchLabels"][UID_LABEL], "u");
    assert_eq!(object["metadata"]["labels"]["job-name"], "j");
    assert_eq!(object["spec"]["completions"], 1);
    assert_eq!(object["spec"]["podReplacementPolicy"], "TerminatingOrFailed");
}

#[test]
fn faults() {
    let template = "spec.template.spec.restartPolicy";
    creates(
        JOBS,
        &job(),
        &[
            (
                spec(
                    json!({"parallelism": -1, "backoffLimit": -1, "managedBy": "acme", "completionMode": "x", "podReplacementPolicy": "x"}),
                ),
                &[
                    "spec.parallelism: Invalid value: -1: must be greater than or equal to 0",
                    "spec.backoffLimit: Invalid value: -1: must be greater than or equal to 0",
                    "spec.managedBy: Invalid value: \"acme\": must be a domain-prefixed path (such as \"acme.io/foo\")",
                    "spec.completionMode: Unsupported value: \"x\": supported values: \"NonIndexed\", \"Indexed\"",
                    "spec.podReplacementPolicy: Unsupported value: \"x\": supported values: \"Failed\", \"TerminatingOrFailed\"",
                ],
            ),
            (
                spec(json!({"template": {"spec": {"restartPolicy": null}}})),
                &[&format!("{template}: Required value: valid values: \"OnFailure\", \"Never\"")],
            ),
            (
                spec(
                    json!({"podFailurePolicy": {"rules": []}, "podReplacementPolicy": "TerminatingOrFailed", "template": {"spec": {"restartPolicy": "OnFailure"}}}),
                ),
                &[
                    "spec.podReplacementPolicy: Unsupported value: \"TerminatingOrFailed\": supported values: \"Failed\"",
                    &format!(
                        "{template}: Invalid value: \"OnFailure\": only \"Never\" is supported when podFailurePolicy is specified"
                    ),
                ],
            ),
            (
                spec(
                    json!({"backoffLimitPerIndex": 1, "maxFailedIndexes": 1, "successPolicy": {"rules": []}}),
                ),
                &[
                    "spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode",
                    "spec.maxFailedIndexes: Invalid value: 1: requires indexed completion mode",
                    "spec.successPolicy: Invalid value: {\"rules\":[]}: requires indexed completion mode",
                ],
            ),
            (
                spec(
                    json!({"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"controller-uid": "x"}}}}),
                ),
                &[
                    "spec.template.metadata.labels[controller-uid]: Invalid value: {\"batch.kubernetes.io/controller-uid\":\"u\",\"batch.kubernetes.io/job-name\":\"j\",\"controller-uid\":\"x\",\"job-name\":\"j\"}: must be 'u'",
                    "spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\",\"batch.kubernetes.io/controller-uid\":\"u\"}}: `selector` not auto-generated",
                    "spec.template.metadata.labels: Invalid value: {\"batch.kubernetes.io/controller-uid\":\"u\",\"batch.kubernetes.io/job-name\":\"j\",\"controller-uid\":\"x\",\"job-name\":\"j\"}: `selector` does not match template `labels`",
                ],
            ),
            (
                spec(json!({"manualSelector": true})),
                &[
                    "spec.selector: Required value",
                    "spec.template.metadata.labels: Invalid value: null: `selector` does not match template `labels`",
                ],
            ),
        ],
    );
}

#[test]
fn indexed_jobs() {
    creates(
        JOBS,
        &indexed_job(),
        &[
            (json!({}), &[]),
            (
                spec(json!({"completions": 200_000, "parallelism": 100_001, "backoffLimitPerIndex": 1})),
                &[
                    "spec.parallelism: Invalid value: 100001: must be less than or equal to 100000 when completion mode is Indexed",
                    "spec.maxFailedIndexes: Required value: must be specified when completions is above 100000",
                    "spec.parallelism: Invalid value: 100001: must be less than or equal to 10000 when completions are above 100000 and used with backoff limit per index",
                ],
            ),
            (
                spec(json!({"maxFailedIndexes": 6})),
                &[
                    "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified",
                    "spec.maxFailedIndexes: Invalid value: 6: must be less than or equal to completions",
                ],
            ),
            (
                json!({"metadata": {"name": "j.k"}}),
                &[
                    "metadata.name: Invalid value: \"j.k\": will not able to create pod with invalid DNS label: j.k-4",
                ],
            ),
            (
                spec(
                    json!({"successPolicy": {"rules": [{}, {"succeededIndexes": "1,3-4", "succeededCount": 4}, {"succeededIndexes": "3,1-2-3"}, {"succeededIndexes": "5"}]}}),
                ),
                &[
                    "spec.successPolicy.rules[0]: Required value: at least one of succeededCount or succeededIndexes must be specified",
                    "spec.successPolicy.rules[1].succeededCount: Invalid value: 4: must be less than or equal to 3 (the number of indexes in the specified succeededIndexes field)",
                    "spec.successPolicy.rules[2].succeededIndexes: Invalid value: \"3,1-2-3\": error parsing succeededIndexes: the fragment \"1-2-3\" violates the requirement that an index interval can have at most two parts separated by '-'",
                    "spec.successPolicy.rules[3].succeededIndexes: Invalid value: \"5\": error parsing succeededIndexes: too large index: \"5\"",
                ],
            ),
        ],
    );
    let many = merged(&indexed_job(), &spec(json!({"completions": 100_001, "parallelism": 10_001})));
    assert_eq!(
        warnings(JOBS, &many),
        [
            "spec: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
        ]
    );
}

#[test]
fn failure_policies() {
    let rules = |rules: Value| spec(json!({"podFailurePolicy": {"rules": rules}}));
    let at = "spec.podFailurePolicy.rules[0]";
    creates(
        JOBS,
        &job(),
        &[
            (rules(json!([{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}])), &[]),
            (
                rules(
                    json!([{"onExitCodes": {"operator": "In", "containerName": "z", "values": [3, 0, 3]}, "onPodConditions": [{"type": "X", "status": "Y"}]}]),
                ),
                &[
                    &format!(
                        "{at}.action: Required value: valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]"
                    ),
                    &format!(
                        "{at}.onExitCodes.containerName: Invalid value: \"z\": must be one of the container or initContainer names in the pod template"
                    ),
                    &format!(
                        "{at}.onExitCodes.values[1]: Invalid value: 0: must not be 0 for the In operator"
                    ),
                    &format!("{at}.onExitCodes.values[2]: Duplicate value: 3"),
                    &format!("{at}.onExitCodes.values: Invalid value: [3,0,3]: must be ordered"),
                    &format!(
                        "{at}.onPodConditions[0].status: Unsupported value: \"Y\": supported values: \"False\", \"True\", \"Unknown\""
                    ),
                    &format!(
                        "{at}: Invalid value: specifying both OnExitCodes and OnPodConditions is not supported"
                    ),
                ],
            ),
            (
                rules(json!([{"action": "FailIndex"}])),
                &[
                    &format!(
                        "{at}.action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set"
                    ),
                    &format!(
                        "{at}: Invalid value: specifying one of OnExitCodes and OnPodConditions is required"
                    ),
                ],
            ),
        ],
    );
}

#[test]
fn what_may_change() {
    let old = stored(JOBS, &job());
    let nodes = spec(json!({"template": {"spec": {"nodeSelector": {"a": "b"}}}}));
    let changed = merged(&old, &nodes)["spec"]["template"].to_string();
    updates(
        JOBS,
        "",
        &old,
        &[
            (spec(json!({"parallelism": 2, "suspend": true, "ttlSecondsAfterFinished": 1})), &[]),
            (spec(json!({"completions": 2})), &["spec.completions: Invalid value: 2: field is immutable"]),
            (
                spec(json!({"completionMode": "Indexed"})),
                &["spec.completionMode: Invalid value: \"Indexed\": field is immutable"],
            ),
            (nodes.clone(), &[&format!("spec.template: Invalid value: {changed}: field is immutable")]),
        ],
    );
    let suspended = stored(JOBS, &merged(&job(), &spec(json!({"suspend": true}))));
    updates(JOBS, "", &suspended, &[(nodes, &[])]);
    let elastic = stored(JOBS, &indexed_job());
    updates(
        JOBS,
        "",
        &elastic,
        &[
            (spec(json!({"completions": 7, "parallelism": 7})), &[]),
            (
                spec(json!({"completions": 7})),
                &["spec.completions: Invalid value: 7: can only be modified in tandem with spec.parallelism"],
            ),
        ],
    );
}

const START: &str = "2026-01-01T00:00:01Z";
const END: &str = "2026-01-01T00:00:02Z";

fn status(patch: Value) -> Value {
    json!({"status": patch})
}

fn conditions(kinds: &[&str]) -> Vec<Value> {
    kinds.iter().map(|kind| json!({"type": kind, "status": "True"})).collect()
}

fn done() -> Value {
    json!({"startTime": START, "completionTime": END, "succeeded": 1, "conditions": conditions(&["SuccessCriteriaMet", "Complete"])})
}

#[test]
fn statuses() {
    let old = stored(JOBS, &job());
    updates(
        JOBS,
        "status",
        &old,
        &[
            (status(json!({"active": 1, "ready": 1, "startTime": START})), &[]),
            (status(done()), &[]),
            (
                status(
                    json!({"active": -1, "ready": 1, "uncountedTerminatedPods": {"failed": ["", "a", "a"]}}),
                ),
                &[
                    "status.active: Invalid value: -1: must be greater than or equal to 0",
                    "status.uncountedTerminatedPods.failed[0]: Invalid value: \"\": must not be empty",
                    "status.uncountedTerminatedPods.failed[2]: Duplicate value: \"a\"",
                    "status.ready: Invalid value: 1: cannot set more ready pods than active",
                ],
            ),
            (
                status(
                    json!({"active": 1, "terminating": 1, "completionTime": START, "conditions": conditions(&["Failed"])}),
                ),
                &[
                    &format!(
                        "status.completionTime: Invalid value: \"{START}\": cannot set completionTime when there is no Complete=True condition"
                    ),
                    "status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition",
                    "status.active: Invalid value: 1: active>0 is invalid for finished job",
                    "status.startTime: Required value: startTime is required for finished job",
                    "status.terminating: Invalid value: 1: terminating>0 is invalid for finished job",
                ],
            ),
            (
                status(
                    json!({"startTime": END, "completionTime": START, "conditions": conditions(&["Complete", "SuccessCriteriaMet", "Failed", "FailureTarget"])}),
                ),
                &[
                    "status.conditions: Invalid value: cannot set Complete=True and Failed=true conditions",
                    "status.conditions: Invalid value: cannot set Complete=True and FailureTarget=true conditions",
                    &format!(
                        "status.completionTime: Invalid value: \"{START}\": must be equal to or after `startTime`"
                    ),
                    "status.conditions: Invalid value: cannot set SuccessCriteriaMet=True and Failed=true conditions",
                    "status.conditions: Invalid value: cannot set SuccessCriteriaMet=True and FailureTarget=true conditions",
                ],
            ),
            (
                status(json!({"completedIndexes": "0", "failedIndexes": ""})),
                &[
                    "status.completedIndexes: Invalid value: \"0\": cannot set non-empty completedIndexes when non-indexed completion mode",
                    "status.failedIndexes: Invalid value: \"\": cannot set non-null failedIndexes when backoffLimitPerIndex is null",
                ],
            ),
        ],
    );
}

#[test]
fn ended_jobs_stay_ended() {
    let old = stored(JOBS, &job());
    let finished = merged(&old, &status(done()));
    updates(
        JOBS,
        "status",
        &finished,
        &[
            (json!({}), &[]),
            (
                status(json!({"conditions": [], "succeeded": 0, "completionTime": null})),
                &[
                    "status.conditions: Invalid value: cannot disable the terminal Complete=True condition",
                    "status.conditions: Invalid value: cannot disable the SuccessCriteriaMet=True condition",
                ],
            ),
            (
                status(json!({"startTime": "2026-01-01T00:00:00Z"})),
                &[
                    "status.startTime: Invalid value: \"2026-01-01T00:00:00Z\": field is immutable for unsuspended job once set",
                ],
            ),
        ],
    );
    let per_index = stored(JOBS, &merged(&indexed_job(), &spec(json!({"backoffLimitPerIndex": 1}))));
    updates(
        JOBS,
        "status",
        &per_index,
        &[(
            status(json!({"completedIndexes": "0,2-3", "failedIndexes": "3"})),
            &[
                "status.failedIndexes: Invalid value: \"3\": failedIndexes and completedIndexes overlap at index: 3",
            ],
        )],
    );
}

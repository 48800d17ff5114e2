//! What a terminating namespace's conditions say, from what the deletion found.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{NamespaceCondition, NamespaceStatus};

use crate::meta;

/// What one round of deletion found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Group versions that could not be asked: name and why.
    pub undiscovered: Vec<(String, String)>,
    /// Deletions that failed, by resource.
    pub failures: Vec<(String, String)>,
    /// Instances left, by resource.
    pub remaining: BTreeMap<String, usize>,
    /// Instances left that a finalizer holds, by finalizer.
    pub finalizers: BTreeMap<String, usize>,
    /// How long what is left may take by its own word.
    pub grace_seconds: i64,
}

impl Findings {
    pub fn is_empty(&self) -> bool {
        self.undiscovered.is_empty() && self.failures.is_empty() && self.remaining.is_empty()
    }
}

fn listing(counts: &BTreeMap<String, usize>, what: &str) -> String {
    let parts: Vec<String> =
        counts.iter().map(|(name, n)| format!("{name} {what} {n} resource instances")).collect();
    parts.join(", ")
}

/// Type, then reason and message when all is well, then both when not.
fn verdicts(findings: &Findings) -> Vec<(&'static str, bool, &'static str, String)> {
    let Findings { undiscovered, failures, remaining, finalizers, .. } = findings;
    let errors = |list: &[(String, String)]| {
        let mut texts: Vec<&str> = list.iter().map(|(_, why)| why.as_str()).collect();
        texts.dedup();
        if texts.len() == 1 { texts[0].to_owned() } else { format!("[{}]", texts.join(", ")) }
    };
    let pick = |bad: bool, kind, reasons: (&'static str, &'static str), good: &str, message: String| {
        (kind, bad, if bad { reasons.1 } else { reasons.0 }, if bad { message } else { good.to_owned() })
    };
    vec![
        pick(
            !undiscovered.is_empty(),
            "NamespaceDeletionDiscoveryFailure",
            ("ResourcesDiscovered", "DiscoveryFailed"),
            "All resources successfully discovered",
            {
                let groups: Vec<String> =
                    undiscovered.iter().map(|(name, why)| format!("{name}: {why}")).collect();
                format!(
                    "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {}",
                    undiscovered.len(),
                    groups.join(", ")
                )
            },
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            false,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed".to_owned(),
        ),
        pick(
            !failures.is_empty(),
            "NamespaceDeletionContentFailure",
            ("ContentDeleted", "ContentDeletionFailed"),
            "All content successfully deleted, may be waiting on finalization",
            format!(
                "Failed to delete all resource types, {} remaining: {}",
                failures.len(),
                errors(failures)
            ),
        ),
        pick(
            !remaining.is_empty(),
            "NamespaceContentRemaining",
            ("ContentRemoved", "SomeResourcesRemain"),
            "All content successfully removed",
            format!("Some resources are remaining: {}", listing(remaining, "has")),
        ),
        pick(
            !finalizers.is_empty(),
            "NamespaceFinalizersRemaining",
            ("ContentHasNoFinalizers", "SomeFinalizersRemain"),
            "All content-preserving finalizers finished",
            format!("Some content in the namespace has finalizers remaining: {}", listing(finalizers, "in")),
        ),
    ]
}

/// The status with its conditions brought up to date.
pub fn status(current: &NamespaceStatus, findings: &Findings, now: Timestamp) -> NamespaceStatus {
    let mut status = current.clone();
    let conditions = status.conditions.get_or_insert_default();
    for (kind, bad, reason, message) in verdicts(findings) {
        let wanted = NamespaceCondition {
            type_: kind.to_owned(),
            status: if bad { "True" } else { "False" }.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: meta::time(now),
        };
        match conditions.iter_mut().find(|c| c.type_ == kind) {
            None => conditions.push(wanted),
            Some(c)
                if (&c.status, &c.reason, &c.message)
                    == (&wanted.status, &wanted.reason, &wanted.message) => {}
            Some(condition) => *condition = wanted,
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    #[test]
    fn conditions_tell_what_is_left() {
        let findings = Findings {
            remaining: BTreeMap::from([("pods.".to_owned(), 2)]),
            finalizers: BTreeMap::from([("example.com/hold".to_owned(), 1)]),
            ..Findings::default()
        };
        let status = status(&NamespaceStatus::default(), &findings, at(5));
        let told = |kind: &str| {
            let c = status.conditions.iter().flatten().find(|c| c.type_ == kind).unwrap();
            (c.status.clone(), c.message.clone().unwrap())
        };
        assert_eq!(
            told("NamespaceContentRemaining"),
            ("True".into(), "Some resources are remaining: pods. has 2 resource instances".into())
        );
        assert_eq!(
            told("NamespaceFinalizersRemaining").1,
            "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
        );
        assert_eq!(told("NamespaceDeletionContentFailure").0, "False");
        assert_eq!(super::status(&status, &findings, at(9)), status);
    }
}

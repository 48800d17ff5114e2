//! Why no node would do, counted, in kube-scheduler's words.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::amounts::Resources;
use crate::framework::Refusal;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    pub nodes: usize,
    /// A reason that holds for all nodes; nobody looked at them one by one then.
    pub beforehand: Option<Cow<'static, str>>,
    pub reasons: BTreeMap<String, usize>,
    /// What was tried afterwards, and why it did not help.
    pub afterwards: Vec<String>,
}

impl Explanation {
    pub fn of(resources: &Resources, nodes: usize, refused: &[(Refusal, usize)]) -> Self {
        let mut explanation = Explanation { nodes, ..Explanation::default() };
        for (refusal, times) in refused {
            for reason in refusal.reasons(resources) {
                explanation.count(&reason, *times);
            }
        }
        explanation
    }
    pub fn count(&mut self, reason: &str, times: usize) {
        if times > 0 {
            *self.reasons.entry(reason.to_owned()).or_insert(0) += times;
        }
    }
    /// `1 Insufficient cpu, 2 node(s) were unschedulable`
    pub fn reasons_text(&self) -> String {
        let mut parts: Vec<String> =
            self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        parts.sort();
        self.beforehand.as_deref().map_or_else(|| parts.join(", "), str::to_owned)
    }
    /// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
    pub fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let mut text = format!("0/{} nodes are available:", self.nodes);
        let reasons = self.reasons_text();
        if !reasons.is_empty() {
            text += &format!(" {reasons}.");
        }
        if !self.afterwards.is_empty() {
            text += &format!(" {}", self.afterwards.join(", "));
        }
        text
    }
}

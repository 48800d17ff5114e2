//! Cordoned nodes take only pods that tolerate it.

use crate::framework::{Candidate, Question, Refusal, Verdict, View};
use crate::pod::{Effect, Taint};
use crate::symbols::Symbol;

pub const NAME: &str = "NodeUnschedulable";
const TAINT: Taint =
    Taint { key: Symbol::UNSCHEDULABLE_TAINT, value: Symbol::EMPTY, effect: Effect::NoSchedule };

pub fn filter(view: &View, candidate: &Candidate) -> Verdict {
    let tolerated = || view.pod.spec.tolerations.iter().any(|toleration| toleration.tolerates(&TAINT));
    if candidate.shape.unschedulable && !tolerated() {
        return Err(Refusal::for_good(NAME, "node(s) were unschedulable"));
    }
    Ok(())
}

pub fn hint(question: &Question) -> bool {
    question.node_becomes(|_, shape| !shape.unschedulable)
}

//! A pod that names its node runs there or nowhere.

use crate::framework::{Candidate, Question, Refusal, Verdict, View};

pub const NAME: &str = "NodeName";

pub fn filter(view: &View, candidate: &Candidate) -> Verdict {
    match view.pod.node {
        Some(name) if name != candidate.node.name => {
            Err(Refusal::for_good(NAME, "node(s) didn't match the requested node name"))
        }
        _ => Ok(()),
    }
}

pub fn hint(question: &Question) -> bool {
    question.node_becomes(|name, _| question.pod.node == Some(name))
}

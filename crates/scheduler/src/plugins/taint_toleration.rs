//! Taints keep pods away that do not tolerate them; soft ones only if there is a better place.

use super::normalise;
use crate::class::Signature;
use crate::framework::{Candidate, Choice, Question, Refusal, Verdict, View};
use crate::node::Shape;
use crate::pod::{Effect, Spec, Taint, Toleration};

pub const NAME: &str = "TaintToleration";

fn is_hard(taint: &Taint) -> bool {
    matches!(taint.effect, Effect::NoSchedule | Effect::NoExecute)
}

/// Whether the pod tolerates every taint that would keep it off the node.
pub fn tolerates_all(spec: &Spec, shape: &Shape) -> bool {
    untolerated(spec, shape).next().is_none()
}

/// The taints that keep the pod off the node.
pub fn untolerated<'a>(spec: &'a Spec, shape: &'a Shape) -> impl Iterator<Item = &'a Taint> {
    let tolerated = |taint: &Taint| spec.tolerations.iter().any(|t| t.tolerates(taint));
    shape.taints.iter().filter(move |taint| is_hard(taint) && !tolerated(taint))
}

pub fn filter(view: &View, candidate: &Candidate) -> Verdict {
    if tolerates_all(&view.pod.spec, candidate.shape) {
        Ok(())
    } else {
        Err(Refusal::for_good(NAME, "node(s) had untolerated taint(s)"))
    }
}

/// How many soft taints of the node the pod does not tolerate.
pub fn unwelcome(pod: &Signature, shape: &Shape) -> i64 {
    let soft = |t: &&Toleration| matches!(t.effect, None | Some(Effect::PreferNoSchedule));
    let tolerated = |taint: &Taint| pod.spec.tolerations.iter().filter(soft).any(|t| t.tolerates(taint));
    let taints = shape.taints.iter().filter(|taint| taint.effect == Effect::PreferNoSchedule);
    taints.filter(|taint| !tolerated(taint)).count() as i64
}

pub fn score(_: &View, choices: &[Choice]) -> Vec<i64> {
    normalise(choices.iter().map(|choice| choice.features.taints).collect(), true)
}

pub fn hint(question: &Question) -> bool {
    question.node_becomes(|_, shape| tolerates_all(&question.pod.template.spec, shape))
}

#[cfg(test)]
mod tests {
    use crate::pod::{Effect, Taint, Toleration, TolerationOperator};
    use crate::symbols::{Symbol, Symbols};

    #[test]
    fn toleration_rules() {
        let mut symbols = Symbols::default();
        let mut symbol = |text: &str| symbols.intern(text);
        let taint = Taint { key: symbol("k"), value: symbol("v"), effect: Effect::NoSchedule };
        use TolerationOperator::{Equal, Exists};
        let cases = [
            ("k", Equal, "v", Some(Effect::NoSchedule), true),
            ("k", Equal, "v", None, true),
            ("k", Exists, "", None, true),
            ("", Exists, "", None, true),
            ("k", Equal, "w", None, false),
            ("k", Equal, "v", Some(Effect::NoExecute), false),
            ("x", Exists, "", None, false),
            ("k", TolerationOperator::Never, "v", None, false),
        ];
        for (key, operator, value, effect, expected) in cases {
            let toleration = Toleration { key: symbol(key), operator, value: symbol(value), effect };
            assert_eq!(toleration.tolerates(&taint), expected, "{key} {operator:?} {value} {effect:?}");
        }
        assert_eq!(symbol(""), Symbol::EMPTY);
    }
}

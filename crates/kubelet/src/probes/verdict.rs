//! From single probe answers to a standing result: thresholds decide.

use crate::pod::ProbeKind;
use crate::pod::state::Outcome;

#[derive(Debug)]
pub struct Verdict {
    success_threshold: u32,
    failure_threshold: u32,
    standing: Outcome,
    last: Option<Outcome>,
    run: u32,
}

impl Verdict {
    /// Liveness is assumed, readiness must be earned, startup is open.
    pub fn new(kind: ProbeKind, success_threshold: u32, failure_threshold: u32) -> Self {
        let standing = match kind {
            ProbeKind::Liveness => Outcome::Success,
            ProbeKind::Readiness => Outcome::Failure,
            ProbeKind::Startup => Outcome::Unknown,
        };
        Verdict {
            success_threshold: success_threshold.max(1),
            failure_threshold: failure_threshold.max(1),
            standing,
            last: None,
            run: 0,
        }
    }

    /// Starts from a result known from before a restart of the kubelet.
    pub fn seeded(mut self, outcome: Option<Outcome>) -> Self {
        self.standing = outcome.unwrap_or(self.standing);
        self
    }

    pub fn standing(&self) -> Outcome {
        self.standing
    }

    /// True if the standing result changed with this answer.
    pub fn add(&mut self, answer: Outcome) -> bool {
        if self.last == Some(answer) {
            self.run = self.run.saturating_add(1);
        } else {
            (self.last, self.run) = (Some(answer), 1);
        }
        let enough = match answer {
            Outcome::Success => self.success_threshold,
            _ => self.failure_threshold,
        };
        if self.run < enough || self.standing == answer {
            return false;
        }
        self.standing = answer;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Outcome::{Failure, Success};

    type Case = (ProbeKind, u32, u32, &'static [Outcome], &'static [bool]);

    #[test]
    fn thresholds() {
        let cases: [Case; 4] = [
            (
                ProbeKind::Readiness,
                1,
                3,
                &[Success, Failure, Failure, Failure, Success],
                &[true, false, false, true, true],
            ),
            (ProbeKind::Readiness, 2, 1, &[Success, Success, Failure], &[false, true, true]),
            (
                ProbeKind::Liveness,
                1,
                2,
                &[Success, Failure, Success, Failure, Failure],
                &[false, false, false, false, true],
            ),
            (ProbeKind::Startup, 1, 3, &[Failure, Failure, Success], &[false, false, true]),
        ];
        for (kind, success, failure, answers, expected) in cases {
            let mut verdict = Verdict::new(kind, success, failure);
            let changes: Vec<bool> = answers.iter().map(|a| verdict.add(*a)).collect();
            assert_eq!(changes, expected, "{kind:?}");
        }
    }
}

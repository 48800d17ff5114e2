//! Where a pod is in the queue, for whoever asks about one.

use std::time::Instant;

use super::{FLUSH_AFTER, Place, Queue};
use crate::framework::PluginSet;

/// Pods before a ready one are counted up to here: decisions wait while somebody counts.
pub const MAX_COUNTED: usize = 10_000;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Whereabouts {
    pub stage: Stage,
    pub attempts: u32,
    pub last_attempt: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stage {
    /// `before`: how many are taken before it; `None` for more than [`MAX_COUNTED`].
    Ready {
        before: Option<usize>,
    },
    /// `early`: it is taken before that if no pod is ready.
    BackOff {
        until: Instant,
        early: bool,
    },
    /// Until one of the plugins that refused it hopes for what happens.
    Parked {
        until: Instant,
        by: PluginSet,
    },
    Gated,
    /// Given out, or held until what was decided is told.
    InProgress,
}

impl Queue {
    /// Of this very pod, not another of its name.
    pub fn whereabouts(&self, key: &str, uid: &str) -> Option<Whereabouts> {
        let entry = self.entries.get(key).filter(|entry| &*entry.pod.uid == uid)?;
        let stage = match entry.place {
            Place::Active => {
                let before = self.active.range(..entry.order()).take(MAX_COUNTED + 1).count();
                Stage::Ready { before: Some(before).filter(|before| *before <= MAX_COUNTED) }
            }
            Place::Backoff(until) => Stage::BackOff { until, early: entry.tries.went_well() },
            Place::Parked { since, by } => Stage::Parked { until: since + FLUSH_AFTER, by },
            Place::Gated => Stage::Gated,
            Place::Held(_) | Place::InFlight => Stage::InProgress,
        };
        let last_attempt = entry.first_attempt.map(|_| entry.last_attempt);
        Some(Whereabouts { stage, attempts: entry.attempts, last_attempt })
    }
}

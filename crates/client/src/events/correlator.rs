//! What becomes of an event: a new object, a higher count of one there is, or nothing.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio::time::Instant;

use super::queue::LANES;

/// Distinct events remembered for counting, of all lanes as many as client-go's 4,096; and how long.
const REMEMBERED: usize = 4096 / LANES;
const REMEMBER: Duration = Duration::from_secs(600);
/// Per object and source: this many at once, then one each refill (client-go's spam filter).
const BURST: f64 = 25.0;
const REFILL_SECONDS: f64 = 300.0;

struct Known {
    name: String,
    first: Option<Time>,
    count: i32,
    seen: Instant,
}

struct Budget {
    left: f64,
    at: Instant,
}

/// What was told of the objects of one lane.
#[derive(Default)]
pub struct Correlator {
    known: HashMap<String, Known>,
    budgets: HashMap<String, Budget>,
}

#[derive(Debug, PartialEq)]
pub enum Verdict {
    Create,
    Repeat,
    Drop,
}

impl Correlator {
    /// A repeat becomes the object it repeats, as that is to be.
    pub fn judge(&mut self, event: &mut Event, now: Instant) -> Verdict {
        if !self.spend(event, now) {
            return Verdict::Drop;
        }
        if self.known.len() >= REMEMBERED {
            self.known.retain(|_, known| now.duration_since(known.seen) < REMEMBER);
            if self.known.len() >= REMEMBERED {
                self.known.clear();
            }
        }
        let identity = identity(event);
        match self.known.get_mut(&identity) {
            Some(known) if now.duration_since(known.seen) < REMEMBER => {
                known.count += 1;
                known.seen = now;
                event.metadata.name = Some(known.name.clone());
                event.first_timestamp = known.first.clone();
                event.count = Some(known.count);
                Verdict::Repeat
            }
            _ => {
                let name = event.metadata.name.clone().unwrap_or_default();
                let first = event.first_timestamp.clone();
                self.known.insert(identity, Known { name, first, count: 1, seen: now });
                Verdict::Create
            }
        }
    }
    fn spend(&mut self, event: &Event, now: Instant) -> bool {
        if self.budgets.len() >= REMEMBERED {
            self.budgets.clear();
        }
        let key = format!("{:?}{:?}", event.source, subject(event));
        let budget = self.budgets.entry(key).or_insert(Budget { left: BURST, at: now });
        let refilled = now.duration_since(budget.at).as_secs_f64() / REFILL_SECONDS;
        budget.left = (budget.left + refilled).min(BURST);
        budget.at = now;
        if budget.left < 1.0 {
            return false;
        }
        budget.left -= 1.0;
        true
    }
}

/// Whom an event tells of.
pub fn subject(event: &Event) -> Option<&String> {
    event.involved_object.uid.as_ref().or(event.involved_object.name.as_ref())
}

fn identity(event: &Event) -> String {
    format!(
        "{:?}|{:?}|{:?}|{:?}|{:?}|{:?}",
        event.source,
        event.involved_object.uid,
        event.involved_object.name,
        event.involved_object.field_path,
        event.reason,
        event.message
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, message: &str) -> Event {
        let mut event = Event { message: Some(message.into()), count: Some(1), ..Event::default() };
        event.metadata.name = Some(name.into());
        event
    }

    #[test]
    fn repeats_are_counted_and_floods_held_back() {
        let mut correlator = Correlator::default();
        let now = Instant::now();
        let mut judge = |message, now| correlator.judge(&mut event("e", message), now);
        assert_eq!(judge("a", now), Verdict::Create);
        assert_eq!(judge("a", now), Verdict::Repeat);
        assert_eq!(judge("b", now), Verdict::Create);
        for _ in 3..25 {
            judge("c", now);
        }
        assert_eq!(judge("d", now), Verdict::Drop);
        assert_eq!(judge("d", now + Duration::from_secs(301)), Verdict::Create);
    }

    #[test]
    fn a_repeat_is_the_first_with_a_higher_count() {
        let mut correlator = Correlator::default();
        let now = Instant::now();
        let mut first = event("first", "a");
        first.first_timestamp = Some(Time(jiff::Timestamp::UNIX_EPOCH));
        correlator.judge(&mut first, now);
        for count in 2..4 {
            let mut again = event("again", "a");
            assert_eq!(correlator.judge(&mut again, now), Verdict::Repeat);
            assert_eq!(again, Event { count: Some(count), ..first.clone() });
        }
    }
}

//! What becomes of an event: a new object, a higher count of one there is, or nothing. Many events that
//! differ in their words only are told as one whose words are the newest (client-go's EventCorrelator).

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use k8s_openapi::api::core::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio::time::Instant;

use super::queue::LANES;

/// Events, and objects with events, remembered in all lanes: client-go's 4,096.
const REMEMBERED: usize = 4096 / LANES;
/// From so many different ones on, similar events are told as one, if the last of them is not older
/// than this.
const SIMILAR: usize = 10;
const SIMILAR_FOR: Duration = Duration::from_secs(600);
/// What stands before the newest words of similar events.
const COMBINED: &str = "(combined from similar events): ";
/// Per object and source: this many at once, then one each refill.
const BURST: f64 = 25.0;
const REFILL_SECONDS: f64 = 300.0;

/// The hash of what tells events apart. Two of thousands that clash would be told as one.
type Identity = u64;

/// What was used last, in two halves: the older one goes when the younger one is full.
struct Recent<T> {
    young: HashMap<Identity, T>,
    old: HashMap<Identity, T>,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Recent { young: HashMap::new(), old: HashMap::new() }
    }
}

impl<T> Recent<T> {
    fn entry(&mut self, identity: Identity, new: impl FnOnce() -> T) -> &mut T {
        if !self.young.contains_key(&identity) {
            let value = self.old.remove(&identity).unwrap_or_else(new);
            if self.young.len() >= REMEMBERED / 2 {
                self.old = std::mem::take(&mut self.young);
            }
            self.young.insert(identity, value);
        }
        self.young.get_mut(&identity).expect("it is there, or was inserted above")
    }
}

/// Events that differ in their words only.
struct Similar {
    words: HashSet<Identity>,
    last: Instant,
}

/// An event that was told, so often.
struct Known {
    name: String,
    first: Option<Time>,
    count: i32,
}

/// Events that may still be told of an object.
struct Budget {
    left: f64,
    at: Instant,
}

/// What was told of the objects of one lane.
#[derive(Default)]
pub struct Correlator {
    hasher: RandomState,
    similar: Recent<Similar>,
    known: Recent<Known>,
    budgets: Recent<Budget>,
}

#[derive(Debug, PartialEq)]
pub enum Verdict {
    Create,
    Repeat,
    Drop,
}

impl Correlator {
    /// A repeat becomes the object it repeats, as that is to be. What is dropped counts all the same.
    pub fn judge(&mut self, event: &mut Event, now: Instant) -> Verdict {
        let identity = self.combine(event, now);
        let verdict = self.count(event, identity);
        if self.spend(event, now) { verdict } else { Verdict::Drop }
    }

    /// What the event counts as; its words say so where it stands for similar ones.
    fn combine(&mut self, event: &mut Event, now: Instant) -> Identity {
        let about = (about(event), &event.type_, &event.reason);
        let reporter = (&event.reporting_component, &event.reporting_instance);
        let similar = self.hasher.hash_one((about, reporter));
        let words = self.hasher.hash_one(&event.message);
        let same = self.hasher.hash_one((about, &event.involved_object.field_path, words));
        let record = self.similar.entry(similar, || Similar { words: HashSet::new(), last: now });
        if now.duration_since(record.last) > SIMILAR_FOR {
            record.words.clear();
        }
        record.last = now;
        record.words.insert(words);
        if record.words.len() < SIMILAR {
            return same;
        }
        // It need not grow, only stay too large.
        record.words.remove(&words);
        event.message = Some(format!("{COMBINED}{}", event.message.as_deref().unwrap_or_default()));
        similar
    }

    fn count(&mut self, event: &mut Event, identity: Identity) -> Verdict {
        let known = self.known.entry(identity, || Known {
            name: event.metadata.name.clone().unwrap_or_default(),
            first: event.first_timestamp.clone(),
            count: 0,
        });
        known.count = known.count.saturating_add(1);
        if known.count == 1 {
            return Verdict::Create;
        }
        event.metadata.name = Some(known.name.clone());
        event.first_timestamp.clone_from(&known.first);
        event.count = Some(known.count);
        Verdict::Repeat
    }

    fn spend(&mut self, event: &Event, now: Instant) -> bool {
        let object = self.hasher.hash_one(about(event));
        let budget = self.budgets.entry(object, || Budget { left: BURST, at: now });
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

type Text<'a> = &'a Option<String>;

/// The object, and who tells of it.
fn about(event: &Event) -> ([Text<'_>; 5], Option<[Text<'_>; 2]>) {
    let object = &event.involved_object;
    (
        [&object.kind, &object.namespace, &object.name, &object.uid, &object.api_version],
        event.source.as_ref().map(|source| [&source.component, &source.host]),
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
        let mut judge = |message, now| {
            let mut event = event("e", message);
            (correlator.judge(&mut event, now), event.count)
        };
        assert_eq!(judge("a", now), (Verdict::Create, Some(1)));
        assert_eq!(judge("b", now), (Verdict::Create, Some(1)));
        for count in 2..=24 {
            assert_eq!(judge("a", now), (Verdict::Repeat, Some(count)));
        }
        assert_eq!(judge("a", now).0, Verdict::Drop);
        assert_eq!(judge("c", now).0, Verdict::Drop);
        let later = now + Duration::from_secs(301);
        assert_eq!(judge("a", later), (Verdict::Repeat, Some(26)), "what was dropped is counted");
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

    #[test]
    fn similar_events_are_told_as_one_with_the_newest_words() {
        let mut correlator = Correlator::default();
        let now = Instant::now();
        let mut judge = |message: &str, now| {
            let mut event = event(message, message);
            let verdict = correlator.judge(&mut event, now);
            (verdict, event.metadata.name.unwrap(), event.message.unwrap(), event.count.unwrap())
        };
        for number in 1..10 {
            let words = number.to_string();
            assert_eq!(judge(&words, now), (Verdict::Create, words.clone(), words, 1));
        }
        let combined = |words: &str| format!("(combined from similar events): {words}");
        assert_eq!(judge("x", now), (Verdict::Create, "x".into(), combined("x"), 1));
        assert_eq!(judge("y", now), (Verdict::Repeat, "x".into(), combined("y"), 2));
        assert_eq!(judge("1", now), (Verdict::Repeat, "1".into(), "1".into(), 2), "one of the nine");
        let later = now + Duration::from_secs(601);
        assert_eq!(judge("z", later), (Verdict::Create, "z".into(), "z".into(), 1));
    }

    #[test]
    fn events_of_other_objects_types_and_reporters_are_others() {
        let mut correlator = Correlator::default();
        let now = Instant::now();
        let changes: [fn(&mut Event); 7] = [
            |_| {},
            |event| event.type_ = Some("Warning".into()),
            |event| event.reason = Some("Other".into()),
            |event| event.involved_object.kind = Some("Node".into()),
            |event| event.involved_object.namespace = Some("other".into()),
            |event| event.involved_object.field_path = Some("spec.containers{c}".into()),
            |event| event.source = Some(Default::default()),
        ];
        for change in changes {
            for verdict in [Verdict::Create, Verdict::Repeat] {
                let mut event = event("e", "a");
                change(&mut event);
                assert_eq!(correlator.judge(&mut event, now), verdict, "{event:?}");
            }
        }
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_was_used_last_stays() {
        let mut recent = Recent::default();
        for identity in 0..10_000 {
            *recent.entry(identity, || identity) += 1;
            assert_eq!(*recent.entry(0, || 0), 1, "used all the time");
        }
        assert!(recent.young.len() + recent.old.len() <= REMEMBERED);
        // Those of the old half are not lost with it when they are asked for.
        while recent.young.len() < REMEMBERED / 2 {
            let next = recent.young.len() as u64 + 20_000;
            recent.entry(next, || next);
        }
        let old = *recent.old.keys().next().expect("an old one");
        assert_eq!(*recent.entry(old, || 0), old + 1);
        assert_eq!(*recent.entry(1, || 1), 1, "forgotten");
    }
}

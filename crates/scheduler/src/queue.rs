//! Pods waiting for a node: ready ones by priority, then by age; refused ones wait until something
//! in the cluster changes, and then for their back-off.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LAST_BACKOFF: Duration = Duration::from_secs(10);
/// A refused pod is tried again after this long even if nothing seems to have changed.
const FLUSH_AFTER: Duration = Duration::from_secs(300);

type Order = (Reverse<i32>, u64);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Ready(Order),
    Backoff(Instant),
    Unschedulable { since: Instant },
    InFlight,
}

struct Entry {
    place: Place,
    order: Order,
    attempts: u32,
    last_attempt: Instant,
    /// The cluster changed while the pod was being decided: do not park it.
    moved_meanwhile: bool,
}

#[derive(Default)]
pub struct Queue {
    entries: HashMap<String, Entry>,
    ready: BTreeMap<Order, String>,
    next_number: u64,
}

fn backoff(attempts: u32) -> Duration {
    FIRST_BACKOFF.saturating_mul(1 << attempts.saturating_sub(1).min(10)).min(LAST_BACKOFF)
}

impl Queue {
    /// Adds a pod, or, if known and waiting, lets it try again (it was changed).
    pub fn add(&mut self, key: &str, priority: i32, now: Instant) {
        if let Some(entry) = self.entries.get_mut(key) {
            match entry.place {
                Place::InFlight => entry.moved_meanwhile = true,
                Place::Unschedulable { .. } => self.release(key, now),
                Place::Ready(_) | Place::Backoff(_) => {}
            }
            return;
        }
        let order = (Reverse(priority), self.next_number);
        self.next_number += 1;
        let entry = Entry {
            place: Place::Ready(order),
            order,
            attempts: 0,
            last_attempt: now,
            moved_meanwhile: false,
        };
        self.entries.insert(key.to_owned(), entry);
        self.ready.insert(order, key.to_owned());
    }
    pub fn remove(&mut self, key: &str) {
        if let Some(entry) = self.entries.remove(key)
            && let Place::Ready(order) = entry.place
        {
            self.ready.remove(&order);
        }
    }
    pub fn pop(&mut self, now: Instant) -> Option<String> {
        self.wake_due(now);
        let (_, key) = self.ready.pop_first()?;
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.place = Place::InFlight;
            entry.attempts += 1;
            entry.last_attempt = now;
            entry.moved_meanwhile = false;
        }
        Some(key)
    }
    /// The pod in flight found no node (or its binding failed): park it.
    pub fn refused(&mut self, key: &str, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.place = Place::Unschedulable { since: now };
        if entry.moved_meanwhile {
            self.release(key, now);
        }
    }
    /// Something changed that may help: parked pods go on, after their back-off.
    pub fn cluster_changed(&mut self, now: Instant) {
        let mut parked = Vec::new();
        for (key, entry) in &mut self.entries {
            match entry.place {
                Place::Unschedulable { .. } => parked.push(key.clone()),
                Place::InFlight => entry.moved_meanwhile = true,
                _ => {}
            }
        }
        for key in parked {
            self.release(&key, now);
        }
    }
    /// When `pop` could next give something it does not give now.
    pub fn next_wake(&self) -> Option<Instant> {
        let due = |entry: &Entry| match entry.place {
            Place::Backoff(until) => Some(until),
            Place::Unschedulable { since } => Some(since + FLUSH_AFTER),
            _ => None,
        };
        self.entries.values().filter_map(due).min()
    }
    pub fn len(&self) -> usize {
        self.entries.len()
    }
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn release(&mut self, key: &str, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let until = entry.last_attempt + backoff(entry.attempts);
        if until > now {
            entry.place = Place::Backoff(until);
        } else {
            entry.place = Place::Ready(entry.order);
            self.ready.insert(entry.order, key.to_owned());
        }
    }
    fn wake_due(&mut self, now: Instant) {
        let due = |entry: &Entry| match entry.place {
            Place::Backoff(until) => until <= now,
            Place::Unschedulable { since } => since + FLUSH_AFTER <= now,
            _ => false,
        };
        let keys: Vec<String> = self.entries.iter().filter(|(_, e)| due(e)).map(|(k, _)| k.clone()).collect();
        for key in keys {
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.place = Place::Ready(entry.order);
                self.ready.insert(entry.order, key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priority_then_age() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for (key, priority) in [("a", 0), ("b", 5), ("c", 0)] {
            queue.add(key, priority, now);
        }
        assert_eq!([queue.pop(now), queue.pop(now), queue.pop(now)].map(Option::unwrap), ["b", "a", "c"]);
        assert_eq!(queue.pop(now), None);
    }

    #[test]
    fn a_refused_pod_waits_for_a_change_and_its_back_off() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add("a", 0, now);
        let mut at = now;
        for wait in [1, 2, 4, 8, 10, 10] {
            assert_eq!(queue.pop(at).as_deref(), Some("a"));
            queue.refused("a", at);
            assert_eq!(queue.pop(at + Duration::from_secs(60)), None, "nothing has changed");
            queue.cluster_changed(at);
            assert_eq!(queue.next_wake(), Some(at + Duration::from_secs(wait)));
            at += Duration::from_secs(wait);
        }
    }

    #[test]
    fn a_change_during_the_decision_is_not_missed_and_parked_pods_are_flushed() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add("a", 0, now);
        assert_eq!(queue.pop(now).as_deref(), Some("a"));
        queue.cluster_changed(now);
        queue.refused("a", now);
        assert_eq!(queue.pop(now + Duration::from_secs(1)).as_deref(), Some("a"));
        let later = now + Duration::from_secs(1);
        queue.refused("a", later);
        assert_eq!(queue.pop(later + FLUSH_AFTER).as_deref(), Some("a"));
        queue.remove("a");
        assert!(queue.is_empty());
    }
}

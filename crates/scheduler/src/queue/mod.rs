//! Pods waiting for a node: ready ones by priority, then by age; those that were refused, until
//! something happens that may help them, and then for their back-off or until nothing is ready; those
//! that are gated, until their gates are gone. Time is a value, so that tests need not wait.

mod backoff;
mod incoming;
mod parked;
mod whereabouts;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::framework::{Event, PluginSet, Profile, UNSCHEDULABLE_POD, pod_update};
use crate::plugins::{dynamic_resources, scheduling_gates};
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;
pub use backoff::Backoff;
use backoff::Early;
pub use incoming::Incoming;
use incoming::{ACTIVATED, ADDED, ATTEMPT_FAILED, BACK_OFF_OVER, TAKEN_EARLY, TIMED_OUT};
use parked::Parked;
pub use whereabouts::{MAX_COUNTED, Stage, Whereabouts};

/// A refused pod is tried again after this long even if nothing seems to have happened.
const FLUSH_AFTER: Duration = Duration::from_secs(300);

/// By priority, then by when the pod came.
type Order = (Reverse<i32>, u64);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Active,
    Backoff(Instant),
    Parked {
        since: Instant,
        by: PluginSet,
    },
    Gated,
    /// Free to go on as soon as it is let go, by this event.
    Held(&'static str),
    /// Given out and not yet heard of again.
    InFlight,
}

struct Entry {
    pod: Arc<PodInfo>,
    place: Place,
    number: u64,
    attempts: u32,
    last_attempt: Instant,
    first_attempt: Option<Instant>,
    tries: Tries,
    /// What was decided is still being carried out: what happens meanwhile is only remembered.
    held: bool,
    helped: bool,
}

/// What came of a pod's attempts, for its back-off.
#[derive(Clone, Copy, Debug)]
struct Tries {
    /// How many found no node.
    refusals: u32,
    /// How many went wrong since the last that did not.
    errors: u32,
    /// What the last one decided could not be carried out.
    in_vain: bool,
    ended: Instant,
}

impl Tries {
    fn went_well(self) -> bool {
        self.errors == 0 && !self.in_vain
    }
}

impl Entry {
    fn order(&self) -> Order {
        (Reverse(self.pod.priority()), self.number)
    }
}

#[derive(Default)]
pub struct Queue {
    entries: HashMap<Arc<str>, Entry>,
    active: BTreeMap<Order, Arc<str>>,
    /// Pods in back-off by when it ends, parked ones by when they are flushed.
    due: BTreeSet<(Instant, Arc<str>)>,
    early: Early,
    parked: Parked,
    next_number: u64,
    backoff: Backoff,
    incoming: Incoming,
}

/// One try at a pod, counted from one, and when the first began.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    pub number: u32,
    pub first: Instant,
    pub started: Instant,
}

/// How many pods are where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub active: usize,
    pub backoff: usize,
    pub unschedulable: usize,
    pub gated: usize,
}

impl Queue {
    pub fn new(backoff: Backoff) -> Self {
        Queue { backoff, ..Queue::default() }
    }

    /// Adds a pod, or takes over what has changed of it: a refused pod may try again then.
    pub fn add(&mut self, pod: Arc<PodInfo>, now: Instant) {
        let key = pod.key.clone();
        let gated = !scheduling_gates::admits(&pod.template.spec) || !dynamic_resources::admits(&pod);
        // Another pod of the name owes nothing to what became of the last one.
        if self.get(&key).is_some_and(|known| known.uid != pod.uid) {
            self.remove(&key);
        }
        let Some(entry) = self.entries.get(&key) else {
            let number = self.next_number;
            self.next_number += 1;
            let entry = Entry {
                pod,
                place: Place::Gated,
                number,
                attempts: 0,
                last_attempt: now,
                first_attempt: None,
                tries: Tries { refusals: 0, errors: 0, in_vain: false, ended: now },
                held: false,
                helped: false,
            };
            self.entries.insert(key.clone(), entry);
            return self.enter(&key, if gated { Place::Gated } else { Place::Active }, ADDED);
        };
        // Claims that were made for the pod are told by its status.
        let changed = entry.pod.template.id != pod.template.id || entry.pod.devices != pod.devices;
        let (place, event) = (entry.place, pod_update(UNSCHEDULABLE_POD, &entry.pod, &pod));
        self.take(&key);
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.helped |= changed;
            entry.pod = pod;
        }
        match place {
            Place::InFlight => {}
            Place::Gated if gated => {}
            _ if gated => self.enter(&key, Place::Gated, event),
            Place::Gated => self.enter(&key, Place::Active, event),
            Place::Parked { .. } if changed => self.back_off(&key, event, now),
            same => self.put(&key, same),
        }
    }

    pub fn remove(&mut self, key: &str) {
        self.take(key);
        self.entries.remove(key);
    }
    /// Removes this very pod, not another of its name.
    pub fn remove_instance(&mut self, pod: &PodInfo) {
        if self.get(&pod.key).is_some_and(|known| known.uid == pod.uid) {
            self.remove(&pod.key);
        }
    }
    pub fn get(&self, key: &str) -> Option<&Arc<PodInfo>> {
        self.entries.get(key).map(|entry| &entry.pod)
    }

    /// The next pod to decide about; it is in flight until one of the following calls. Between that
    /// and [`Queue::refused`] nothing may happen in the cluster, or [`Queue::missed`] must be told. When
    /// none is ready, pods in back-off need not wait, but for those something went wrong with: the
    /// back-off is to keep them out of the way of others, and there are none.
    pub fn pop(&mut self, now: Instant) -> Option<Arc<PodInfo>> {
        self.wake_due(now);
        let ready = self.active.first_key_value().map(|(_, key)| key);
        if ready.is_none() && self.early.first().is_some() {
            self.incoming.count("active", TAKEN_EARLY);
        }
        let key = ready.or_else(|| self.early.first())?.clone();
        self.put(&key, Place::InFlight);
        let entry = self.entries.get_mut(&key)?;
        entry.attempts += 1;
        entry.last_attempt = now;
        entry.first_attempt.get_or_insert(now);
        entry.helped = false;
        Some(entry.pod.clone())
    }
    /// The attempt this very pod is in, not another of its name, if it is in flight.
    pub fn in_flight(&self, pod: &PodInfo) -> Option<Attempt> {
        let entry = self.entries.get(&pod.key)?;
        let it_is = entry.place == Place::InFlight && entry.pod.uid == pod.uid;
        self.attempt(&pod.key).filter(|_| it_is)
    }
    /// The attempt the pod in flight is in.
    pub fn attempt(&self, key: &str) -> Option<Attempt> {
        let entry = self.entries.get(key)?;
        let started = entry.last_attempt;
        Some(Attempt { number: entry.attempts, first: entry.first_attempt.unwrap_or(started), started })
    }
    /// Something has happened since the pod in flight was given out that may be what helps it.
    pub fn missed(&mut self, key: &str) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.helped = true;
        }
    }
    /// The pod in flight found no node. These plugins refused it nodes; what they hope for brings it
    /// back.
    pub fn refused(&mut self, key: &str, by: PluginSet, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let refusals = entry.tries.refusals.saturating_add(1);
        entry.tries = Tries { refusals, errors: 0, in_vain: false, ended: now };
        if entry.helped {
            return self.back_off(key, ATTEMPT_FAILED, now);
        }
        self.enter(key, Place::Parked { since: now, by }, ATTEMPT_FAILED);
    }
    /// Something went wrong with the pod in flight that is not its own fault.
    pub fn failed(&mut self, key: &str, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.tries.errors = entry.tries.errors.saturating_add(1);
        entry.tries.ended = now;
        self.back_off(key, ATTEMPT_FAILED, now);
    }
    /// Keeps a pod where it is until [`Queue::let_go`]: what was decided about it is being told, and
    /// victims are being sent away. Deciding about it again meanwhile would overtake that.
    pub fn hold(&mut self, key: &str) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.held = true;
        }
    }
    /// What was decided has been carried out (`failed`: or could not be, so that nothing will come of
    /// it by itself).
    pub fn let_go(&mut self, key: &str, failed: bool, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.held = false;
        entry.tries.in_vain = failed;
        match entry.place {
            Place::Held(event) => self.back_off(key, event, now),
            Place::Parked { .. } if failed => self.back_off(key, ACTIVATED, now),
            _ => {}
        }
    }

    /// Something happened in the cluster: parked pods that it may help go on, after their back-off.
    pub fn happened(&mut self, snapshot: &Snapshot, profiles: &[Profile], event: Event, now: Instant) {
        for key in self.parked.helped(snapshot, profiles, event) {
            self.back_off(&key, event.label(), now);
        }
    }

    /// Takes over how often and when the pods that both know were tried, and gives no pod out that the
    /// old queue would not. What happened while this one was filled may have helped any of those
    /// that were refused, so they wait for their back-off only.
    pub fn inherit(&mut self, old: Queue) {
        self.incoming = old.incoming;
        for (key, old) in old.entries {
            let entry = self.entries.get_mut(&key).filter(|entry| entry.pod.uid == old.pod.uid);
            let Some(entry) = entry else { continue };
            (entry.attempts, entry.held) = (old.attempts, old.held);
            (entry.last_attempt, entry.first_attempt) = (old.last_attempt, old.first_attempt);
            entry.tries = old.tries;
            let waited = matches!(old.place, Place::Backoff(_) | Place::Parked { .. } | Place::Held(_));
            if waited && entry.place == Place::Active {
                let until = self.backoff.ends(old.tries);
                let place = if old.held { Place::Held(ATTEMPT_FAILED) } else { Place::Backoff(until) };
                self.put(&key, place);
            }
        }
    }

    /// When `pop` could next give something it does not give now.
    pub fn next_wake(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }
    pub fn counts(&self) -> Counts {
        let mut counts = Counts { active: self.active.len(), ..Counts::default() };
        for entry in self.entries.values() {
            match entry.place {
                Place::Active | Place::InFlight => {}
                Place::Backoff(_) => counts.backoff += 1,
                Place::Parked { .. } | Place::Held(_) => counts.unschedulable += 1,
                Place::Gated => counts.gated += 1,
            }
        }
        counts
    }
    /// Which pods have come where and why, since this was last asked.
    pub fn take_incoming(&mut self) -> Incoming {
        std::mem::take(&mut self.incoming)
    }
    /// Refused pods, and by whom.
    pub fn parked(&self) -> impl Iterator<Item = (&Arc<PodInfo>, PluginSet)> {
        self.entries.values().filter_map(|entry| match entry.place {
            Place::Parked { by, .. } => Some((&entry.pod, by)),
            _ => None,
        })
    }
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes a pod out of whatever holds it.
    fn take(&mut self, key: &str) {
        let Some(entry) = self.entries.get(key) else { return };
        match entry.place {
            Place::Active => {
                self.active.remove(&entry.order());
            }
            Place::Backoff(until) => {
                self.due.remove(&(until, entry.pod.key.clone()));
                self.early.remove(until, entry.order());
            }
            Place::Parked { since, by } => {
                self.due.remove(&(since + FLUSH_AFTER, entry.pod.key.clone()));
                self.parked.remove(&entry.pod, by);
            }
            Place::Gated | Place::Held(_) | Place::InFlight => {}
        }
    }
    /// Lets a pod come to a place for a reason; one that is held goes on no further than to be let go.
    fn enter(&mut self, key: &str, place: Place, event: &'static str) {
        let held = self.entries.get(key).is_some_and(|entry| entry.held);
        let place = match place {
            Place::Active | Place::Backoff(_) if held => Place::Held(event),
            place => place,
        };
        match place {
            Place::Active => self.incoming.count("active", event),
            Place::Backoff(_) => self.incoming.count("backoff", event),
            Place::Parked { .. } | Place::Gated => self.incoming.count("unschedulable", event),
            Place::Held(_) | Place::InFlight => {} // counted when it is let go; counted nowhere
        }
        self.put(key, place);
    }
    fn put(&mut self, key: &str, place: Place) {
        self.take(key);
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.place = place;
        let key = entry.pod.key.clone();
        match place {
            Place::Active => {
                self.active.insert(entry.order(), key);
            }
            Place::Backoff(until) => {
                if entry.tries.went_well() {
                    self.early.insert(until, entry.order(), key.clone());
                }
                self.due.insert((until, key));
            }
            Place::Parked { since, by } => {
                self.due.insert((since + FLUSH_AFTER, key));
                self.parked.insert(&entry.pod, by);
            }
            Place::Gated | Place::Held(_) | Place::InFlight => {}
        }
    }
    /// Lets a pod go on, after its back-off.
    fn back_off(&mut self, key: &str, event: &'static str, now: Instant) {
        let Some(entry) = self.entries.get(key) else { return };
        let until = self.backoff.ends(entry.tries);
        self.enter(key, if until > now { Place::Backoff(until) } else { Place::Active }, event);
    }
    fn wake_due(&mut self, now: Instant) {
        while let Some((_, key)) = self.due.first().filter(|(at, _)| *at <= now).cloned() {
            let parked =
                self.entries.get(&key).is_some_and(|entry| matches!(entry.place, Place::Parked { .. }));
            self.enter(&key, Place::Active, if parked { TIMED_OUT } else { BACK_OFF_OVER });
        }
    }
}

#[cfg(test)]
mod tests;

//! A keyed work queue: a key waits at most once, is never worked on twice at a time, and can be
//! put back after a delay or with exponential back-off. Its size is bounded by the number of keys.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// client-go's default per-item limiter.
const BASE_DELAY: Duration = Duration::from_millis(5);
const MAX_DELAY: Duration = Duration::from_secs(1000);

#[derive(Default)]
struct State {
    ready: VecDeque<String>,
    waiting: HashSet<String>,
    running: HashSet<String>,
    delayed: BTreeMap<(Instant, String), ()>,
    delayed_at: HashMap<String, Instant>,
    failures: HashMap<String, u32>,
    closed: bool,
}

#[derive(Clone, Default)]
pub struct WorkQueue {
    state: Arc<Mutex<State>>,
    notify: Arc<Notify>,
}

impl State {
    fn push(&mut self, key: &str) -> bool {
        if self.closed || !self.waiting.insert(key.to_owned()) {
            return false;
        }
        if self.running.contains(key) {
            return false; // done() makes it ready
        }
        self.ready.push_back(key.to_owned());
        true
    }
    fn push_due(&mut self, now: Instant) {
        while let Some(entry) = self.delayed.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let ((_, key), ()) = entry.remove_entry();
            self.delayed_at.remove(&key);
            self.push(&key);
        }
    }
}

impl WorkQueue {
    pub fn new() -> Self {
        Self::default()
    }
    pub fn add(&self, key: &str) {
        if self.state.lock().push(key) {
            self.notify.notify_one();
        }
    }
    /// Adds the key once the delay has passed; of several delays for one key the earliest counts.
    pub fn add_after(&self, key: &str, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let due = Instant::now() + delay;
        let mut state = self.state.lock();
        if let Some(earlier) = state.delayed_at.get(key).copied() {
            if earlier <= due {
                return;
            }
            state.delayed.remove(&(earlier, key.to_owned()));
        }
        state.delayed_at.insert(key.to_owned(), due);
        state.delayed.insert((due, key.to_owned()), ());
        drop(state);
        self.notify.notify_one();
    }
    /// Puts a failed key back: 5 ms, 10 ms, 20 ms ... until `forget`.
    pub fn add_rate_limited(&self, key: &str) {
        let delay = {
            let mut state = self.state.lock();
            let failures = state.failures.entry(key.to_owned()).or_insert(0);
            let delay = BASE_DELAY.saturating_mul(1u32 << (*failures).min(20)).min(MAX_DELAY);
            *failures = failures.saturating_add(1);
            delay
        };
        self.add_after(key, delay);
    }
    pub fn forget(&self, key: &str) {
        self.state.lock().failures.remove(key);
    }
    pub fn failures(&self, key: &str) -> u32 {
        self.state.lock().failures.get(key).copied().unwrap_or(0)
    }
    pub fn len(&self) -> usize {
        self.state.lock().waiting.len()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Waits for the next key; `None` once closed. Each key handed out must come back by `done`.
    pub async fn next(&self) -> Option<String> {
        loop {
            let notified = self.notify.notified();
            let due = {
                let mut state = self.state.lock();
                if state.closed {
                    self.notify.notify_one(); // wake the other workers too
                    return None;
                }
                state.push_due(Instant::now());
                if let Some(key) = state.ready.pop_front() {
                    state.waiting.remove(&key);
                    state.running.insert(key.clone());
                    if !state.ready.is_empty() {
                        self.notify.notify_one();
                    }
                    return Some(key);
                }
                state.delayed.first_key_value().map(|((due, _), ())| *due)
            };
            match due {
                Some(due) => {
                    let _ = tokio::time::timeout_at(due, notified).await;
                }
                None => notified.await,
            }
        }
    }
    /// The key's work is over; if it was added meanwhile it becomes ready again.
    pub fn done(&self, key: &str) {
        let mut state = self.state.lock();
        state.running.remove(key);
        if state.waiting.contains(key) {
            state.ready.push_back(key.to_owned());
            drop(state);
            self.notify.notify_one();
        }
    }
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.notify.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_waits_once_and_never_runs_twice_at_a_time() {
        let queue = WorkQueue::new();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.next().await.as_deref(), Some("a"));
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.next().await.as_deref(), Some("b"));
        queue.done("a");
        assert_eq!(queue.next().await.as_deref(), Some("a"));
        queue.close();
        assert_eq!(queue.next().await, None);
    }

    #[tokio::test]
    async fn delays_and_back_off() {
        let queue = WorkQueue::new();
        queue.add_after("late", Duration::from_millis(30));
        queue.add_after("late", Duration::from_secs(900));
        queue.add("now");
        assert_eq!(queue.next().await.as_deref(), Some("now"));
        assert_eq!(queue.next().await.as_deref(), Some("late"));
        queue.done("late");
        for failures in 1..4 {
            queue.add_rate_limited("x");
            assert_eq!(queue.next().await.as_deref(), Some("x"));
            assert_eq!(queue.failures("x"), failures);
            queue.done("x");
        }
        queue.forget("x");
        assert_eq!(queue.failures("x"), 0);
    }
}

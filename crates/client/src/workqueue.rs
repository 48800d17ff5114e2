//! A keyed work queue: a key waits at most once, is never worked on twice at a time, and can be
//! put back after a delay or with exponential back-off. Its size is bounded by the number of keys.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::metrics::{Durations, QUEUES};

/// client-go's default per-item limiter.
const BASE_DELAY: Duration = Duration::from_millis(5);
const MAX_DELAY: Duration = Duration::from_secs(1000);

#[derive(Default)]
struct State {
    ready: VecDeque<String>,
    /// Since when.
    waiting: HashMap<String, Instant>,
    running: HashMap<String, Instant>,
    /// Keys that came to wait.
    adds: u64,
    delayed: BTreeMap<(Instant, String), ()>,
    delayed_at: HashMap<String, Instant>,
    failures: HashMap<String, u32>,
    /// Until when a worker sleeps that will look at what came due. One is enough: if all did, the end of
    /// each delay would wake them all.
    kept_until: Option<Instant>,
    closed: bool,
}

#[derive(Clone, Default)]
pub struct WorkQueue {
    state: Arc<Mutex<State>>,
    notify: Arc<Notify>,
    meter: Arc<Meter>,
}

struct Meter {
    retries: AtomicU64,
    waited: Durations,
    worked: Durations,
}

impl Default for Meter {
    fn default() -> Self {
        Meter { retries: AtomicU64::new(0), waited: Durations::new(QUEUES), worked: Durations::new(QUEUES) }
    }
}

/// How a queue is at the moment somebody asks.
pub(crate) struct Standing {
    pub depth: usize,
    pub adds: u64,
    pub retries: u64,
    /// Spent so far on the keys that are worked on, and on the one of them that was begun first.
    pub unfinished_seconds: f64,
    pub longest_seconds: f64,
}

impl State {
    fn push(&mut self, key: &str, now: Instant) -> bool {
        if self.closed || self.waiting.contains_key(key) {
            return false;
        }
        self.waiting.insert(key.to_owned(), now);
        self.adds += 1;
        if self.running.contains_key(key) {
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
            self.push(&key, now);
        }
    }
    /// The next key, and since when it waited.
    fn take(&mut self, now: Instant) -> Option<(String, Instant)> {
        let key = self.ready.pop_front()?;
        let since = self.waiting.remove(&key).unwrap_or(now);
        self.running.insert(key.clone(), now);
        Some((key, since))
    }
    /// Another worker has something to do: a key, or to keep the time.
    fn needs_another(&self) -> bool {
        !self.ready.is_empty() || (self.kept_until.is_none() && !self.delayed.is_empty())
    }
    /// When the asking worker is to wake, if nobody wakes by then.
    fn keep_time(&mut self) -> Option<Instant> {
        let ((due, _), ()) = self.delayed.first_key_value()?;
        if self.kept_until.is_some_and(|until| until <= *due) {
            return None;
        }
        self.kept_until = Some(*due);
        self.kept_until
    }
}

/// The worker that wakes at `due`. Dropped before that, with its worker, it calls another.
struct Timekeeper<'a> {
    queue: &'a WorkQueue,
    due: Instant,
    is_awake: bool,
}

impl Drop for Timekeeper<'_> {
    fn drop(&mut self) {
        let mut state = self.queue.state.lock();
        state.kept_until.take_if(|until| *until == self.due);
        drop(state);
        if !self.is_awake {
            self.queue.notify.notify_one();
        }
    }
}

impl WorkQueue {
    pub fn new() -> Self {
        Self::default()
    }
    pub fn add(&self, key: &str) {
        if self.state.lock().push(key, Instant::now()) {
            self.notify.notify_one();
        }
    }
    /// Adds the key once the delay has passed; of several delays for one key the earliest counts.
    pub fn add_after(&self, key: &str, delay: Duration) {
        self.meter.retries.fetch_add(1, Ordering::Relaxed);
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
        // Who keeps the time looks then at all that is due after.
        let is_kept = state.kept_until.is_some_and(|until| until <= due);
        drop(state);
        if !is_kept {
            self.notify.notify_one();
        }
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
                let now = Instant::now();
                state.push_due(now);
                if let Some((key, since)) = state.take(now) {
                    if state.needs_another() {
                        self.notify.notify_one();
                    }
                    self.meter.waited.observe(now - since);
                    return Some(key);
                }
                state.keep_time()
            };
            let Some(due) = due else {
                notified.await;
                continue;
            };
            let mut timekeeper = Timekeeper { queue: self, due, is_awake: false };
            let _ = tokio::time::timeout_at(due, notified).await;
            timekeeper.is_awake = true;
        }
    }
    /// The key's work is over; if it was added meanwhile it becomes ready again.
    pub fn done(&self, key: &str) {
        let mut state = self.state.lock();
        if let Some(since) = state.running.remove(key) {
            self.meter.worked.observe(since.elapsed());
        }
        if state.waiting.contains_key(key) {
            state.ready.push_back(key.to_owned());
            drop(state);
            self.notify.notify_one();
        }
    }
    pub(crate) fn waited(&self) -> &Durations {
        &self.meter.waited
    }
    pub(crate) fn worked(&self) -> &Durations {
        &self.meter.worked
    }
    pub(crate) fn standing(&self) -> Standing {
        let (state, now) = (self.state.lock(), Instant::now());
        let spent = || state.running.values().map(|since| (now - *since).as_secs_f64());
        Standing {
            depth: state.waiting.len(),
            adds: state.adds,
            retries: self.meter.retries.load(Ordering::Relaxed),
            unfinished_seconds: spent().sum(),
            longest_seconds: spent().fold(0.0, f64::max),
        }
    }
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.notify.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(60);

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
    async fn one_worker_keeps_the_time_for_all() {
        let queue = WorkQueue::new();
        let mut first = Box::pin(queue.next());
        let mut second = Box::pin(queue.next());
        assert!(futures::poll!(&mut first).is_pending() && futures::poll!(&mut second).is_pending());
        queue.add_after("late", Duration::from_secs(900));
        assert!(futures::poll!(&mut first).is_pending(), "it keeps the time now");
        let kept = || queue.state.lock().kept_until;
        let late = kept().unwrap();
        // An earlier delay is seen whoever hears of it: here the other.
        queue.add_after("soon", Duration::from_millis(20));
        assert!(futures::poll!(&mut second).is_pending());
        assert!(kept().unwrap() < late);
        tokio::select! {
            key = &mut first => assert_eq!(key.as_deref(), Some("soon")),
            key = &mut second => assert_eq!(key.as_deref(), Some("soon")),
        }
        // Whoever sleeps when its worker is dropped, the rest of the delays are not forgotten.
        drop((first, second));
        assert_eq!(kept(), None);
        queue.add_after("again", Duration::from_millis(20));
        let mut first = Box::pin(queue.next());
        let mut second = Box::pin(queue.next());
        assert!(futures::poll!(&mut first).is_pending() && futures::poll!(&mut second).is_pending());
        drop(first);
        assert_eq!(second.await.as_deref(), Some("again"));
    }

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn only_a_delay_that_ends_earlier_wakes_a_worker() {
        let queue = WorkQueue::new();
        queue.add_after("first", Duration::from_secs(900));
        let wakes = Arc::new(Wakes::default());
        let waker = wakes.clone().into();
        let mut context = Context::from_waker(&waker);
        let mut workers = [Box::pin(queue.next()), Box::pin(queue.next())];
        for worker in &mut workers {
            assert!(worker.as_mut().poll(&mut context).is_pending());
        }
        let before = wakes.0.load(Ordering::SeqCst);
        queue.add_after("later", Duration::from_secs(1000));
        assert_eq!(wakes.0.load(Ordering::SeqCst), before);
        queue.add_after("earlier", Duration::from_secs(800));
        assert_eq!(wakes.0.load(Ordering::SeqCst), before + 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn no_delay_is_slept_through() {
        const WORKERS: usize = 4;
        const KEYS: u64 = 1000;
        let queue = WorkQueue::new();
        queue.add_after("last", Duration::from_secs(900));
        let (done, mut all_done) = tokio::sync::mpsc::unbounded_channel();
        for _ in 0..WORKERS {
            let (queue, done) = (queue.clone(), done.clone());
            tokio::spawn(async move {
                while let Some(key) = queue.next().await {
                    queue.done(&key);
                    done.send(key).unwrap();
                }
            });
        }
        for key in 0..KEYS {
            queue.add_after(&key.to_string(), Duration::from_millis(1 + key * 7 % 20));
            tokio::task::yield_now().await;
        }
        for _ in 0..KEYS {
            tokio::time::timeout(DEADLINE, all_done.recv()).await.expect("slept through");
        }
        queue.close();
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

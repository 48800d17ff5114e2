//! What the server remembers: probe switches, the in-memory queue, recent requests.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Messages the queue holds; more are refused.
const QUEUE_BOUND: usize = 10_000;
/// After SIGTERM requests are still answered for this long: the endpoint is being taken out of
/// service everywhere, and nobody who still comes here should be turned away.
const DRAIN: Duration = Duration::from_millis(2000);

#[derive(Default)]
pub struct Probe {
    failing: AtomicBool,
    /// Fail this many more times, then succeed again.
    fail_next: AtomicU64,
    pub asked: AtomicU64,
}

impl Probe {
    pub fn ask(&self) -> bool {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.failing.load(Ordering::Relaxed) {
            return false;
        }
        let spend = |left: u64| left.checked_sub(1);
        self.fail_next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).is_err()
    }
    /// `Some(0)` succeeds from now on, `Some(n)` fails n times, `None` fails until told otherwise.
    pub fn set(&self, fail: Option<u64>) {
        self.failing.store(fail.is_none(), Ordering::Relaxed);
        self.fail_next.store(fail.unwrap_or(0), Ordering::Relaxed);
    }
    pub fn describe(&self) -> String {
        match (self.failing.load(Ordering::Relaxed), self.fail_next.load(Ordering::Relaxed)) {
            (true, _) => "failing".to_owned(),
            (false, 0) => "succeeding".to_owned(),
            (false, left) => format!("failing {left} more times"),
        }
    }
}

pub struct State {
    pub version: String,
    pub hostname: String,
    pub healthy: Probe,
    pub ready: Probe,
    pub requests: AtomicU64,
    pub draining: AtomicBool,
    queue: Mutex<VecDeque<String>>,
}

impl State {
    pub fn from_environment() -> Self {
        State {
            version: std::env::var("DEMO_VERSION").unwrap_or_else(|_| "1".to_owned()),
            hostname: hostname(),
            healthy: Probe::default(),
            ready: Probe::default(),
            requests: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            queue: Mutex::default(),
        }
    }
    pub fn enqueue(&self, message: String) -> Result<usize, &'static str> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() >= QUEUE_BOUND {
            return Err("the queue is full");
        }
        queue.push_back(message);
        Ok(queue.len())
    }
    pub fn dequeue(&self) -> Option<String> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
    pub fn queue_length(&self) -> usize {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

pub fn hostname() -> String {
    let read = std::fs::read_to_string("/proc/sys/kernel/hostname");
    read.map(|name| name.trim().to_owned()).unwrap_or_default()
}

static TERMINATING: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(_: i32) {
    TERMINATING.store(true, Ordering::SeqCst);
}

unsafe extern "C" {
    fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
}

/// As process 1 of its container the program gets no default signal action: without a handler a
/// TERM would be ignored and every stop would last the whole grace period.
pub fn drain_on_termination(state: &Arc<State>) {
    const SIGINT: i32 = 2;
    const SIGTERM: i32 = 15;
    // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
    unsafe {
        signal(SIGTERM, on_signal);
        signal(SIGINT, on_signal);
    }
    let state = state.clone();
    std::thread::spawn(move || {
        while !TERMINATING.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(20));
        }
        println!("asked to stop; answering for {} ms more", DRAIN.as_millis());
        state.draining.store(true, Ordering::SeqCst);
        std::thread::sleep(DRAIN);
        std::process::exit(0);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_fail_as_told() {
        let probe = Probe::default();
        assert!(probe.ask());
        probe.set(Some(2));
        assert_eq!([probe.ask(), probe.ask(), probe.ask()], [false, false, true]);
        probe.set(None);
        assert_eq!([probe.ask(), probe.ask()], [false, false]);
        probe.set(Some(0));
        assert!(probe.ask());
        assert_eq!(probe.describe(), "succeeding");
    }
}

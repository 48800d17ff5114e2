//! One of a level's queues, and what is remembered of the requests in it.

use std::collections::VecDeque;
use std::time::Duration;

use super::super::seats::{SeatTime, Width};

#[derive(Debug, Default)]
pub struct Queue {
    /// Keys of the requests that wait, oldest first.
    pub waiting: VecDeque<usize>,
    pub executing: usize,
    /// Of those executing and of those whose watchers are being told.
    pub seats_in_use: u32,
    /// Sums over those waiting.
    pub initial_seats_waiting: u32,
    pub seats_waiting: u32,
    pub work_waiting: SeatTime,
    /// Where the meter stands, or stood, when this queue's next request begins in the ideal in which all
    /// queues are served at once: what it was served so far.
    pub next_dispatch: SeatTime,
}

impl Queue {
    pub fn is_active(&self) -> bool {
        !self.waiting.is_empty() || self.executing > 0
    }

    pub fn push(&mut self, key: usize, width: Width) {
        self.waiting.push_back(key);
        self.initial_seats_waiting += width.initial;
        self.seats_waiting += width.seats();
        self.work_waiting += width.work();
    }

    /// Whether it was there.
    pub fn remove(&mut self, key: usize, width: Width) -> bool {
        let Some(at) = self.waiting.iter().position(|other| *other == key) else { return false };
        self.waiting.remove(at);
        self.initial_seats_waiting -= width.initial;
        self.seats_waiting -= width.seats();
        self.work_waiting -= width.work();
        true
    }
}

/// A request that waits or executes.
#[derive(Debug)]
pub struct Request<P> {
    /// `None`: the level has no queues.
    pub queue: Option<usize>,
    pub width: Width,
    pub arrived: Duration,
    /// The meter when it arrived.
    pub arrived_at: SeatTime,
    /// `None`: it waits.
    pub started: Option<Duration>,
    pub payload: P,
}

/// Seats of a request that is answered, until its watchers have been told.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lingering {
    pub until: Duration,
    pub queue: Option<usize>,
    pub seats: u32,
}

//! A priority level at work: the shell around its queue set. Requests enter, wait and leave here;
//! what is decided is the core's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use super::Schema;
use super::config::Response;
use super::demand::Observed;
use super::fair_queue::{QueueSet, Refusal};
use super::retry_after::RetryAfter;
use super::seats::Width;
use crate::http::limits::Kind;
use crate::seams::Attributes;

/// The time that all levels count in.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    pub fn start() -> Self {
        Clock(Instant::now())
    }
    pub fn now(self) -> Duration {
        self.0.elapsed()
    }
}

/// Requests of all levels by kind.
#[derive(Debug, Default)]
pub struct Load {
    served: [AtomicUsize; 2],
    waiting: [AtomicUsize; 2],
}

impl Load {
    /// (being served, waiting)
    pub fn of(&self, kind: Kind) -> (usize, usize) {
        let number = |counts: &[AtomicUsize; 2]| counts[kind as usize].load(Ordering::Relaxed);
        (number(&self.served), number(&self.waiting))
    }
}

/// Counts one more as long as it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Counted(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is kept with each request.
#[derive(Debug)]
pub struct Ticket {
    pub schema: Arc<Schema>,
    pub asked: Arc<Attributes>,
    /// Told when the request may go on; `None` where it need not wait.
    go_on: Option<oneshot::Sender<()>>,
}

pub type Requests = QueueSet<Ticket>;

#[derive(Debug)]
struct State {
    requests: Requests,
    /// A task sees to it that seats freed by time alone are given on.
    is_ticking: bool,
}

#[derive(Debug)]
pub struct Level {
    pub name: String,
    clock: Clock,
    load: Arc<Load>,
    state: Mutex<State>,
    /// Seats one request may be estimated at; zero: no bound of the level's.
    widest: AtomicU32,
    retry_after: Mutex<RetryAfter>,
}

impl Level {
    pub fn new(name: String, response: Response, clock: Clock, load: Arc<Load>) -> Arc<Self> {
        let requests = QueueSet::new(response, 0, clock.now());
        Arc::new(Level {
            name,
            clock,
            load,
            state: Mutex::new(State { requests, is_ticking: false }),
            widest: AtomicU32::new(0),
            retry_after: Mutex::default(),
        })
    }

    pub fn widest(&self) -> Option<u32> {
        Some(self.widest.load(Ordering::Relaxed)).filter(|seats| *seats > 0)
    }

    pub fn configure(self: &Arc<Self>, response: Response, limit: u32, widest: Option<u32>) {
        self.widest.store(widest.unwrap_or(0), Ordering::Relaxed);
        let mut state = self.state.lock();
        state.requests.configure(response, limit, self.clock.now());
        self.go_on(state);
    }

    pub fn take_demand(self: &Arc<Self>) -> Option<Observed> {
        let mut state = self.state.lock();
        let observed = state.requests.take_demand(self.clock.now());
        self.go_on(state);
        observed
    }

    /// Shows what there is at this moment.
    pub fn inspect<T>(&self, look: impl FnOnce(&Requests) -> T) -> T {
        look(&self.state.lock().requests)
    }

    /// A seat, at once or in time. Whoever gives this future up while it waits leaves the queue.
    pub async fn enter(
        self: &Arc<Self>,
        schema: &Arc<Schema>,
        asked: &Arc<Attributes>,
        width: Width,
        patience: Duration,
    ) -> Result<Seat, Refusal> {
        match self.start(schema, asked, width)? {
            (seat, None) => {
                let now = seat.arrived;
                Ok(seat.begin(now))
            }
            (seat, Some(wake)) => self.wait(seat, wake, patience).await,
        }
    }

    /// A seat, or a place in a queue and who tells that it is over.
    fn start(
        self: &Arc<Self>,
        schema: &Arc<Schema>,
        asked: &Arc<Attributes>,
        width: Width,
    ) -> Result<(Seat, Option<oneshot::Receiver<()>>), Refusal> {
        let (flow, arrived) = (schema.flow(asked), self.clock.now());
        let ticket = Ticket { schema: schema.clone(), asked: asked.clone(), go_on: None };
        let mut state = self.state.lock();
        let arrival = match state.requests.start(width, flow, ticket, arrived) {
            Ok(arrival) => arrival,
            Err(refusal) => {
                self.go_on(state);
                schema.meters.refused(refusal, Duration::ZERO);
                return Err(refusal);
            }
        };
        let waiting = arrival.is_waiting.then(|| state.requests.request_mut(arrival.key)).flatten();
        let wake = waiting.map(|request| {
            let (go_on, wake) = oneshot::channel();
            request.payload.go_on = Some(go_on);
            wake
        });
        self.go_on(state);
        schema.meters.arrived(arrival.queue_length);
        let seat = Seat {
            level: self.clone(),
            schema: schema.clone(),
            key: Some(arrival.key),
            kind: Kind::of(&asked.verb),
            is_watch: asked.verb == "watch",
            arrived,
            began: None,
        };
        Ok((seat, wake))
    }

    async fn wait(
        self: &Arc<Self>,
        mut seat: Seat,
        wake: oneshot::Receiver<()>,
        patience: Duration,
    ) -> Result<Seat, Refusal> {
        let _counted = Counted::new(&self.load.waiting[seat.kind as usize]);
        let is_told = tokio::time::timeout(patience, wake).await.is_ok();
        // Told at the last moment is told.
        if is_told || !seat.give_up(Refusal::TimeOut) {
            return Ok(seat.begin(self.clock.now()));
        }
        Err(Refusal::TimeOut)
    }

    fn finish(self: &Arc<Self>, key: usize, now: Duration) {
        let mut state = self.state.lock();
        let ticket = state.requests.finish(key, now);
        self.go_on(state);
        // It may be the last to know what was asked: nothing that can wait is done under the lock.
        drop(ticket);
    }

    /// Wakes whoever the core has let go on, and sees to whoever only time will let go on.
    fn go_on(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        while let Some(key) = state.requests.take_dispatched() {
            let ticket = state.requests.request_mut(key).map(|request| &mut request.payload);
            if let Some(go_on) = ticket.and_then(|ticket| ticket.go_on.take()) {
                // Whoever does not listen any more gives the seat back.
                let _ = go_on.send(());
            }
        }
        let Some(next) = state.requests.next_tick() else { return };
        // Without a runtime nobody is there to be woken.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if !std::mem::replace(&mut state.is_ticking, true) {
            runtime.spawn(self.clone().tick(next));
        }
    }

    async fn tick(self: Arc<Self>, mut next: Duration) {
        loop {
            tokio::time::sleep(next.saturating_sub(self.clock.now())).await;
            let mut state = self.state.lock();
            state.requests.tick(self.clock.now());
            let later = state.requests.next_tick();
            state.is_ticking = later.is_some();
            self.go_on(state);
            match later {
                Some(later) => next = later,
                None => return,
            }
        }
    }

    /// Seconds after which one that is refused now is to come again.
    pub fn retry_after(&self) -> u64 {
        self.retry_after.lock().refused(self.clock.now().as_secs())
    }
}

/// What a request is served with until its answer is made, one that is streamed until its last piece is
/// taken. Given back when dropped.
#[derive(Debug)]
pub struct Seat {
    level: Arc<Level>,
    schema: Arc<Schema>,
    /// `None`: it was given up.
    key: Option<usize>,
    kind: Kind,
    is_watch: bool,
    arrived: Duration,
    /// `None`: it is waited for.
    began: Option<Duration>,
}

impl Seat {
    fn begin(mut self, now: Duration) -> Self {
        self.level.load.served[self.kind as usize].fetch_add(1, Ordering::Relaxed);
        self.schema.meters.dispatched(now.saturating_sub(self.arrived));
        self.began = Some(now);
        self
    }

    /// Keeps it for so long, or until what is returned is dropped.
    pub fn held_for(self, limit: Duration) -> AbortOnDropHandle<()> {
        AbortOnDropHandle::new(tokio::spawn(async move {
            let _seat = self;
            tokio::time::sleep(limit).await;
        }))
    }

    /// Whether the request waited until now.
    fn give_up(&mut self, why: Refusal) -> bool {
        let Some(key) = self.key else { return false };
        let now = self.level.clock.now();
        let mut state = self.level.state.lock();
        let ticket = state.requests.give_up(key, why, now);
        self.level.go_on(state);
        let Some(ticket) = ticket else { return false };
        // The key may be another request's by now.
        self.key = None;
        ticket.schema.meters.refused(why, now.saturating_sub(self.arrived));
        true
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.began.is_none() && self.give_up(Refusal::Cancelled) {
            return;
        }
        let Some(key) = self.key else { return };
        let now = self.level.clock.now();
        if let Some(began) = self.began {
            self.level.load.served[self.kind as usize].fetch_sub(1, Ordering::Relaxed);
            self.schema.meters.executed(self.is_watch, now.saturating_sub(began));
        }
        self.level.finish(key, now);
    }
}

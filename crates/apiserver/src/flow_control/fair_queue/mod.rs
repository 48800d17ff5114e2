//! A priority level's seats and queues: fair queuing for requests whose duration is known only
//! afterwards, as KEP-1040 describes it. Pure: time comes in as a value, who may go on comes out.
//!
//! Think of every queue with something in it as being served at once, each with an equal part of
//! the seats. A meter tells how many seat-seconds each such queue has been given since the start. A
//! queue whose next request would end first in that ideal goes first in reality; what a request is
//! thought to take is charged when it begins and put right when it ends.

mod queue;
mod slab;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use queue::Lingering;
pub use queue::{Queue, Request};
use slab::Slab;

use super::config::Response;
use super::demand::{Integrator, Observed};
use super::seats::{ESTIMATED_DURATION, SeatTime, Width, seat_time};

/// Why a request was not let in, in the words of the series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// No seat, and the level has no queues.
    ConcurrencyLimit,
    QueueFull,
    /// It waited as long as it may.
    TimeOut,
    /// Nobody waits for the answer any more.
    Cancelled,
}

impl Refusal {
    pub const ALL: [Refusal; 4] =
        [Refusal::ConcurrencyLimit, Refusal::QueueFull, Refusal::TimeOut, Refusal::Cancelled];

    pub fn reason(self) -> &'static str {
        match self {
            Refusal::ConcurrencyLimit => "concurrency-limit",
            Refusal::QueueFull => "queue-full",
            Refusal::TimeOut => "time-out",
            Refusal::Cancelled => "cancelled",
        }
    }
}

/// A request that was let in or put into a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    pub key: usize,
    pub is_waiting: bool,
    /// Of the queue it came into, itself included.
    pub queue_length: Option<usize>,
}

/// Since the level exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub dispatched: u64,
    pub rejected: u64,
    pub timed_out: u64,
    pub cancelled: u64,
}

/// `P` is what its user keeps with each request.
#[derive(Debug)]
pub struct QueueSet<P> {
    response: Response,
    limit: u32,
    /// Made up to the last that anything was dealt to: most levels of most clusters need few of the many they
    /// may have. Those beyond the configured number are left from before and only drain.
    queues: Vec<Queue>,
    requests: Slab<Request<P>>,
    /// Until when everything below has been accounted for.
    now: Duration,
    meter: SeatTime,
    /// The queue served last, and how many requests were dealt: where a search begins.
    served_last: usize,
    dealt: usize,
    active: usize,
    waiting: usize,
    executing: usize,
    seats_in_use: u32,
    seats_waiting: u32,
    lingering: BinaryHeap<Reverse<Lingering>>,
    demand: Integrator,
    /// Let go on since they were last taken.
    dispatched: Vec<usize>,
    totals: Totals,
}

impl<P> QueueSet<P> {
    pub fn new(response: Response, limit: u32, now: Duration) -> Self {
        let mut set = QueueSet {
            response,
            limit,
            queues: Vec::new(),
            requests: Slab::default(),
            now,
            meter: 0,
            served_last: 0,
            dealt: 0,
            active: 0,
            waiting: 0,
            executing: 0,
            seats_in_use: 0,
            seats_waiting: 0,
            lingering: BinaryHeap::new(),
            demand: Integrator::default(),
            dispatched: Vec::new(),
            totals: Totals::default(),
        };
        set.configure(response, limit, now);
        set
    }

    /// Another configuration or limit, at any time.
    pub fn configure(&mut self, response: Response, limit: u32, now: Duration) {
        self.sync(now);
        (self.response, self.limit) = (response, limit);
        self.drop_spare_queues();
        self.dispatch();
    }

    fn drop_spare_queues(&mut self) {
        let wanted = self.response.queues();
        while self.queues.len() > wanted
            && self.queues.last().is_some_and(|queue| !queue.is_active() && queue.seats_in_use == 0)
        {
            self.queues.pop();
        }
    }

    /// A request has arrived. Whoever waits finds itself among `take_dispatched` in time.
    pub fn start(&mut self, width: Width, flow: u64, payload: P, now: Duration) -> Result<Arrival, Refusal> {
        self.tick(now);
        let mut request =
            Request { queue: None, width, arrived: now, arrived_at: self.meter, started: None, payload };
        let Some(queue) = self.deal(flow) else {
            if !self.fits(width.seats()) {
                self.totals.rejected += 1;
                return Err(Refusal::ConcurrencyLimit);
            }
            request.started = Some(now);
            let key = self.requests.insert(request);
            self.count_start(width);
            return Ok(Arrival { key, is_waiting: false, queue_length: None });
        };
        // Whoever waits there could not go on, so neither can this one.
        if self.queues[queue].waiting.len() >= self.response.length_limit() {
            self.totals.rejected += 1;
            return Err(Refusal::QueueFull);
        }
        request.queue = Some(queue);
        let key = self.requests.insert(request);
        let queue_length = Some(self.enqueue(key, queue, width));
        // Nobody else waits, so nobody else is to be looked at.
        if self.waiting == 1 && self.seats_in_use < self.limit {
            let fits = self.fits(width.seats());
            if fits {
                self.dispatch_from(queue);
            }
            return Ok(Arrival { key, is_waiting: !fits, queue_length });
        }
        self.dispatch();
        let before = self.dispatched.len();
        self.dispatched.retain(|other| *other != key);
        Ok(Arrival { key, is_waiting: before == self.dispatched.len(), queue_length })
    }

    /// The emptiest queue of the flow's hand; `None`: the level has no queues.
    fn deal(&mut self, flow: u64) -> Option<usize> {
        let Response::Queue { dealer, .. } = self.response else { return None };
        // Where several are equally empty none of a hand is preferred.
        let first = self.dealt % dealer.hand();
        self.dealt = self.dealt.wrapping_add(1);
        let mut best: Option<((SeatTime, usize), usize)> = None;
        let mut at = 0;
        dealer.deal(flow, |card| {
            let turn = (at + dealer.hand() - first) % dealer.hand();
            let rank = (self.queues.get(card).map_or(0, |queue| queue.work_waiting), turn);
            if best.is_none_or(|(least, _)| rank < least) {
                best = Some((rank, card));
            }
            at += 1;
        });
        let (_, card) = best?;
        if self.queues.len() <= card {
            self.queues.resize_with(card + 1, Queue::default);
        }
        Some(card)
    }

    /// The queue's length then.
    fn enqueue(&mut self, key: usize, index: usize, width: Width) -> usize {
        let queue = &mut self.queues[index];
        if !queue.is_active() {
            queue.next_dispatch = self.meter;
            self.active += 1;
        }
        queue.push(key, width);
        let length = queue.waiting.len();
        self.waiting += 1;
        self.seats_waiting += width.seats();
        self.catch_up(index);
        length
    }

    /// A queue that could not use its part of the seats does not save it up: in the ideal, too, nothing
    /// begins before it has arrived.
    fn catch_up(&mut self, index: usize) {
        let queue = &mut self.queues[index];
        let oldest = queue.waiting.front().and_then(|key| self.requests.get(*key));
        if let Some(oldest) = oldest {
            queue.next_dispatch = queue.next_dispatch.max(oldest.arrived_at);
        }
    }

    /// One that is wider than all seats there are goes alone.
    fn fits(&self, seats: u32) -> bool {
        match self.response {
            Response::Exempt => true,
            _ if seats > self.limit => self.executing == 0,
            _ => self.seats_in_use + seats <= self.limit,
        }
    }

    fn dispatch(&mut self) {
        while self.waiting > 0 && self.seats_in_use < self.limit {
            let Some((index, seats)) = self.next_queue() else { return };
            if !self.fits(seats) {
                // Nor may those behind it: a wide request would wait for ever.
                return;
            }
            let key = self.dispatch_from(index);
            self.dispatched.extend(key);
        }
    }

    /// The queue whose oldest request ends first in the ideal, and the seats of that.
    fn next_queue(&self) -> Option<(usize, u32)> {
        let mut best: Option<(SeatTime, usize, u32)> = None;
        let number = self.queues.len();
        for step in 1..=number {
            let index = (self.served_last + step) % number;
            let queue = &self.queues[index];
            let Some(oldest) = queue.waiting.front().and_then(|key| self.requests.get(*key)) else {
                continue;
            };
            let end = queue.next_dispatch + oldest.width.work();
            if best.is_none_or(|(least, ..)| end < least) {
                best = Some((end, index, oldest.width.seats()));
            }
        }
        best.map(|(_, index, seats)| (index, seats))
    }

    /// The oldest request of this queue begins.
    fn dispatch_from(&mut self, index: usize) -> Option<usize> {
        let queue = &mut self.queues[index];
        let key = *queue.waiting.front()?;
        let request = self.requests.get_mut(key)?;
        queue.remove(key, request.width);
        self.waiting -= 1;
        self.seats_waiting -= request.width.seats();
        request.width = request.width.narrowed(self.limit);
        request.started = Some(self.now);
        let width = request.width;
        queue.executing += 1;
        queue.seats_in_use += width.seats();
        queue.next_dispatch += width.work();
        self.served_last = index;
        self.catch_up(index);
        self.count_start(width);
        Some(key)
    }

    fn count_start(&mut self, width: Width) {
        self.executing += 1;
        self.seats_in_use += width.seats();
        self.totals.dispatched += 1;
    }

    /// A request that executed has been answered.
    pub fn finish(&mut self, key: usize, now: Duration) -> Option<P> {
        self.sync(now);
        let request = self.requests.remove(key)?;
        self.executing -= 1;
        if let Some(index) = request.queue {
            let queue = &mut self.queues[index];
            queue.executing -= 1;
            self.active -= usize::from(!queue.is_active());
            let took = now.saturating_sub(request.started.unwrap_or(now));
            let (charged, used) = (
                seat_time(request.width.initial, ESTIMATED_DURATION),
                seat_time(request.width.initial, took),
            );
            queue.next_dispatch += used - charged;
            self.catch_up(index);
        }
        let freed = Lingering {
            until: now + request.width.linger,
            queue: request.queue,
            seats: request.width.seats(),
        };
        if request.width.linger.is_zero() {
            self.release(&freed);
        } else {
            self.lingering.push(Reverse(freed));
        }
        self.dispatch();
        Some(request.payload)
    }

    /// A request that waits will not be waited for any more. `None`: it does not wait, for it executes.
    pub fn give_up(&mut self, key: usize, why: Refusal, now: Duration) -> Option<P> {
        self.tick(now);
        let request = self.requests.get(key).filter(|request| request.started.is_none())?;
        let (index, width) = (request.queue?, request.width);
        let queue = &mut self.queues[index];
        queue.remove(key, width);
        self.active -= usize::from(!queue.is_active());
        self.waiting -= 1;
        self.seats_waiting -= width.seats();
        self.catch_up(index);
        self.totals.rejected += 1;
        self.totals.timed_out += u64::from(why == Refusal::TimeOut);
        self.totals.cancelled += u64::from(why == Refusal::Cancelled);
        self.drop_spare_queues();
        let request = self.requests.remove(key);
        // It may have been a wide one that others waited behind.
        self.dispatch();
        request.map(|request| request.payload)
    }

    fn release(&mut self, freed: &Lingering) {
        self.seats_in_use -= freed.seats;
        if let Some(index) = freed.queue {
            self.queues[index].seats_in_use -= freed.seats;
            self.drop_spare_queues();
        }
    }

    /// Seats whose time is over are free; the caller dispatches, or those who wait for them are forgotten.
    fn sync(&mut self, now: Duration) {
        while let Some(Reverse(next)) = self.lingering.peek() {
            if next.until > now {
                break;
            }
            self.advance(next.until);
            if let Some(Reverse(freed)) = self.lingering.pop() {
                self.release(&freed);
            }
        }
        self.advance(now);
    }

    fn advance(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.now);
        self.now = self.now.max(now);
        self.demand.add(self.seats_in_use + self.seats_waiting, passed);
        if self.active > 0 {
            // What is given, not what could be: seats stand empty while a wide request waits for them, and a
            // meter that ran ahead of what queues get would take from those with short waits.
            self.meter += seat_time(self.seats_in_use.min(self.limit), passed) / self.active as SeatTime;
        }
    }

    /// Lets go on whoever time alone has made room for.
    pub fn tick(&mut self, now: Duration) {
        self.sync(now);
        self.dispatch();
    }

    /// When `tick` has something to do that nothing else will: somebody waits for seats that only time frees.
    pub fn next_tick(&self) -> Option<Duration> {
        let Reverse(next) = self.lingering.peek()?;
        (self.waiting > 0).then_some(next.until)
    }

    /// Requests that may go on now, each told once.
    pub fn take_dispatched(&mut self) -> Option<usize> {
        self.dispatched.pop()
    }

    pub fn take_demand(&mut self, now: Duration) -> Option<Observed> {
        self.tick(now);
        self.demand.take()
    }
}

/// What dumps and figures show.
impl<P> QueueSet<P> {
    pub fn is_idle(&self) -> bool {
        self.waiting == 0 && self.executing == 0
    }
    pub fn waiting(&self) -> usize {
        self.waiting
    }
    pub fn executing(&self) -> usize {
        self.executing
    }
    pub fn meter(&self) -> SeatTime {
        self.meter
    }
    pub fn totals(&self) -> Totals {
        self.totals
    }
    pub fn queues(&self) -> &[Queue] {
        &self.queues
    }
    /// Queues it may have beside those.
    pub fn unmade(&self) -> usize {
        self.response.queues().saturating_sub(self.queues.len())
    }
    pub fn requests(&self) -> impl Iterator<Item = &Request<P>> {
        self.requests.values()
    }
    pub fn request(&self, key: usize) -> Option<&Request<P>> {
        self.requests.get(key)
    }
    pub fn request_mut(&mut self, key: usize) -> Option<&mut Request<P>> {
        self.requests.get_mut(key)
    }
}

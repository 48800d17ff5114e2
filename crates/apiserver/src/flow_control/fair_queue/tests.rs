//! The core over a clock of its own: rules one by one, then random loads from a seed.

use std::collections::{BTreeMap, BinaryHeap};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::dealer::{Dealer, flow_number};
use super::*;

const MILLISECOND: Duration = Duration::from_millis(1);
const ONE: Width = Width::of(1);

fn queues(queues: usize, hand: usize, length_limit: usize) -> Response {
    Response::Queue { dealer: Dealer::new(queues, hand).expect("possible"), length_limit }
}

fn at(milliseconds: u32) -> Duration {
    MILLISECOND * milliseconds
}

/// Those let go on since they were last asked for, by what was kept with them.
fn released(set: &mut QueueSet<&'static str>) -> Vec<&'static str> {
    let keys: Vec<usize> = std::iter::from_fn(|| set.take_dispatched()).collect();
    keys.into_iter().map(|key| set.request(key).expect("there").payload).collect()
}

fn arrive(set: &mut QueueSet<&'static str>, name: &'static str, width: Width, now: Duration) -> Arrival {
    set.start(width, flow_number("s", name), name, now).expect("let in")
}

#[test]
fn without_queues_what_finds_no_seat_is_refused() {
    let mut set = QueueSet::new(Response::Reject, 3, at(0));
    let first = arrive(&mut set, "a", Width::of(2), at(0));
    arrive(&mut set, "b", ONE, at(0));
    assert_eq!(set.start(ONE, 0, "c", at(0)), Err(Refusal::ConcurrencyLimit));
    assert_eq!(set.finish(first.key, at(5)), Some("a"));
    assert!(set.start(Width::of(3), 0, "d", at(5)).is_err(), "two are free");
    assert!(set.start(Width::of(2), 0, "e", at(5)).is_ok());
    assert_eq!(set.totals(), Totals { dispatched: 3, rejected: 2, ..Totals::default() });
}

#[test]
fn the_exempt_are_never_refused() {
    let mut set = QueueSet::new(Response::Exempt, 0, at(0));
    for _ in 0..100 {
        assert!(!arrive(&mut set, "a", Width::of(10), at(0)).is_waiting);
    }
    assert_eq!(set.executing(), 100);
}

#[test]
fn queues_have_a_length() {
    let mut set = QueueSet::new(queues(1, 1, 2), 1, at(0));
    let first = arrive(&mut set, "a", ONE, at(0));
    assert_eq!((first.is_waiting, first.queue_length), (false, Some(1)));
    let waiting = ["b", "c"].map(|name| arrive(&mut set, name, ONE, at(1)));
    assert_eq!(waiting.map(|w| (w.is_waiting, w.queue_length)), [(true, Some(1)), (true, Some(2))]);
    assert_eq!(set.start(ONE, 0, "d", at(1)), Err(Refusal::QueueFull));
    set.finish(first.key, at(2));
    assert_eq!(released(&mut set), ["b"], "the oldest");
    assert_eq!(set.give_up(waiting[0].key, Refusal::TimeOut, at(3)), None, "it executes");
    assert_eq!(set.give_up(waiting[1].key, Refusal::TimeOut, at(3)), Some("c"));
    assert_eq!((set.waiting(), set.executing()), (0, 1));
    let totals = Totals { dispatched: 2, rejected: 2, timed_out: 1, ..Totals::default() };
    assert_eq!(set.totals(), totals);
}

#[test]
fn the_wide_wait_for_room_and_are_not_overtaken_for_ever() {
    let mut set = QueueSet::new(queues(8, 1, 9), 4, at(0));
    let held = [arrive(&mut set, "a", Width::of(2), at(0)), arrive(&mut set, "b", Width::of(2), at(0))];
    let wide = arrive(&mut set, "wide", Width::of(4), at(1));
    set.finish(held[0].key, at(2));
    assert_eq!(released(&mut set), Vec::<&str>::new(), "two of four are free");
    set.finish(held[1].key, at(3));
    assert_eq!(released(&mut set), ["wide"]);
    set.finish(wide.key, at(4));
    // Wider than all there is: alone.
    let small = arrive(&mut set, "c", ONE, at(4));
    assert!(arrive(&mut set, "wider", Width::of(9), at(4)).is_waiting);
    set.finish(small.key, at(5));
    assert_eq!(released(&mut set), ["wider"]);
}

#[test]
fn giving_up_lets_those_behind_go_on() {
    let mut set = QueueSet::new(queues(1, 1, 9), 2, at(0));
    arrive(&mut set, "a", ONE, at(0));
    let wide = arrive(&mut set, "wide", Width::of(2), at(0));
    assert!(arrive(&mut set, "b", ONE, at(0)).is_waiting, "behind the wide one");
    assert_eq!(set.give_up(wide.key, Refusal::Cancelled, at(1)), Some("wide"));
    assert_eq!(released(&mut set), ["b"]);
    assert_eq!(set.totals().cancelled, 1);
}

#[test]
fn seats_linger_while_watchers_are_told() {
    let told = Width { initial: 1, last: 6, linger: at(10) };
    let mut set = QueueSet::new(queues(1, 1, 9), 3, at(0));
    let write = arrive(&mut set, "write", told, at(0));
    assert!(!write.is_waiting, "wider than all there is, but alone; narrowed");
    assert!(arrive(&mut set, "b", ONE, at(1)).is_waiting);
    assert_eq!(set.next_tick(), None, "it is served still");
    set.finish(write.key, at(2));
    assert_eq!(set.next_tick(), Some(at(22)), "twenty milliseconds at three seats are ten at six");
    set.tick(at(21));
    assert_eq!(released(&mut set), Vec::<&str>::new());
    set.tick(at(22));
    assert_eq!((released(&mut set), set.next_tick()), (vec!["b"], None));
}

#[test]
fn whoever_comes_first_after_seats_are_free_lets_others_go_on() {
    let told = Width { initial: 1, last: 1, linger: at(10) };
    let full = || {
        let mut set = QueueSet::new(queues(1, 1, 1), 1, at(0));
        let first = arrive(&mut set, "a", told, at(0));
        arrive(&mut set, "b", ONE, at(0));
        set.finish(first.key, at(0));
        assert_eq!(released(&mut set), Vec::<&str>::new());
        set
    };
    let mut set = full();
    assert!(arrive(&mut set, "c", ONE, at(10)).is_waiting, "there is room in the queue again");
    assert_eq!(released(&mut set), ["b"]);
    let mut set = full();
    assert_eq!(set.give_up(99, Refusal::Cancelled, at(10)), None);
    assert_eq!(released(&mut set), ["b"]);
}

#[test]
fn configuration_changes_keep_those_who_wait() {
    let mut set = QueueSet::new(queues(16, 1, 9), 1, at(0));
    let first = arrive(&mut set, "a", ONE, at(0));
    for name in ["b", "c", "d"] {
        assert!(arrive(&mut set, name, ONE, at(0)).is_waiting);
    }
    set.configure(Response::Reject, 1, at(1));
    assert!(set.start(ONE, 0, "e", at(1)).is_err(), "no queues for those who come now");
    set.finish(first.key, at(1));
    assert_eq!(released(&mut set).len(), 1);
    set.configure(queues(2, 1, 9), 3, at(1));
    assert_eq!((set.waiting(), set.executing()), (0, 3), "a higher limit is used at once");
    assert_eq!(released(&mut set).len(), 2);
    let keys: Vec<usize> = (0..8).filter(|key| set.request(*key).is_some()).collect();
    for key in keys {
        set.finish(key, at(2)).expect("it executes");
    }
    assert_eq!((set.queues().len(), set.is_idle()), (2, true));
}

#[test]
fn demand_is_what_is_used_and_what_waits() {
    let mut set = QueueSet::new(queues(1, 1, 9), 1, at(0));
    let first = arrive(&mut set, "a", ONE, at(0));
    arrive(&mut set, "b", Width::of(3), at(0));
    set.finish(first.key, at(500));
    let seen = set.take_demand(at(1000)).expect("time has passed");
    assert_eq!((seen.average, seen.high_watermark), (3.5, 4.0));
}

/// A client that keeps so many requests of one width in flight, each lasting about so long.
#[derive(Clone, Copy)]
struct Client {
    flow: u64,
    in_flight: usize,
    width: Width,
    lasts: Duration,
    /// Gives up what waits longer.
    patience: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    Finish(usize),
    GiveUp(usize),
    Tick,
}

/// A world of closed-loop clients around one level.
struct World {
    set: QueueSet<usize>,
    clients: Vec<Client>,
    now: Duration,
    events: BinaryHeap<Reverse<(Duration, u64, Next)>>,
    /// Numbers events; a number that is not here any more is of a request that is gone.
    count: u64,
    of_key: BTreeMap<usize, u64>,
    rng: StdRng,
    /// Seat-time each client was served, and its requests that ended.
    served: Vec<SeatTime>,
    ended: Vec<u64>,
    /// Else nobody comes any more, and the configuration may change under those who are there.
    is_open: bool,
}

impl World {
    fn new(seed: u64, response: Response, limit: u32, clients: Vec<Client>) -> Self {
        let number = clients.len();
        World {
            set: QueueSet::new(response, limit, Duration::ZERO),
            clients,
            now: Duration::ZERO,
            events: BinaryHeap::new(),
            count: 0,
            of_key: BTreeMap::new(),
            rng: StdRng::seed_from_u64(seed),
            served: vec![0; number],
            ended: vec![0; number],
            is_open: true,
        }
    }

    fn push(&mut self, after: Duration, next: Next) -> u64 {
        self.count += 1;
        self.events.push(Reverse((self.now + after, self.count, next)));
        self.count
    }

    fn begin(&mut self, key: usize, client: usize) {
        let lasts = self.clients[client].lasts.mul_f64(self.rng.random_range(0.5..1.5));
        let number = self.push(lasts, Next::Finish(key));
        self.of_key.insert(key, number);
    }

    fn ask(&mut self, client: usize) {
        if !self.is_open {
            return self.go_on();
        }
        let Client { flow, width, patience, .. } = self.clients[client];
        match self.set.start(width, flow, client, self.now) {
            Err(_) => {}
            Ok(arrival) if arrival.is_waiting => {
                let number = self.push(patience, Next::GiveUp(arrival.key));
                self.of_key.insert(arrival.key, number);
            }
            Ok(arrival) => self.begin(arrival.key, client),
        }
        self.go_on();
    }

    /// Whoever was let go on does; what must hold at any time is looked at.
    fn go_on(&mut self) {
        while let Some(key) = self.set.take_dispatched() {
            let request = self.set.request(key).expect("dispatched requests are there");
            self.begin(key, request.payload);
        }
        if let Some(next) = self.set.next_tick() {
            self.push(next.saturating_sub(self.now), Next::Tick);
        }
        self.check();
    }

    fn check(&self) {
        let set = &self.set;
        let executing: Vec<_> = set.requests().filter(|request| request.started.is_some()).collect();
        assert_eq!((executing.len(), set.requests().count()), (set.executing, set.executing + set.waiting));
        let held: u32 = executing.iter().map(|request| request.width.seats()).sum();
        let lingering: u32 = set.lingering.iter().map(|Reverse(one)| one.seats).sum();
        assert_eq!(set.seats_in_use, held + lingering, "seats are neither lost nor made");
        let sums = |pick: fn(&Queue) -> usize| set.queues.iter().map(pick).sum::<usize>();
        assert_eq!(sums(|queue| queue.waiting.len()), set.waiting);
        assert_eq!(sums(|queue| queue.seats_waiting as usize), set.seats_waiting as usize);
        assert_eq!(sums(|queue| usize::from(queue.is_active())), set.active);
        if !self.is_open {
            return;
        }
        assert!(set.seats_in_use <= set.limit || set.executing <= 1, "{} seats", set.seats_in_use);
        assert!(set.queues.iter().all(|queue| queue.waiting.len() <= set.response.length_limit()));
        let is_hopeless = set.waiting > 0 && set.executing == 0 && set.lingering.is_empty();
        assert!(!is_hopeless, "somebody waits for nothing");
    }

    fn configure(&mut self, response: Response, limit: u32) {
        self.set.configure(response, limit, self.now);
        self.go_on();
    }

    fn step(&mut self) -> bool {
        let Some(Reverse((time, number, next))) = self.events.pop() else { return false };
        self.now = time;
        let is_current = |world: &World, key: usize| world.of_key.get(&key) == Some(&number);
        match next {
            Next::Finish(key) if is_current(self, key) => {
                let request = self.set.request(key).expect("it executes");
                let lasted = self.now - request.started.expect("it executes");
                let work = seat_time(request.width.initial, lasted);
                let client = self.set.finish(key, self.now).expect("it executes");
                self.served[client] += work;
                self.ended[client] += 1;
                self.of_key.remove(&key);
                self.ask(client);
            }
            Next::GiveUp(key) if is_current(self, key) => {
                let client = self.set.give_up(key, Refusal::TimeOut, self.now).expect("it waits");
                self.of_key.remove(&key);
                self.ask(client);
            }
            Next::Tick => {
                self.set.tick(self.now);
                self.go_on();
            }
            _ => {}
        }
        true
    }

    fn run(&mut self, until: Duration) {
        for client in 0..self.clients.len() {
            for _ in 0..self.clients[client].in_flight {
                self.ask(client);
            }
        }
        while self.now < until && self.step() {}
    }
}

fn client(flow: u64, in_flight: usize, width: Width, lasts: Duration) -> Client {
    Client { flow, in_flight, width, lasts, patience: Duration::from_secs(3600) }
}

/// Flows that share no queue, by their hands of one.
fn apart(dealer: Dealer, number: usize) -> Vec<u64> {
    let mut taken = Vec::new();
    let mut flows = Vec::new();
    for flow in 0.. {
        let mut card = 0;
        dealer.deal(flow, |dealt| card = dealt);
        if !taken.contains(&card) {
            taken.push(card);
            flows.push(flow);
        }
        if flows.len() == number {
            break;
        }
    }
    flows
}

#[test]
fn queues_are_made_when_something_is_dealt_to_them() {
    let dealer = Dealer::new(1024, 8).expect("possible");
    let mut set = QueueSet::new(Response::Queue { dealer, length_limit: 1 }, 1, at(0));
    assert_eq!((set.queues().len(), set.unmade()), (0, 1024));
    let mut hand = Vec::new();
    dealer.deal(7, |card| hand.push(card));
    let key = set.start(ONE, 7, "a", at(0)).expect("a seat").key;
    let queue = set.request(key).and_then(|request| request.queue).expect("a queue");
    assert!(hand.contains(&queue), "{queue} of {hand:?}");
    assert_eq!((set.queues().len(), set.unmade()), (queue + 1, 1023 - queue));
    let others = (0..7).map(|_| set.start(ONE, 7, "b", at(0)).expect("room").key).collect::<Vec<_>>();
    let queues = others.iter().filter_map(|key| set.request(*key)?.queue).collect::<Vec<_>>();
    assert!(queues.iter().all(|queue| hand.contains(queue)), "{queues:?} of {hand:?}");
    assert_eq!(set.queues().iter().filter(|queue| !queue.waiting.is_empty()).count(), 7, "each has its own");
}

#[test]
fn flows_get_equal_parts_whatever_their_widths_durations_and_numbers() {
    let dealer = Dealer::new(16, 1).expect("possible");
    let response = Response::Queue { dealer, length_limit: 200 };
    for seed in 0..6 {
        let flows = apart(dealer, 4);
        let clients = vec![
            client(flows[0], 100, ONE, at(10)),
            client(flows[1], 40, Width::of(5), at(10)),
            client(flows[2], 60, ONE, at(40)),
            client(flows[3], 20, Width::of(10), at(3)),
        ];
        let mut world = World::new(seed, response, 20, clients);
        world.run(Duration::from_secs(30));
        let mean = world.served.iter().sum::<SeatTime>() as f64 / 4.0;
        for (index, served) in world.served.iter().enumerate() {
            let part = *served as f64 / mean;
            assert!((0.98..1.02).contains(&part), "seed {seed}: client {index} got {part} of its part");
        }
    }
}

#[test]
fn a_few_requests_are_served_soon_beside_a_flood() {
    let dealer = Dealer::new(64, 6).expect("possible");
    let response = Response::Queue { dealer, length_limit: 50 };
    for seed in 0..6 {
        let mut clients = vec![client(flow_number("s", "flood"), 280, Width::of(2), at(20))];
        clients.push(client(flow_number("s", "modest"), 1, ONE, at(20)));
        let mut world = World::new(seed, response, 10, clients);
        world.run(Duration::from_secs(20));
        // Alone it would do fifty a second; it shares with six full queues, each entitled to as much.
        let rate = world.ended[1] as f64 / 20.0;
        assert!(rate > 20.0, "seed {seed}: {rate} a second beside a flood");
    }
}

#[test]
fn whatever_happens_seats_are_kept_and_nobody_waits_for_nothing() {
    for seed in 0..60 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (hand, limit) = (rng.random_range(1..=4), rng.random_range(1..=12));
        let response = queues(rng.random_range(hand..=12), hand, rng.random_range(1..=8));
        let clients = (0..rng.random_range(1..8)).map(|_| Client {
            flow: rng.random_range(0..1000),
            in_flight: rng.random_range(1..12),
            width: Width {
                initial: rng.random_range(1..=12),
                last: rng.random_range(0..=12),
                linger: MILLISECOND * rng.random_range(0..20),
            },
            lasts: MILLISECOND * rng.random_range(1..40),
            patience: MILLISECOND * rng.random_range(1..400),
        });
        let clients = clients.collect();
        let mut world = World::new(seed, response, limit, clients);
        world.run(Duration::from_secs(3));
        world.is_open = false;
        for _ in 0..200 {
            let (hand, limit) = (rng.random_range(1..=3), rng.random_range(0..=12));
            let response = match rng.random_range(0..8) {
                0 => Response::Reject,
                _ => queues(rng.random_range(hand..=12), hand, 8),
            };
            world.configure(response, limit);
            for _ in 0..10 {
                world.step();
            }
        }
        world.configure(queues(2, 1, 8), 12);
        while world.step() {}
        world.set.tick(world.now + Duration::from_secs(1));
        assert!(world.set.is_idle(), "seed {seed}");
        assert_eq!(
            (world.set.seats_in_use, world.set.seats_waiting, world.set.active),
            (0, 0, 0),
            "seed {seed}"
        );
        assert!(world.set.queues.len() <= 2, "seed {seed}");
    }
}

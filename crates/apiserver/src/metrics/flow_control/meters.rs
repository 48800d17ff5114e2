//! What the requests of one FlowSchema are counted in: its series, from its first request until it is gone.

use std::sync::OnceLock;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::{Flow, Flows, Refused, Waited};
use crate::flow_control::{Crowd, Refusal};

/// Made when it is first asked for, unless it was closed before. Whoever closes it gets what was made, and
/// nothing is made afterwards: neither way is one overlooked that is being made at that moment.
#[derive(Debug)]
pub struct Late<T>(OnceLock<Option<T>>);

impl<T> Default for Late<T> {
    fn default() -> Self {
        Late(OnceLock::new())
    }
}

impl<T> Late<T> {
    pub fn get(&self, make: impl FnOnce() -> T) -> Option<&T> {
        self.0.get_or_init(|| Some(make())).as_ref()
    }

    pub fn made(&self) -> Option<&T> {
        self.0.get()?.as_ref()
    }

    pub fn close(&self) -> Option<&T> {
        self.0.get_or_init(|| None).as_ref()
    }
}

/// The series of one schema. They are found when they are made: once closed, what is still observed goes
/// to nobody, and does not make them again.
#[derive(Debug)]
pub struct FlowMeters {
    dispatched: Counter,
    waits: Histogram,
    executions: Histogram,
    lengths: Histogram,
    seats: Histogram,
    waiting: Gauge,
    waiting_seats: Gauge,
    executing: Gauge,
    executing_seats: Gauge,
    /// What is rare has no series before it happens.
    begun_watches: Late<Histogram>,
    watches: Late<Histogram>,
    vain_waits: Late<Histogram>,
    refused: [Late<Counter>; Refusal::ALL.len()],
    flows: Flows,
    flow: Flow,
}

impl FlowMeters {
    pub(super) fn new(flows: Flows, flow: Flow) -> Self {
        FlowMeters {
            dispatched: flows.dispatched.get_or_create_owned(&flow),
            waits: flows.waits.get_or_create_owned(&Waited { flow: flow.clone(), execute: "true" }),
            executions: flows.executed(&flow, "regular"),
            lengths: flows.lengths.get_or_create_owned(&flow),
            seats: flows.seats.get_or_create_owned(&flow),
            waiting: flows.waiting.get_or_create_owned(&flow),
            waiting_seats: flows.waiting_seats.get_or_create_owned(&flow),
            executing: flows.executing.get_or_create_owned(&flow),
            executing_seats: flows.executing_seats.get_or_create_owned(&flow),
            begun_watches: Late::default(),
            watches: Late::default(),
            vain_waits: Late::default(),
            refused: Default::default(),
            flows,
            flow,
        }
    }

    pub fn estimated(&self, seats: u32) {
        self.seats.observe(seats.into());
    }

    pub fn concerned(&self, watches: u32) {
        let series = self.watches.get(|| self.flows.watches.get_or_create_owned(&self.flow));
        series.inspect(|series| series.observe(watches.into()));
    }

    pub fn queued(&self, length: usize) {
        self.lengths.observe(length as f64);
    }

    /// `None`: those of the exempt level do not wait.
    pub fn dispatched(&self, waited: Option<Duration>) {
        self.dispatched.inc();
        if let Some(waited) = waited {
            self.waits.observe(waited.as_secs_f64());
        }
    }

    pub fn executed(&self, is_watch: bool, took: Duration) {
        let took = took.as_secs_f64();
        if !is_watch {
            return self.executions.observe(took);
        }
        let series = self.begun_watches.get(|| self.flows.executed(&self.flow, "watch"));
        series.inspect(|series| series.observe(took));
    }

    pub fn refused(&self, why: Refusal, waited: Duration) {
        let count = self.refused[why as usize].get(|| {
            let labels = Refused { flow: self.flow.clone(), reason: why.reason() };
            self.flows.rejected.get_or_create_owned(&labels)
        });
        count.inspect(|count| {
            count.inc();
        });
        let waits = self.vain_waits.get(|| {
            let labels = Waited { flow: self.flow.clone(), execute: "false" };
            self.flows.waits.get_or_create_owned(&labels)
        });
        waits.inspect(|waits| waits.observe(waited.as_secs_f64()));
    }

    /// Shows how many of the schema's requests there are.
    pub fn show(&self, crowd: &Crowd) {
        for (gauge, number) in [
            (&self.waiting, crowd.waiting),
            (&self.waiting_seats, crowd.waiting_seats),
            (&self.executing, crowd.executing),
            (&self.executing_seats, crowd.executing_seats),
        ] {
            gauge.set(i64::from(number));
        }
    }

    /// Takes them away for good.
    pub fn close(&self) {
        for series in [&self.begun_watches, &self.watches, &self.vain_waits] {
            series.close();
        }
        for series in &self.refused {
            series.close();
        }
        self.flows.forget(&self.flow);
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::super::FlowControlFamilies;
    use super::*;

    fn observe_everything(meters: &FlowMeters) {
        meters.estimated(1);
        meters.concerned(1);
        meters.queued(1);
        meters.dispatched(Some(Duration::ZERO));
        meters.executed(false, Duration::ZERO);
        meters.executed(true, Duration::ZERO);
        for refusal in Refusal::ALL {
            meters.refused(refusal, Duration::ZERO);
        }
        meters.show(&Crowd { waiting: 1, ..Crowd::default() });
    }

    /// Series that name this schema.
    fn shown(registry: &Registry, schema: &str) -> usize {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).expect("text");
        let label = format!("flow_schema=\"{schema}\"");
        text.lines().filter(|line| line.contains(&label)).count()
    }

    #[test]
    fn series_that_are_taken_away_do_not_come_back() {
        let mut registry = Registry::default();
        let families = FlowControlFamilies::new(&mut registry);
        let [gone, unused, other] = ["gone", "unused", "other"].map(|schema| families.meters("a", schema));
        let at_first = shown(&registry, "unused");
        observe_everything(&gone);
        observe_everything(&other);
        let all = shown(&registry, "other");
        assert!(all > at_first && at_first > 0, "{all} {at_first}");
        gone.close();
        unused.close();
        observe_everything(&gone);
        observe_everything(&unused);
        assert_eq!(["gone", "unused", "other"].map(|schema| shown(&registry, schema)), [0, 0, all]);
        observe_everything(&families.meters("a", "gone"));
        assert_eq!(shown(&registry, "gone"), all, "another of that name has its own");
    }

    #[test]
    fn what_is_closed_is_not_made() {
        let late = Late::default();
        assert_eq!((late.made(), late.get(|| 1), late.made()), (None, Some(&1), Some(&1)));
        assert_eq!((late.close(), late.get(|| 2)), (Some(&1), Some(&1)));
        let closed = Late::default();
        assert_eq!((closed.close(), closed.get(|| 1), closed.made()), (None, None, None));
    }
}

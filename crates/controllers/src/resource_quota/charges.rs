//! Usage given back while admission goes on charging. A charge is written before the object it pays
//! for, so a count says nothing about the latest charges. What was charged a moment ago has come to
//! something by now, or never will: all that has to be kept beyond the count is what was charged
//! since then.

use std::time::Duration;

use amphipod_api::pod_resources::Amounts;
use amphipod_api::quantity::Quantity;
use tokio::time::Instant;

/// Longer than a write takes, once it is paid for, to be stored and told: it waits for the disk, and a
/// busy one takes hundreds of milliseconds. What is given back too early is used twice.
const SETTLE: Duration = Duration::from_secs(1);

/// What one quota said was used, lately.
#[derive(Default)]
pub struct Charges {
    /// At a time that is past [`SETTLE`].
    settled: Option<Amounts>,
    /// At the last time that was looked at, which will be.
    latest: Option<(Instant, Amounts)>,
}

impl Charges {
    /// Takes note of what the quota says before a count begins.
    pub fn look(&mut self, charged: &Amounts, now: Instant) {
        if self.latest.as_ref().is_some_and(|(at, _)| now.duration_since(*at) < SETTLE) {
            return;
        }
        self.settled = self.latest.replace((now, charged.clone())).map(|(_, charged)| charged);
    }

    /// What is to be said is used: what is counted, and what was charged since; never more than is
    /// charged.
    pub fn used(&self, counted: &Amounts, charged: &Amounts) -> Amounts {
        let since = |name: &str, now: Quantity| {
            let then = self.settled.as_ref()?.get(name)?;
            Some(now.minus(*then).max(Quantity::default()))
        };
        let used = |(name, counted): (&String, &Quantity)| {
            let used = match charged.get(name) {
                Some(now) if now > counted => since(name, *now).map_or(*now, |s| counted.plus(s).min(*now)),
                _ => *counted,
            };
            (name.clone(), used)
        };
        counted.iter().map(used).collect()
    }

    /// The quota says this from now on, and what it said before is no measure any more.
    pub fn wrote(&mut self, used: Amounts, now: Instant) {
        *self = Charges { settled: None, latest: Some((now, used)) };
    }

    /// When to count again, if more is used by these words than is counted.
    pub fn due(&self, used: &Amounts, counted: &Amounts, now: Instant) -> Option<Duration> {
        let owes = counted.iter().any(|(name, counted)| used.get(name).is_some_and(|used| used > counted));
        let (at, _) = self.latest.as_ref().filter(|_| owes)?;
        Some(SETTLE.saturating_sub(now.duration_since(*at)))
    }
}

#[cfg(test)]
mod tests {
    use amphipod_api::quantity::Format;

    use super::*;

    fn pods(count: i64) -> Amounts {
        Amounts::from([("pods".to_owned(), Quantity::from_units(count, Format::DecimalSi))])
    }

    #[test]
    fn usage_falls_though_charges_never_pause() {
        let start = Instant::now();
        let mut charges = Charges::default();
        // Ten pods, of which nine went; a new one is charged every quarter of the time and goes as soon.
        let (mut charged, mut lowest) = (10, 10);
        for tick in 0..20 {
            let now = start + SETTLE / 4 * tick;
            charges.look(&pods(charged), now);
            let used = charges.used(&pods(1), &pods(charged));
            assert!(used >= pods(1) && used <= pods(charged));
            let said = used["pods"].units();
            if said < charged {
                charges.wrote(used.clone(), now);
                lowest = lowest.min(said);
            }
            assert!(charges.due(&used, &pods(1), now).is_none_or(|wait| wait <= SETTLE));
            charged = said + 1;
        }
        assert!(lowest <= 6, "{lowest}: what is counted, and the latest five charges");
    }

    #[test]
    fn a_charge_is_kept_until_its_object_could_come() {
        let now = Instant::now();
        let mut charges = Charges::default();
        charges.look(&pods(2), now);
        assert_eq!(charges.used(&pods(1), &pods(2)), pods(2), "who knows since when it is charged");
        assert_eq!(charges.due(&pods(2), &pods(1), now), Some(SETTLE));
        charges.look(&pods(3), now + SETTLE / 2);
        assert_eq!(charges.used(&pods(1), &pods(3)), pods(3), "too early");
        charges.look(&pods(3), now + SETTLE);
        assert_eq!(charges.used(&pods(1), &pods(3)), pods(2), "one of two came to nothing");
        charges.wrote(pods(2), now + SETTLE);
        charges.look(&pods(2), now + SETTLE * 2);
        assert_eq!(charges.used(&pods(1), &pods(2)), pods(1), "nor did the third");
        assert_eq!(charges.due(&pods(1), &pods(1), now + SETTLE * 2), None);
    }

    #[test]
    fn more_is_said_at_once() {
        let mut charges = Charges::default();
        charges.look(&pods(1), Instant::now());
        assert_eq!(charges.used(&pods(4), &pods(1)), pods(4));
        assert_eq!(charges.used(&pods(4), &Amounts::new()), pods(4));
    }
}

//! How the server's seats are shared out between the levels: what each is entitled to, and what of
//! it is lent to those who need it more just now.

use super::config::LevelSpec;
use super::demand::Expectation;

/// A level asks for at least so many seats: what wants nothing still gets its part of what nobody wants.
const LEAST_TARGET: f64 = 0.001;
/// Of a level's nominal seats one request may have at most this share.
const WIDEST_SHARE: f64 = 0.15;

/// What a level's configuration entitles it to, in seats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entitlement {
    pub nominal: u32,
    /// What it never lends.
    pub lower: u32,
    /// What it has at most, with all it may borrow.
    pub upper: u32,
    /// The most that one of its requests is estimated at; `None`: no bound of the level's.
    pub widest: Option<u32>,
}

/// Divides the server's seats by shares. Rounding up makes the sum a little more than there are.
pub fn entitlements(server: u32, levels: &[&LevelSpec]) -> Vec<Entitlement> {
    let shares: f64 = levels.iter().map(|level| f64::from(level.shares)).sum();
    levels.iter().map(|level| entitlement(server, shares, level)).collect()
}

fn entitlement(server: u32, shares: f64, level: &LevelSpec) -> Entitlement {
    // Nobody has shares: nobody has seats.
    let part = if shares > 0.0 { f64::from(level.shares) / shares } else { 0.0 };
    let nominal = whole((f64::from(server) * part).ceil());
    let percent = |percent: u32| whole((f64::from(nominal) * f64::from(percent) / 100.0).round());
    let borrowed = level.borrowing_limit_percent.map_or(server, percent);
    Entitlement {
        nominal,
        lower: nominal.saturating_sub(percent(level.lendable_percent)),
        upper: nominal.saturating_add(borrowed),
        widest: level.response.hand().map(|hand| widest(nominal, hand)),
    }
}

/// One request must leave seats for the other queues of its flow's hand, and for other flows.
fn widest(nominal: u32, hand: usize) -> u32 {
    let share = whole((f64::from(nominal) * WIDEST_SHARE).ceil());
    let per_card = nominal / u32::try_from(hand).unwrap_or(u32::MAX).max(1);
    share.min(per_card).max(1)
}

fn whole(seats: f64) -> u32 {
    // `as` cuts off at the ends of the type, which is what is wanted.
    seats as u32
}

/// What a level can be given, and what it would have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Claim {
    pub lower: f64,
    pub upper: f64,
    pub target: f64,
}

impl Claim {
    /// A level that has used its own seats lately keeps them, whatever it lends when idle.
    pub fn new(entitlement: Entitlement, expected: &Expectation) -> Self {
        let used = expected.observed.high_watermark.min(f64::from(entitlement.nominal));
        let lower = used.max(f64::from(entitlement.lower));
        Claim { lower, upper: f64::from(entitlement.upper), target: lower.max(expected.smoothed) }
    }

    fn target(&self) -> f64 {
        self.target.max(LEAST_TARGET)
    }

    /// What it gets where everybody gets this fraction of what they would have.
    fn at(&self, fraction: f64) -> f64 {
        (fraction * self.target()).clamp(self.lower, self.upper.max(self.lower))
    }
}

/// The fraction of their targets that all can be given, bounds kept, so that exactly `seats` are
/// given. `None`: the bounds do not allow it.
///
/// What is given grows with the fraction, in straight lines between the fractions at which some
/// level meets a bound. So the two of those that the answer lies between are found, and it lies on the line
/// between them.
pub fn fair_fraction(seats: f64, claims: &[Claim]) -> Option<f64> {
    let given = |fraction: f64| claims.iter().map(|claim| claim.at(fraction)).sum::<f64>();
    let mut bends: Vec<f64> = claims
        .iter()
        .flat_map(|claim| [claim.lower, claim.upper].map(|bound| bound / claim.target()))
        .collect();
    bends.sort_by(f64::total_cmp);
    let (first, last) = (*bends.first()?, *bends.last()?);
    let tolerance = seats.max(1.0) * 1e-9;
    if given(first) > seats + tolerance || given(last) < seats - tolerance {
        return None;
    }
    let above = bends.partition_point(|bend| given(*bend) < seats);
    let Some(high) = bends.get(above).copied() else { return Some(last) };
    let Some(low) = above.checked_sub(1).map(|below| bends[below]) else { return Some(first) };
    let (from, to) = (given(low), given(high));
    Some(if to > from { low + (high - low) * (seats - from) / (to - from) } else { high })
}

/// Seats for each level, and the fraction they follow from.
pub fn allocate(seats: u32, claims: &[Claim]) -> Option<(Vec<u32>, f64)> {
    let fraction = fair_fraction(f64::from(seats), claims)?;
    Some((claims.iter().map(|claim| whole(claim.at(fraction).round())).collect(), fraction))
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::super::config::Response;
    use super::super::dealer::Dealer;
    use super::super::demand::Observed;
    use super::*;

    fn claim(lower: f64, target: f64, upper: f64) -> Claim {
        Claim { lower, upper, target }
    }

    fn level(shares: u32, lendable: u32, borrowing: Option<u32>, hand: usize) -> LevelSpec {
        LevelSpec {
            name: "l".into(),
            uid: String::new(),
            shares,
            lendable_percent: lendable,
            borrowing_limit_percent: borrowing,
            response: match Dealer::new(64, hand) {
                Some(dealer) => Response::Queue { dealer, length_limit: 50 },
                None => Response::Reject,
            },
        }
    }

    #[test]
    fn seats_follow_shares() {
        // The levels of a new cluster, without those that bend no rule.
        let levels =
            [level(5, 0, None, 0), level(30, 33, None, 6), level(40, 25, Some(50), 6), level(0, 0, None, 0)];
        let given = entitlements(600, &levels.iter().collect::<Vec<_>>());
        let parts = given.iter().map(|e| (e.nominal, e.lower, e.upper, e.widest)).collect::<Vec<_>>();
        assert_eq!(
            parts,
            [(40, 40, 640, None), (240, 161, 840, Some(36)), (320, 240, 480, Some(48)), (0, 0, 600, None),]
        );
        assert_eq!(widest(98, 6), 15);
        assert_eq!(widest(13, 6), 2);
        assert_eq!(widest(1, 6), 1);
        assert_eq!(entitlements(600, &[&level(0, 0, None, 0)])[0].nominal, 0);
    }

    #[test]
    fn who_used_its_seats_keeps_them() {
        let entitlement = Entitlement { nominal: 100, lower: 50, upper: 200, widest: None };
        let expected = |high_watermark, smoothed| Expectation {
            observed: Observed { high_watermark, ..Observed::default() },
            smoothed,
        };
        assert_eq!(Claim::new(entitlement, &expected(0.0, 0.0)), claim(50.0, 50.0, 200.0));
        assert_eq!(Claim::new(entitlement, &expected(70.0, 60.0)), claim(70.0, 70.0, 200.0));
        assert_eq!(Claim::new(entitlement, &expected(300.0, 250.0)), claim(100.0, 250.0, 200.0));
    }

    #[test]
    fn what_is_not_wanted_is_lent() {
        // One level wants all it can get, the other nothing: that one keeps what it never lends.
        let claims = [claim(100.0, 1000.0, 600.0), claim(50.0, 50.0, 600.0)];
        let (seats, fraction) = allocate(300, &claims).expect("possible");
        assert_eq!(seats, [250, 50]);
        assert!((fraction - 0.25).abs() < 1e-9, "{fraction}");
        // Both want more than there is: both get the same part of it.
        let claims = [claim(0.0, 400.0, 600.0), claim(0.0, 200.0, 600.0)];
        assert_eq!(allocate(300, &claims), Some((vec![200, 100], 0.5)));
        // Nobody wants anything: what there is is divided all the same.
        let claims = [claim(0.0, 0.0, 600.0), claim(0.0, 0.0, 600.0)];
        assert_eq!(allocate(300, &claims).map(|(seats, _)| seats), Some(vec![150, 150]));
        assert_eq!(allocate(300, &[claim(0.0, 1.0, 100.0)]), None, "more than anybody may have");
        assert_eq!(allocate(300, &[claim(400.0, 400.0, 500.0)]), None, "less than is never lent");
        assert_eq!(allocate(300, &[]), None);
    }

    #[test]
    fn whatever_is_claimed_all_seats_are_given_and_bounds_kept() {
        for seed in 0..500 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut random = |most: u32| f64::from(rng.random_range(0..=most));
            let count = 1 + random(9) as usize;
            let mut claims = Vec::new();
            for _ in 0..count {
                let lower = random(100);
                claims.push(claim(lower, lower + random(300), lower + random(500)));
            }
            let (least, most) =
                claims.iter().fold((0.0, 0.0), |(least, most), c| (least + c.lower, most + c.upper));
            let seats = (least + (most - least) * random(1000) / 1000.0).round().clamp(least, most);
            let fraction = fair_fraction(seats, &claims).unwrap_or_else(|| panic!("seed {seed}"));
            let given: f64 = claims.iter().map(|claim| claim.at(fraction)).sum();
            assert!((given - seats).abs() < 1e-6, "seed {seed}: {given} of {seats}");
        }
    }
}

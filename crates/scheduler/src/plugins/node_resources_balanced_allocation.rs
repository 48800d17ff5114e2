//! The nearer the shares of its resources that would be used are to each other, the better a node.

use crate::framework::{Candidate, MAX_SCORE, View};

pub const NAME: &str = "NodeResourcesBalancedAllocation";

pub fn score(view: &View, candidate: &Candidate) -> i64 {
    let weights = &view.profile.arguments.balanced.0;
    let requests = &view.pod.spec.requests;
    // A pod that asks for nothing balances nothing; all such pods would end up on one node.
    if weights.iter().all(|(id, _)| requests.get(*id) == 0) {
        return 0;
    }
    let share = |(id, _): &(_, i64)| {
        let wanted = requests.get(*id);
        let capacity = candidate.shape.allocatable.get(*id);
        if capacity == 0 || (wanted == 0 && id.is_scalar()) {
            return None;
        }
        let used = candidate.fill.requested.get(*id).saturating_add(wanted).max(0); // it may have wrapped
        Some((used as f64 / capacity as f64).min(1.0))
    };
    ((1.0 - deviation(weights.iter().filter_map(share))) * MAX_SCORE as f64) as i64
}

/// The standard deviation.
fn deviation(shares: impl Iterator<Item = f64> + Clone) -> f64 {
    let (mut count, mut sum) = (0_u32, 0.0);
    for share in shares.clone() {
        count += 1;
        sum += share;
    }
    match count {
        0 | 1 => 0.0,
        2 => {
            let mut both = shares;
            ((both.next().unwrap_or(0.0) - both.next().unwrap_or(0.0)) / 2.0).abs()
        }
        _ => {
            let mean = sum / f64::from(count);
            let squares: f64 = shares.map(|share| (share - mean) * (share - mean)).sum();
            (squares / f64::from(count)).sqrt()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::deviation;

    #[test]
    fn deviations() {
        let of = |shares: &[f64]| deviation(shares.iter().copied());
        assert_eq!((of(&[]), of(&[0.3]), of(&[0.25, 0.75])), (0.0, 0.0, 0.25));
        assert!((of(&[0.2, 0.4, 0.6]) - 0.163_299).abs() < 1e-5);
    }
}

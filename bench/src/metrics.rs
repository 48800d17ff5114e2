//! What a scheduler says of itself, where the server that is asked has it.

use crate::Outcome;
use crate::wire::{Call, Wire};

const DECISIONS: &str = "scheduler_scheduling_algorithm_duration_seconds_count";
const SECONDS: &str = "scheduler_scheduling_algorithm_duration_seconds_sum";

pub struct Metrics {
    decisions: f64,
    seconds: f64,
}

pub async fn read(wire: &Wire) -> Outcome<Metrics> {
    let text = wire.call(Call::get("/metrics")).await?;
    let text = String::from_utf8_lossy(&text);
    Ok(Metrics { decisions: total(&text, DECISIONS), seconds: total(&text, SECONDS) })
}

impl Metrics {
    /// Decisions made since, and how long they took; none where the scheduler is elsewhere.
    pub fn since(&self, before: &Metrics) -> Option<(f64, f64)> {
        let decisions = self.decisions - before.decisions;
        (decisions > 0.0).then_some((decisions, self.seconds - before.seconds))
    }
}

/// The sum of a metric's series.
fn total(text: &str, metric: &str) -> f64 {
    let value = |line: &str| {
        let rest = line.strip_prefix(metric)?;
        rest.starts_with([' ', '{']).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
    };
    text.lines().filter_map(value).sum()
}

#[cfg(test)]
mod tests {
    use super::total;

    #[test]
    fn a_metric_is_the_sum_of_its_series() {
        let text = "# HELP a_count of a\na_count{x=\"1\"} 2\na_count{x=\"2\"} 3.5\na_count_more 7\nb 9\n";
        assert_eq!(total(text, "a_count"), 5.5);
        assert_eq!(total(text, "b"), 9.0);
        assert_eq!(total(text, "c"), 0.0);
    }
}

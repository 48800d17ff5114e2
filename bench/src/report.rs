//! Figures: printed as they come, as a table or one JSON object each.

use serde_json::json;

pub struct Report {
    json: bool,
    rows: Vec<(String, String)>,
}

impl Report {
    pub fn new(json: bool) -> Self {
        Report { json, rows: Vec::new() }
    }
    pub fn add(&mut self, name: &str, value: f64, unit: &str) {
        if self.json {
            println!("{}", json!({"name": name, "value": value, "unit": unit}));
        } else {
            let digits = if value >= 100.0 { 0 } else { 2 };
            self.rows.push((name.to_owned(), format!("{value:.digits$} {unit}")));
            eprintln!("measured {name}");
        }
    }
    pub fn finish(&self) {
        let widest = self.rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in &self.rows {
            println!("{name:<widest$}  {value:>16}");
        }
    }
}

/// The value below which `share` (0..=1) of the samples lie.
pub fn percentile(samples: &mut [f64], share: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let last = samples.len().saturating_sub(1);
    let index = (last as f64 * share).round() as usize;
    samples.get(index).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::percentile;

    #[test]
    fn percentiles() {
        let mut samples: Vec<f64> = (1..=101).rev().map(f64::from).collect();
        assert_eq!(percentile(&mut samples, 0.5), 51.0);
        assert_eq!(percentile(&mut samples, 0.99), 100.0);
        assert_eq!(percentile(&mut [], 0.5), 0.0);
    }
}

//! Times and durations as the API writes them.

use std::fmt::Write as _;

use jiff::Timestamp;
use jiff::fmt::strtime;

use crate::field::go_quote;

const GO_LAYOUT: &str = "2006-01-02T15:04:05Z07:00";
const GO_MICRO_LAYOUT: &str = "2006-01-02T15:04:05.000000Z07:00";

/// `metav1.Time`: UTC, whole seconds.
pub fn canonical_time(text: &str) -> Result<String, String> {
    let time = parse(text, GO_LAYOUT)?;
    Ok(strtime::format("%Y-%m-%dT%H:%M:%SZ", time).unwrap_or_default())
}

/// `metav1.MicroTime`: UTC, six decimals.
pub fn canonical_micro_time(text: &str) -> Result<String, String> {
    let time = parse(text, GO_MICRO_LAYOUT)?;
    Ok(strtime::format("%Y-%m-%dT%H:%M:%S%.6fZ", time).unwrap_or_default())
}

fn parse(text: &str, layout: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| {
        let first = &layout[..4];
        format!(
            "parsing time {} as {}: cannot parse {} as {}",
            go_quote(text),
            go_quote(layout),
            go_quote(text),
            go_quote(first)
        )
    })
}

pub(super) fn canonical_duration(text: &str) -> Result<String, String> {
    let nanoseconds =
        parse_go_duration(text).ok_or_else(|| format!("time: invalid duration {}", go_quote(text)))?;
    Ok(go_duration(nanoseconds))
}

const SECOND: i64 = 1_000_000_000;

/// Go's `1h2m3.5s` as nanoseconds.
pub fn parse_go_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: f64 = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        total += number * unit;
        rest = &rest[end..];
    }
    if total > i64::MAX as f64 {
        return None;
    }
    let nanoseconds = total.round() as i64;
    Some(if negative { -nanoseconds } else { nanoseconds })
}

/// Nanoseconds as Go prints a duration.
pub fn go_duration(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let absolute = nanoseconds.unsigned_abs();
    let second = SECOND.unsigned_abs();
    if absolute == 0 {
        return "0s".to_owned();
    }
    if absolute < second {
        let (unit, name) = match absolute {
            0..1_000 => (1, "ns"),
            1_000..1_000_000 => (1_000, "µs"),
            _ => (1_000_000, "ms"),
        };
        return format!("{sign}{}{name}", decimal(absolute, unit));
    }
    let (hours, minutes) = (absolute / second / 3600, absolute / second / 60 % 60);
    let mut out = sign.to_owned();
    // Writing to a String cannot fail.
    if hours > 0 {
        let _ = write!(out, "{hours}h");
    }
    if hours > 0 || minutes > 0 {
        let _ = write!(out, "{minutes}m");
    }
    out.push_str(&decimal(absolute % (60 * second), second));
    out.push('s');
    out
}

fn decimal(value: u64, unit: u64) -> String {
    let (whole, fraction) = (value / unit, value % unit);
    if fraction == 0 {
        return whole.to_string();
    }
    let digits = unit.ilog10() as usize;
    let text = format!("{fraction:0digits$}");
    format!("{whole}.{}", text.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical() {
        assert_eq!(canonical_time("2024-01-02T05:04:05.9+02:00").as_deref(), Ok("2024-01-02T03:04:05Z"));
        assert_eq!(
            canonical_micro_time("2024-01-02T03:04:05Z").as_deref(),
            Ok("2024-01-02T03:04:05.000000Z")
        );
        assert!(canonical_time("").is_err());
        for text in ["0s", "1h0m0s", "1m30s", "1.5s", "250ms", "1µs", "-2s"] {
            assert_eq!(parse_go_duration(text).map(go_duration).as_deref(), Some(text));
        }
        assert_eq!(parse_go_duration("5"), None);
    }
}

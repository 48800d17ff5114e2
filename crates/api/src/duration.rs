//! Durations and ages as kubectl prints them.

/// Kubernetes' short form with at most two units and less precision the longer it gets: `5s`,
/// `2m30s`, `45m`, `3h5m`, `2d3h`, `90d`, `2y30d`.
pub fn human_duration(seconds: i64) -> String {
    // Clock skew of a second is no news, more is.
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    if seconds < 0 {
        return "0s".to_owned();
    }
    let minutes = seconds / 60;
    let hours = seconds / 3600;
    let days = hours / 24;
    let years = hours / 24 / 365;
    if seconds < 120 {
        format!("{seconds}s")
    } else if minutes < 10 {
        two(minutes, 'm', seconds % 60, 's')
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        two(hours, 'h', minutes % 60, 'm')
    } else if hours < 48 {
        format!("{hours}h")
    } else if hours < 192 {
        two(days, 'd', hours % 24, 'h')
    } else if hours < 24 * 365 * 2 {
        format!("{days}d")
    } else if hours < 24 * 365 * 8 {
        two(years, 'y', days % 365, 'd')
    } else {
        format!("{years}y")
    }
}

fn two(large: i64, large_unit: char, small: i64, small_unit: char) -> String {
    if small == 0 {
        format!("{large}{large_unit}")
    } else {
        format!("{large}{large_unit}{small}{small_unit}")
    }
}

/// The time between an RFC 3339 time and `now`, or `<unknown>`.
pub fn age(since: Option<&str>, now: jiff::Timestamp) -> String {
    match since.and_then(|s| s.parse::<jiff::Timestamp>().ok()) {
        Some(then) => human_duration(now.as_second() - then.as_second()),
        None => "<unknown>".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms() {
        let day = 86400;
        for (seconds, text) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (150, "2m30s"),
            (600, "10m"),
            (179 * 60, "179m"),
            (3 * 3600 + 300, "3h5m"),
            (9 * 3600, "9h"),
            (2 * day + 3 * 3600, "2d3h"),
            (9 * day, "9d"),
            (730 * day, "2y"),
            (760 * day, "2y30d"),
            (365 * 9 * day, "9y"),
        ] {
            assert_eq!(human_duration(seconds), text);
        }
    }
}

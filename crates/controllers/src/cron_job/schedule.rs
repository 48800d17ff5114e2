//! Schedules in cron's notation, in the dialect CronJobs accept: five fields, names of months and
//! days, lists, ranges, steps, `?`, and the `@daily` family with `@every`.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

/// A schedule that matches no day within this many is taken to match none (the 29th of February
/// comes again within 8 years).
const SEARCH_DAYS: u32 = 366 * 9;

#[derive(Clone, Debug, PartialEq)]
pub enum Schedule {
    Every(SignedDuration),
    Fields(Fields),
}

/// One bit per value.
#[derive(Clone, Debug, PartialEq)]
pub struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// A restricted day of month and a restricted weekday add up; else both must fit.
    either_day: bool,
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

struct Bounds {
    low: u32,
    high: u32,
    names: &'static [&'static str],
}

impl Bounds {
    fn value(&self, text: &str) -> Result<u32, String> {
        let lower = text.to_ascii_lowercase();
        if let Some(at) = self.names.iter().position(|name| *name == lower) {
            return Ok(u32::try_from(at).unwrap_or(0) + self.low);
        }
        text.parse().map_err(|_| format!("failed to parse int from {text}: not a number"))
    }
    fn range(&self, text: &str) -> Result<u64, String> {
        let (span, step) = match text.split_once('/') {
            Some((span, step)) => (span, Some(step)),
            None => (text, None),
        };
        let (low, high) = match span {
            "*" | "?" => (self.low, self.high),
            _ => match span.split_once('-') {
                Some((low, high)) => (self.value(low)?, self.value(high)?),
                // A start with a step runs to the end.
                None => (self.value(span)?, if step.is_some() { self.high } else { self.value(span)? }),
            },
        };
        let step: u32 = match step {
            Some(step) => {
                step.parse().map_err(|_| format!("failed to parse int from {step}: not a number"))?
            }
            None => 1,
        };
        if step == 0 {
            return Err(format!("step of range should be a positive number: {text}"));
        }
        if low < self.low {
            return Err(format!("beginning of range ({low}) below minimum ({}): {text}", self.low));
        }
        if high > self.high {
            return Err(format!("end of range ({high}) above maximum ({}): {text}", self.high));
        }
        if low > high {
            return Err(format!("beginning of range ({low}) beyond end of range ({high}): {text}"));
        }
        let values = (low..=high).step_by(step as usize);
        Ok(values.fold(0, |bits, value| bits | 1 << value))
    }
    fn field(&self, text: &str) -> Result<u64, String> {
        text.split(',').try_fold(0, |bits, part| Ok(bits | self.range(part)?))
    }
}

pub fn parse(text: &str) -> Result<Schedule, String> {
    let text = match text.trim() {
        "" => return Err("empty spec string".to_owned()),
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        other => other,
    };
    if let Some(period) = text.strip_prefix("@every ") {
        let period: SignedDuration =
            period.trim().parse().map_err(|_| format!("failed to parse duration {text}"))?;
        return Ok(Schedule::Every(SignedDuration::from_secs(period.as_secs().max(1))));
    }
    if text.starts_with('@') {
        return Err(format!("unrecognized descriptor: {text}"));
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    let [minutes, hours, days, months, weekdays] = fields.as_slice() else {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    };
    let plain = |low, high| Bounds { low, high, names: &[] };
    let is_open = |field: &str| field.split(',').any(|part| part.starts_with(['*', '?']));
    Ok(Schedule::Fields(Fields {
        minutes: plain(0, 59).field(minutes)?,
        hours: plain(0, 23).field(hours)?,
        days: plain(1, 31).field(days)?,
        months: Bounds { low: 1, high: 12, names: &MONTHS }.field(months)?,
        weekdays: Bounds { low: 0, high: 6, names: &WEEKDAYS }.field(weekdays)?,
        either_day: !is_open(days) && !is_open(weekdays),
    }))
}

fn has(bits: u64, value: i8) -> bool {
    u32::try_from(value).is_ok_and(|value| bits & (1 << value) != 0)
}

impl Fields {
    fn fits_day(&self, date: Date) -> bool {
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        let day = has(self.days, date.day());
        let fits = if self.either_day { day || weekday } else { day && weekday };
        fits && has(self.months, date.month())
    }

    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let start = zone.to_datetime(after);
        let mut date = start.date();
        for _ in 0..SEARCH_DAYS {
            if self.fits_day(date) {
                let times = (0..24).filter(|hour| has(self.hours, *hour)).flat_map(|hour| {
                    (0..60).filter(|minute| has(self.minutes, *minute)).map(move |minute| (hour, minute))
                });
                for (hour, minute) in times {
                    let local: DateTime = date.at(hour, minute, 0, 0);
                    // A time the clocks skip does not come; one they repeat comes the first time.
                    let ambiguous = zone.to_ambiguous_timestamp(local);
                    if matches!(ambiguous.offset(), jiff::tz::AmbiguousOffset::Gap { .. }) {
                        continue;
                    }
                    let at = ambiguous.earlier().ok()?;
                    if at > after {
                        return Some(at);
                    }
                }
            }
            date = date.checked_add(1.day()).ok()?;
        }
        None
    }
}

impl Schedule {
    /// The first time after `after`.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Schedule::Every(period) => after.checked_add(*period).ok(),
            Schedule::Fields(fields) => fields.next(after, zone),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_times() {
        // schedule, zone, after, next
        for (schedule, zone, after, expected) in [
            ("*/1 * * * ?", "UTC", "2026-03-01T10:00:30Z", "2026-03-01T10:01:00Z"),
            ("0 0 29 2 *", "UTC", "2026-03-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("30 9 * * mon-fri", "UTC", "2026-03-06T09:30:00Z", "2026-03-09T09:30:00Z"),
            // The 13th or a Friday.
            ("0 0 13 * fri", "UTC", "2026-03-07T00:00:00Z", "2026-03-13T00:00:00Z"),
            ("0 0 13 * fri", "UTC", "2026-03-13T00:00:00Z", "2026-03-20T00:00:00Z"),
            ("0 12 1 JAN,JUL *", "UTC", "2026-01-01T12:00:00Z", "2026-07-01T12:00:00Z"),
            ("5/20 * * * *", "UTC", "2026-01-01T00:26:00Z", "2026-01-01T00:45:00Z"),
            ("@daily", "Europe/Berlin", "2026-01-01T12:00:00Z", "2026-01-01T23:00:00Z"),
            // 02:30 does not exist on the day clocks go forward.
            ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-30T00:30:00Z"),
            ("@every 90s", "UTC", "2026-01-01T00:00:00Z", "2026-01-01T00:01:30Z"),
        ] {
            let zone = TimeZone::get(zone).unwrap();
            let next = parse(schedule).unwrap().next(after.parse().unwrap(), &zone);
            assert_eq!(next.unwrap().to_string(), expected, "{schedule}");
        }
        let never = parse("0 0 30 2 *").unwrap();
        assert_eq!(never.next(Timestamp::UNIX_EPOCH, &TimeZone::UTC), None);
    }

    #[test]
    fn refusals() {
        for bad in
            ["", "* * * *", "60 * * * *", "* * 0 * *", "* * * * 7", "5-1 * * * *", "*/0 * * * *", "@often"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}

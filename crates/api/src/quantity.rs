//! Resource quantities (`500m`, `1Gi`, `1e3`): parsing, arithmetic and the canonical form the
//! server answers with. Held as whole nano-units, the finest step Kubernetes keeps.

use std::fmt;

const NANOS_PER_UNIT: i128 = 1_000_000_000;
/// Larger magnitudes are cut to this, as upstream does.
const MAX_NANOS: i128 = i64::MAX as i128 * NANOS_PER_UNIT;
/// Longer numbers carry no more information within the bounds above.
const MAX_TEXT: usize = 256;

/// How a quantity was written and therefore is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    /// `1e3`
    DecimalExponent,
    /// `1Ki`
    BinarySi,
    /// `1k`, `500m`
    #[default]
    DecimalSi,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse quantity's suffix")]
    Suffix,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
}

impl Quantity {
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.is_empty() || text.len() > MAX_TEXT {
            return Err(Error::Format);
        }
        let (negative, digits) = match text.as_bytes()[0] {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let end = digits.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(digits.len());
        let (number, suffix) = digits.split_at(end);
        if !suffix.bytes().all(|b| b"eEinumkKMGTP+-0123456789".contains(&b)) {
            return Err(Error::Format);
        }
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if number.is_empty() || fraction.contains('.') {
            return Err(if number.is_empty() { Error::Format } else { Error::Numeric });
        }
        if whole.is_empty() && fraction.is_empty() {
            return Err(Error::Numeric);
        }
        let (format, scale) = scale_of(suffix).ok_or(Error::Suffix)?;
        let nanos = scaled_nanos(whole, fraction, scale);
        Ok(Quantity { nanos: if negative { -nanos } else { nanos }, format })
    }

    pub fn from_units(units: i64, format: Format) -> Self {
        Quantity { nanos: i128::from(units) * NANOS_PER_UNIT, format }
    }
    pub fn from_milli(milli: i64, format: Format) -> Self {
        Quantity { nanos: i128::from(milli) * 1_000_000, format }
    }
    pub fn nanos(self) -> i128 {
        self.nanos
    }
    pub fn format(self) -> Format {
        self.format
    }
    /// Whole units, rounded away from zero.
    pub fn units(self) -> i64 {
        round_up(self.nanos, NANOS_PER_UNIT)
    }
    /// Thousandths, rounded away from zero.
    pub fn milli(self) -> i64 {
        round_up(self.nanos, 1_000_000)
    }
    pub fn as_f64(self) -> f64 {
        self.nanos as f64 / NANOS_PER_UNIT as f64
    }
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }
    /// Keeps the left side's format unless it is zero.
    pub fn plus(self, other: Quantity) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: (self.nanos + other.nanos).clamp(-MAX_NANOS, MAX_NANOS), format }
    }
    pub fn minus(self, other: Quantity) -> Self {
        self.plus(Quantity { nanos: -other.nanos, format: other.format })
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl std::str::FromStr for Quantity {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        Quantity::parse(text)
    }
}

/// The canonical form: the largest suffix that keeps the number whole.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let units = self.nanos / NANOS_PER_UNIT;
        let whole = self.nanos % NANOS_PER_UNIT == 0;
        if self.format == Format::BinarySi && whole && units.abs() >= 1024 {
            return fmt_binary(f, units);
        }
        let (mut number, mut exponent) = (self.nanos, -9);
        while number % 1000 == 0 && exponent < 18 {
            number /= 1000;
            exponent += 3;
        }
        match (self.format, exponent) {
            (_, 0) => write!(f, "{number}"),
            (Format::DecimalExponent, _) => write!(f, "{number}e{exponent}"),
            _ => write!(f, "{number}{}", DECIMAL[((exponent + 9) / 3) as usize]),
        }
    }
}

const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

fn fmt_binary(f: &mut fmt::Formatter<'_>, mut units: i128) -> fmt::Result {
    let mut power = 0;
    while units % 1024 == 0 && power + 1 < BINARY.len() {
        units /= 1024;
        power += 1;
    }
    write!(f, "{units}{}", BINARY[power])
}

enum Scale {
    Decimal(i32),
    Binary(u32),
}

fn scale_of(suffix: &str) -> Option<(Format, Scale)> {
    if let Some(power) = DECIMAL.iter().position(|s| *s == suffix) {
        return Some((Format::DecimalSi, Scale::Decimal(power as i32 * 3 - 9)));
    }
    if let Some(power) = BINARY.iter().position(|s| *s == suffix) {
        return Some((Format::BinarySi, Scale::Binary(power as u32 * 10)));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    let exponent: i32 = exponent.parse().ok()?;
    Some((Format::DecimalExponent, Scale::Decimal(exponent)))
}

/// The magnitude in nanos, rounded up, cut at the maximum.
fn scaled_nanos(whole: &str, fraction: &str, scale: Scale) -> i128 {
    let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).map(|b| b - b'0').collect();
    let point = whole.len() as i64;
    match scale {
        Scale::Decimal(exponent) => decimal_nanos(&digits, point + i64::from(exponent) + 9).min(MAX_NANOS),
        Scale::Binary(power) => {
            // A binary multiple of a decimal fraction: multiply the finest number we can hold. Twelve
            // fractional digits are kept exactly; what lies below cannot reach a nano for Ki..Ei sizes
            // people write.
            let fine = decimal_nanos(&digits, point + 12);
            let product = fine.checked_mul(1i128 << power).unwrap_or(i128::MAX);
            let nanos = product / 1000 + i128::from(product % 1000 != 0);
            nanos.min(MAX_NANOS)
        }
    }
}

/// The integer whose decimal digits end `count` places after the first digit, rounded up.
fn decimal_nanos(digits: &[u8], count: i64) -> i128 {
    let limit = MAX_NANOS * 1000;
    let mut number: i128 = 0;
    for place in 0..count.max(0) {
        let digit = digits.get(place as usize).copied().unwrap_or(0);
        if number == 0 && place as usize >= digits.len() {
            break;
        }
        number = number * 10 + i128::from(digit);
        if number >= limit {
            return limit;
        }
    }
    let kept = count.clamp(0, digits.len() as i64) as usize;
    let rest = digits[kept..].iter().any(|d| *d != 0);
    (number + i128::from(rest)).min(limit)
}

fn round_up(nanos: i128, step: i128) -> i64 {
    let quotient = nanos / step;
    let rest = nanos % step;
    let rounded = quotient + rest.signum();
    rounded.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms() {
        let cases = [
            ("0", "0"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("1.", "1"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1000", "1k"),
            ("1024Mi", "1Gi"),
            ("1000Mi", "1000Mi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("100Ki", "100Ki"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("12E", "9223372036854775807"),
            ("1E", "1E"),
            ("0.0000000001", "1n"),
            ("-1500m", "-1500m"),
            ("+1k", "1k"),
            ("0.1Ki", "102400m"),
            ("1e-3", "1e-3"),
            ("1500e-3", "1500e-3"),
            ("123456789Ki", "123456789Ki"),
            ("1n", "1n"),
        ];
        for (text, expected) in cases {
            assert_eq!(Quantity::parse(text).map(|q| q.to_string()).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn refusals() {
        for (text, error) in [
            ("", Error::Format),
            ("abc", Error::Format),
            ("1.2.3", Error::Numeric),
            ("1Kb", Error::Format),
            ("1mi", Error::Suffix),
            ("1 Gi", Error::Format),
            (".", Error::Numeric),
        ] {
            assert_eq!(Quantity::parse(text).err(), Some(error), "{text}");
        }
    }

    #[test]
    fn arithmetic() {
        let half = Quantity::parse("500m").expect("quantity");
        let one = Quantity::parse("1").expect("quantity");
        assert_eq!(half.plus(half), one);
        assert_eq!(one.minus(half).milli(), 500);
        assert_eq!(half.units(), 1);
        assert!(half < one);
        let mi = Quantity::parse("1Mi").expect("quantity");
        assert_eq!(Quantity::default().plus(mi).to_string(), "1Mi");
        assert_eq!(mi.plus(mi).to_string(), "2Mi");
    }
}

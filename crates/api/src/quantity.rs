//! Resource quantities (`500m`, `1Gi`, `1e3`): parsing, arithmetic and the canonical form the
//! server answers with. Held as whole nano-units, the finest step Kubernetes keeps.

use std::fmt;

const NANOS_PER_UNIT: i128 = 1_000_000_000;
/// Binary quantities are cut to this, as upstream does.
const MAX_BINARY_NANOS: i128 = i64::MAX as i128 * NANOS_PER_UNIT;
/// Decimal ones have no bound upstream; here they end where the representation does, a hundred
/// million times beyond the largest suffix.
const MAX_NANOS: i128 = 100_000_000_000_000_000_000_000_000_000 * NANOS_PER_UNIT;
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
        Parts::scan(text)?.quantity()
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
    /// For people: amounts of bytes with one decimal at most, rounded up or down (`15.6Gi`).
    pub fn readable(self, up: bool) -> String {
        let units = self.nanos / NANOS_PER_UNIT;
        if self.format != Format::BinarySi || units.abs() < 1024 {
            return self.to_string();
        }
        let power = (units.abs().ilog2() / 10).min(BINARY.len() as u32 - 1);
        let (tenths, unit) = (units * 10, 1_i128 << (10 * power));
        let tenths = if up { -(-tenths).div_euclid(unit) } else { tenths.div_euclid(unit) };
        let fraction = if tenths % 10 == 0 { String::new() } else { format!(".{}", (tenths % 10).abs()) };
        format!("{}{fraction}{}", tenths / 10, BINARY[power as usize])
    }
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }
    /// Keeps the left side's format unless it is zero.
    pub fn plus(self, other: Quantity) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: self.nanos.saturating_add(other.nanos).clamp(-MAX_NANOS, MAX_NANOS), format }
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

/// What a client gets back for what it wrote: the canonical form, except that numbers which look
/// canonical at a glance are returned as they are.
pub fn canonical(text: &str) -> Result<String, Error> {
    let parts = Parts::scan(text)?;
    let quantity = parts.quantity()?;
    Ok(if parts.looks_canonical() { text.to_owned() } else { quantity.to_string() })
}

/// A quantity taken apart. Leading zeros are no part of the number; none at all is zero.
struct Parts<'a> {
    negative: bool,
    number: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

impl<'a> Parts<'a> {
    fn scan(text: &'a str) -> Result<Self, Error> {
        if text.is_empty() || text.len() > MAX_TEXT {
            return Err(Error::Format);
        }
        let negative = text.starts_with('-');
        let rest = text.strip_prefix(['-', '+']).unwrap_or(text).trim_start_matches('0');
        let (number, rest) = rest.split_at(digits(rest));
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(rest) => rest.split_at(digits(rest)),
            None => ("", rest),
        };
        let number = if number.is_empty() { "0" } else { number };
        let exponent = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
        let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        if digits(exponent) < exponent.len() {
            return Err(Error::Format);
        }
        Ok(Parts { negative, number, fraction, suffix })
    }

    fn quantity(&self) -> Result<Quantity, Error> {
        let (mut format, scale) = scale_of(self.suffix).ok_or(Error::Suffix)?;
        let nanos = match scale {
            Scale::Decimal(exponent) => self.decimal_nanos(i64::from(exponent)),
            Scale::Binary(power) => self.binary_nanos(power),
        };
        if format == Format::BinarySi && (1..NANOS_PER_UNIT).contains(&nanos) {
            format = Format::DecimalSi;
        }
        Ok(Quantity { nanos: if self.negative { -nanos } else { nanos }, format })
    }

    fn digits(&self) -> impl DoubleEndedIterator<Item = i128> {
        self.number.bytes().chain(self.fraction.bytes()).map(|b| i128::from(b - b'0'))
    }

    /// Rounded up, cut at the maximum.
    fn decimal_nanos(&self, exponent: i64) -> i128 {
        let given = (self.number.len() + self.fraction.len()) as i64;
        let kept = self.number.len() as i64 + exponent + 9;
        let mut nanos: i128 = 0;
        for digit in self.digits().take(kept.clamp(0, given) as usize) {
            nanos = nanos.saturating_mul(10).saturating_add(digit).min(MAX_NANOS);
        }
        // Trailing zeros of the exponent; a zero stays one however many there are.
        for _ in given..kept {
            if nanos == 0 || nanos == MAX_NANOS {
                break;
            }
            nanos = nanos.saturating_mul(10).min(MAX_NANOS);
        }
        let rest = self.digits().skip(kept.clamp(0, given) as usize).any(|d| d != 0);
        (nanos + i128::from(rest)).min(MAX_NANOS)
    }

    /// Rounded up, cut at the maximum.
    fn binary_nanos(&self, power: u32) -> i128 {
        let unit = NANOS_PER_UNIT << power;
        let whole =
            self.number.bytes().fold(0i128, |n, b| (n * 10 + i128::from(b - b'0')).min(MAX_BINARY_NANOS));
        let whole = whole.checked_mul(unit).unwrap_or(i128::MAX);
        // From the last digit on, so that every step divides what came before it by ten.
        let (mut below, mut rest) = (0i128, false);
        for byte in self.fraction.bytes().rev() {
            let sum = i128::from(byte - b'0') * unit + below;
            rest |= sum % 10 != 0;
            below = sum / 10;
        }
        whole.saturating_add(below + i128::from(rest)).min(MAX_BINARY_NANOS)
    }

    /// Whether the number is taken for canonical as it stands, at the precision where upstream
    /// looks.
    fn looks_canonical(&self) -> bool {
        let length = self.number.len() + self.fraction.len();
        match scale_of(self.suffix) {
            Some((_, Scale::Binary(power))) => {
                let last: u32 = self
                    .number
                    .bytes()
                    .rev()
                    .take(3)
                    .enumerate()
                    .map(|(i, b)| u32::from(b - b'0') * 10u32.pow(i as u32))
                    .sum();
                let precision = 15 - self.number.len() as i64 - i64::from(power * 3 / 10) - 1;
                // The last three decimal digits decide what a number is modulo eight.
                self.fraction.is_empty() && precision >= 0 && !last.is_multiple_of(8)
            }
            Some((_, Scale::Decimal(exponent))) => {
                let scale = i64::from(exponent) - self.fraction.len() as i64;
                let trailing =
                    self.number.bytes().chain(self.fraction.bytes()).rev().take_while(|b| *b == b'0');
                let leading_zero = self.number.starts_with('0');
                length <= 18 && scale >= -9 && scale % 3 == 0 && trailing.count() < 3 && !leading_zero
            }
            None => false,
        }
    }
}

enum Scale {
    Decimal(i32),
    Binary(u32),
}

fn scale_of(suffix: &str) -> Option<(Format, Scale)> {
    if let Some(power) = DECIMAL.iter().position(|s| *s == suffix) {
        return Some((Format::DecimalSi, Scale::Decimal(power as i32 * 3 - 9)));
    }
    if let Some(power) = BINARY.iter().position(|s| *s == suffix)
        && power > 0
    {
        return Some((Format::BinarySi, Scale::Binary(power as u32 * 10)));
    }
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    Some((Format::DecimalExponent, Scale::Decimal(exponent)))
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

    fn parse(text: &str) -> Quantity {
        Quantity::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    /// Text, mantissa and power of ten, format: what each way to write a number means.
    const PARSED: &[(&str, i128, u32, Format)] = &[
        ("0", 0, 9, Format::DecimalSi),
        ("0n", 0, 9, Format::DecimalSi),
        ("0Ki", 0, 9, Format::BinarySi),
        ("1Ki", 1024, 9, Format::BinarySi),
        ("7Mi", 7 << 20, 9, Format::BinarySi),
        ("6Gi", 6 << 30, 9, Format::BinarySi),
        ("100Ti", 100 << 40, 9, Format::BinarySi),
        ("4Pi", 4 << 50, 9, Format::BinarySi),
        ("3Ei", 3 << 60, 9, Format::BinarySi),
        ("5n", 5, 0, Format::DecimalSi),
        ("4u", 4, 3, Format::DecimalSi),
        ("3m", 3, 6, Format::DecimalSi),
        ("50k", 5, 13, Format::DecimalSi),
        ("7M", 7, 15, Format::DecimalSi),
        ("300T", 3, 23, Format::DecimalSi),
        ("2P", 2, 24, Format::DecimalSi),
        ("12E", 12, 27, Format::DecimalSi),
        ("1E-3", 1, 6, Format::DecimalExponent),
        ("1e14", 1, 23, Format::DecimalExponent),
        ("1.3E+6", 13, 14, Format::DecimalExponent),
        ("1.7E18", 17, 26, Format::DecimalExponent),
        ("0.5e-2", 5, 6, Format::DecimalExponent),
        ("0.00050k", 5, 8, Format::DecimalSi),
        ("6.987654321G", 6_987_654_321, 9, Format::DecimalSi),
        ("3.001n", 4, 0, Format::DecimalSi),
        ("1.1E-9", 2, 0, Format::DecimalExponent),
        ("0.0000000005", 1, 0, Format::DecimalSi),
        ("0.9n", 1, 0, Format::DecimalSi),
        ("0.00000012345", 124, 0, Format::DecimalSi),
        ("9Ei", i64::MAX as i128, 9, Format::BinarySi),
        ("9223372036854775807Ki", i64::MAX as i128, 9, Format::BinarySi),
        ("100.035Ki", 10_243_584, 7, Format::BinarySi),
        ("0.05Gi", 536_870_912, 8, Format::BinarySi),
        ("0.025Ti", 274_877_906_944, 8, Format::BinarySi),
        ("0.000000000001Ki", 2, 0, Format::DecimalSi),
        (".001", 1, 6, Format::DecimalSi),
        (".0001k", 100, 6, Format::DecimalSi),
        ("1.G", 1, 18, Format::DecimalSi),
        (".", 0, 0, Format::DecimalSi),
        ("Mi", 0, 0, Format::BinarySi),
        ("9223372036854775808", 9_223_372_036_854_775_808, 9, Format::DecimalSi),
    ];

    #[test]
    fn readable_amounts() {
        let cases = [
            ("250m", "250m", "250m"),
            ("1023", "1023", "1023"),
            ("1Gi", "1Gi", "1Gi"),
            ("16384256Ki", "15.6Gi", "15.7Gi"),
            ("1500Mi", "1.4Gi", "1.5Gi"),
            ("3G", "3G", "3G"),
        ];
        for (text, down, up) in cases {
            let quantity = Quantity::parse(text).unwrap();
            assert_eq!((&*quantity.readable(false), &*quantity.readable(true)), (down, up), "{text}");
        }
    }

    #[test]
    fn parsing() {
        for (text, mantissa, power, format) in PARSED {
            let expected = mantissa * 10i128.pow(*power);
            for (sign, factor) in [("", 1), ("-", -1), ("+", 1)] {
                let quantity = parse(&format!("{sign}{text}"));
                assert_eq!((quantity.nanos, quantity.format), (expected * factor, *format), "{sign}{text}");
            }
        }
    }

    #[test]
    fn canonical_forms() {
        let cases = [
            ("0.5", "500m"),
            ("1.", "1"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1000", "1k"),
            ("1024Mi", "1Gi"),
            ("1000Mi", "1000Mi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("1e3", "1e3"),
            ("12E", "12E"),
            ("0.0000000001", "1n"),
            ("-1500m", "-1500m"),
            ("0.1Ki", "102400m"),
            ("1500e-3", "1500e-3"),
            ("1e5", "100e3"),
            ("0Mi", "0"),
            ("1000000Ki", "1000000Ki"),
            ("1Ki", "1Ki"),
            ("1023.5Ki", "1048064"),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text).to_string(), expected, "{text}");
            assert_eq!(parse(&parse(text).to_string()), parse(text), "{text}");
        }
        // What looks canonical goes back as it came.
        for text in ["1E3", "+1k", "1.500", "012", "1500Mi"] {
            assert_eq!(canonical(text).as_deref(), Ok(text));
        }
        for (text, expected) in [("1000Mi", "1000Mi"), ("0.100", "100m"), ("1024Ki", "1Mi"), ("2000m", "2")] {
            assert_eq!(canonical(text).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn refusals() {
        let format = ["", "1.1.M", "1+1.0M", "aoeu", " 1", "1 ", "1Kb", "1 Gi", "1e3.5"];
        for text in format {
            assert_eq!(Quantity::parse(text).err(), Some(Error::Format), "{text}");
        }
        for text in ["0.1mi", ".5i", "1i", "-3.01i", "-3.01e-", "1e4294967297", "1K", "e"] {
            assert_eq!(Quantity::parse(text).err(), Some(Error::Suffix), "{text}");
        }
    }

    #[test]
    fn arithmetic() {
        assert_eq!(parse("500m").plus(parse("500m")), parse("1"));
        assert_eq!(parse("1").minus(parse("500m")).milli(), 500);
        assert_eq!(parse("500m").units(), 1);
        assert_eq!(parse("-500m").units(), -1);
        assert!(parse("10000T") > parse("100Gi") && parse("50m") < parse("100m"));
        for text in ["100m", "1Gi"] {
            let (zero, value) = (parse("0"), parse(text));
            assert_eq!(zero.plus(value).to_string(), text);
            assert_eq!(value.plus(zero).to_string(), text);
            assert_eq!(value.minus(zero).to_string(), text);
            assert_eq!(zero.minus(value).to_string(), format!("-{text}"));
        }
        let most = parse("1e1000");
        assert_eq!(most.plus(most), most);
    }
}

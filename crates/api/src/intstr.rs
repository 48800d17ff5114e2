//! `IntOrString`: a number, or a text that is mostly a percentage.

use std::fmt;

use serde_json::Value;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IntOrString {
    Int(i32),
    Text(String),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("invalid value for IntOrString: invalid type: string is not a percentage")]
    NotPercent,
    #[error(
        "invalid value for IntOrString: invalid value {0:?}: strconv.Atoi: parsing {1:?}: invalid syntax"
    )]
    NotNumber(String, String),
}

impl IntOrString {
    pub fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Number(n) => n.as_i64().and_then(|n| i32::try_from(n).ok()).map(IntOrString::Int),
            Value::String(s) => Some(IntOrString::Text(s.clone())),
            _ => None,
        }
    }
    pub fn to_value(&self) -> Value {
        match self {
            IntOrString::Int(n) => (*n).into(),
            IntOrString::Text(s) => s.clone().into(),
        }
    }
    /// The number, or the percentage of `total`.
    pub fn scaled(&self, total: i64, round_up: bool) -> Result<i64, Error> {
        let text = match self {
            IntOrString::Int(n) => return Ok(i64::from(*n)),
            IntOrString::Text(text) => text,
        };
        let digits = text.strip_suffix('%').ok_or(Error::NotPercent)?;
        let percent: i64 = digits.parse().map_err(|_| Error::NotNumber(text.clone(), digits.to_owned()))?;
        let product = percent.saturating_mul(total);
        let rounded = product.div_euclid(100) + i64::from(round_up && product.rem_euclid(100) != 0);
        Ok(rounded)
    }
}

impl fmt::Display for IntOrString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IntOrString::Int(n) => write!(f, "{n}"),
            IntOrString::Text(s) => f.write_str(s),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_as_asked() {
        let quarter = IntOrString::Text("25%".into());
        assert_eq!(quarter.scaled(10, true), Ok(3));
        assert_eq!(quarter.scaled(10, false), Ok(2));
        assert_eq!(IntOrString::Int(7).scaled(1, true), Ok(7));
        assert_eq!(IntOrString::Text("7".into()).scaled(1, true), Err(Error::NotPercent));
    }
}

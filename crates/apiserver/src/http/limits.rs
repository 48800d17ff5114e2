//! How long a request may take, and what those are told whom flow control sends away.

use std::time::Duration;

use amphipod_api::codec::parse_go_duration;
use amphipod_api::field::go_quote;
use amphipod_api::status::Status;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};

use super::path::Query;
use crate::body::{self, Body};

/// Longest a write may take, as upstream bounds it: less than the limit for all requests.
const WRITE_TIMEOUT: Duration = Duration::from_secs(34);
const TOO_MANY: &str = "Too many requests, please try again later.\n";

/// Kinds of requests that are counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    ReadOnly,
    Mutating,
}

impl Kind {
    pub fn of(verb: &str) -> Self {
        match verb {
            "get" | "list" | "watch" | "head" => Kind::ReadOnly,
            _ => Kind::Mutating,
        }
    }
    /// As metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::ReadOnly => "readOnly",
            Kind::Mutating => "mutating",
        }
    }
}

/// How long a request may take, and what is said when it took longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeLimit {
    pub duration: Duration,
    is_write: bool,
}

impl TimeLimit {
    /// The server's limit, or the shorter one the client names.
    pub fn parse(query: &Query, kind: Kind, most: Duration) -> Result<Self, Status> {
        let text = query.text("timeout");
        let wanted = if text.is_empty() { None } else { Some(parse_timeout(text)?) };
        let is_write = kind == Kind::Mutating;
        let most = if is_write { most.min(WRITE_TIMEOUT) } else { most };
        let duration = wanted.filter(|d| !d.is_zero()).map_or(most, |d| d.min(most));
        Ok(TimeLimit { duration, is_write })
    }

    pub fn exceeded(self) -> Status {
        Status::timeout(
            if self.is_write {
                "request did not complete within requested timeout - context deadline exceeded"
            } else {
                "request did not complete within the allotted timeout"
            },
            0,
        )
    }
}

/// Less than nothing is no limit of the client's.
fn parse_timeout(text: &str) -> Result<Duration, Status> {
    let nanos = parse_go_duration(text).ok_or_else(|| {
        let number = text.trim_start_matches(['+', '-']);
        let why = if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            "missing unit in duration"
        } else {
            "invalid duration"
        };
        let fault = format!("time: {why} {}", go_quote(text));
        Status::bad_request(format!("invalid timeout specified in the request URL - {fault}"))
    })?;
    Ok(Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)))
}

/// The answer to those sent away: plain text, as upstream gives it.
pub fn too_many(retry_after_seconds: u64) -> Response<Body> {
    let mut answer = Response::new(body::full(TOO_MANY));
    *answer.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    headers.insert(RETRY_AFTER, HeaderValue::from(retry_after_seconds));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_limits() {
        let most = Duration::from_secs(60);
        let limit = |query: &str, kind| TimeLimit::parse(&Query::parse(Some(query)), kind, most);
        let seconds = |query: &str, kind| limit(query, kind).map(|l| l.duration.as_secs()).ok();
        assert_eq!(seconds("", Kind::ReadOnly), Some(60));
        assert_eq!(seconds("timeout=5s", Kind::ReadOnly), Some(5));
        assert_eq!(seconds("timeout=2m", Kind::ReadOnly), Some(60));
        assert_eq!(seconds("timeout=0s", Kind::ReadOnly), Some(60));
        assert_eq!(seconds("timeout=-5s", Kind::ReadOnly), Some(60));
        assert_eq!(seconds("timeout=50s", Kind::Mutating), Some(34));
        for (text, why) in [("5", "missing unit in duration \"5\""), ("abc", "invalid duration \"abc\"")] {
            let message = limit(&format!("timeout={text}"), Kind::ReadOnly).map_err(|s| s.message).err();
            assert_eq!(message, Some(format!("invalid timeout specified in the request URL - time: {why}")));
        }
    }
}

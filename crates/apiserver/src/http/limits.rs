//! How many requests are served at once, and how long one may take. Reads and writes have rooms of
//! their own, so that neither keeps the other out, and the cluster's own components one more, so
//! that nobody keeps those out. Who finds a room full waits before it for a while; who finds the
//! line full is sent away. A place is kept until the answer is written. Watches and connections to
//! pods are not counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use amphipod_api::codec::parse_go_duration;
use amphipod_api::field::go_quote;
use amphipod_api::status::Status;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::path::Query;
use crate::authz::MASTERS;
use crate::body::{self, Body};
use crate::seams::UserInfo;

/// Writes get one of so many places, reads the others, as upstream divides them.
const WRITES_SHARE: usize = 3;
/// Places the cluster's components have on top, as a share of all.
const COMPONENTS_SHARE: usize = 4;
/// For each place so many may wait: short bursts pass, floods do not pile up.
const WAITING_PER_PLACE: usize = 4;
/// Of its time limit a request spends at most this share waiting for a place.
const PATIENCE_SHARE: u32 = 4;
/// Longest a write may take, as upstream bounds it: less than the limit for all requests.
const WRITE_TIMEOUT: Duration = Duration::from_secs(34);
const TOO_MANY: &str = "Too many requests, please try again later.\n";

/// Kinds of requests with a room each.
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

struct Room {
    places: Arc<Semaphore>,
    size: usize,
    waiting: AtomicUsize,
    /// Requests of this kind being served, whosever place they have.
    served: Arc<AtomicUsize>,
}

/// Leaves the line when the wait is over or given up.
struct InLine<'a>(&'a AtomicUsize);

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Room {
    fn new(size: usize) -> Self {
        let size = size.max(1);
        let (waiting, served) = (AtomicUsize::new(0), Arc::default());
        Room { places: Arc::new(Semaphore::new(size)), size, waiting, served }
    }

    fn free(&self) -> Option<OwnedSemaphorePermit> {
        self.places.clone().try_acquire_owned().ok()
    }

    /// `None`: sent away.
    async fn enter(&self, patience: Duration) -> Option<OwnedSemaphorePermit> {
        if let Some(place) = self.free() {
            return Some(place);
        }
        let before = self.waiting.fetch_add(1, Ordering::AcqRel);
        let _in_line = InLine(&self.waiting);
        if before >= self.size * WAITING_PER_PLACE {
            return None;
        }
        tokio::time::timeout(patience, self.places.clone().acquire_owned()).await.ok()?.ok()
    }
}

pub struct Limits {
    reads: Room,
    writes: Room,
    components: Room,
}

/// What a request is served with until its answer is out; it owns its place, so that an answer still
/// being written can keep it.
#[derive(Debug)]
pub struct Served {
    /// `None`: of those never refused.
    _place: Option<OwnedSemaphorePermit>,
    count: Arc<AtomicUsize>,
}

impl Served {
    fn new(place: Option<OwnedSemaphorePermit>, count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Served { _place: place, count: count.clone() }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Limits {
    /// Places for requests of all kinds together.
    pub fn new(places: usize) -> Self {
        let writes = places / WRITES_SHARE;
        Limits {
            reads: Room::new(places - writes),
            writes: Room::new(writes),
            components: Room::new(places / COMPONENTS_SHARE),
        }
    }

    fn room(&self, kind: Kind) -> &Room {
        match kind {
            Kind::ReadOnly => &self.reads,
            Kind::Mutating => &self.writes,
        }
    }

    /// A place for this user's request; `None`: there is none to be had.
    pub async fn enter(&self, user: &UserInfo, kind: Kind, limit: Duration) -> Option<Served> {
        let room = self.room(kind);
        if user.is_in(MASTERS) {
            return Some(Served::new(None, &room.served));
        }
        let own = if is_component(user) { self.components.free() } else { None };
        let place = match own {
            Some(place) => place,
            None => room.enter(limit / PATIENCE_SHARE).await?,
        };
        Some(Served::new(Some(place), &room.served))
    }

    /// (kind, being served, waiting)
    pub fn load(&self) -> [(Kind, usize, usize); 2] {
        [Kind::ReadOnly, Kind::Mutating].map(|kind| {
            let room = self.room(kind);
            (kind, room.served.load(Ordering::Acquire), room.waiting.load(Ordering::Acquire))
        })
    }
}

/// Nodes and the control plane's own identities.
fn is_component(user: &UserInfo) -> bool {
    user.is_in("system:nodes")
        || user.is_in("system:serviceaccounts:kube-system")
        || user.name.starts_with("system:kube-")
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
pub fn too_many() -> Response<Body> {
    let mut answer = Response::new(body::full(TOO_MANY));
    *answer.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
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

    #[tokio::test]
    async fn rooms_fill_up_and_components_have_their_own() {
        let limits = Limits::new(6);
        let jane = UserInfo::new("jane", &["people"]);
        let (node, admin) = (UserInfo::new("n", &["system:nodes"]), UserInfo::new("a", &[MASTERS]));
        let soon = Duration::from_millis(4);
        let mut held = Vec::new();
        for _ in 0..2 {
            held.push(limits.enter(&jane, Kind::Mutating, soon).await.expect("a place"));
        }
        assert!(limits.enter(&jane, Kind::Mutating, soon).await.is_none());
        assert_eq!(limits.load()[1], (Kind::Mutating, 2, 0));
        assert!(limits.enter(&jane, Kind::ReadOnly, soon).await.is_some());
        let place = limits.enter(&node, Kind::Mutating, soon).await.expect("a component's place");
        assert!(limits.enter(&node, Kind::Mutating, soon).await.is_none());
        let exempt = limits.enter(&admin, Kind::Mutating, soon).await.expect("never refused");
        assert_eq!(limits.load()[1], (Kind::Mutating, 4, 0), "whoever is served is counted");
        drop((place, exempt));
        assert_eq!(limits.load()[1], (Kind::Mutating, 2, 0));
        // Whoever waits gets the place that becomes free.
        let hour = Duration::from_secs(3600);
        let waiting = limits.enter(&jane, Kind::Mutating, hour);
        let (entered, ()) = tokio::join!(waiting, async { drop(held.pop()) });
        assert!(entered.is_some());
    }
}

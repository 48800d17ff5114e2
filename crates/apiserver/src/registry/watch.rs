//! WATCH: one shared change goes to every watcher; each decides by its own selector what it is to
//! its client. Frames are cut from the shared bytes, nothing is encoded twice.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use amphipod_api::protobuf::{self, Writer};
use amphipod_api::status::Status;
use amphipod_store::Revision;
use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode};
use rand::RngExt;
use serde_json::{Value, json};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tokio_util::task::AbortOnDropHandle;

use super::{options, view};
use crate::body::{self, Body, BoxError};
use crate::cache::{Change, Collection, Entry, Interest, Selector, Shown, Watcher, expired, within};
use crate::context::Context;
use crate::http::negotiate::{Encoding, Form};
use crate::server::ApiServer;

/// Without `timeoutSeconds` a watch lasts between this and twice this, as upstream.
const MIN_TIMEOUT: Duration = Duration::from_secs(1800);
/// Longer than any client lives, and still a time the clock can reach.
const MAX_TIMEOUT: Duration = Duration::from_secs(366 * 86_400);
/// How often a watcher that asked for them gets a bookmark.
const BOOKMARK_PERIOD: Duration = Duration::from_secs(60);
/// A last bookmark comes this long before the end, so that the client resumes from near there.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);
/// Watches of one resource at once: ten for each of the 5,000 nodes a cluster is built for.
const MAX_WATCHERS: usize = 50_000;
/// Frames gathered into one chunk of the answer.
const CHUNK_BYTES: usize = 64 << 10;
/// Changes of one revision are gathered before any leaves, up to this: what a transaction writes is far
/// less. Only an expired lease's events are more, which come as many deletions.
const REVISION_BYTES: usize = 1 << 20;
/// Larger pieces are not copied into such a chunk.
const GATHERED_BYTES: usize = 16 << 10;
/// Marks the bookmark that ends the initial events of a WatchList.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// Everything there is as ADDED, then changes.
    InitialState,
    /// Only changes from now on.
    Now,
    /// Changes after a revision.
    After(Revision),
}

struct WatchOptions {
    start: Start,
    /// Wait until the cache is at least there first.
    not_older_than: Option<Revision>,
    bookmarks: bool,
    /// End the initial state with a marked bookmark.
    mark_initial_end: bool,
    timeout: Duration,
}

fn parse(cx: &Context) -> Result<WatchOptions, Status> {
    let version = cx.query.text("resourceVersion");
    options::check_watch(cx)?;
    let revision = match version {
        "" | "0" => None,
        text => Some(options::revision(text)?),
    };
    let start = match revision {
        _ if options::begins_with_state(&cx.query) => Start::InitialState,
        None => Start::Now,
        Some(revision) => Start::After(revision),
    };
    let timeout = match cx.query.text("timeoutSeconds") {
        "" | "0" => MIN_TIMEOUT.mul_f64(1.0 + rand::rng().random_range(0.0..1.0)),
        _ => {
            let seconds = options::integer(&cx.query, "timeoutSeconds")?.unwrap_or(0);
            let seconds = u64::try_from(seconds).unwrap_or(0);
            Duration::from_secs(seconds).min(MAX_TIMEOUT)
        }
    };
    let bookmarks = cx.query.flag("allowWatchBookmarks");
    Ok(WatchOptions {
        start,
        not_older_than: revision.filter(|_| start == Start::InitialState),
        bookmarks,
        // Also where the state is sent because no revision was named.
        mark_initial_end: bookmarks && start == Start::InitialState,
        timeout,
    })
}

pub async fn watch(server: &ApiServer, cx: Arc<Context>) -> Result<Response<Body>, Status> {
    // A watch that has begun needs no seat.
    let seat = cx.take_seat();
    let collection = server.cache.collection(&cx.resource).await?;
    let options = parse(&cx)?;
    let selector = options::selector(&cx, &collection)?;
    if let Some(status) = not_fresh_enough(server, &cx, &options).await? {
        return Ok(refused(cx, &status));
    }
    if collection.watcher_count() >= MAX_WATCHERS {
        return Err(Status::too_many_requests(
            "too many watches of this resource, please try again later",
            5,
        ));
    }
    let interest = interest(&selector, &collection);
    // Read before the snapshot, which has at least all of that.
    let applied = server.cache.applied();
    let (initial, delivered, watcher) = match options.start {
        Start::After(revision) => match collection.watch_from(revision, interest) {
            Ok(watcher) => (VecDeque::new(), revision, watcher),
            Err(too_old) => return Ok(refused(cx, &expired(revision, too_old.oldest))),
        },
        Start::Now => {
            let (_, newest, watcher) = collection.watch_now(interest);
            (VecDeque::new(), applied.max(newest), watcher)
        }
        Start::InitialState => {
            let (snapshot, newest, watcher) = collection.watch_now(interest);
            let scope = scope(&cx, &collection);
            let entries = within(&snapshot, &scope, &scope).filter(|e| selector.matches(e));
            (entries.cloned().collect(), applied.max(newest), watcher)
        }
    };
    // Nor does one whose client takes longer for the initial state than a request may take.
    let limit = server.config.request_timeout;
    let seat = seat.filter(|_| !initial.is_empty()).map(|seat| seat.held_for(limit));
    let end = Instant::now() + options.timeout;
    let next_bookmark = if options.bookmarks { first_bookmark(end) } else { end };
    let feed = Feed {
        scope: scope(&cx, &collection),
        shaper: Shaper {
            cx: cx.clone(),
            cut: (view::is_stored_form(&cx.resource) && cx.accepted.encoding == Encoding::Json)
                .then_some(cx.accepted.form),
            writer: view::stored_writer(&cx),
            columns_sent: false,
        },
        cache: server.cache.clone(),
        stop: Box::pin(server.shutdown.clone().cancelled_owned()),
        watcher,
        begun: 0,
        held: None,
        selector,
        initial,
        seat,
        mark_initial_end: options.mark_initial_end,
        timer: Box::pin(tokio::time::sleep_until(next_bookmark)),
        next_bookmark,
        end,
        delivered,
        floor: if let Start::After(revision) = options.start { revision } else { 0 },
        over: false,
        frames: Frames::default(),
        meter: server.metrics.watch_started(&cx.resource),
    };
    Ok(view::response(StatusCode::OK, content_type(&cx), feed.into_body()))
}

/// Waits until the cache is as new as the client asks. What it waited for in vain is told as an event.
async fn not_fresh_enough(
    server: &ApiServer,
    cx: &Context,
    options: &WatchOptions,
) -> Result<Option<Status>, Status> {
    match options.not_older_than {
        Some(revision) => Ok(server.cache.wait_for(revision).await.err()),
        None if cx.query.text("resourceVersion").is_empty() => server.cache.fresh().await.map(|_| None),
        None => Ok(None),
    }
}

fn content_type(cx: &Context) -> &'static str {
    match cx.accepted.encoding {
        Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        _ => "application/json",
    }
}

fn first_bookmark(end: Instant) -> Instant {
    (Instant::now() + BOOKMARK_PERIOD).min(end.checked_sub(LAST_BOOKMARK).unwrap_or(end))
}

fn scope(cx: &Context, collection: &Collection) -> String {
    match cx.namespace() {
        "" => collection.prefix.clone(),
        namespace => format!("{}{namespace}/", collection.prefix),
    }
}

fn interest(selector: &Selector, collection: &Collection) -> Interest {
    let Some(index) = collection.trigger else { return Interest::All };
    let label = collection.pointers[index].trim_start_matches('/').replace('/', ".");
    match selector.required(&label) {
        Some(value) => Interest::Field { index, value: value.to_owned() },
        None => Interest::All,
    }
}

/// A watch that cannot start still is one: its only event says why.
fn refused(cx: Arc<Context>, status: &Status) -> Response<Body> {
    let value = serde_json::to_value(status).unwrap_or_default();
    let media_type = content_type(&cx);
    let shaper = Shaper { cx, cut: None, writer: None, columns_sent: true };
    let frame = shaper.frame("ERROR", &value).unwrap_or_default();
    view::response(StatusCode::OK, media_type, body::full(frame))
}

/// Turns objects into frames of the form and encoding asked for.
struct Shaper {
    cx: Arc<Context>,
    /// Frames are cut from the stored bytes as they are, where this form can be.
    cut: Option<Form>,
    /// Frames are made of the entries' protobuf messages.
    writer: Option<Writer>,
    columns_sent: bool,
}

impl Shaper {
    /// `restamp`: show the object at this revision (deletions).
    fn object(
        &mut self,
        kind: &str,
        entry: &Entry,
        restamp: Option<Revision>,
        out: &mut Frames,
    ) -> Result<(), Status> {
        let shown = entry.shown(restamp);
        if let Some(writer) = self.writer {
            let frame = match restamp {
                Some(_) => {
                    writer.message(&shown.contiguous()).and_then(|message| writer.watch_frame(kind, &message))
                }
                None => {
                    entry.message(writer).and_then(|message| writer.watch_frame(kind, &message.contiguous()))
                }
            };
            out.push(frame.map_err(Status::internal)?.into());
            return Ok(());
        }
        match self.cut {
            Some(Form::Object) => {
                out.copy(head(kind));
                out.push_shown(&shown);
                out.copy(b"}\n");
                return Ok(());
            }
            Some(Form::PartialMetadata) => {
                let mut frame = BytesMut::from(head(kind));
                view::partial_text(&shown.contiguous(), self.cx.accepted, &mut frame);
                frame.extend_from_slice(b"}\n");
                out.push(frame.freeze());
                return Ok(());
            }
            Some(Form::Table) | None => {}
        }
        let value = view::served(&self.cx.resource, &shown.contiguous())?;
        let value = view::formed(&self.cx, value, !self.columns_sent);
        self.columns_sent = true;
        out.push(self.frame(kind, &value)?);
        Ok(())
    }

    fn frame(&self, kind: &str, value: &Value) -> Result<Bytes, Status> {
        if self.cx.accepted.encoding == Encoding::Protobuf {
            return Ok(protobuf::encode_watch_event(kind, value).map_err(Status::internal)?.into());
        }
        let mut line =
            serde_json::to_vec(&json!({"type": kind, "object": value})).map_err(Status::internal)?;
        line.push(b'\n');
        Ok(line.into())
    }

    fn bookmark(&self, revision: Revision, initial_end: bool) -> Result<Bytes, Status> {
        let resource = &self.cx.resource;
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if initial_end {
            metadata["annotations"] = json!({INITIAL_EVENTS_END: "true"});
        }
        let value = match self.cx.accepted.form {
            Form::Object => {
                json!({"kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata})
            }
            Form::PartialMetadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": self.cx.accepted.meta_version(),
                    "metadata": metadata})
            }
            Form::Table => {
                let rows = if initial_end {
                    let object = json!({"kind": "PartialObjectMetadata",
                        "apiVersion": self.cx.accepted.meta_version(), "metadata": metadata});
                    vec![json!({"cells": [], "object": object})]
                } else {
                    Vec::new()
                };
                view::table(&self.cx, json!({"resourceVersion": revision.to_string()}), rows, false)
            }
        };
        self.frame("BOOKMARK", &value)
    }
}

fn head(kind: &str) -> &'static [u8] {
    match kind {
        "ADDED" => b"{\"type\":\"ADDED\",\"object\":",
        "MODIFIED" => b"{\"type\":\"MODIFIED\",\"object\":",
        _ => b"{\"type\":\"DELETED\",\"object\":",
    }
}

/// Frames on their way out. Small ones are gathered, so that a burst costs one write instead of
/// three each; large ones stay shared with the cache, so that many slow watchers of a large object
/// do not hold a copy each.
#[derive(Default)]
struct Frames {
    ready: VecDeque<Bytes>,
    gathered: BytesMut,
    /// Of both.
    bytes: usize,
    /// Bytes pushed since metrics last took notice.
    uncounted: usize,
}

impl Frames {
    fn copy(&mut self, bytes: &[u8]) {
        self.uncounted += bytes.len();
        self.bytes += bytes.len();
        self.gathered.extend_from_slice(bytes);
    }
    fn push(&mut self, bytes: Bytes) {
        if bytes.len() <= GATHERED_BYTES {
            return self.copy(&bytes);
        }
        self.uncounted += bytes.len();
        self.bytes += bytes.len();
        self.close();
        self.ready.push_back(bytes);
    }
    fn push_shown(&mut self, shown: &Shown<'_>) {
        if shown.size() <= GATHERED_BYTES {
            shown.chunks().for_each(|chunk| self.copy(chunk));
        } else {
            shown.slices().for_each(|slice| self.push(slice));
        }
    }
    fn close(&mut self) {
        if !self.gathered.is_empty() {
            self.ready.push_back(self.gathered.split().freeze());
        }
    }
    fn is_full(&self) -> bool {
        !self.ready.is_empty() || self.gathered.len() >= CHUNK_BYTES
    }
    fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.gathered.is_empty()
    }
    fn take(&mut self) -> Option<Bytes> {
        if self.ready.is_empty() {
            self.close();
        }
        let chunk = self.ready.pop_front()?;
        self.bytes -= chunk.len();
        Some(chunk)
    }
}

/// One watcher's state between two pulls of its connection.
struct Feed {
    scope: String,
    shaper: Shaper,
    cache: Arc<crate::cache::Cache>,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    watcher: Watcher,
    /// The revision of the newest change taken.
    begun: Revision,
    /// A change of a later revision, for the next chunk.
    held: Option<Arc<Change>>,
    selector: Selector,
    initial: VecDeque<Arc<Entry>>,
    /// Held while there is more of the initial state to tell.
    seat: Option<AbortOnDropHandle<()>>,
    mark_initial_end: bool,
    /// Runs until the next bookmark.
    timer: Pin<Box<Sleep>>,
    /// The end where there is none to come.
    next_bookmark: Instant,
    end: Instant,
    /// Everything up to here has been delivered or did not concern this watcher.
    delivered: Revision,
    /// The client asked for what comes after this.
    floor: Revision,
    over: bool,
    frames: Frames,
    meter: crate::metrics::WatchMeter,
}

impl Feed {
    fn into_body(self) -> Body {
        body::stream(futures::stream::unfold(self, |mut feed| async move {
            feed.next().await.map(|chunk| (chunk, feed))
        }))
    }

    /// The next chunk: all frames that are ready, up to a chunk's size, else the first that comes.
    async fn next(&mut self) -> Option<Result<Bytes, BoxError>> {
        let filled = self.fill().await;
        self.meter.publish();
        if let Err(status) = filled {
            self.over = true;
            return Some(Err(status.into()));
        }
        self.frames.take().map(Ok)
    }

    /// Works until there is something to send or the watch is over.
    async fn fill(&mut self) -> Result<(), Status> {
        loop {
            while self.ready()? {
                self.count_sent();
            }
            if !self.frames.is_empty() || self.over {
                break;
            }
            self.wait().await?;
            self.count_sent();
        }
        self.complete_revision().await
    }

    /// Takes what else the newest revision holds. A client that resumes from a revision is not told of
    /// it again, so that it must not get a part of one.
    async fn complete_revision(&mut self) -> Result<(), Status> {
        if !self.over && self.begun > self.cache.applied() {
            // It is being handed out at this moment. Where that stops, the watch does too.
            let _ = self.cache.wait_for(self.begun).await;
        }
        while self.held.is_none() && !self.over && self.frames.bytes < REVISION_BYTES {
            let next = match self.watcher.try_next() {
                None if self.watcher.is_current() => break,
                None => self.watcher.next().await,
                next => next,
            };
            match next {
                Some(change) if change.revision > self.begun => self.held = Some(change),
                Some(change) => self.change(&change)?,
                None => self.fell_behind()?,
            }
            self.count_sent();
        }
        Ok(())
    }

    /// A change that is there already.
    fn try_next(&mut self) -> Option<Arc<Change>> {
        self.held.take().or_else(|| self.watcher.try_next())
    }

    /// A step makes one event at most.
    fn count_sent(&mut self) {
        let bytes = std::mem::take(&mut self.frames.uncounted);
        if bytes > 0 {
            self.meter.sent(bytes);
        }
    }

    /// Takes one step that need not wait; false when there is none.
    fn ready(&mut self) -> Result<bool, Status> {
        if self.over || self.frames.is_full() {
            return Ok(false);
        }
        if let Some(entry) = self.initial.pop_front() {
            self.shaper.object("ADDED", &entry, None, &mut self.frames)?;
            return Ok(true);
        }
        self.seat = None;
        if self.mark_initial_end {
            self.mark_initial_end = false;
            let bookmark = self.shaper.bookmark(self.delivered, true)?;
            self.frames.push(bookmark);
            return Ok(true);
        }
        let applied = self.cache.applied();
        if let Some(change) = self.try_next() {
            self.change(&change)?;
            return Ok(true);
        }
        self.caught_up_to(applied);
        Ok(false)
    }

    /// For the first that comes; nothing is held.
    async fn wait(&mut self) -> Result<(), Status> {
        tokio::select! {
            change = self.watcher.next() => match change {
                Some(change) => self.change(&change),
                None => self.fell_behind(),
            },
            () = &mut self.timer => {
                if self.next_bookmark < self.end {
                    return self.periodic_bookmark();
                }
                self.over = true;
                Ok(())
            }
            () = &mut self.stop => {
                self.over = true;
                Ok(())
            }
        }
    }

    fn periodic_bookmark(&mut self) -> Result<(), Status> {
        let now = Instant::now();
        let last = self.end.checked_sub(LAST_BOOKMARK).unwrap_or(self.end);
        self.next_bookmark = if now >= last { self.end } else { (now + BOOKMARK_PERIOD).min(last) };
        self.timer.as_mut().reset(self.next_bookmark);
        let applied = self.cache.applied();
        if let Some(change) = self.try_next() {
            return self.change(&change);
        }
        self.caught_up_to(applied);
        let bookmark = self.shaper.bookmark(self.delivered, false)?;
        self.frames.push(bookmark);
        Ok(())
    }

    /// Nothing is waiting, so all that had been applied when `applied` was read is delivered.
    fn caught_up_to(&mut self, applied: Revision) {
        if self.watcher.is_current() {
            self.delivered = self.delivered.max(applied);
        }
    }

    /// The cache closed this watcher: it lagged, or the store's history was lost.
    fn fell_behind(&mut self) -> Result<(), Status> {
        self.meter.lagged();
        self.over = true;
        let status = Status::expired("the watch fell too far behind; list again and watch from there");
        let value = serde_json::to_value(&status).unwrap_or_default();
        let frame = self.shaper.frame("ERROR", &value)?;
        self.frames.push(frame);
        Ok(())
    }

    fn change(&mut self, change: &Change) -> Result<(), Status> {
        self.begun = change.revision;
        self.delivered = self.delivered.max(change.revision);
        // A client may know a revision the cache had not reached yet.
        if change.revision <= self.floor || !change.key.starts_with(&self.scope) {
            return Ok(());
        }
        let matching = |entry: &Option<Arc<Entry>>| entry.clone().filter(|e| self.selector.matches(e));
        match (matching(&change.previous), matching(&change.current)) {
            (None, None) => Ok(()),
            (None, Some(now)) => self.shaper.object("ADDED", &now, None, &mut self.frames),
            (Some(_), Some(now)) => self.shaper.object("MODIFIED", &now, None, &mut self.frames),
            (Some(before), None) => {
                self.shaper.object("DELETED", &before, Some(change.revision), &mut self.frames)
            }
        }
    }
}

//! A watch that outlives connections and members.
//!
//! It follows all keys, not only its prefix: then each revision is an event, and how far the watch has
//! come is never in doubt. (Progress notes on request exist, but before etcd 3.4.25 and 3.5.8 they may
//! overtake events.) After a loss it goes on behind the last revision that it told whole.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tonic::Streaming;

use super::connect::{FIRST_PAUSE, GREATEST_PAUSE, Verdict, request, verdict};
use super::v3::watch_client::WatchClient;
use super::v3::watch_request::RequestUnion;
use super::v3::{self, WatchCreateRequest, WatchRequest, WatchResponse};
use super::{Shared, header_revision, item, revision};
use crate::contract::{Error, Event, Revision, WatchBatch, WatchStream};

/// A member that has not opened the watch by then is passed over.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// From the first key on, to the last.
const ALL_KEYS: (&[u8], &[u8]) = (b"\0", b"\0");

/// `newest` is the store's revision a moment ago, if that is known to be no less than `after`.
pub(super) async fn stream(
    shared: Arc<Shared>,
    prefix: &str,
    after: Revision,
    newest: Option<Revision>,
) -> Result<WatchStream, Error> {
    let mut watcher = Watcher {
        shared,
        prefix: prefix.to_owned(),
        cursor: after,
        open: None,
        gathered: Vec::new(),
        ready: VecDeque::new(),
        pause: FIRST_PAUSE,
    };
    watcher.begin(newest).await?;
    let stream = futures::stream::unfold(Some(watcher), |watcher| async {
        let mut watcher = watcher?;
        let item = watcher.next().await;
        let watcher = item.is_ok().then_some(watcher);
        Some((item, watcher))
    });
    Ok(stream.boxed())
}

struct Watcher {
    shared: Arc<Shared>,
    prefix: String,
    /// Everything up to here has been delivered, or waits in `ready`.
    cursor: Revision,
    open: Option<(usize, Streaming<WatchResponse>)>,
    /// Events behind the cursor whose revision may not be complete yet.
    gathered: Vec<v3::Event>,
    ready: VecDeque<WatchBatch>,
    pause: Duration,
}

impl Watcher {
    async fn next(&mut self) -> Result<WatchBatch, Error> {
        let mut closed = self.shared.closed.subscribe();
        let closed = async move {
            // The sender lives as long as `shared`.
            let _ = closed.wait_for(|closed| *closed).await;
        };
        tokio::select! {
            biased;
            () = closed => Err(Error::Closed),
            batch = self.pull() => batch,
        }
    }

    async fn pull(&mut self) -> Result<WatchBatch, Error> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(batch);
            }
            let Some((index, stream)) = &mut self.open else {
                // One revision early: etcd then refuses exactly where history is gone. After a
                // compaction it still offers that revision itself, but without what was deleted at it.
                self.open(self.cursor).await?;
                continue;
            };
            let index = *index;
            match stream.message().await {
                Ok(Some(response)) if response.canceled => self.canceled(&response).await?,
                Ok(Some(response)) => {
                    self.pause = FIRST_PAUSE;
                    self.take(response);
                }
                Ok(None) => self.lost(index, "the member ended it").await,
                Err(status) => match verdict(&status) {
                    Verdict::Refused(refusal) => return Err(self.shared.refused(refusal)),
                    Verdict::NotDone(why) | Verdict::Unknown(why) => self.lost(index, &why).await,
                },
            }
        }
    }

    /// Opens the watch at once: what is compacted later does not concern it. One without history to
    /// tell is live from its first moment, if nothing was written since that was found out.
    async fn begin(&mut self, newest: Option<Revision>) -> Result<(), Error> {
        let live = newest.is_none_or(|newest| newest <= self.cursor);
        self.open(self.cursor + Revision::from(live)).await?;
        let Some((_, stream)) = &mut self.open else { return Ok(()) };
        let created = match tokio::time::timeout(OPEN_TIMEOUT, stream.message()).await {
            Ok(Ok(Some(response))) if response.canceled => return self.canceled(&response).await,
            Ok(Ok(Some(response))) if response.created => header_revision(response.header.as_ref()),
            // `pull` opens it again and hears the reason.
            _ => Revision::MAX,
        };
        if live && created > self.cursor {
            self.open = None;
        }
        Ok(())
    }

    async fn open(&mut self, start: Revision) -> Result<(), Error> {
        let (index, channel) = self.shared.members.current();
        let create = WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(WatchCreateRequest {
                key: ALL_KEYS.0.into(),
                range_end: ALL_KEYS.1.into(),
                start_revision: start.max(1) as i64,
                fragment: true,
                ..Default::default()
            })),
        };
        // The stream of requests stays open: its end would end the watch.
        let requests = futures::stream::once(std::future::ready(create)).chain(futures::stream::pending());
        let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
        match tokio::time::timeout(OPEN_TIMEOUT, client.watch(request(requests))).await {
            Ok(Ok(response)) => self.open = Some((index, response.into_inner())),
            Ok(Err(status)) => match verdict(&status) {
                Verdict::Refused(refusal) => return Err(self.shared.refused(refusal)),
                Verdict::NotDone(why) | Verdict::Unknown(why) => self.lost(index, &why).await,
            },
            Err(_) => self.lost(index, "it was not opened in time").await,
        }
        Ok(())
    }

    /// What was gathered of a revision that is not complete comes again.
    async fn lost(&mut self, index: usize, why: &str) {
        tracing::debug!(why, cursor = self.cursor, "a watch on etcd is opened anew");
        self.open = None;
        self.gathered.clear();
        self.shared.members.pass_over(index);
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(GREATEST_PAUSE);
    }

    async fn canceled(&mut self, response: &WatchResponse) -> Result<(), Error> {
        if response.compact_revision > 0 {
            let oldest = revision(response.compact_revision);
            return Err(Error::Compacted { requested: self.cursor, oldest });
        }
        // One refused at its creation is created and canceled at once.
        if response.created {
            let reason = &response.cancel_reason;
            let why =
                format!("etcd refuses to watch all keys, which Amphipod's user must be allowed to: {reason}");
            return Err(Error::Backend(why));
        }
        let index = self.open.as_ref().map_or(0, |(index, _)| *index);
        self.lost(index, &response.cancel_reason).await;
        Ok(())
    }

    /// Makes batches of whole revisions.
    fn take(&mut self, response: WatchResponse) {
        let after = self.cursor;
        self.gathered.extend(response.events.into_iter().filter(|event| event_revision(event) > after));
        let complete = match self.gathered.last() {
            // The last revision of a fragment may go on in the next one.
            Some(last) if response.fragment => {
                let open = event_revision(last);
                self.gathered.partition_point(|event| event_revision(event) < open)
            }
            _ => self.gathered.len(),
        };
        let rest = self.gathered.split_off(complete);
        let whole = std::mem::replace(&mut self.gathered, rest);
        let Some(last) = whole.last() else { return };
        self.cursor = event_revision(last);
        let events = whole.into_iter().filter_map(|event| self.event(event)).collect();
        self.ready.push_back(WatchBatch { events, revision: self.cursor });
    }

    /// `None` for keys that this watch is not about.
    fn event(&self, event: v3::Event) -> Option<Event> {
        let kv = event.kv?;
        let key = self.shared.keys.our_key(&kv.key)?;
        if !key.starts_with(&self.prefix) {
            return None;
        }
        Some(match v3::event::EventType::try_from(event.r#type) {
            Ok(v3::event::EventType::Delete) => Event::Delete { key, revision: revision(kv.mod_revision) },
            _ => Event::Put(item(&self.shared.keys, kv)?),
        })
    }
}

fn event_revision(event: &v3::Event) -> Revision {
    event.kv.as_ref().map_or(0, |kv| revision(kv.mod_revision))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::connect::{Members, TlsFiles};
    use crate::etcd::keys::Keys;

    /// A watch of `/a/` behind revision 4 that nobody answers.
    fn watcher() -> Watcher {
        let members = Members::new(vec!["127.0.0.1:1".to_owned()], &TlsFiles::default()).unwrap();
        let keys = Keys { ours: String::new(), theirs: "/etcd".to_owned() };
        let shared = Arc::new(Shared { members, keys, closed: tokio::sync::watch::Sender::new(false) });
        Watcher {
            shared,
            prefix: "/a/".to_owned(),
            cursor: 4,
            open: None,
            gathered: Vec::new(),
            ready: VecDeque::new(),
            pause: FIRST_PAUSE,
        }
    }

    fn response(fragment: bool, puts: &[(&'static str, i64)]) -> WatchResponse {
        let put = |(key, mod_revision): &(&'static str, i64)| v3::Event {
            kv: Some(v3::KeyValue {
                key: key.as_bytes().into(),
                mod_revision: *mod_revision,
                ..Default::default()
            }),
            ..Default::default()
        };
        WatchResponse { fragment, events: puts.iter().map(put).collect(), ..Default::default() }
    }

    /// What is ready: the revision told, and that of each event.
    fn told(watcher: &mut Watcher) -> Vec<(Revision, Vec<Revision>)> {
        let told = |batch: WatchBatch| (batch.revision, batch.events.iter().map(Event::revision).collect());
        watcher.ready.drain(..).map(told).collect()
    }

    #[tokio::test]
    async fn a_revision_in_several_fragments_is_told_whole() {
        let mut watcher = watcher();
        watcher.take(response(true, &[("/etcd/a/1", 5), ("/etcd/a/2", 6)]));
        assert_eq!(told(&mut watcher), [(5, vec![5])], "6 may go on");
        watcher.take(response(true, &[("/etcd/a/3", 6)]));
        assert_eq!((told(&mut watcher), watcher.cursor), (vec![], 5));
        watcher.take(response(false, &[("/etcd/a/4", 6), ("/etcd/b/1", 7)]));
        assert_eq!(told(&mut watcher), [(7, vec![6, 6, 6])]);
    }

    #[tokio::test]
    async fn a_revision_cut_off_between_fragments_comes_again_and_once() {
        let mut watcher = watcher();
        watcher.take(response(true, &[("/etcd/a/1", 5), ("/etcd/a/2", 6)]));
        assert_eq!(told(&mut watcher), [(5, vec![5])]);
        watcher.lost(0, "the member died").await;
        // Opened at the last revision told.
        watcher.take(response(false, &[("/etcd/a/1", 5), ("/etcd/a/2", 6), ("/etcd/a/3", 6)]));
        assert_eq!(told(&mut watcher), [(6, vec![6, 6])]);
    }
}

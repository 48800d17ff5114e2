//! The contract's test-suite: what every engine must do, as plain async functions over a fresh store.
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use amphipod_store::{EmbeddedStore, Store, suite};
//! # async fn check() {
//! suite::run(|| async { Arc::new(EmbeddedStore::memory().unwrap()) as Arc<dyn Store> }).await;
//! # }
//! ```
//! Revisions are counted from where the store stands when a check begins, so that an engine which is a
//! server shared with others can be checked too. A check that fails panics, as tests do. Timing is never
//! assumed: waits end with a generous deadline.

mod checks;
pub mod model;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;

use crate::contract::{
    Compare, Error, Event, KeyValue, LeaseId, Op, Range, Revision, Store, Txn, TxnResult, WatchStream,
};
use crate::text::Text;

/// Longest wait for something that must happen.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Runs every check, each on a store of its own.
pub async fn run<F, Fut>(make: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = Arc<dyn Store>>,
{
    macro_rules! run_all {
        ($($module:ident::$check:ident),* $(,)?) => {
            $({
                tracing::info!(check = stringify!($check), "store contract");
                let store = make().await;
                $module::$check(store.clone()).await;
                // Checks may have closed it themselves.
                let _ = store.close().await;
            })*
        };
    }
    run_all!(
        checks::begins_empty,
        checks::counts_revisions_and_versions,
        checks::compares_before_it_writes,
        checks::applies_a_transaction_whole_at_one_revision,
        checks::refuses_invalid_transactions_whole,
        checks::stamps_the_revision,
        checks::reads_ranges_in_order_with_limit,
        checks::reads_the_past,
        checks::compaction_forgets_the_past_only,
        checks::watches_history_then_live,
        checks::watch_keeps_revisions_whole,
        checks::watch_sees_only_its_prefix,
        checks::watch_from_the_future_waits,
        checks::watch_tells_progress,
        checks::idle_watch_survives_compaction,
        checks::leases_expire_and_are_revoked,
        checks::leases_stay_alive,
        checks::one_of_many_rivals_wins,
        checks::closed_means_closed,
        model::agrees_with_a_model,
    );
}

/// A put of `value`.
pub fn put(key: &str, value: &str) -> Op {
    Op::Put { key: key.to_owned(), value: Bytes::from(value.to_owned()), stamp: None, lease: None }
}

pub fn delete(key: &str) -> Op {
    Op::Delete { key: key.to_owned() }
}

/// Writes without comparing.
pub async fn write(store: &dyn Store, then: Vec<Op>) -> TxnResult {
    let result = store.txn(Txn { compare: vec![], then }).await.expect("the write is taken");
    assert!(result.succeeded);
    result
}

/// Where the store stands.
pub async fn revision(store: &dyn Store) -> Revision {
    store.revision().await.expect("the newest revision")
}

async fn get(store: &dyn Store, key: &str) -> Option<KeyValue> {
    store.range(Range::key(key)).await.expect("a read at the newest revision").items.pop()
}

async fn keys_at(store: &dyn Store, prefix: &str, revision: Revision) -> Result<Vec<String>, Error> {
    let range = Range { revision: Some(revision), ..Range::prefix(prefix) };
    let items = store.range(range).await?.items;
    Ok(items.iter().map(|item| format!("{}={}", item.key, text(&item.value))).collect())
}

fn text(value: &Text) -> String {
    String::from_utf8_lossy(&value.contiguous()).into_owned()
}

/// The next batch, or a failed test.
pub async fn next_batch(stream: &mut WatchStream) -> Result<crate::contract::WatchBatch, Error> {
    let next = tokio::time::timeout(DEADLINE, stream.next()).await;
    next.expect("a watch batch before the deadline").expect("the stream goes on")
}

/// Events, shown as `3 put /a=x` with revisions counted from `base`, until one at or after
/// `base + steps` has been told.
async fn events_until(stream: &mut WatchStream, base: Revision, steps: Revision) -> Vec<String> {
    let mut events = Vec::new();
    loop {
        let batch = next_batch(stream).await.expect("no error");
        events.extend(batch.events.iter().map(|event| show(event, base)));
        if batch.revision >= base + steps {
            return events;
        }
    }
}

fn show(event: &Event, base: Revision) -> String {
    let at = event.revision() - base;
    match event {
        Event::Put(current) => format!("{at} put {}={}", current.key, text(&current.value)),
        Event::Delete { key, .. } => format!("{at} delete {key}"),
    }
}

//! The contract's test-suite against the embedded engine, with and without a disk.

use std::sync::Arc;

use amphipod_store::{EmbeddedStore, Options, Store, suite};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_memory() {
    suite::run(|| async { Arc::new(EmbeddedStore::memory().unwrap()) as Arc<dyn Store> }).await;
}

/// Tiny segments and snapshots all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_disk() {
    let top = tempfile::tempdir().unwrap();
    let count = std::sync::atomic::AtomicUsize::new(0);
    suite::run(|| async {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let options = Options { segment_bytes: 8192, snapshot_log_bytes: 20_000, ..Options::default() };
        let dir = top.path().join(number.to_string());
        Arc::new(EmbeddedStore::open(&dir, options).unwrap()) as Arc<dyn Store>
    })
    .await;
}

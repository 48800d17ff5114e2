//! A disk that fails or stops at any step: random writes from a seed, compared with a simple model.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::support::{copy_dir, seed, step, tiny};
use amphipod_store::suite::model::Model;
use amphipod_store::{EmbeddedStore, Error, Faults, Options, Range, Step, Store, Txn};

fn options(faults: Faults) -> Options {
    Options { segment_bytes: 4096, snapshot_log_bytes: 8_000, faults, ..tiny() }
}

/// A copy of the directory as it is before one step, as a process killed there leaves it. No thread gets
/// past its next step meanwhile, so that at most one write of each is half-way in the copy.
fn image_before(at: u64, dir: PathBuf, image: PathBuf, seen: Arc<Mutex<Option<Step>>>) -> Faults {
    let count = Mutex::new(0);
    Faults::new(move |step| {
        let mut count = count.lock().unwrap();
        *count += 1;
        if *count == at {
            copy_changing_dir(&dir, &image);
            *seen.lock().unwrap() = Some(step);
        }
        Ok(())
    })
}

/// Another thread may remove or rename a file between its listing and its copying; then all is copied
/// once more.
fn copy_changing_dir(dir: &Path, image: &Path) {
    let copied = || std::panic::catch_unwind(|| copy_dir(dir, image)).is_ok();
    assert!((0..100).any(|_| copied()), "the directory never stands still");
}

/// Stopped before any step, the store holds what was acknowledged by then, or one transaction more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_at_any_step_nothing_acknowledged_is_lost() {
    let mut random = seed();
    let mut steps = std::collections::HashSet::new();
    for _ in 0..60 {
        let (dir, image) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (seen, at) = (Arc::new(Mutex::new(None)), 3 + random.below(220));
        let faults = image_before(at, dir.path().to_owned(), image.path().to_owned(), seen.clone());
        let store = EmbeddedStore::open(dir.path(), options(faults)).unwrap();
        let (mut model, mut before) = (Model::default(), Model::default());
        for _ in 0..400 {
            if seen.lock().unwrap().is_some() {
                break;
            }
            before = model.clone();
            step(&store, &mut model, &mut random).await;
        }
        drop(store);
        let Some(seen) = *seen.lock().unwrap() else { panic!("step {at} never came") };
        steps.insert(seen);
        let store = EmbeddedStore::open(image.path(), options(Faults::default()))
            .unwrap_or_else(|e| panic!("before step {at} ({seen:?}): {e}"));
        let read = Model::read(&store, None).await.unwrap();
        assert!(read == model || read == before, "before step {at} ({seen:?}): revision {}", read.revision);
    }
    assert!(steps.contains(&Step::Write) && steps.contains(&Step::Sync), "{steps:?}");
}

/// Fails once at the given step of this kind, counted from `armed`.
fn failing(kind: Step, kind_of_error: io::ErrorKind, armed: Arc<AtomicU64>) -> Faults {
    Faults::new(move |step| {
        if step == kind && armed.load(Ordering::SeqCst) > 0 && armed.fetch_sub(1, Ordering::SeqCst) == 1 {
            return Err(io::Error::from(kind_of_error));
        }
        Ok(())
    })
}

/// After a failed sync nobody knows what the disk holds: it is never tried again, and nothing is
/// acknowledged until the store is opened anew.
#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged() {
    let mut random = seed();
    let (dir, armed) = (tempfile::tempdir().unwrap(), Arc::new(AtomicU64::new(0)));
    let faults = failing(Step::Sync, io::ErrorKind::Other, armed.clone());
    let store = EmbeddedStore::open(dir.path(), Options { faults, ..tiny() }).unwrap();
    let mut model = Model::default();
    for _ in 0..20 {
        step(&store, &mut model, &mut random).await;
    }
    armed.store(1, Ordering::SeqCst);
    let put = || Txn { compare: vec![], then: vec![amphipod_store::suite::put("/lost", "x")] };
    let error = store.txn(put()).await.unwrap_err();
    assert!(matches!(error, Error::Unknown(_)), "it may come back: {error}");
    for _ in 0..5 {
        let error = store.txn(put()).await.unwrap_err();
        assert!(error.to_string().contains("until the process is started again"), "{error}");
        assert!(store.lease_grant(5).await.is_err());
    }
    let read = Model::read(&store, None).await.unwrap();
    assert!(read == model, "reads go on, and show nothing of it");
    drop(store);
    let store = EmbeddedStore::open(dir.path(), tiny()).unwrap();
    let lost = store.range(Range::key("/lost")).await.unwrap().items.len() as u64;
    assert_eq!(store.revision().await.unwrap(), model.revision + lost, "whole or gone");
    store.txn(put()).await.unwrap();
}

/// A disk that finds no room for one kind of step, and how often that was felt.
#[derive(Default)]
struct Full {
    now: AtomicBool,
    felt: AtomicU64,
}

impl Full {
    fn faults(self: &Arc<Self>, kind: Step) -> Faults {
        let full = self.clone();
        Faults::new(move |step| {
            if step == kind && full.now.load(Ordering::SeqCst) {
                full.felt.fetch_add(1, Ordering::SeqCst);
                return Err(io::ErrorKind::StorageFull.into());
            }
            Ok(())
        })
    }
}

/// No room for a write, a sync, a new segment or a snapshot: refused and taken back, and writes go on.
/// In turn there is room again as soon as one step found none, and only once a write was refused.
#[tokio::test]
async fn what_finds_no_room_is_taken_back() {
    for (kind, refuses) in
        [(Step::Write, true), (Step::Sync, true), (Step::Create, true), (Step::Rename, false)]
    {
        let mut random = seed();
        let (dir, full) = (tempfile::tempdir().unwrap(), Arc::new(Full::default()));
        let store = EmbeddedStore::open(dir.path(), options(full.faults(kind))).unwrap();
        let (mut model, mut refused, mut felt_before) = (Model::default(), 0, 0);
        let mut until_refused = false;
        for round in 0..300 {
            if round % 20 == 10 && !full.now.load(Ordering::SeqCst) {
                felt_before = full.felt.load(Ordering::SeqCst);
                until_refused = refuses && !until_refused;
                full.now.store(true, Ordering::SeqCst);
            }
            let ops = Model::random_ops(&mut random);
            match store.txn(Txn { compare: vec![], then: ops.clone() }).await {
                Ok(_) => {
                    model.apply(&ops);
                    if !until_refused && full.felt.load(Ordering::SeqCst) > felt_before {
                        full.now.store(false, Ordering::SeqCst);
                    }
                }
                Err(error) => {
                    assert!(matches!(error, Error::NoSpace(_)), "{kind:?}: {error}");
                    refused += 1;
                    full.now.store(false, Ordering::SeqCst);
                }
            }
        }
        assert!(full.felt.load(Ordering::SeqCst) > 0, "{kind:?} never found the disk full");
        assert_eq!(refused > 0, refuses, "{kind:?}: {refused} writes were refused");
        assert!(Model::read(&store, None).await.unwrap() == model, "{kind:?}");
        drop(store);
        let store = EmbeddedStore::open(dir.path(), options(Faults::default())).unwrap();
        assert!(Model::read(&store, None).await.unwrap() == model, "{kind:?}, opened again");
    }
}

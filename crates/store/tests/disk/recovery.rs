//! Opening again: after a clean end, after cuts at any byte, after damage.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::support::{assert_holds, copy_dir, files, log_end, seed, step, tiny};
use amphipod_store::suite::model::{Model, Random};
use amphipod_store::suite::{next_batch, put, write};
use amphipod_store::{EmbeddedStore, Error, Op, Options, Range, Store, Txn};
use bytes::Bytes;

#[tokio::test]
async fn everything_is_there_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = seed();
    let mut model = Model::default();
    let options = Options { snapshot_log_bytes: 10_000, ..tiny() };
    for round in 0..8 {
        let store = EmbeddedStore::open(dir.path(), options.clone()).unwrap();
        assert_holds(&store, &model).await;
        for _ in 0..50 + round {
            step(&store, &mut model, &mut random).await;
        }
        if round % 2 == 0 {
            store.close().await.unwrap();
        }
    }
    assert!(files(dir.path(), ".log").len() < 20, "snapshots replaced old segments");
    assert_eq!(files(dir.path(), ".snap").len(), 1);
}

#[tokio::test]
async fn history_and_compaction_survive() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path(), Options::default()).unwrap();
    for value in ["1", "2", "3", "4"] {
        write(&store, vec![put("/a", value)]).await;
    }
    store.compact(2).await.unwrap();
    drop(store);
    let store = EmbeddedStore::open(dir.path(), Options::default()).unwrap();
    assert_eq!(store.oldest_revision().await.unwrap(), 2);
    assert!(matches!(store.watch("/", 1).await, Err(Error::Compacted { requested: 1, oldest: 2 })));
    let mut stream = store.watch("/", 2).await.unwrap();
    let batch = next_batch(&mut stream).await.unwrap();
    let revisions: Vec<_> = batch.events.iter().map(|event| event.revision()).collect();
    assert_eq!(revisions, [3, 4]);
    let past = store.range(Range { revision: Some(3), ..Range::prefix("/") }).await.unwrap();
    assert_eq!(past.items[0].value, "3");
}

#[tokio::test]
async fn leases_survive_and_end() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path(), Options::default()).unwrap();
    let short = store.lease_grant(1).await.unwrap();
    let long = store.lease_grant(3600).await.unwrap();
    let gone = store.lease_grant(3600).await.unwrap();
    for (key, lease) in [("/short", short), ("/long", long), ("/gone", gone)] {
        let op = Op::Put { key: key.into(), value: Bytes::from("x"), stamp: None, lease: Some(lease) };
        write(&store, vec![op]).await;
    }
    store.lease_revoke(gone).await.unwrap();
    drop(store);
    let store = EmbeddedStore::open(dir.path(), Options::default()).unwrap();
    let after = store.revision().await.unwrap();
    assert_eq!(after, 4);
    let mut stream = store.watch("/short", 3).await.unwrap();
    while next_batch(&mut stream).await.unwrap().events.is_empty() {}
    store.lease_keep_alive(long).await.unwrap();
    assert!(matches!(store.lease_keep_alive(gone).await, Err(Error::LeaseNotFound(_))));
    assert!(store.lease_grant(5).await.unwrap() > gone, "ids are not given twice");
    let left = store.range(Range::prefix("/")).await.unwrap();
    assert_eq!(left.items.iter().map(|item| item.key.as_ref()).collect::<Vec<_>>(), ["/long"]);
}

/// More keys than the largest frame could delete: they go in several steps, and all are gone at the end.
#[tokio::test]
async fn a_huge_lease_is_revoked_in_steps() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path(), Options { fsync: false, ..Options::default() }).unwrap();
    let lease = store.lease_grant(3600).await.unwrap();
    let name = "x".repeat(4080);
    let leased = |n: usize| Op::Put {
        key: format!("/{n:06}/{name}"),
        value: "v".into(),
        stamp: None,
        lease: Some(lease),
    };
    const FRAME_BYTES: usize = 64 << 20;
    let keys = FRAME_BYTES / name.len() + 1;
    for first in (0..keys).step_by(4000) {
        write(&store, (first..keys.min(first + 4000)).map(leased).collect()).await;
    }
    let before = store.revision().await.unwrap();
    let (revoked, written) = tokio::join!(
        store.lease_revoke(lease),
        store.txn(Txn { compare: vec![], then: vec![put("/other", "x")] })
    );
    revoked.unwrap();
    written.unwrap();
    let steps = store.revision().await.unwrap() - before - 1;
    assert!(steps > 1, "{steps}");
    assert!(matches!(store.lease_keep_alive(lease).await, Err(Error::LeaseNotFound(_))));
    drop(store);
    let store = EmbeddedStore::open(dir.path(), Options::default()).unwrap();
    let left = store.range(Range::prefix("/")).await.unwrap().items;
    assert_eq!(left.iter().map(|item| item.key.as_ref()).collect::<Vec<_>>(), ["/other"]);
}

#[tokio::test]
async fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path(), Options::default()).unwrap();
    let error = EmbeddedStore::open(dir.path(), Options::default()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&format!("in use by process {}", std::process::id())), "{text}");
    store.close().await.unwrap();
    EmbeddedStore::open(dir.path(), Options::default()).unwrap();
}

#[tokio::test]
async fn a_watcher_too_slow_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { history_events: 10, ..Options::default() };
    let store = EmbeddedStore::open(dir.path(), options).unwrap();
    let mut stream = store.watch("/", 0).await.unwrap();
    for _ in 0..11 {
        write(&store, vec![put("/a", "x")]).await;
    }
    assert!(matches!(next_batch(&mut stream).await, Err(Error::SlowWatcher)));
    assert_eq!(store.oldest_revision().await.unwrap(), 1);
}

/// A log of single transactions; which model holds where it ends.
struct Written {
    dir: tempfile::TempDir,
    /// After each transaction: file, offset behind it, and what the store must then hold.
    ends: Vec<(PathBuf, u64, Model)>,
}

async fn written(random: &mut Random, steps: usize, options: &Options) -> Written {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path(), options.clone()).unwrap();
    let mut model = Model::default();
    let mut ends = Vec::new();
    for _ in 0..steps {
        let before = model.revision;
        step(&store, &mut model, random).await;
        if model.revision > before {
            let (path, offset) = log_end(dir.path());
            ends.push((path, offset, model.clone()));
        }
    }
    store.close().await.unwrap();
    Written { dir, ends }
}

impl Written {
    /// The model after the last transaction that lies whole before this place.
    fn before(&self, path: &Path, offset: u64) -> Model {
        let mut whole = self.ends.iter().filter(|(file, end, _)| (file.as_path(), *end) <= (path, offset));
        whole.next_back().map(|(_, _, model)| model.clone()).unwrap_or_default()
    }
}

fn in_dir(dir: &Path, path: &Path) -> PathBuf {
    dir.join(path.file_name().unwrap())
}

fn remove_after(dir: &Path, path: &Path) {
    for later in files(dir, ".log").iter().filter(|file| file.file_name() > path.file_name()) {
        fs::remove_file(later).unwrap();
    }
}

/// Opens, checks, writes on, and opens again.
async fn assert_goes_on(dir: &Path, mut model: Model, options: &Options, what: &str) {
    for round in 0..2 {
        let store = EmbeddedStore::open(dir, options.clone()).unwrap_or_else(|e| panic!("{what}: {e}"));
        let read = Model::read(&store, None).await.unwrap();
        assert_eq!(read.revision, model.revision, "{what}, round {round}");
        assert!(read == model, "{what}, round {round}: values differ");
        let mut random = Random(model.revision);
        step(&store, &mut model, &mut random).await;
    }
}

#[tokio::test]
async fn cut_at_any_byte_keeps_all_whole_transactions() {
    let mut random = seed();
    for options in [tiny(), Options { snapshot_log_bytes: 12_000, ..tiny() }] {
        let written = written(&mut random, 120, &options).await;
        let copy = tempfile::tempdir().unwrap();
        let logs = files(written.dir.path(), ".log");
        for _ in 0..60 {
            let log = &logs[random.below(logs.len() as u64) as usize];
            let first = log == &logs[0];
            // The very first header is durable before anything is written.
            let from = if first { 32 } else { 0 };
            let cut = from + random.below(fs::metadata(log).unwrap().len() - from);
            copy_dir(written.dir.path(), copy.path());
            let target = in_dir(copy.path(), log);
            OpenOptions::new().write(true).open(&target).unwrap().set_len(cut).unwrap();
            remove_after(copy.path(), log);
            let what = format!("{} cut at {cut}", target.display());
            assert_goes_on(copy.path(), written.before(log, cut), &options, &what).await;
        }
    }
}

/// A power loss may keep any of the sectors of a write that was never acknowledged.
#[tokio::test]
async fn torn_last_write_is_whole_or_gone() {
    const SECTOR: usize = 64;
    let mut random = seed();
    let written = written(&mut random, 80, &tiny()).await;
    let copy = tempfile::tempdir().unwrap();
    for _ in 0..60 {
        let at = 1 + random.below(written.ends.len() as u64 - 1) as usize;
        let (acknowledged, (path, end, after)) = (&written.ends[at - 1], &written.ends[at]);
        copy_dir(written.dir.path(), copy.path());
        remove_after(copy.path(), path);
        let target = in_dir(copy.path(), path);
        let mut bytes = fs::read(&target).unwrap();
        bytes[*end as usize..].fill(0);
        let begin = if acknowledged.0 == *path { acknowledged.1 as usize } else { 0 };
        for sector in (begin..*end as usize).step_by(SECTOR) {
            if random.below(2) == 0 {
                bytes[sector..(sector + SECTOR).min(*end as usize)].fill(0);
            }
        }
        let whole = bytes[..*end as usize] == fs::read(path).unwrap()[..*end as usize];
        fs::write(&target, &bytes).unwrap();
        let model = if whole { after } else { &acknowledged.2 };
        assert_goes_on(copy.path(), model.clone(), &tiny(), &format!("torn before {end}")).await;
    }
}

/// Damage before the last write is refused; doing what the message says helps.
#[tokio::test]
async fn damage_in_the_middle_is_refused_with_place_and_cure() {
    let mut random = seed();
    let written = written(&mut random, 120, &tiny()).await;
    let copy = tempfile::tempdir().unwrap();
    for _ in 0..60 {
        let at = random.below(written.ends.len() as u64 - 1) as usize;
        let (path, end, _) = &written.ends[at];
        let previous = at.checked_sub(1).map(|at| &written.ends[at]).filter(|previous| previous.0 == *path);
        let begin = previous.map_or(32, |previous| previous.1.next_multiple_of(8));
        let place = begin + random.below(end - begin);
        copy_dir(written.dir.path(), copy.path());
        let target = in_dir(copy.path(), path);
        flip(&target, place, &mut random);
        let error = EmbeddedStore::open(copy.path(), tiny()).unwrap_err();
        let Error::Damaged { path: named, offset, cure, .. } = &error else { panic!("{error}") };
        assert_eq!((named.as_str(), *offset), (target.to_str().unwrap(), begin), "{error}");
        assert!(cure.contains(&format!("truncate -s {begin} {named}")), "{cure}");
        OpenOptions::new().write(true).open(&target).unwrap().set_len(begin).unwrap();
        remove_after(copy.path(), path);
        let what = format!("cured at {begin}");
        assert_goes_on(copy.path(), written.before(path, begin), &tiny(), &what).await;
    }
}

fn flip(path: &Path, place: u64, random: &mut Random) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, place).unwrap();
    byte[0] ^= 1 << random.below(8);
    file.write_all_at(&byte, place).unwrap();
}

#[tokio::test]
async fn damaged_headers_missing_files_and_snapshots_are_refused() {
    let mut random = seed();
    let options = Options { snapshot_log_bytes: 12_000, ..tiny() };
    let written = written(&mut random, 200, &options).await;
    let copy = tempfile::tempdir().unwrap();
    let refused = |options: &Options| match EmbeddedStore::open(copy.path(), options.clone()) {
        Err(Error::Damaged { path, .. }) => PathBuf::from(path),
        other => panic!("{other:?}"),
    };
    let logs = files(written.dir.path(), ".log");
    let used = logs.iter().position(|log| *log == written.ends.last().unwrap().0).unwrap();
    for log in &logs[..=used] {
        copy_dir(written.dir.path(), copy.path());
        let target = in_dir(copy.path(), log);
        flip(&target, random.below(32), &mut random);
        assert_eq!(refused(&options), target, "header");
    }
    for log in &logs[..used] {
        copy_dir(written.dir.path(), copy.path());
        let target = in_dir(copy.path(), log);
        fs::remove_file(&target).unwrap();
        assert_eq!(refused(&options), target, "missing");
    }
    let snapshot = files(written.dir.path(), ".snap").pop().unwrap();
    let len = fs::metadata(&snapshot).unwrap().len();
    // Eight places, and not in the padding after a frame.
    for place in (0..8).map(|n| n * (len - 8) / 8) {
        copy_dir(written.dir.path(), copy.path());
        let target = in_dir(copy.path(), &snapshot);
        flip(&target, place, &mut random);
        assert_eq!(refused(&options), target, "snapshot at {place}");
    }
    copy_dir(written.dir.path(), copy.path());
    let target = in_dir(copy.path(), &snapshot);
    OpenOptions::new().write(true).open(&target).unwrap().set_len(len / 2).unwrap();
    assert_eq!(refused(&options), target, "half a snapshot");
}

#[tokio::test]
async fn an_unfinished_snapshot_is_swept_away() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path(), tiny()).unwrap();
    write(&store, vec![put("/a", "x")]).await;
    drop(store);
    let leftover = dir.path().join("snapshot-00000000000000000009.snap.tmp");
    fs::write(&leftover, "half").unwrap();
    let store = EmbeddedStore::open(dir.path(), tiny()).unwrap();
    assert!(!leftover.exists());
    assert_eq!(store.revision().await.unwrap(), 1);
}

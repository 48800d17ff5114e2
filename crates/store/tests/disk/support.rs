//! What the tests on disk share: seeds, copies of directories, and a look at files from outside.

use std::path::{Path, PathBuf};

use amphipod_store::suite::model::{Model, Random};
use amphipod_store::{EmbeddedStore, Options, Store, Txn};

/// Small files, so that a short test crosses many of them.
pub fn tiny() -> Options {
    Options { segment_bytes: 4096, snapshot_log_bytes: u64::MAX, ..Options::default() }
}

/// A seed, new in each run unless `AMPHIPOD_SEED` repeats one; printed for that.
pub fn seed() -> Random {
    use std::hash::{BuildHasher, Hasher};
    let fresh = || std::hash::RandomState::new().build_hasher().finish() % 1_000_000_000;
    let given = std::env::var("AMPHIPOD_SEED").ok().map(|text| text.parse().expect("a number"));
    let seed = given.unwrap_or_else(fresh);
    println!("repeat with AMPHIPOD_SEED={seed}");
    Random(seed)
}

pub fn files(dir: &Path, suffix: &str) -> Vec<PathBuf> {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = names.filter(|path| path.to_str().unwrap().ends_with(suffix)).collect();
    paths.sort();
    paths
}

pub fn copy_dir(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// The place behind the last byte written to the log: number of the file and offset in it.
pub fn log_end(dir: &Path) -> (PathBuf, u64) {
    for path in files(dir, ".log").into_iter().rev() {
        let bytes = std::fs::read(&path).unwrap();
        if let Some(last) = bytes.iter().rposition(|byte| *byte != 0) {
            return (path, last as u64 + 1);
        }
    }
    panic!("no log in {}", dir.display());
}

/// One more random transaction on store and model.
pub async fn step(store: &EmbeddedStore, model: &mut Model, random: &mut Random) {
    let ops = Model::random_ops(random);
    model.apply(&ops);
    let result = store.txn(Txn { compare: vec![], then: ops }).await.unwrap();
    assert_eq!(result.revision, model.revision);
}

pub async fn assert_holds(store: &EmbeddedStore, model: &Model) {
    let read = Model::read(store, None).await.unwrap();
    assert_eq!(read.revision, model.revision);
    assert!(read == *model, "values differ at revision {}", model.revision);
}

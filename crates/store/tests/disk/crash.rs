//! kill -9 at random moments: no acknowledged write is lost, no transaction is visible in part.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use crate::support::{seed, tiny};
use amphipod_store::suite::{put, write};
use amphipod_store::{EmbeddedStore, Options, Range, Store};

const WRITERS: usize = 8;
const ROUNDS: u64 = 20;
/// Keys that each transaction sets to the same number.
const KEYS: usize = 3;
const DIR: &str = "AMPHIPOD_CRASH_DIR";

fn options() -> Options {
    Options { segment_bytes: 16 << 10, snapshot_log_bytes: 40_000, ..tiny() }
}

fn key(writer: usize, n: usize) -> String {
    format!("/writer-{writer}/{n}")
}

/// The number each writer has got to, after checking that its keys agree.
async fn counts(store: &EmbeddedStore) -> [u64; WRITERS] {
    let mut counts = [0; WRITERS];
    for (writer, count) in counts.iter_mut().enumerate() {
        let items = store.range(Range::prefix(&format!("/writer-{writer}/"))).await.unwrap().items;
        let number = |value: &[u8]| -> u64 {
            std::str::from_utf8(value).unwrap().trim_start_matches('x').parse().unwrap()
        };
        let numbers: Vec<_> = items.iter().map(|item| number(&item.value.contiguous())).collect();
        assert!(numbers.is_empty() || numbers.len() == KEYS, "in part: {items:?}");
        assert!(numbers.iter().all(|number| *number == numbers[0]), "in part: {items:?}");
        *count = numbers.first().copied().unwrap_or(0);
    }
    counts
}

#[tokio::test]
async fn kill_9_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = seed();
    let mut least = [0; WRITERS];
    for round in 0..ROUNDS {
        let acknowledged = run_and_kill(dir.path(), 1 + random.below(400));
        for (writer, count) in acknowledged {
            least[writer] = count;
        }
        let store =
            EmbeddedStore::open(dir.path(), options()).unwrap_or_else(|e| panic!("round {round}: {e}"));
        let found = counts(&store).await;
        for writer in 0..WRITERS {
            let expected = least[writer]..=least[writer] + 1;
            assert!(expected.contains(&found[writer]), "round {round}: {found:?}, acknowledged {least:?}");
        }
        least = found;
    }
    assert!(least.iter().sum::<u64>() > ROUNDS, "the writers wrote");
}

/// Starts the child, kills it after it acknowledged `lines` writes, and says what it acknowledged.
fn run_and_kill(dir: &Path, lines: u64) -> HashMap<usize, u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child_writes_until_killed", "--ignored", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = HashMap::new();
    let mut seen = 0;
    // Lines still in the pipe when it dies were acknowledged too, so all are read.
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let mut words = line.split(' ');
        let (Some("acknowledged"), Some(writer), Some(count)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        acknowledged.insert(writer.parse().unwrap(), count.parse().unwrap());
        seen += 1;
        if seen == lines {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(seen >= lines, "the child ended by itself after {seen} of {lines}");
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by kill_9_loses_nothing"]
async fn child_writes_until_killed() {
    let dir = std::env::var(DIR).unwrap();
    let store = Arc::new(EmbeddedStore::open(dir.as_ref(), options()).unwrap());
    let begin = counts(&store).await;
    // The harness has begun a line, of which the first acknowledgement is to be no part.
    println!();
    let writers = (0..WRITERS).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for count in begin[writer] + 1.. {
                let padding = "x".repeat((count as usize * 37 + writer) % 300);
                let ops = (0..KEYS).map(|n| put(&key(writer, n), &format!("{padding}{count}"))).collect();
                write(&*store, ops).await;
                // One write call per line: a line is either in the pipe or not.
                let line = format!("acknowledged {writer} {count} \n");
                std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
            }
        })
    });
    futures::future::join_all(writers).await;
}

//! Members that die and come back, history that is gone, and limits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use amphipod_store::suite::{DEADLINE, delete, next_batch, put, revision, write};
use amphipod_store::{Compare, Error, EtcdStore, Event, Range, Revision, Store, Txn, WatchStream};

use crate::cluster::Cluster;

/// What a writer knows of its counter: the last number that was acknowledged, and those whose outcome
/// it was not told.
#[derive(Debug, Default)]
struct Known {
    acknowledged: u64,
    unknown: u64,
}

async fn read(store: &dyn Store, key: &str) -> (u64, Revision) {
    let begin = Instant::now();
    loop {
        match store.range(Range::key(key)).await {
            Ok(result) => {
                let item = result.items.first();
                let number = item.map_or(0, |item| {
                    std::str::from_utf8(&item.value.contiguous()).unwrap().parse().unwrap()
                });
                return (number, item.map_or(0, |item| item.mod_revision));
            }
            Err(error) => assert!(begin.elapsed() < DEADLINE, "reads do not come back: {error}"),
        }
    }
}

/// Counts up by compare-and-swap. After an unknown outcome it reads: the number is the old or the new
/// one, and nothing else.
async fn count(store: Arc<dyn Store>, key: String, stop: tokio::sync::watch::Receiver<bool>) -> Known {
    let mut known = Known::default();
    let (mut number, mut at) = read(&*store, &key).await;
    while !*stop.borrow() {
        let compare = vec![Compare::ModRevision { key: key.clone(), equals: at }];
        let then = vec![put(&key, &(number + 1).to_string())];
        match store.txn(Txn { compare, then }).await {
            Ok(result) => {
                assert!(result.succeeded, "nobody else writes {key}: an acknowledgement was lost");
                (number, at) = (number + 1, result.revision);
                known.acknowledged = number;
            }
            Err(Error::Unavailable(_)) => {}
            Err(Error::Unknown(_)) => {
                known.unknown += 1;
                // A proposal may still be under way when the read is answered. A write of the same
                // number settles it: one of the two succeeds.
                let before = at;
                (number, at) = settle(&*store, &key, number, at).await;
                assert!(at > before);
                known.acknowledged = number;
            }
            Err(error) => panic!("{error}"),
        }
    }
    known
}

async fn settle(store: &dyn Store, key: &str, number: u64, at: Revision) -> (u64, Revision) {
    let begin = Instant::now();
    loop {
        let compare = vec![Compare::ModRevision { key: key.to_owned(), equals: at }];
        let then = vec![put(key, &(number + 1).to_string())];
        match store.txn(Txn { compare, then }).await {
            Ok(result) if result.succeeded => return (number + 1, result.revision),
            Ok(result) => {
                let item = result.current[0].clone().expect("it was there or was written");
                assert_eq!(item.value, (number + 1).to_string(), "the write of unknown outcome");
                return (number + 1, item.mod_revision);
            }
            Err(Error::Unavailable(_) | Error::Unknown(_)) => assert!(begin.elapsed() < DEADLINE),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Follows from `after` and checks that no number of any counter is left out or told twice.
async fn follow(mut stream: WatchStream, last: &BTreeMap<String, u64>) {
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    let mut revision = 0;
    while seen != *last {
        let batch = next_batch(&mut stream).await.expect("no error");
        assert!(batch.revision > revision);
        revision = batch.revision;
        for event in batch.events {
            let Event::Put(current) = event else { panic!("nothing is deleted") };
            let number: u64 = std::str::from_utf8(&current.value.contiguous()).unwrap().parse().unwrap();
            let before = seen.insert(current.key.to_string(), number).unwrap_or(0);
            assert_eq!(number, before + 1, "{}", current.key);
        }
    }
}

/// One member after the other is killed and comes back while four writers count and watches follow.
async fn survives_killed_members(size: usize, rounds: usize) {
    let Some(mut cluster) = Cluster::start(size, &[]).await else { return };
    let store = cluster.store("/kill").await;
    let base = revision(&*store).await;
    let early = store.watch("/", base).await.unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let keys: Vec<_> = (0..4).map(|writer| format!("/writer-{writer}")).collect();
    let writers: Vec<_> =
        keys.iter().map(|key| tokio::spawn(count(store.clone(), key.clone(), stopped.clone()))).collect();
    for round in 0..rounds {
        let victim = round % size;
        progress(&*store, &keys).await;
        cluster.kill(victim);
        if size > 1 {
            // The others go on alone.
            progress(&*store, &keys).await;
        }
        cluster.restart(victim);
        cluster.ready().await;
    }
    progress(&*store, &keys).await;
    stop.send(true).unwrap();
    let mut last = BTreeMap::new();
    let mut unknown = 0;
    for (key, writer) in keys.iter().zip(writers) {
        let known = writer.await.unwrap();
        let (number, _) = read(&*store, key).await;
        assert_eq!(number, known.acknowledged, "{key}");
        unknown += known.unknown;
        last.insert(key.clone(), number);
    }
    println!("{last:?}, {unknown} outcomes unknown");
    follow(early, &last).await;
    follow(store.watch("/", base).await.unwrap(), &last).await;
}

/// Every counter has gone up.
async fn progress(store: &dyn Store, keys: &[String]) {
    for key in keys {
        let (before, _) = read(store, key).await;
        let begin = Instant::now();
        while read(store, key).await.0 < before + 3 {
            assert!(begin.elapsed() < DEADLINE, "{key} stands still");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_is_killed_and_comes_back() {
    survives_killed_members(1, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_three_members_is_killed_and_comes_back() {
    survives_killed_members(3, 3).await;
}

/// A member that hangs keeps its connections: only the lack of an answer tells.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_member_is_passed_over() {
    let Some(cluster) = Cluster::start(3, &[]).await else { return };
    let store = cluster.store("/frozen").await;
    let first = write(&*store, vec![put("/a", "1")]).await.revision;
    // Nothing failed so far, so it is the one that is asked first.
    cluster.freeze(0);
    let read = store.range(Range::key("/a")).await.unwrap();
    assert_eq!(read.items[0].mod_revision, first);
    let mut watch = store.watch("/", first).await.unwrap();
    let second = write(&*store, vec![put("/a", "2")]).await.revision;
    assert_eq!(next_batch(&mut watch).await.unwrap().revision, second);
    cluster.thaw(0);
    cluster.ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_there_is_said_with_the_endpoints() {
    let Some(mut cluster) = Cluster::start(1, &[]).await else { return };
    let store = cluster.store("/gone").await;
    cluster.kill(0);
    let begin = Instant::now();
    let error = loop {
        match store.txn(Txn { compare: vec![], then: vec![put("/a", "x")] }).await {
            // The old connection may break only now.
            Err(Error::Unknown(_)) => assert!(begin.elapsed() < DEADLINE),
            other => break other.unwrap_err(),
        }
    };
    let text = error.to_string();
    assert!(matches!(error, Error::Unavailable(_)) && text.contains(&cluster.members[0].client), "{text}");
    let error = EtcdStore::connect(cluster.options("/gone")).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    cluster.restart(0);
    cluster.ready().await;
    write(&*store, vec![put("/a", "x")]).await;
}

/// A watch that was cut off while its history was compacted says so, instead of leaving a hole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_cannot_resume_is_told() {
    let Some(mut cluster) = Cluster::start(1, &[]).await else { return };
    let store = cluster.store("/resume").await;
    let first = write(&*store, vec![put("/a", "1")]).await.revision;
    let mut behind = store.watch("/", first - 1).await.unwrap();
    assert_eq!(next_batch(&mut behind).await.unwrap().revision, first);
    cluster.kill(0);
    cluster.restart(0);
    cluster.ready().await;
    // It is not polled meanwhile, so it opens anew only behind the compaction.
    let other = cluster.store("/resume").await;
    let last = write(&*other, vec![put("/a", "2")]).await.revision;
    other.compact(last).await.unwrap();
    let error = loop {
        match next_batch(&mut behind).await {
            // What had arrived before the member died.
            Ok(batch) => assert!(batch.revision < last, "{batch:?}"),
            Err(error) => break error,
        }
    };
    let want = Error::Compacted { requested: first, oldest: last };
    assert_eq!(error.to_string(), want.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_told_in_plain_words() {
    let Some(cluster) = Cluster::start(1, &["--quota-backend-bytes", "8388608"]).await else { return };
    let store = cluster.store("/limits").await;
    let create = |key: &str, bytes: usize| {
        let compare = vec![Compare::ModRevision { key: key.to_owned(), equals: 0 }];
        Txn { compare, then: vec![put(key, &"x".repeat(bytes))] }
    };
    let error = store.txn(create("/large", 3 << 20)).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge(_)), "{error}");
    assert!(error.to_string().contains("--max-request-bytes"), "{error}");
    let claims = |count: usize| -> Txn {
        let keys: Vec<_> = (0..count).map(|n| format!("/claims/{count}/{n}")).collect();
        let absent = |key: &String| Compare::ModRevision { key: key.clone(), equals: 0 };
        Txn {
            compare: keys.iter().map(absent).collect(),
            then: keys.iter().map(|key| put(key, "x")).collect(),
        }
    };
    let many = store.txn(claims(128)).await.unwrap();
    let listed = store.range(Range::prefix("/claims/")).await.unwrap().items;
    assert!(many.written.iter().all(|item| listed.contains(item)) && many.written.len() == 128);
    let error = store.txn(claims(129)).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge(_)), "{error}");
    assert!(error.to_string().contains("--max-txn-ops"), "{error}");
    store
        .txn(Txn { compare: vec![], then: listed.iter().map(|item| delete(&item.key)).collect() })
        .await
        .unwrap();
    let mut number = 0;
    let error = loop {
        let key = format!("/{number}");
        match store.txn(create(&key, 1 << 20)).await {
            Ok(_) => number += 1,
            // etcd refuses the write that exceeds its quota, and keeps it all the same.
            Err(Error::Unknown(why)) => {
                assert!(why.contains("quota"), "{why}");
                number += store.range(Range::key(&key)).await.unwrap().items.len();
            }
            Err(error) => break error,
        }
        assert!(number < 100, "the quota is never reached");
    };
    assert!(matches!(error, Error::NoSpace(_)), "{error}");
    assert!(error.to_string().contains("etcdctl alarm disarm"), "{error}");
    assert_eq!(store.range(Range::prefix("/")).await.unwrap().items.len(), number, "reads go on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_collections_are_read_in_pages_of_one_state() {
    let Some(cluster) = Cluster::start(1, &[]).await else { return };
    let store = cluster.store("/pages").await;
    for fifty in 0..24 {
        write(&*store, (0..50).map(|n| put(&format!("/{fifty:02}/{n:02}"), "x")).collect()).await;
    }
    let all = store.range(Range::prefix("/")).await.unwrap();
    assert_eq!((all.items.len(), all.more), (1200, 0));
    assert!(all.items.is_sorted_by_key(|item| item.key.clone()));
    let some = store.range(Range { limit: 700, ..Range::prefix("/") }).await.unwrap();
    assert_eq!((some.items.len(), some.more), (700, 500));
}

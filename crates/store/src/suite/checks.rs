//! The checks, one promise each.

use super::*;

pub async fn begins_empty(store: Arc<dyn Store>) {
    let base = revision(&*store).await;
    let all = store.range(Range::prefix("/")).await.expect("range");
    assert_eq!((all.revision, all.items.len(), all.more), (base, 0, 0));
    assert_eq!(store.revision().await.expect("revision"), base);
    assert!(store.oldest_revision().await.expect("oldest") <= base);
    let nothing = store.txn(Txn::default()).await.expect("an empty transaction");
    assert!(nothing.succeeded);
    assert_eq!(nothing.revision, base, "writing nothing makes no revision");
    store.size_bytes().await.expect("size");
}

pub async fn counts_revisions_and_versions(store: Arc<dyn Store>) {
    let base = revision(&*store).await;
    let first = write(&*store, vec![put("/a", "1")]).await;
    assert_eq!(first.revision, base + 1);
    write(&*store, vec![put("/b", "1")]).await;
    let third = write(&*store, vec![put("/a", "2")]).await;
    let item = get(&*store, "/a").await.expect("it was put");
    assert_eq!(third.written, std::slice::from_ref(&item));
    assert_eq!((item.create_revision, item.mod_revision, item.version), (base + 1, base + 3, 2));
    assert_eq!((text(&item.value).as_str(), item.lease), ("2", None));
    let gone = write(&*store, vec![delete("/a")]).await;
    assert_eq!((gone.revision, gone.written.len()), (base + 4, 0));
    let again = write(&*store, vec![delete("/a")]).await;
    assert_eq!(again.revision, base + 4, "deleting nothing makes no revision");
    write(&*store, vec![put("/a", "3")]).await;
    let item = get(&*store, "/a").await.expect("it was put again");
    assert_eq!((item.create_revision, item.mod_revision, item.version), (base + 5, base + 5, 1));
    assert_eq!(store.revision().await.expect("revision"), base + 5);
}

pub async fn compares_before_it_writes(store: Arc<dyn Store>) {
    let base = revision(&*store).await;
    let txn = |equals: Revision, value: &str| Txn {
        compare: vec![
            Compare::ModRevision { key: "/a".into(), equals },
            Compare::ModRevision { key: "/other".into(), equals: 0 },
        ],
        then: vec![put("/a", value)],
    };
    assert!(store.txn(txn(0, "1")).await.expect("create").succeeded);
    let refused = store.txn(txn(0, "2")).await.expect("a compare that fails is no error");
    assert!(!refused.succeeded);
    assert_eq!((refused.revision, refused.written.len()), (base + 1, 0));
    let current = refused.current[0].clone().expect("the present value is told");
    assert_eq!((text(&current.value).as_str(), current.mod_revision), ("1", base + 1));
    assert_eq!(refused.current[1], None);
    assert!(store.txn(txn(base + 1, "2")).await.expect("update").succeeded);
    assert_eq!(get(&*store, "/a").await.map(|item| text(&item.value)), Some("2".into()));
}

pub async fn applies_a_transaction_whole_at_one_revision(store: Arc<dyn Store>) {
    let base = revision(&*store).await;
    write(&*store, vec![put("/gone", "x")]).await;
    let ops = vec![put("/b", "1"), delete("/gone"), put("/a", "2"), delete("/never")];
    let result = write(&*store, ops).await;
    assert_eq!(result.revision, base + 2);
    let written: Vec<_> = result.written.iter().map(|item| (item.key.as_ref(), item.mod_revision)).collect();
    assert_eq!(written, [("/b", base + 2), ("/a", base + 2)], "in the order of the puts");
    assert_eq!(keys_at(&*store, "/", base + 2).await.expect("range"), ["/a=2", "/b=1"]);
}

pub async fn refuses_invalid_transactions_whole(store: Arc<dyn Store>) {
    let base = revision(&*store).await;
    let leased = |lease| Op::Put { key: "/l".into(), value: Bytes::new(), stamp: None, lease: Some(lease) };
    let stamped = Op::Put { key: "/s".into(), value: Bytes::from("x"), stamp: Some(2), lease: None };
    for bad in [leased(404), stamped, put("/good", "again"), put("", "no key")] {
        let txn = Txn { compare: vec![], then: vec![put("/good", "x"), bad] };
        let error = store.txn(txn).await.expect_err("it cannot be applied");
        assert!(matches!(error, Error::Invalid(_) | Error::LeaseNotFound(404)), "{error}");
    }
    assert_eq!(store.revision().await.expect("revision"), base);
    assert_eq!(get(&*store, "/good").await, None, "nothing of it was applied");
}

pub async fn stamps_the_revision(store: Arc<dyn Store>) {
    for _ in 0..11 {
        write(&*store, vec![put("/count", "x")]).await;
    }
    let base = revision(&*store).await;
    // Long enough to be kept apart from the rest.
    let fields = format!(r#"[{{"fieldsV1":{{"f:{}":{{}}}}}}]"#, "x".repeat(1000));
    let object = |revision: &str| {
        format!(
            r#"{{"kind":"X","metadata":{{"resourceVersion":"{revision}","managedFields":{fields},"name":"a"}}}}"#
        )
    };
    let op = Op::Put { key: "/a".into(), value: object("").into(), stamp: Some(43), lease: None };
    let mut stream = store.watch("/", base).await.expect("watch");
    let result = write(&*store, vec![op]).await;
    let want = object(&(base + 1).to_string());
    assert_eq!(text(&result.written[0].value), want);
    assert_eq!(get(&*store, "/a").await, result.written.first().cloned());
    let told = events_until(&mut stream, base, 1).await;
    assert_eq!(told, [format!("1 put /a={want}")], "watchers see it, too");
}

pub async fn reads_ranges_in_order_with_limit(store: Arc<dyn Store>) {
    let base = revision(&*store).await;
    for key in ["/b/2", "/a/1", "/b/1", "/b", "/b/3", "/c", "/b0"] {
        write(&*store, vec![put(key, "")]).await;
    }
    let keys = |result: &crate::contract::RangeResult| -> Vec<String> {
        result.items.iter().map(|item| item.key.to_string()).collect()
    };
    let all = store.range(Range::prefix("/b/")).await.expect("range");
    assert_eq!(keys(&all), ["/b/1", "/b/2", "/b/3"]);
    assert_eq!((all.more, all.revision), (0, base + 7));
    let some = store.range(Range { limit: 2, ..Range::prefix("/b/") }).await.expect("range");
    assert_eq!((keys(&some), some.more), (vec!["/b/1".to_owned(), "/b/2".to_owned()], 1));
    let rest = Range { start: "/b/2\0".into(), ..Range::prefix("/b/") };
    assert_eq!(keys(&store.range(rest).await.expect("range")), ["/b/3"]);
    let past = Range { revision: Some(base + 2), limit: 1, ..Range::prefix("/") };
    let past = store.range(past).await.expect("range");
    assert_eq!((keys(&past), past.more, past.revision), (vec!["/a/1".to_owned()], 1, base + 7));
    let backwards = Range { start: "/z".into(), end: "/a".into(), revision: None, limit: 0 };
    assert_eq!(store.range(backwards).await.expect("range").items.len(), 0);
}

pub async fn reads_the_past(store: Arc<dyn Store>) {
    let base = revision(&*store).await;
    write(&*store, vec![put("/a", "1")]).await;
    write(&*store, vec![put("/a", "2"), put("/b", "1")]).await;
    write(&*store, vec![delete("/a")]).await;
    write(&*store, vec![put("/a", "3")]).await;
    let wanted: [&[&str]; 5] = [&[], &["/a=1"], &["/a=2", "/b=1"], &["/b=1"], &["/a=3", "/b=1"]];
    for (step, want) in (0..).zip(wanted) {
        assert_eq!(keys_at(&*store, "/", base + step).await.expect("range"), want, "at {step}");
    }
    let error = keys_at(&*store, "/", base + 5).await.expect_err("it has not happened");
    let Error::Future { requested, newest } = error else { panic!("{error}") };
    assert_eq!((requested, newest), (base + 5, base + 4));
}

fn assert_compacted(error: &Error, requested: Revision, oldest: Revision) {
    let want = Error::Compacted { requested, oldest };
    assert_eq!(error.to_string(), want.to_string());
}

pub async fn compaction_forgets_the_past_only(store: Arc<dyn Store>) {
    let base = revision(&*store).await;
    for value in ["1", "2", "3", "4"] {
        write(&*store, vec![put("/a", value)]).await;
    }
    let error = store.compact(base + 5).await.expect_err("it has not happened");
    assert!(matches!(error, Error::Future { .. }), "{error}");
    store.compact(base + 3).await.expect("compact");
    store.compact(base + 3).await.expect("the same again changes nothing");
    let error = store.compact(base + 2).await.expect_err("forgotten already");
    assert_compacted(&error, base + 2, base + 3);
    assert_eq!(store.oldest_revision().await.expect("oldest"), base + 3);
    let error = keys_at(&*store, "/", base + 2).await.expect_err("forgotten");
    assert_compacted(&error, base + 2, base + 3);
    assert_eq!(keys_at(&*store, "/", base + 3).await.expect("kept"), ["/a=3"]);
    let error = store.watch("/", base + 2).await.err().expect("forgotten");
    assert_compacted(&error, base + 2, base + 3);
    let mut stream = store.watch("/", base + 3).await.expect("kept");
    assert_eq!(events_until(&mut stream, base, 4).await, ["4 put /a=4"]);
    assert_eq!(store.revision().await.expect("revision"), base + 4, "compaction is no write");
}

pub async fn watches_history_then_live(store: Arc<dyn Store>) {
    let base = revision(&*store).await;
    write(&*store, vec![put("/a", "1")]).await;
    write(&*store, vec![put("/a", "2")]).await;
    let mut stream = store.watch("/", base).await.expect("watch");
    let mut late = store.watch("/", base + 1).await.expect("watch");
    assert_eq!(events_until(&mut stream, base, 2).await, ["1 put /a=1", "2 put /a=2"]);
    write(&*store, vec![delete("/a")]).await;
    write(&*store, vec![put("/a", "3")]).await;
    let live = ["3 delete /a", "4 put /a=3"];
    assert_eq!(events_until(&mut stream, base, 4).await, live);
    let late = events_until(&mut late, base, 4).await;
    assert_eq!((late[0].as_str(), &late[1..]), ("2 put /a=2", &live.map(str::to_owned)[..]));
}

pub async fn watch_keeps_revisions_whole(store: Arc<dyn Store>) {
    let base = revision(&*store).await;
    /// More than an engine tells in one batch.
    const KEYS: usize = 700;
    /// What an etcd takes in one transaction unless told otherwise.
    const AT_ONCE: usize = 50;
    let mut stream = store.watch("/w/", base).await.expect("watch");
    // Keys of one lease go at one revision, however many they are.
    for _ in 0..3 {
        let lease = store.lease_grant(3600).await.expect("grant");
        let leased = |n: usize| Op::Put {
            key: format!("/w/{n:04}"),
            value: Bytes::from("x"),
            stamp: None,
            lease: Some(lease),
        };
        for first in (0..KEYS).step_by(AT_ONCE) {
            write(&*store, (first..first + AT_ONCE).map(leased).collect()).await;
        }
        store.lease_revoke(lease).await.expect("revoke");
    }
    const WRITES: u64 = (KEYS / AT_ONCE) as u64;
    let mut seen = base;
    while seen < base + 3 * (WRITES + 1) {
        let batch = next_batch(&mut stream).await.expect("no error");
        for revision in seen + 1..=batch.revision {
            let events = batch.events.iter().filter(|event| event.revision() == revision).count();
            let whole = if (revision - base) % (WRITES + 1) == 0 { KEYS } else { AT_ONCE };
            assert_eq!(events, whole, "revision {revision} comes whole in one batch");
        }
        assert!(batch.events.is_sorted_by_key(Event::revision));
        seen = batch.revision;
    }
}

pub async fn watch_sees_only_its_prefix(store: Arc<dyn Store>) {
    let base = revision(&*store).await;
    let mut pods = store.watch("/pods/", base).await.expect("watch");
    let mut one = store.watch("/pods/x/b", base).await.expect("watch");
    let mut all = store.watch("", base).await.expect("watch");
    let ops = ["/pods/x/a", "/podsx", "/nodes/a", "/pods/x/b"].map(|key| put(key, ""));
    for op in ops {
        write(&*store, vec![op]).await;
    }
    assert_eq!(events_until(&mut pods, base, 4).await, ["1 put /pods/x/a=", "4 put /pods/x/b="]);
    assert_eq!(events_until(&mut one, base, 4).await, ["4 put /pods/x/b="]);
    assert_eq!(events_until(&mut all, base, 4).await.len(), 4);
}

pub async fn watch_from_the_future_waits(store: Arc<dyn Store>) {
    let base = revision(&*store).await;
    let mut stream = store.watch("/", base + 2).await.expect("watch");
    for value in ["1", "2", "3"] {
        write(&*store, vec![put("/a", value)]).await;
    }
    assert_eq!(events_until(&mut stream, base, 3).await, ["3 put /a=3"]);
}

pub async fn watch_tells_progress(store: Arc<dyn Store>) {
    let base = revision(&*store).await;
    let mut stream = store.watch("/quiet/", base).await.expect("watch");
    for round in 1..=3 {
        write(&*store, vec![put("/loud/a", "x")]).await;
        store.request_progress().await.expect("progress");
        let events = events_until(&mut stream, base, round).await;
        assert!(events.is_empty(), "{events:?}");
    }
    write(&*store, vec![put("/loud/a", "x")]).await;
    assert!(events_until(&mut stream, base, 4).await.is_empty(), "told in time without asking");
}

pub async fn idle_watch_survives_compaction(store: Arc<dyn Store>) {
    let base = revision(&*store).await;
    let mut stream = store.watch("/quiet/", base).await.expect("watch");
    for _ in 0..5 {
        write(&*store, vec![put("/loud/a", "x")]).await;
    }
    store.compact(base + 5).await.expect("compact");
    write(&*store, vec![put("/quiet/a", "x")]).await;
    assert_eq!(events_until(&mut stream, base, 6).await, ["6 put /quiet/a=x"]);
}

async fn put_leased(store: &dyn Store, key: &str, lease: LeaseId) {
    let op = Op::Put { key: key.into(), value: Bytes::from("x"), stamp: None, lease: Some(lease) };
    write(store, vec![op]).await;
}

pub async fn leases_expire_and_are_revoked(store: Arc<dyn Store>) {
    let base = revision(&*store).await;
    let short = store.lease_grant(1).await.expect("grant");
    let long = store.lease_grant(3600).await.expect("grant");
    assert_ne!(short, long);
    put_leased(&*store, "/short/a", short).await;
    put_leased(&*store, "/short/b", short).await;
    put_leased(&*store, "/long/a", long).await;
    put_leased(&*store, "/moved", short).await;
    put_leased(&*store, "/moved", long).await;
    write(&*store, vec![put("/short/free", "x")]).await;
    let mut stream = store.watch("/", base + 6).await.expect("watch");
    let mut gone = events_until(&mut stream, base, 7).await;
    gone.sort();
    assert_eq!(gone, ["7 delete /short/a", "7 delete /short/b"]);
    let error = store.lease_keep_alive(short).await.expect_err("it is over");
    assert!(matches!(error, Error::LeaseNotFound(id) if id == short), "{error}");
    assert_eq!(get(&*store, "/long/a").await.and_then(|item| item.lease), Some(long));
    store.lease_revoke(long).await.expect("revoke");
    assert_eq!(events_until(&mut stream, base, 8).await.len(), 2);
    let error = store.lease_revoke(long).await.expect_err("it is over");
    assert!(matches!(error, Error::LeaseNotFound(id) if id == long), "{error}");
    let all = store.range(Range::prefix("/")).await.expect("range");
    assert_eq!(all.items.len(), 1);
}

pub async fn leases_stay_alive(store: Arc<dyn Store>) {
    let base = revision(&*store).await;
    let kept = store.lease_grant(2).await.expect("grant");
    let left = store.lease_grant(3).await.expect("grant");
    put_leased(&*store, "/kept", kept).await;
    put_leased(&*store, "/left", left).await;
    let mut stream = store.watch("/left", base + 2).await.expect("watch");
    let keeper = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(200));
        loop {
            ticks.tick().await;
            store.lease_keep_alive(kept).await.expect("it was kept alive");
        }
    };
    tokio::select! {
        () = keeper => {}
        events = events_until(&mut stream, base, 3) => assert_eq!(events, ["3 delete /left"]),
    }
    assert!(get(&*store, "/kept").await.is_some());
    // Left alone, it would end in the middle of another check where the store is shared.
    store.lease_revoke(kept).await.expect("revoke");
}

/// Optimistic locking: of writers that saw the same revision exactly one succeeds.
pub async fn one_of_many_rivals_wins(store: Arc<dyn Store>) {
    const RIVALS: usize = 16;
    const ROUNDS: usize = 20;
    let rivals = (0..RIVALS).map(|_| {
        let store = store.clone();
        async move {
            let mut done = 0;
            while done < ROUNDS {
                let seen = get(&*store, "/counter").await;
                let count: usize =
                    seen.as_ref().map_or(0, |item| text(&item.value).parse().expect("a number"));
                let equals = seen.map_or(0, |item| item.mod_revision);
                let compare = vec![Compare::ModRevision { key: "/counter".into(), equals }];
                let then = vec![put("/counter", &(count + 1).to_string())];
                let result = store.txn(Txn { compare, then }).await.expect("txn");
                done += usize::from(result.succeeded);
            }
        }
    });
    futures::future::join_all(rivals).await;
    let item = get(&*store, "/counter").await.expect("it was counted");
    assert_eq!(text(&item.value), (RIVALS * ROUNDS).to_string());
    assert_eq!(item.version, (RIVALS * ROUNDS) as u64);
}

pub async fn closed_means_closed(store: Arc<dyn Store>) {
    let base = revision(&*store).await;
    write(&*store, vec![put("/a", "x")]).await;
    let mut stream = store.watch("/", base + 1).await.expect("watch");
    store.close().await.expect("close");
    let error = next_batch(&mut stream).await.expect_err("the watch ends");
    assert!(matches!(error, Error::Closed), "{error}");
    let error = store.txn(Txn { compare: vec![], then: vec![put("/a", "y")] }).await.expect_err("closed");
    assert!(matches!(error, Error::Closed), "{error}");
    let error = store.range(Range::prefix("/")).await.expect_err("closed");
    assert!(matches!(error, Error::Closed), "{error}");
}

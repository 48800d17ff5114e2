//! Files that older versions wrote stay readable.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use amphipod_store::suite::{DEADLINE, delete, put, write};
use amphipod_store::{EmbeddedStore, Op, Options, Range, Store};
use bytes::Bytes;

use crate::support::{copy_dir, files, tiny};

/// Files as format 1 wrote them, checked in: a snapshot and a log after it.
#[tokio::test]
async fn reads_format_1() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/format-1");
    let dir = tempfile::tempdir().unwrap();
    copy_dir(&sample, dir.path());
    assert_eq!((files(&sample, ".snap").len(), files(&sample, ".log").len()), (1, 1));
    let store = EmbeddedStore::open(dir.path(), tiny()).unwrap();
    let all = store.range(Range::prefix("/")).await.unwrap();
    let show = |item: &amphipod_store::KeyValue| {
        let (created, modified, version) = (item.create_revision, item.mod_revision, item.version);
        let value = String::from_utf8_lossy(&item.value.contiguous()).into_owned();
        format!("{}={value} {created} {modified} {version} {:?}", item.key, item.lease)
    };
    let items: Vec<_> = all.items.iter().map(show).collect();
    let want = [
        r#"/registry/events/default/e={"in":"log"} 105 105 1 Some(1)"#,
        r#"/registry/minions/n={"resourceVersion":"104"} 1 104 2 None"#,
        r#"/registry/pods/default/p={"step":99} 2 101 100 None"#,
    ];
    assert_eq!(items, want);
    assert_eq!((all.revision, store.oldest_revision().await.unwrap()), (107, 103));
    store.lease_keep_alive(1).await.unwrap();
    assert!(store.lease_keep_alive(2).await.is_err());
    assert_eq!(store.lease_grant(9).await.unwrap(), 4);
}

/// Writes the sample for `reads_format_1`: `AMPHIPOD_SAMPLE=<new directory> cargo test ... -- --ignored`.
#[tokio::test]
#[ignore = "run by hand when the format gets a new version"]
async fn make_sample() {
    let dir = PathBuf::from(std::env::var("AMPHIPOD_SAMPLE").unwrap());
    let options = Options { snapshot_log_bytes: 9000, ..tiny() };
    let store = EmbeddedStore::open(&dir, options).unwrap();
    let lease = store.lease_grant(1_000_000).await.unwrap();
    let revoked = store.lease_grant(1_000_000).await.unwrap();
    store.lease_grant(1_000_000).await.unwrap();
    write(&store, vec![put("/registry/minions/n", r#"{"resourceVersion":"1"}"#)]).await;
    for n in 0..100 {
        write(&store, vec![put("/registry/pods/default/p", &format!(r#"{{"step":{n}}}"#))]).await;
    }
    write(&store, vec![put("/registry/pods/default/gone", "{}")]).await;
    write(&store, vec![delete("/registry/pods/default/gone")]).await;
    let value = Bytes::from(r#"{"resourceVersion":""}"#);
    let put_stamped = Op::Put { key: "/registry/minions/n".into(), value, stamp: Some(20), lease: None };
    write(&store, vec![put_stamped]).await;
    for (key, lease) in [("e", lease), ("f", revoked)] {
        let key = format!("/registry/events/default/{key}");
        let value = Bytes::from(r#"{"in":"log"}"#);
        let op = Op::Put { key, value, stamp: None, lease: Some(lease) };
        write(&store, vec![op]).await;
    }
    store.lease_revoke(revoked).await.unwrap();
    store.compact(103).await.unwrap();
    let begin = Instant::now();
    while files(&dir, ".snap").is_empty() || !files(&dir, ".tmp").is_empty() {
        assert!(begin.elapsed() < DEADLINE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

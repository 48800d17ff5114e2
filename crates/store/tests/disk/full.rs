//! A full disk: writes are refused, nothing stored is harmed, and writes work again with space.
//!
//! Runs on a real, tiny file system: a tmpfs in a mount namespace of its own, gone with the process.

use std::process::Command;

use crate::support::tiny;
use amphipod_store::suite::{put, write};
use amphipod_store::{EmbeddedStore, Error, Options, Range, Store, Txn};

const DIR: &str = "AMPHIPOD_FULL_DIR";

#[test]
fn full_disk_refuses_writes_and_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // Root needs no user namespace, and may not be allowed one.
    let variants: [&[&str]; 2] = [&["--mount"], &["--mount", "--map-root-user"]];
    let works = |args: &&&[&str]| {
        let status =
            Command::new("unshare").args(**args).args(["mount", "-t", "tmpfs", "x"]).arg(dir.path()).status();
        status.is_ok_and(|status| status.success())
    };
    let Some(args) = variants.iter().find(works) else {
        println!("skipped: this user may not mount a tmpfs in a namespace");
        assert!(std::env::var_os("CI").is_none(), "in CI this test must run");
        return;
    };
    let script =
        "mount -t tmpfs -o size=512k tmpfs \"$1\" && exec \"$2\" --exact full::inside --ignored --nocapture";
    let output = Command::new("unshare")
        .args(*args)
        .args(["sh", "-c", script, "sh"])
        .arg(dir.path())
        .arg(std::env::current_exe().unwrap())
        .env(DIR, dir.path())
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stdout.contains("1 passed"), "{stdout}\n{stderr}");
}

#[tokio::test]
#[ignore = "started by full_disk_refuses_writes_and_harms_nothing on a tiny file system"]
async fn inside() {
    let top = std::path::PathBuf::from(std::env::var(DIR).unwrap());
    let ballast = top.join("ballast");
    std::fs::write(&ballast, vec![1; 200 << 10]).unwrap();
    let options = Options { segment_bytes: 64 << 10, snapshot_log_bytes: 100 << 10, ..tiny() };
    let dir = top.join("store");
    let store = EmbeddedStore::open(&dir, options.clone()).unwrap();
    let value = "x".repeat(1000);
    let mut written = 0;
    let error = loop {
        let txn = Txn { compare: vec![], then: vec![put(&format!("/{written:05}"), &value)] };
        match store.txn(txn).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 10_000, "the disk never fills");
    };
    assert!(matches!(error, Error::NoSpace(_)), "{error}");
    assert!(written > 50);
    let lease = store.lease_grant(60).await;
    for _ in 0..20 {
        let txn = Txn { compare: vec![], then: vec![put("/refused", &value)] };
        let error = store.txn(txn).await.unwrap_err();
        assert!(matches!(error, Error::NoSpace(_)), "{error}");
    }
    assert_eq!(store.range(Range::prefix("/")).await.unwrap().items.len(), written, "reads go on");
    drop(store);
    let store = EmbeddedStore::open(&dir, options.clone()).unwrap();
    assert_eq!(store.range(Range::prefix("/")).await.unwrap().items.len(), written);
    std::fs::remove_file(&ballast).unwrap();
    for n in 0..20 {
        write(&store, vec![put(&format!("/again/{n}"), &value)]).await;
    }
    drop(store);
    let store = EmbeddedStore::open(&dir, options).unwrap();
    let items = store.range(Range::prefix("/")).await.unwrap().items;
    assert_eq!(items.len(), written + 20);
    assert!(items.iter().all(|item| &*item.key != "/refused"));
    if let Ok(lease) = lease {
        store.lease_keep_alive(lease).await.unwrap();
    }
}

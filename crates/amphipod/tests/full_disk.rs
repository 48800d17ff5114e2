//! A start on a full disk: refused with the cure, and nothing is lost.
//!
//! The disk is a small tmpfs in a mount namespace of its own, gone with the process.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use support::{AMPHIPOD, Cluster, eventually, require_root, text};

const DIR: &str = "AMPHIPOD_FULL_DISK_DIR";

#[test]
fn a_full_disk_is_named_and_harms_nothing() {
    require_root();
    let dir = tempfile::tempdir().unwrap();
    let script =
        "mount -t tmpfs -o size=256m tmpfs \"$1\" && exec \"$2\" --exact inside --ignored --nocapture";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(dir.path())
        .arg(std::env::current_exe().unwrap())
        .env(DIR, dir.path())
        .output()
        .unwrap();
    assert!(output.status.success() && text(&output).contains("1 passed"), "{}", text(&output));
}

#[test]
#[ignore = "started by a_full_disk_is_named_and_harms_nothing on a small file system"]
fn inside() {
    let top = PathBuf::from(std::env::var(DIR).unwrap());
    let cluster = Cluster::up_in(tempfile::tempdir_in(&top).unwrap(), &["--no-node"]);
    cluster.run(&["create", "configmap", "kept", "--from-literal=a=b"]);
    cluster.kill();

    let ballast = top.join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    while file.write_all(&[1; 64 << 10]).is_ok() {}
    let output = Command::new(AMPHIPOD)
        .args(["up", "--no-node", "--detach", "--listen", &cluster.listen, "--data-dir"])
        .arg(cluster.data.path())
        .output()
        .unwrap();
    let said = text(&output);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("is full: 0 MiB are free") && said.contains("free some space"), "{said}");

    drop(file);
    std::fs::remove_file(&ballast).unwrap();
    cluster.start();
    eventually("what was stored to be there", 20, || {
        let seen = cluster.attempt(&["get", "configmap", "kept", "-o", "yaml"])?;
        if seen.contains("a: b") { Ok(()) } else { Err(seen) }
    });
}

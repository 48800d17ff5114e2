//! A control plane with simulated nodes: needs no root, and any number of them run beside each
//! other and beside a real cluster.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use amphipod_testing::Reserved;

use crate::install::text;

const AMPHIPOD: &str = env!("CARGO_BIN_EXE_amphipod");

/// Two nodes: enough to spread over, to drain one, and to keep an eviction waiting.
const NODES: &str = "2";

pub struct Plane {
    data: tempfile::TempDir,
    pub address: String,
    _reserved: Reserved,
}

/// The client programs share one control plane while any of them uses it.
static SHARED: Mutex<Weak<Plane>> = Mutex::new(Weak::new());

impl Plane {
    pub fn up() -> Self {
        let data = tempfile::tempdir().unwrap();
        let reserved = Reserved::new().unwrap();
        let address = reserved.address.to_string();
        let output = Command::new(AMPHIPOD)
            .args(["up", "--detach", "--hollow-nodes", NODES, "--listen", &address, "--data-dir"])
            .arg(data.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = text(&output);
        assert!(output.status.success(), "up --hollow-nodes failed:\n{said}\n{}", log(data.path()));
        Plane { data, address, _reserved: reserved }
    }
    pub fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plane) = shared.upgrade() {
            return plane;
        }
        let plane = Arc::new(Plane::up());
        *shared = Arc::downgrade(&plane);
        plane
    }
    pub fn kubeconfig(&self) -> PathBuf {
        self.data.path().join("admin.kubeconfig")
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- end of the control plane's log\n{}", log(self.data.path()));
        }
        let _ = Command::new(AMPHIPOD).args(["down", "--purge", "--data-dir"]).arg(self.data.path()).output();
    }
}

fn log(data: &Path) -> String {
    let log = std::fs::read_to_string(data.join("amphipod.log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

//! The running instance: a lock that says one runs, and a file that says which.

use std::fs::File;
use std::io::{Read, Write};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::files::{self, Files};

/// What `status` and `down` need to know.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    pub pid: i32,
    pub server: String,
    pub kubeconfig: String,
    pub node_name: Option<String>,
    pub hollow_nodes: u32,
    pub pod_cidr: String,
    pub service_cidr: String,
    pub started_at: String,
    pub ready: bool,
    /// The embedded runtime and network were set up and are to be torn down by `down`.
    pub owns_node: bool,
    /// The external runtime whose pods are to be stopped by `down`.
    #[serde(default)]
    pub runtime_endpoint: Option<String>,
    /// External runtimes it ran on before, since the last `down`: their pods are to be stopped too.
    #[serde(default)]
    pub former_runtime_endpoints: Vec<String>,
}

impl Instance {
    /// Remembers the runtimes of the instance before, which may still hold pods.
    #[must_use]
    pub fn after(mut self, before: Option<Instance>) -> Self {
        let Some(before) = before else { return self };
        for endpoint in before.former_runtime_endpoints.into_iter().chain(before.runtime_endpoint) {
            let known = self.runtime_endpoint.as_ref() == Some(&endpoint)
                || self.former_runtime_endpoints.contains(&endpoint);
            if !known {
                self.former_runtime_endpoints.push(endpoint);
            }
        }
        self
    }
    /// Every external runtime that may hold pods of this cluster.
    pub fn runtime_endpoints(&self) -> impl Iterator<Item = &String> {
        self.runtime_endpoint.iter().chain(&self.former_runtime_endpoints)
    }
}

/// One real node a machine: bridge, nftables tables and cgroups are the kernel's, not the data
/// directory's.
const NODE_LOCK: &str = "/run/amphipod-node.lock";

/// Held while an instance runs; the kernel drops it with the process, however that ends.
pub struct Lock {
    _file: File,
}

impl Lock {
    pub fn acquire(files: &Files) -> Result<Self, Error> {
        let path = files.run("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(Error::file(&path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Lock { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let pid = read(files).map_or(0, |instance| instance.pid);
                Err(Error::Running { pid, path: files.root().display().to_string() })
            }
            Err(error) => Err(Error::file(&path)(error.into())),
        }
    }
    /// Claims this machine's one node for the data directory.
    pub fn acquire_node(files: &Files) -> Result<Self, Error> {
        let path = std::path::Path::new(NODE_LOCK);
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map_err(Error::file(path))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut owner = String::new();
            let _ = file.read_to_string(&mut owner);
            return Err(Error::Preflight(format!(
                "this machine is already the node of the cluster in {owner}; stop that one with `amphipod down \
                 --data-dir {owner}`, or start this one with --no-node"
            )));
        }
        let owner = files.root().display().to_string();
        let written = file.set_len(0).and_then(|()| file.write_all(owner.as_bytes()));
        written.map_err(Error::file(path))?;
        Ok(Lock { _file: file })
    }
    pub fn is_held(files: &Files) -> bool {
        matches!(Lock::acquire(files), Err(Error::Running { .. }))
    }
}

pub fn read(files: &Files) -> Option<Instance> {
    let text = std::fs::read_to_string(files.run("instance.json")).ok()?;
    serde_json::from_str(&text).ok()
}

pub fn write(files: &Files, instance: &Instance) -> Result<(), Error> {
    // A struct of plain fields always serialises.
    let text = serde_json::to_string_pretty(instance).unwrap_or_default();
    files::write(&files.run("instance.json"), text.as_bytes(), 0o644)
}

pub fn forget(files: &Files) {
    let _ = std::fs::remove_file(files.run("instance.json"));
}

/// Asks the running instance to stop and waits for its lock to fall. False when none ran.
pub fn stop(files: &Files, patience: Duration) -> Result<bool, Error> {
    if !files.run("lock").exists() || !Lock::is_held(files) {
        return Ok(false);
    }
    let Some(pid) = read(files).and_then(|i| rustix::process::Pid::from_raw(i.pid)) else {
        return Err(Error::Preflight(format!(
            "an instance holds {} but left no record of its process; stop it by hand",
            files.run("lock").display()
        )));
    };
    let deadline = std::time::Instant::now() + patience;
    let mut signal = rustix::process::Signal::TERM;
    loop {
        // The lock is held, so the recorded process is alive and the pid not yet reused.
        let _ = rustix::process::kill_process(pid, signal);
        for _ in 0..100 {
            if !Lock::is_held(files) {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(50));
            if std::time::Instant::now() >= deadline {
                signal = rustix::process::Signal::KILL;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_are_remembered_until_the_record_goes() {
        let on = |endpoint: Option<&str>| Instance {
            runtime_endpoint: endpoint.map(str::to_owned),
            ..Instance::default()
        };
        let endpoints = |i: &Instance| i.runtime_endpoints().cloned().collect::<Vec<_>>();
        let first = on(Some("unix:///a")).after(None);
        let second = on(None).after(Some(first));
        assert_eq!(endpoints(&second), ["unix:///a"]);
        let third = on(Some("unix:///b")).after(Some(second));
        assert_eq!(endpoints(&third), ["unix:///b", "unix:///a"]);
        let fourth = on(Some("unix:///a")).after(Some(third));
        assert_eq!(endpoints(&fourth), ["unix:///a", "unix:///b"], "each once");
        let old = r#"{"pid":1,"server":"","kubeconfig":"","nodeName":null,"hollowNodes":0,"podCidr":"",
            "serviceCidr":"","startedAt":"","ready":true,"ownsNode":true}"#;
        assert!(endpoints(&serde_json::from_str(old).unwrap()).is_empty(), "a record of an older release");
    }

    #[test]
    fn one_instance_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::new(directory.path());
        files.create().unwrap();
        let lock = Lock::acquire(&files).unwrap();
        write(&files, &Instance { pid: 7, ..Instance::default() }).unwrap();
        assert!(matches!(Lock::acquire(&files), Err(Error::Running { pid: 7, .. })));
        drop(lock);
        assert!(!Lock::is_held(&files));
        assert!(!stop(&files, Duration::from_secs(1)).unwrap());
        assert_eq!(read(&files).unwrap().pid, 7);
    }
}

//! The cluster's state in an etcd: end to end, through kill -9 of either side, and shared by two API
//! servers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::path::Path;
use std::process::{Child, Command, Stdio};

use amphipod_testing::Reserved;
use support::{AMPHIPOD, Cluster, eventually, text};

/// One member on loopback; gone with the value.
struct Etcd {
    dir: tempfile::TempDir,
    client: String,
    peer: String,
    _reserved: [Reserved; 2],
    child: Option<Child>,
}

impl Etcd {
    /// `None` where etcd is not installed; in CI that is a failure.
    fn start() -> Option<Etcd> {
        let reserved = [Reserved::new().unwrap(), Reserved::new().unwrap()];
        let [client, peer] = reserved.each_ref().map(|reserved| reserved.address.to_string());
        let dir = tempfile::tempdir().unwrap();
        let mut etcd = Etcd { dir, client, peer, _reserved: reserved, child: None };
        if !etcd.restart() {
            println!("skipped: there is no etcd on this machine (Debian: etcd-server)");
            assert!(std::env::var_os("CI").is_none(), "in CI this test must run");
            return None;
        }
        Some(etcd)
    }

    fn restart(&mut self) -> bool {
        let (client, peer) = (format!("http://{}", self.client), format!("http://{}", self.peer));
        let child = Command::new("etcd")
            .args(["--name", "one", "--data-dir"])
            .arg(self.dir.path())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("one={peer}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.child = child.ok();
        self.child.is_some()
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn url(&self) -> String {
        format!("etcd://{}", self.client)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
fn a_cluster_lives_in_an_etcd_and_survives_losing_it() {
    let Some(mut etcd) = Etcd::start() else { return };
    let cluster = Cluster::up(&["--hollow-nodes", "3", "--store", &etcd.url()]);
    cluster.run(&["create", "deployment", "web", "--image=x", "--replicas=6"]);
    cluster.expect(&["get", "deployment", "web"], "6/6", 60);
    let before = cluster.json(&["get", "deployment", "web"])["metadata"]["uid"].clone();

    cluster.kill();
    cluster.start();
    assert_eq!(cluster.json(&["get", "deployment", "web"])["metadata"]["uid"], before);
    cluster.run(&["scale", "deployment", "web", "--replicas=9"]);
    cluster.expect(&["get", "deployment", "web"], "9/9", 60);

    etcd.kill();
    eventually("writes to be refused in Kubernetes' words", 60, || {
        match cluster.attempt(&["create", "configmap", "lost"]) {
            Err(said) if said.contains("the server is currently unable to handle the request") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let said = cluster.attempt(&["get", "configmaps"]).unwrap_err();
    assert!(said.contains("unable to handle the request") && said.contains(&etcd.client), "{said}");
    assert!(etcd.restart());
    eventually("writes to be taken again", 60, || {
        // One whose answer was lost may have been taken, too.
        cluster
            .attempt(&["create", "configmap", "found"])
            .or_else(|said| if said.contains("already exists") { Ok(said) } else { Err(said) })
    });
    cluster.run(&["scale", "deployment", "web", "--replicas=3"]);
    cluster.expect(&["get", "deployment", "web"], "3/3", 60);
    cluster.expect(&["get", "pods", "-l", "app=web"], "Running", 60);
}

/// Ended with the value.
struct Server {
    child: Child,
    data: tempfile::TempDir,
    _reserved: Reserved,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(store: &str) -> Server {
        let data = tempfile::tempdir().unwrap();
        let log = std::fs::File::create(data.path().join("log")).unwrap();
        let reserved = Reserved::new().unwrap();
        let listen = reserved.address.to_string();
        let child = Command::new(AMPHIPOD)
            .args(["apiserver", "--listen", &listen, "--store", store, "--data-dir"])
            .arg(data.path())
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let server = Server { child, data, _reserved: reserved };
        eventually("the API server to answer", 60, || server.run(&["get", "namespaces"]));
        server
    }

    fn kubeconfig(&self) -> impl AsRef<Path> {
        self.data.path().join("admin.kubeconfig")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(AMPHIPOD);
        command.env("KUBECONFIG", self.kubeconfig().as_ref()).args(args).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Result<String, String> {
        let output = self.command(args).output().unwrap();
        if output.status.success() { Ok(text(&output)) } else { Err(text(&output)) }
    }
}

#[test]
fn two_api_servers_on_one_etcd_see_each_others_writes() {
    use std::io::{BufRead, BufReader};
    let Some(etcd) = Etcd::start() else { return };
    let (one, two) = (Server::start(&etcd.url()), Server::start(&etcd.url()));
    let mut watch = two
        .command(&["get", "configmaps", "--watch", "--no-headers"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut number = 0;
    // Until the watch is open nobody knows which one it tells first.
    let (send, first) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        while let Some(Ok(line)) = told.next() {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    let line = eventually("the second server to tell of the first one's write", 60, || {
        number += 1;
        one.run(&["create", "configmap", &format!("m{number}")])?;
        first.recv_timeout(std::time::Duration::from_millis(500)).map_err(|e| e.to_string())
    });
    assert!(line.starts_with('m'), "{line}");
    watch.kill().unwrap();
    watch.wait().unwrap();
    // A read at the second server is never older than an acknowledged write at the first.
    for n in 0..5 {
        let name = format!("seen-{n}");
        one.run(&["create", "configmap", &name]).unwrap();
        two.run(&["get", "configmap", &name]).unwrap();
        two.run(&["delete", "configmap", &name]).unwrap();
        one.run(&["get", "configmap", &name]).unwrap_err();
    }
}

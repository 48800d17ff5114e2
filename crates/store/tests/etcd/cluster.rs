//! etcd clusters on loopback: started, killed and restarted by the tests, gone with the value.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use amphipod_store::suite::DEADLINE;
use amphipod_store::{EtcdOptions, EtcdStore, Store, TlsFiles};
use amphipod_testing::Reserved;
use rustix::process::{Pid, Signal, kill_process};

pub struct Member {
    name: String,
    pub client: String,
    peer: String,
    _reserved: [Reserved; 2],
    child: Option<Child>,
}

pub struct Cluster {
    dir: tempfile::TempDir,
    pub members: Vec<Member>,
    pub flags: Vec<String>,
    pub tls: TlsFiles,
}

/// `None` where etcd is not installed; in CI that is a failure.
pub fn etcd() -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).map(|dir| dir.join("etcd")).find(|path| path.exists());
    if found.is_none() {
        println!("skipped: there is no etcd on this machine (Debian: etcd-server)");
        assert!(std::env::var_os("CI").is_none(), "in CI this test must run");
    }
    found
}

impl Cluster {
    pub async fn start(size: usize, flags: &[&str]) -> Option<Cluster> {
        Self::start_with_tls(size, flags, TlsFiles::default()).await
    }

    pub async fn start_with_tls(size: usize, flags: &[&str], tls: TlsFiles) -> Option<Cluster> {
        etcd()?;
        let member = |number| {
            let reserved = [Reserved::new().unwrap(), Reserved::new().unwrap()];
            let [client, peer] = reserved.each_ref().map(|reserved| reserved.address.to_string());
            Member { name: format!("m{number}"), client, peer, _reserved: reserved, child: None }
        };
        let members = (0..size).map(member).collect();
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut cluster = Cluster { dir: tempfile::tempdir().unwrap(), members, flags, tls };
        for index in 0..size {
            cluster.restart(index);
        }
        cluster.ready().await;
        Some(cluster)
    }

    pub fn restart(&mut self, index: usize) {
        let peers: Vec<_> =
            self.members.iter().map(|member| format!("{}=http://{}", member.name, member.peer)).collect();
        let scheme = if self.tls == TlsFiles::default() { "http" } else { "https" };
        let member = &mut self.members[index];
        let (client, peer) = (format!("{scheme}://{}", member.client), format!("http://{}", member.peer));
        let child = Command::new(etcd().unwrap())
            .args(["--name", &member.name, "--data-dir"])
            .arg(self.dir.path().join(&member.name))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &peers.join(",")])
            // Quick elections, so that tests which lose a leader do not take long.
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .arg("--unsafe-no-fsync")
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        member.child = Some(child);
    }

    pub fn kill(&mut self, index: usize) {
        if let Some(mut child) = self.members[index].child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Stops a member in its tracks: its connections stay, and nothing comes over them.
    pub fn freeze(&self, index: usize) {
        self.signal(index, Signal::STOP);
    }

    pub fn thaw(&self, index: usize) {
        self.signal(index, Signal::CONT);
    }

    fn signal(&self, index: usize, signal: Signal) {
        let child = self.members[index].child.as_ref().unwrap();
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    pub fn options(&self, prefix: &str) -> EtcdOptions {
        EtcdOptions {
            endpoints: self.members.iter().map(|member| member.client.clone()).collect(),
            tls: self.tls.clone(),
            root: String::new(),
            prefix: prefix.to_owned(),
        }
    }

    pub async fn store(&self, prefix: &str) -> Arc<dyn Store> {
        Arc::new(EtcdStore::connect(self.options(prefix)).await.unwrap())
    }

    /// Every member answers.
    pub async fn ready(&self) {
        for member in &self.members {
            let options = EtcdOptions { endpoints: vec![member.client.clone()], ..self.options("/") };
            let begin = Instant::now();
            while let Err(error) = EtcdStore::connect(options.clone()).await {
                assert!(begin.elapsed() < DEADLINE, "{} is not ready: {error}", member.name);
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for index in 0..self.members.len() {
            self.kill(index);
        }
    }
}

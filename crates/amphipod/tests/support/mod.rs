//! Driving the real binary as a person would. Every wait has a deadline and a condition.

#![allow(dead_code, reason = "each test program uses its part of the support")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use amphipod_testing::Reserved;
use sha2::{Digest, Sha256};

pub const AMPHIPOD: &str = env!("CARGO_BIN_EXE_amphipod");
pub const DEMO_1: &str = "amphipod.local/demo:1";
pub const DEMO_2: &str = "amphipod.local/demo:2";

/// One real node at a time on a machine: tests of one program take turns.
static TURN: Mutex<()> = Mutex::new(());

/// Tests that start containers need root; saying so beats skipping in silence.
pub fn require_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test runs containers and needs root: run the tests with sudo"
    );
}

pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// How many times as long as an idle machine, for which the deadlines are meant, a busy one may take.
const SLOWEST: u64 = 5;

/// Polls until the condition gives a value.
pub fn eventually<T>(what: &str, seconds: u64, mut condition: impl FnMut() -> Result<T, String>) -> T {
    let seconds = seconds * SLOWEST;
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        match condition() {
            Ok(value) => return value,
            Err(last) if Instant::now() > deadline => {
                panic!("{what}: not within {seconds} s; last seen: {last}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// A cluster of its own, gone with the value.
pub struct Cluster {
    pub data: tempfile::TempDir,
    pub listen: String,
    _reserved: Reserved,
    flags: Vec<String>,
    _turn: MutexGuard<'static, ()>,
}

impl Cluster {
    pub fn up(flags: &[&str]) -> Self {
        Cluster::up_in(tempfile::tempdir().unwrap(), flags)
    }
    pub fn up_in(data: tempfile::TempDir, flags: &[&str]) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let flags = flags.iter().map(|f| (*f).to_owned()).collect();
        let reserved = Reserved::new().unwrap();
        let listen = reserved.address.to_string();
        let cluster = Cluster { data, listen, _reserved: reserved, flags, _turn: turn };
        cluster.start();
        cluster
    }
    /// `up --detach`, the first time or again on the same data. Another test program may be using
    /// this machine's one node: then it waits for its turn.
    pub fn start(&self) -> String {
        self.start_with(&self.flags)
    }
    pub fn start_with(&self, flags: &[String]) -> String {
        eventually("the cluster to come up", 120, || {
            let output = Command::new(AMPHIPOD)
                .args(["up", "--detach", "--listen", &self.listen, "--data-dir"])
                .arg(self.data.path())
                .args(flags)
                .stdin(Stdio::null())
                .output()
                .unwrap();
            let log = std::fs::read_to_string(self.data.path().join("amphipod.log")).unwrap_or_default();
            let said = format!("{}\nlog:\n{log}", text(&output));
            let taken = said.contains("this machine is already the node");
            assert!(output.status.success() || taken, "up failed:\n{said}");
            if output.status.success() { Ok(text(&output)) } else { Err(said) }
        })
    }
    pub fn down(&self, flags: &[&str]) -> String {
        let output = Command::new(AMPHIPOD)
            .args(["down", "--data-dir"])
            .arg(self.data.path())
            .args(flags)
            .output()
            .unwrap();
        assert!(output.status.success(), "down failed:\n{}", text(&output));
        text(&output)
    }
    pub fn status(&self) -> String {
        text(&Command::new(AMPHIPOD).args(["status", "--data-dir"]).arg(self.data.path()).output().unwrap())
    }
    pub fn kubeconfig(&self) -> PathBuf {
        self.data.path().join("admin.kubeconfig")
    }
    pub fn pid(&self) -> i32 {
        let record = std::fs::read_to_string(self.data.path().join("run/instance.json")).unwrap();
        let record: serde_json::Value = serde_json::from_str(&record).unwrap();
        record["pid"].as_i64().unwrap() as i32
    }
    /// kill -9 of the whole process, and its lock gone.
    pub fn kill(&self) {
        let pid = rustix::process::Pid::from_raw(self.pid()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        eventually("the killed process to be gone", 10, || {
            if rustix::process::test_kill_process(pid).is_err() { Ok(()) } else { Err("alive".into()) }
        });
    }

    /// The real kubectl where there is one, else our own commands.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = match kubectl() {
            Some(path) => Command::new(path),
            None => {
                let mut own = Command::new(AMPHIPOD);
                own.arg("kubectl");
                own
            }
        };
        command.env("KUBECONFIG", self.kubeconfig()).args(args);
        command
    }
    /// Our own kubectl-compatible commands.
    pub fn own(&self, args: &[&str]) -> String {
        let output = Command::new(AMPHIPOD).env("KUBECONFIG", self.kubeconfig()).args(args).output().unwrap();
        assert!(output.status.success(), "amphipod {}: {}", args.join(" "), text(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
    pub fn run(&self, args: &[&str]) -> String {
        let output = self.command(args).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "kubectl {}: {}", args.join(" "), text(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
    /// Standard output, or the whole complaint.
    pub fn attempt(&self, args: &[&str]) -> Result<String, String> {
        let output = self.command(args).stdin(Stdio::null()).output().unwrap();
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(text(&output))
        }
    }
    pub fn spawn(&self, args: &[&str]) -> Child {
        self.command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }
    pub fn apply(&self, manifest: &str) -> String {
        let path = self.data.path().join("manifest.yaml");
        std::fs::write(&path, manifest).unwrap();
        self.run(&["apply", "-f", path.to_str().unwrap()])
    }
    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        let mut args = args.to_vec();
        args.extend(["-o", "json"]);
        serde_json::from_str(&self.run(&args)).unwrap()
    }
    /// Waits until `kubectl ARGS` prints something that has this in it.
    pub fn expect(&self, args: &[&str], wanted: &str, seconds: u64) -> String {
        eventually(&format!("kubectl {} to say {wanted:?}", args.join(" ")), seconds, || {
            let seen = self.attempt(args)?;
            if seen.contains(wanted) { Ok(seen) } else { Err(seen) }
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            show_end("the cluster's log", &self.data.path().join("amphipod.log"));
            let events = Command::new(AMPHIPOD)
                .env("KUBECONFIG", self.kubeconfig())
                .args(["get", "events", "-A"])
                .output();
            eprintln!("--- events\n{}", events.map(|o| text(&o)).unwrap_or_default());
        }
        let _ = Command::new(AMPHIPOD).args(["down", "--purge", "--data-dir"]).arg(self.data.path()).output();
    }
}

/// The last lines of a log, for a test that fails.
pub fn show_end(what: &str, log: &Path) {
    let log = std::fs::read_to_string(log).unwrap_or_default();
    let tail: Vec<&str> = log.lines().rev().take(60).collect();
    eprintln!("--- end of {what}");
    tail.iter().rev().for_each(|line| eprintln!("{line}"));
}

/// The kubectl of this machine; in CI there has to be one.
pub fn kubectl() -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).map(|dir| dir.join("kubectl")).find(|path| path.exists());
    assert!(found.is_some() || std::env::var_os("CI").is_none(), "in CI kubectl must be installed");
    found
}

pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

/// An archive of files: path, contents, mode.
pub fn tar(files: &[(&str, &[u8], u32)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, contents, mode) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(contents.len() as u64);
        header.set_mode(*mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        builder.append_data(&mut header, path, *contents).unwrap();
    }
    builder.into_inner().unwrap()
}

/// The architecture, as images name it.
pub fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

/// Beyond this nobody answers.
const HTTP_PATIENCE: Duration = Duration::from_secs(30);

/// A plain HTTP GET: status code and body.
pub fn http_get(address: &str, path: &str) -> Result<(u16, String), String> {
    use std::io::{Read, Write};
    let fail = |e: std::io::Error| e.to_string();
    let target = address.parse().map_err(|e| format!("{address}: {e}"))?;
    let mut stream = std::net::TcpStream::connect_timeout(&target, HTTP_PATIENCE).map_err(fail)?;
    stream.set_read_timeout(Some(HTTP_PATIENCE)).map_err(fail)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").map_err(fail)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(fail)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no head")?;
    let code = head.split_whitespace().nth(1).and_then(|c| c.parse().ok()).ok_or("no status")?;
    Ok((code, body.to_owned()))
}

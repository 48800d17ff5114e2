//! Golden transcripts of kubectl: `transcripts/*.txt`, one command per line after `$ `, followed by
//! what it has to print. `UPDATE_TRANSCRIPTS=1` writes what was printed instead of comparing; what
//! is kept is read as a Kubernetes user would read it before it is committed.
//!
//! `~$ ` repeats a command until it prints what is expected, for what controllers bring about.
//! `1.33$ ` runs only with that version, where older kubectls word something differently.
//! Lines that start with `// ` before a command are comments.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::install::{missing, program, sources, text};
use crate::normalise::Rules;
use crate::plane::Plane;

/// The version whose output the files hold in full.
pub const REFERENCE: &str = "1.33";
/// What older versions replay: the files where client and server have most to say to each other.
/// All of them for every version would cost minutes and show the same server again.
const OLDER: [&str; 2] = ["apply", "get"];
/// How long a `~$ ` command may take to print what is expected.
const PATIENCE: Duration = Duration::from_secs(180);
/// How long one may take while nothing is expected.
const UPDATE_PATIENCE: Duration = Duration::from_secs(5);
/// A command that prints nothing more by then hangs.
const COMMAND_SECONDS: &str = "300";

#[test]
fn kubectl_1_33() {
    run_all("1.33");
}

#[test]
fn kubectl_1_32() {
    run_all("1.32");
}

#[test]
fn kubectl_1_31() {
    run_all("1.31");
}

#[derive(Default)]
struct Step {
    comments: Vec<String>,
    /// Only with this version of kubectl.
    version: Option<String>,
    repeat: bool,
    command: String,
    expected: Vec<String>,
}

fn parse(file: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut comments = Vec::new();
    for line in file.lines() {
        if let Some((version, repeat, command)) = command(line) {
            let comments = std::mem::take(&mut comments);
            steps.push(Step { comments, version, repeat, command, expected: Vec::new() });
        } else if line.starts_with("// ") {
            comments.push(line.to_owned());
        } else if let Some(step) = steps.last_mut() {
            step.expected.push(line.to_owned());
        }
    }
    steps
}

fn command(line: &str) -> Option<(Option<String>, bool, String)> {
    let (mark, command) = line.split_once("$ ")?;
    let (version, repeat) = mark.strip_suffix('~').map_or((mark, false), |version| (version, true));
    let named = version.chars().all(|c| c.is_ascii_digit() || c == '.');
    named.then(|| ((!version.is_empty()).then(|| version.to_owned()), repeat, command.to_owned()))
}

fn print(steps: &[Step]) -> String {
    let mut file = String::new();
    for step in steps {
        let lines = step.comments.join("\n");
        let gap = if lines.is_empty() { "" } else { "\n" };
        let (version, mark) = (step.version.as_deref().unwrap_or(""), if step.repeat { "~$" } else { "$" });
        let expected = step.expected.join("\n");
        let _ = writeln!(file, "{lines}{gap}{version}{mark} {}\n{}\n", step.command, expected.trim_end());
    }
    file.replace("\n\n\n", "\n\n")
}

/// One version's kubectl, its cluster and its directory.
struct Session {
    version: &'static str,
    plane: Plane,
    home: tempfile::TempDir,
    rules: Rules,
}

fn run_all(version: &'static str) {
    let Some(kubectl) = kubectl(version) else { return missing(&format!("kubectl {version}")) };
    let session = Session::new(version, &kubectl);
    let only = std::env::var("TRANSCRIPT").ok();
    let mut failures = Vec::new();
    for path in transcripts() {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let chosen =
            only.as_ref().map_or(version == REFERENCE || OLDER.contains(&name.as_str()), |o| *o == name);
        if chosen {
            failures.extend(session.replay(&path, &name));
        }
    }
    assert!(failures.is_empty(), "kubectl {version}:\n{}", failures.join("\n"));
}

fn directory() -> PathBuf {
    sources("transcripts")
}

fn transcripts() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory()).unwrap().map(|e| e.unwrap().path());
    let mut paths: Vec<PathBuf> = entries.filter(|p| p.extension().is_some_and(|e| e == "txt")).collect();
    paths.sort();
    paths
}

/// `kubectl.<version>` beside what `kubectl` on the PATH leads to, or that one if it is the version.
pub fn kubectl(version: &str) -> Option<PathBuf> {
    let found = program("kubectl")?.canonicalize().ok()?;
    let beside = found.with_file_name(format!("kubectl.{version}"));
    if beside.exists() {
        return Some(beside);
    }
    let said = Command::new(&found).args(["version", "--client"]).output().ok()?;
    text(&said).contains(&format!("v{version}.")).then_some(found)
}

impl Session {
    fn new(version: &'static str, kubectl: &Path) -> Self {
        let plane = Plane::up();
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("bin")).unwrap();
        std::os::unix::fs::symlink(kubectl, home.path().join("bin/kubectl")).unwrap();
        copy(&directory().join("files"), &home.path().join("work"));
        let rules = Rules::new(&plane.address, &home.path().display().to_string());
        Session { version, plane, home, rules }
    }

    /// Runs one file in a namespace of its own; what differed, if anything.
    fn replay(&self, path: &Path, name: &str) -> Option<String> {
        std::fs::copy(self.plane.kubeconfig(), self.home.path().join("kubeconfig")).unwrap();
        let namespace = format!("kubectl create namespace {name}");
        self.sh(&format!("{namespace} && kubectl config set-context --current --namespace={name}"));
        self.sh(
            "until kubectl get serviceaccount default && kubectl get configmap kube-root-ca.crt; do :; done",
        );
        let update = std::env::var_os("UPDATE_TRANSCRIPTS").is_some() && self.version == REFERENCE;
        let mut steps = parse(&std::fs::read_to_string(path).unwrap());
        let mut differences = String::new();
        for step in &mut steps {
            if step.version.as_ref().is_some_and(|v| v != self.version) {
                continue;
            }
            let expected = step.expected.join("\n").trim_end().to_owned();
            let printed = self.run(step, &expected, update);
            if update {
                step.expected = printed.lines().map(str::to_owned).collect();
            } else if printed != expected {
                let command = &step.command;
                let _ = writeln!(
                    differences,
                    "{name}: $ {command}\n--- expected\n{expected}\n--- printed\n{printed}\n"
                );
            }
        }
        self.sh(&format!("kubectl delete namespace {name}"));
        if update {
            std::fs::write(path, print(&steps)).unwrap();
        }
        (!differences.is_empty()).then_some(differences)
    }

    fn run(&self, step: &Step, expected: &str, update: bool) -> String {
        // While updating nothing says what is waited for, except what the file held before.
        let patience = if update { UPDATE_PATIENCE } else { PATIENCE };
        let deadline = Instant::now() + patience;
        loop {
            let printed = self.rules.apply(&self.sh(&step.command));
            if !step.repeat || printed == expected || Instant::now() > deadline {
                return printed;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// What a shell prints, both streams in order, and the exit code when it is not 0.
    fn sh(&self, command: &str) -> String {
        let paths = std::env::var("PATH").unwrap_or_default();
        let output = Command::new("timeout")
            .args([COMMAND_SECONDS, "sh", "-c", &format!("exec 2>&1; {command}")])
            .current_dir(self.home.path().join("work"))
            .env("PATH", format!("{}/bin:{paths}", self.home.path().display()))
            .env("HOME", self.home.path())
            .env("KUBECONFIG", self.home.path().join("kubeconfig"))
            .env("TZ", "UTC")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let printed = text(&output);
        let code = output.status.code().unwrap_or(-1);
        if code == 0 { printed } else { format!("{}\n[exit {code}]", printed.trim_end()) }
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

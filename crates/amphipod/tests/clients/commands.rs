//! The kubectl-compatible commands beside kubectl itself: the same lines, each in a namespace of its
//! own on one cluster, have to print the same.
//!
//! What is told apart on purpose: kubectl before 1.34 does not name the namespace it deletes from;
//! `apply` is always the server's; the formats `-o` takes are fewer, and its refusal says which.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use regex::Regex;

use crate::install::{missing, sources, text};
use crate::normalise::Rules;
use crate::plane::Plane;
use crate::transcript::{REFERENCE, kubectl};

const PATIENCE: Duration = Duration::from_secs(180);
const AMPHIPOD: &str = env!("CARGO_BIN_EXE_amphipod");

/// One of the two programs, in its namespace.
struct Side {
    program: Vec<PathBuf>,
    namespace: &'static str,
    home: tempfile::TempDir,
    rules: Rules,
    /// Where the scheduler put something.
    placement: Regex,
}

impl Side {
    fn new(plane: &Plane, program: Vec<PathBuf>, namespace: &'static str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let rules = Rules::new(&plane.address, &home.path().display().to_string());
        std::fs::copy(plane.kubeconfig(), home.path().join("kubeconfig")).unwrap();
        let placement = Regex::new(r"\b(hollow-\d+|198\.18\.0\.\d+)\b").unwrap();
        Side { program, namespace, home, rules, placement }
    }

    /// What one line prints, both streams in order, and the exit code when it is not 0.
    fn say(&self, line: &str) -> String {
        let (hidden, line) = line.strip_prefix("@ ").map_or((true, line), |line| (false, line));
        let words: Vec<String> = self.program.iter().map(|word| word.display().to_string()).collect();
        let command = format!("exec 2>&1; {} {line} --namespace={}", words.join(" "), self.namespace);
        let output = Command::new("timeout")
            .args(["300", "sh", "-c", &command])
            .current_dir(sources("commands"))
            .env("HOME", self.home.path())
            .env("KUBECONFIG", self.home.path().join("kubeconfig"))
            .env("TZ", "UTC")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let mut printed = text(&output);
        if hidden {
            printed = printed.replace(self.namespace, "<namespace>");
        }
        let printed = self.placement.replace_all(&printed, "<node>");
        let printed = printed.replace(" from <namespace> namespace", "");
        // How much of a rollout is seen depends on when one looks.
        let kept = printed.lines().filter(|line| !line.starts_with("Waiting for deployment"));
        let printed = kept.collect::<Vec<_>>().join("\n");
        let code = output.status.code().unwrap_or(-1);
        let printed = if code == 0 { printed } else { format!("{}\n[exit {code}]", printed.trim_end()) };
        self.rules.apply(&printed)
    }
}

/// Lines of the script: `# ` comments, `! ` for what only prepares and is run by kubectl for both,
/// `@ ` for what shows the whole cluster and therefore the names of both namespaces.
fn script() -> Vec<String> {
    let script = std::fs::read_to_string(sources("commands/script.txt")).unwrap();
    script.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
}

/// Both are asked until they agree, for what controllers have yet to bring about.
fn compare(ours: &Side, theirs: &Side, line: &str) -> Option<String> {
    let bare = line.trim_start_matches("@ ");
    let reads = ["get ", "describe ", "logs "].iter().any(|verb| bare.starts_with(verb));
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (expected, printed) = (theirs.say(line), ours.say(line));
        if expected == printed {
            return None;
        }
        if !reads || Instant::now() > deadline {
            return Some(format!("$ {line}\n--- kubectl\n{expected}\n--- amphipod\n{printed}\n"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn commands_print_what_kubectl_prints() {
    let Some(kubectl) = kubectl(REFERENCE) else { return missing(&format!("kubectl {REFERENCE}")) };
    let plane: Arc<Plane> = Plane::shared();
    let theirs = Side::new(&plane, vec![kubectl.clone()], "cli-theirs");
    let ours = Side::new(&plane, vec![Path::new(AMPHIPOD).to_owned(), "kubectl".into()], "cli-mine");
    let prepare = Side::new(&plane, vec![kubectl], "cli-mine");
    for side in [&theirs, &prepare] {
        let namespace = side.namespace;
        side.say(&format!("create namespace {namespace}"));
        side.say("wait --for=create serviceaccount/default configmap/kube-root-ca.crt");
    }
    let mut differences = String::new();
    for line in script() {
        match line.strip_prefix("! ") {
            Some(line) => [&theirs, &prepare].into_iter().for_each(|side| drop(side.say(line))),
            None => {
                if let Some(difference) = compare(&ours, &theirs, &line) {
                    let _ = writeln!(differences, "{difference}");
                }
            }
        }
    }
    for side in [&theirs, &prepare] {
        side.say(&format!("delete namespace {} --wait=false", side.namespace));
    }
    assert!(differences.is_empty(), "{differences}");
}

//! What goes wrong before anything is started names its cure and leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::process::Command;

use amphipod_testing::Reserved;
use support::{AMPHIPOD, Cluster, text};

fn refused(args: &[&str]) -> String {
    let output = Command::new(AMPHIPOD).args(args).output().unwrap();
    assert!(!output.status.success(), "{args:?} succeeded: {}", text(&output));
    text(&output)
}

#[test]
fn problems_are_named_with_their_cure() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let data = data.to_str().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();

    let said = refused(&["up", "--no-node", "--data-dir", data, "--listen", &address]);
    assert!(said.contains("already taken") && said.contains("--listen"), "{said}");
    assert!(!std::path::Path::new(data).join("pki").exists(), "nothing half-started");

    let said = refused(&["up", "--no-such-flag"]);
    assert!(said.contains("--no-such-flag"), "{said}");

    let said = refused(&["up", "--no-node", "--data-dir", data, "--pod-cidr", "10.96.0.0/12"]);
    assert!(said.contains("overlap"), "{said}");

    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let said = refused(&["up", "--no-node", "--data-dir", file.to_str().unwrap()]);
    assert!(said.contains("--data-dir"), "{said}");

    let said = refused(&["get", "pods", "--kubeconfig", "/nonexistent"]);
    assert!(said.contains("/nonexistent"), "{said}");
}

#[test]
fn a_bad_scheduler_configuration_is_refused_with_its_field() {
    let directory = tempfile::tempdir().unwrap();
    let (data, file) = (directory.path().join("data"), directory.path().join("scheduler.yaml"));
    let (data, file) = (data.to_str().unwrap(), file.to_str().unwrap());
    let head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";
    std::fs::write(file, format!("{head}parallelism: 0\npercentageOfNodesToScore: 101\n")).unwrap();
    let expected = format!(
        "error: {file}: parallelism: Invalid value: 0: should be an integer value greater than zero\n\
         error: {file}: percentageOfNodesToScore: Invalid value: 101: not in valid range [0-100]\n"
    );
    let up = ["up", "--no-node", "--data-dir", data, "--scheduler-config", file];
    assert_eq!(refused(&up), expected);
    assert!(!std::path::Path::new(data).exists(), "nothing half-started");
    assert_eq!(refused(&["scheduler", "--kubeconfig", "/nonexistent", "--config", file]), expected);

    std::fs::write(file, head).unwrap();
    let said = refused(&["scheduler", "--config", file]);
    assert!(said.contains("--kubeconfig") && said.contains("clientConnection.kubeconfig"), "{said}");
    std::fs::write(file, format!("{head}clientConnection: {{kubeconfig: /nonexistent}}\n")).unwrap();
    let said = refused(&["scheduler", "--config", file]);
    assert!(said.contains("/nonexistent"), "{said}");
}

#[test]
fn not_root_is_told_so() {
    support::require_root();
    use std::os::unix::process::CommandExt;
    let directory = tempfile::tempdir().unwrap();
    // The test's own binary may lie where others cannot read: hand over a copy.
    let binary = directory.path().join("amphipod");
    std::fs::copy(AMPHIPOD, &binary).unwrap();
    let mut open = std::fs::metadata(directory.path()).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut open, 0o777);
    std::fs::set_permissions(directory.path(), open).unwrap();
    let reserved = Reserved::new().unwrap();
    let output = Command::new(&binary)
        .uid(65534)
        .gid(65534)
        .args(["up", "--listen", &reserved.address.to_string(), "--data-dir"])
        .arg(directory.path().join("data"))
        .output()
        .unwrap();
    let said = text(&output);
    assert!(!output.status.success() && said.contains("needs root") && said.contains("--no-node"), "{said}");
}

#[test]
fn a_second_instance_is_refused_and_hollow_nodes_run_pods() {
    let cluster = Cluster::up(&["--hollow-nodes", "3"]);
    let data = cluster.data.path().to_str().unwrap();
    let reserved = Reserved::new().unwrap();
    let other = reserved.address.to_string();
    let said = refused(&["up", "--no-node", "--data-dir", data, "--listen", &other]);
    assert!(said.contains("amphipod down"), "{said}");

    let nodes = cluster.own(&["get", "nodes"]);
    assert_eq!(nodes.matches(" Ready ").count(), 3, "{nodes}");
    cluster.own(&["create", "deployment", "web", "--image=registry.example/web:1", "--replicas=30"]);
    cluster.own(&["rollout", "status", "deployment/web"]);
    let pods: serde_json::Value = serde_json::from_str(&cluster.own(&["get", "pods", "-o", "json"])).unwrap();
    let items = pods["items"].as_array().unwrap();
    assert!(items.len() == 30 && items.iter().all(|p| p["status"]["phase"] == "Running"));
    cluster.own(&["delete", "deployment", "web"]);
    support::eventually("the pods to be gone", 60, || {
        let seen = cluster.own(&["get", "pods", "-o", "name"]);
        if seen.is_empty() { Ok(()) } else { Err(seen) }
    });
    assert!(cluster.status().contains("3 of 3 Ready"), "{}", cluster.status());
}

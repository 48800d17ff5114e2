//! The tour of the README with the real binary, real containers and (where there is one) the real
//! kubectl.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use support::{Cluster, DEMO_1, DEMO_2, eventually, http_get, require_root};

/// One cluster for the whole tour: its steps build on each other as a person's would.
#[test]
fn the_tour() {
    require_root();
    let cluster = Cluster::up(&[]);
    nodes_and_kinds(&cluster);
    one_pod(&cluster);
    own_commands(&cluster);
    deployment_and_service(&cluster);
    rolling_update(&cluster);
    objects(&cluster);
    killed_and_crashing(&cluster);
    node_maintenance(&cluster);
    cluster.run(&["delete", "deployment,service", "demo"]);
    eventually("the pods to be gone", 60, || {
        let seen = cluster.attempt(&["get", "pods", "-o", "name", "-l", "app=demo"])?;
        if seen.is_empty() { Ok(()) } else { Err(seen) }
    });
    assert!(cluster.status().contains("1 of 1 Ready"), "{}", cluster.status());
    cluster.down(&["--purge"]);
    assert!(!cluster.data.path().exists());
}

fn nodes_and_kinds(cluster: &Cluster) {
    let nodes = cluster.run(&["get", "nodes", "-o", "wide"]);
    assert!(nodes.contains("Ready") && nodes.contains("CONTAINER-RUNTIME"), "{nodes}");
    cluster.run(&["get", "pods", "-n", "kube-system"]);
    if support::kubectl().is_some() {
        let kinds = cluster.run(&["api-resources"]);
        assert!(kinds.contains("deployments") && kinds.contains("apps/v1"), "{kinds}");
        let text = cluster.run(&["explain", "pod.spec.containers"]);
        assert!(text.contains("image\t<string>"), "{text}");
        assert!(cluster.attempt(&["top", "nodes"]).unwrap_err().contains("Metrics API not available"));
    }
}

fn one_pod(cluster: &Cluster) {
    cluster.run(&["run", "demo", &format!("--image={DEMO_1}")]);
    cluster.expect(&["get", "pod", "demo"], "Running", 30);
    let pod = cluster.json(&["get", "pod", "demo"]);
    assert_eq!(pod["status"]["qosClass"], "BestEffort");
    cluster.expect(&["describe", "pod", "demo"], "Started", 15);
    cluster.expect(&["logs", "demo"], "listening on :8080", 10);

    let mut follow = cluster.spawn(&["logs", "demo", "-f"]);
    let first = BufReader::new(follow.stdout.take().unwrap()).lines().next();
    assert!(first.unwrap().unwrap().contains("demo version 1"));
    follow.kill().unwrap();
    follow.wait().unwrap();

    let mut shell = cluster.spawn(&["exec", "-i", "demo", "--", "sh"]);
    shell.stdin.take().unwrap().write_all(b"hostname\nls /\nexit 3\n").unwrap();
    let output = shell.wait_with_output().unwrap();
    let said = support::text(&output);
    assert!(said.contains("demo") && said.contains("proc/"), "{said}");
    assert_eq!(output.status.code(), Some(3), "{said}");

    forward(cluster);
    cluster.run(&["delete", "pod", "demo"]);
    assert!(cluster.attempt(&["get", "pod", "demo"]).unwrap_err().contains("pods \"demo\" not found"));
}

fn forward(cluster: &Cluster) {
    let mut forward = cluster.spawn(&["port-forward", "demo", ":8080"]);
    let mut lines = BufReader::new(forward.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    let address = first.split_whitespace().nth(2).unwrap().to_owned();
    for _ in 0..3 {
        let (code, body) = http_get(&address, "/hostname").unwrap();
        assert_eq!((code, body.trim()), (200, "demo"));
    }
    forward.kill().unwrap();
    forward.wait().unwrap();
}

fn own_commands(cluster: &Cluster) {
    cluster.own(&["run", "own", &format!("--image={DEMO_1}")]);
    eventually("the pod to run", 30, || {
        let seen = cluster.own(&["get", "pods"]);
        if seen.contains("Running") { Ok(()) } else { Err(seen) }
    });
    assert!(cluster.own(&["get", "pod", "own", "-o", "yaml"]).contains("\nkind: Pod\n"));
    assert!(cluster.own(&["describe", "pod", "own"]).contains("QoS Class:"));
    assert!(cluster.own(&["kubectl", "exec", "own", "--", "hostname"]).contains("own"));
    eventually("its first words", 30, || {
        let said = cluster.own(&["logs", "own"]);
        if said.contains("demo version 1") { Ok(()) } else { Err(said) }
    });
    assert!(cluster.own(&["delete", "pod", "own", "--grace-period=0"]).contains("pod \"own\" deleted"));
    attached_run(cluster);
}

/// A pod for one conversation: what is typed reaches its shell, its exit code is the command's,
/// and nothing stays behind.
fn attached_run(cluster: &Cluster) {
    let (code, said) = converse(cluster, &[], b"echo heard in $HOSTNAME\nexit 3\n");
    assert_eq!(code, Some(3), "{said}");
    for expected in
        ["heard in once", "pod default/once terminated (Error)", "pod \"once\" deleted from default"]
    {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    assert!(cluster.attempt(&["get", "pod", "once"]).unwrap_err().contains("not found"));
    let quiet = converse(cluster, &["--quiet"], b"echo heard\n");
    assert_eq!(quiet, (Some(0), "heard\n".to_owned()));
}

/// The exit code of an attached run that is told `input`, and what it printed.
fn converse(cluster: &Cluster, flags: &[&str], input: &[u8]) -> (Option<i32>, String) {
    let image = format!("--image={DEMO_1}");
    let words = ["run", "once", "-i", "--rm", "--restart=Never", &image];
    let mut once = std::process::Command::new(support::AMPHIPOD)
        .env("KUBECONFIG", cluster.kubeconfig())
        .args(words)
        .args(flags)
        .args(["--command", "--", "/bin/sh"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    once.stdin.take().unwrap().write_all(input).unwrap();
    let output = once.wait_with_output().unwrap();
    (output.status.code(), support::text(&output))
}

fn deployment_and_service(cluster: &Cluster) {
    cluster.run(&["create", "deployment", "demo", &format!("--image={DEMO_1}"), "--replicas=5"]);
    cluster.run(&["expose", "deployment", "demo", "--port=80", "--target-port=8080"]);
    cluster.run(&["rollout", "status", "deployment/demo", "--timeout=300s"]);
    let service = cluster.json(&["get", "service", "demo"]);
    let address = format!("{}:80", service["spec"]["clusterIP"].as_str().unwrap());
    let all: BTreeSet<String> = pod_names(cluster);
    assert_eq!(all.len(), 5);
    let mut seen = BTreeSet::new();
    eventually("the service to reach all pods from the node", 30, || {
        let (_, body) = http_get(&address, "/hostname")?;
        seen.insert(body.trim().to_owned());
        if seen == all { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    cluster.run(&["run", "client", &format!("--image={DEMO_1}")]);
    cluster.expect(&["get", "pod", "client"], "Running", 30);
    seen.clear();
    eventually("the service to reach all pods by name from a pod", 60, || {
        let body = cluster.attempt(&["exec", "client", "--", "get", "http://demo/hostname"])?;
        seen.insert(body.trim().to_owned());
        if seen == all { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    cluster.run(&["scale", "deployment", "demo", "--replicas=10"]);
    cluster.expect(&["get", "deployment", "demo"], "10/10", 60);
}

fn pod_names(cluster: &Cluster) -> BTreeSet<String> {
    let pods = cluster.json(&["get", "pods", "-l", "app=demo"]);
    let items = pods["items"].as_array().unwrap();
    items.iter().map(|p| p["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

fn rolling_update(cluster: &Cluster) {
    let service = cluster.json(&["get", "service", "demo"]);
    let address = format!("{}:80", service["spec"]["clusterIP"].as_str().unwrap());
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, answered, address) = (stop.clone(), answered.clone(), address.clone());
            std::thread::spawn(move || {
                let mut failures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match http_get(&address, "/version") {
                        Ok((200, _)) => {
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        other => failures.push(format!("{other:?}")),
                    }
                }
                failures
            })
        })
        .collect();
    cluster.run(&["set", "image", "deployment/demo", &format!("demo={DEMO_2}")]);
    cluster.run(&["rollout", "status", "deployment/demo", "--timeout=300s"]);
    stop.store(true, Ordering::Relaxed);
    let failures: Vec<String> = clients.into_iter().flat_map(|c| c.join().unwrap()).collect();
    assert!(
        failures.is_empty(),
        "{} requests answered, these failed: {failures:?}",
        answered.load(Ordering::Relaxed)
    );
    until_version(&address, "2");
    let history = cluster.run(&["rollout", "history", "deployment/demo"]);
    assert!(history.contains("\n1 ") && history.contains("\n2 "), "{history}");
    cluster.run(&["rollout", "undo", "deployment/demo"]);
    cluster.run(&["rollout", "status", "deployment/demo", "--timeout=300s"]);
    until_version(&address, "1");
    for reason in ["ScalingReplicaSet", "Scheduled"] {
        cluster.expect(&["get", "events"], reason, 30);
    }
}

/// Pods of the version before are answered by until the service's table has followed.
fn until_version(address: &str, version: &str) {
    eventually("the service to answer with the new version", 30, || {
        let (_, said) = http_get(address, "/version")?;
        if said.trim() == version { Ok(()) } else { Err(said) }
    });
}

const SETTINGS: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: settings\n  labels:\n    team: a\ndata:\n  colour: blue\n";

fn objects(cluster: &Cluster) {
    assert!(cluster.apply(SETTINGS).contains("configmap/settings created"));
    assert!(cluster.apply(SETTINGS).contains("configmap/settings unchanged"));
    let path = cluster.data.path().join("manifest.yaml");
    let path = path.to_str().unwrap();
    cluster.run(&["apply", "--server-side", "--force-conflicts", "-f", path]);
    if support::kubectl().is_none() {
        return;
    }
    std::fs::write(path, SETTINGS.replace("blue", "red")).unwrap();
    let diff = cluster.command(&["diff", "-f", path]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(diff.status.code(), Some(1), "{}", support::text(&diff));
    assert!(support::text(&diff).contains("+  colour: red"), "{}", support::text(&diff));
    let edit = cluster
        .command(&["edit", "configmap", "settings"])
        .env("KUBE_EDITOR", "sed -i s/blue/green/")
        .output();
    assert!(support::text(&edit.unwrap()).contains("edited"));
    cluster.run(&["label", "configmap", "settings", "stage=test"]);
    cluster.run(&["annotate", "configmap", "settings", "note=hello"]);
    for (kind, patch) in [
        ("json", r#"[{"op":"add","path":"/data/a","value":"1"}]"#),
        ("merge", r#"{"data":{"b":"2"}}"#),
        ("strategic", r#"{"data":{"c":"3"}}"#),
    ] {
        cluster.run(&["patch", "configmap", "settings", &format!("--type={kind}"), "-p", patch]);
    }
    let map = cluster.json(&["get", "configmap", "settings"]);
    assert_eq!(map["data"], serde_json::json!({"a": "1", "b": "2", "c": "3", "colour": "green"}));
    assert_eq!(map["metadata"]["labels"]["stage"], "test");
    cluster.run(&["wait", "--for=condition=Available", "deployment/demo", "--timeout=300s"]);
}

fn killed_and_crashing(cluster: &Cluster) {
    let pods = cluster.json(&["get", "pods", "-l", "app=demo"]);
    // One that stays: those of the last rollout may still be on their way out.
    let stays = |pod: &&serde_json::Value| pod["metadata"]["deletionTimestamp"].is_null();
    let pod = pods["items"].as_array().unwrap().iter().find(stays).unwrap();
    let victim = pod["metadata"]["name"].as_str().unwrap().to_owned();
    let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap().to_owned();
    kill_container(id.rsplit('/').next().unwrap());
    eventually("the killed container to come back", 60, || {
        let pod = cluster.json(&["get", "pod", &victim]);
        let status = &pod["status"]["containerStatuses"][0];
        let back = status["restartCount"] == 1 && status["ready"] == true;
        if back { Ok(()) } else { Err(status.to_string()) }
    });
    cluster.run(&["run", "crasher", &format!("--image={DEMO_1}"), "--command", "--", "/bin/false"]);
    eventually("the first back-off", 60, || {
        let pod = cluster.json(&["get", "pod", "crasher"]);
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        let message = waiting["message"].as_str().unwrap_or("");
        let first = message.contains("back-off 10s restarting failed container=crasher");
        if waiting["reason"] == "CrashLoopBackOff" && first { Ok(()) } else { Err(pod["status"].to_string()) }
    });
    cluster.run(&["delete", "pod", "crasher"]);
}

/// Ends the container's first process from the host, found by the id in its cgroup.
fn kill_container(id: &str) {
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let cgroups = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        if cgroups.contains(id) && command.starts_with(b"/demo") {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            return rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
    }
    panic!("no process of container {id}");
}

fn node_maintenance(cluster: &Cluster) {
    if support::kubectl().is_none() {
        return;
    }
    let node = cluster.run(&["get", "nodes", "-o", "name"]).trim().trim_start_matches("node/").to_owned();
    cluster.run(&["cordon", &node]);
    assert!(cluster.run(&["get", "nodes"]).contains("SchedulingDisabled"));
    cluster.run(&["scale", "deployment", "demo", "--replicas=2"]);
    cluster.run(&["drain", &node, "--force", "--ignore-daemonsets", "--timeout=300s"]);
    cluster.expect(&["get", "events"], "node(s) were unschedulable", 30);
    cluster.run(&["uncordon", &node]);
    cluster.expect(&["get", "deployment", "demo"], "2/2", 60);
}

//! Breaking it on purpose: kill -9 in the middle of a rollout, then `up` again.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::collections::BTreeMap;

use support::{Cluster, DEMO_1, DEMO_2, eventually, require_root};

/// uid of each pod and when its container started.
fn running(cluster: &Cluster) -> BTreeMap<String, String> {
    let pods = cluster.json(&["get", "pods", "-l", "app=demo"]);
    let mut found = BTreeMap::new();
    for pod in pods["items"].as_array().unwrap() {
        let started = &pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"];
        if let Some(started) = started.as_str() {
            found.insert(pod["metadata"]["uid"].as_str().unwrap().to_owned(), started.to_owned());
        }
    }
    found
}

#[test]
fn a_kill_in_the_middle_of_a_rollout_loses_nothing() {
    require_root();
    let cluster = Cluster::up(&[]);
    cluster.run(&["create", "deployment", "demo", &format!("--image={DEMO_1}"), "--replicas=4"]);
    cluster.expect(&["get", "deployment", "demo"], "4/4", 60);
    let uid = cluster.json(&["get", "namespace", "kube-system"])["metadata"]["uid"].clone();
    cluster.run(&["set", "image", "deployment/demo", &format!("demo={DEMO_2}")]);
    for index in 0..20 {
        cluster.run(&["create", "configmap", &format!("written-{index}"), "--from-literal=a=b"]);
    }
    let before = running(&cluster);
    cluster.kill();
    cluster.start();
    for index in 0..20 {
        cluster.run(&["get", "configmap", &format!("written-{index}")]);
    }
    assert_eq!(
        cluster.json(&["get", "namespace", "kube-system"])["metadata"]["uid"],
        uid,
        "same cluster identity"
    );
    cluster.run(&["rollout", "status", "deployment/demo", "--timeout=300s"]);
    // Whoever of those that ran is still there was adopted, not restarted.
    let after = running(&cluster);
    for (uid, started) in &before {
        assert!(after.get(uid).is_none_or(|now| now == started), "{uid} was restarted");
    }
    let settled = eventually("four pods of the new version", 60, || {
        let pods = cluster.json(&["get", "pods", "-l", "app=demo"]);
        let items = pods["items"].as_array().unwrap().clone();
        let new = items.iter().all(|p| p["spec"]["containers"][0]["image"] == DEMO_2);
        if items.len() == 4 && new { Ok(running(&cluster)) } else { Err(format!("{} pods", items.len())) }
    });
    // And once more with nothing going on: every container is adopted.
    cluster.kill();
    cluster.start();
    assert_eq!(running(&cluster), settled);
    let restarts = cluster.json(&["get", "pods", "-l", "app=demo"]);
    for pod in restarts["items"].as_array().unwrap() {
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    }
}

//! API priority and fairness: who is taken for what, and that nobody drowns out others. The published
//! tests load the server for ten seconds and compare rates; these hold every seat of a level with
//! requests that do not end, and look at who is served all the same.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::client::{Cluster, NAMESPACE, over_both_wires};

const FLOW: &str = "flowcontrol.apiserver.k8s.io/v1";
const DEADLINE: Duration = Duration::from_secs(60);
/// What one share of the 600 seats comes to beside the levels that every cluster has.
const SEATS: usize = 3;

async fn priority_level(cluster: &Cluster, name: &str, response: Value) -> Value {
    let level = json!({"metadata": {"name": name}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": 1, "borrowingLimitPercent": 0, "limitResponse": response}}});
    cluster.all(FLOW, "prioritylevelconfigurations").create(&level).await.unwrap()
}

async fn flow_schema(cluster: &Cluster, name: &str, precedence: u32, level: &str, users: &[&str]) -> Value {
    let subjects: Vec<Value> =
        users.iter().map(|user| json!({"kind": "User", "user": {"name": user}})).collect();
    let schema = json!({"metadata": {"name": name}, "spec": {
        "matchingPrecedence": precedence, "priorityLevelConfiguration": {"name": level},
        "distinguisherMethod": {"type": "ByUser"},
        "rules": [{"subjects": subjects,
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"],
                "clusterScope": true}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]}});
    cluster.all(FLOW, "flowschemas").create(&schema).await.unwrap()
}

/// Waits until the schema is said to lead somewhere, and the level has its seats.
async fn steady(cluster: &Cluster, schema: &str, level: &str) {
    let schemas = cluster.all(FLOW, "flowschemas");
    let seats = format!("apiserver_flowcontrol_nominal_limit_seats{{priority_level=\"{level}\"}} {SEATS}");
    until(async || {
        let found = schemas.get(schema).await.unwrap();
        let conditions = found["status"]["conditions"].as_array().into_iter().flatten();
        let leads = conditions.into_iter().any(|one| one["type"] == "Dangling" && one["status"] == "False");
        leads && cluster.metrics().await.lines().any(|line| line == seats)
    })
    .await;
}

async fn until(is_so: impl AsyncFn() -> bool) {
    let reached = async {
        while !is_so().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, reached).await.expect("in time");
}

fn as_user(cluster: &Cluster, name: &str) -> Cluster {
    cluster.impersonating(name, &["system:authenticated"])
}

/// A user who may write config maps, without end.
async fn writer(cluster: &Cluster, name: &str) -> Cluster {
    let binding = json!({"metadata": {"name": name}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io",
        "kind": "ClusterRole", "name": "admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}]});
    cluster.of("rbac.authorization.k8s.io/v1", "rolebindings", NAMESPACE).create(&binding).await.unwrap();
    as_user(cluster, name)
}

fn endless(user: &Cluster, number: usize) -> Vec<JoinHandle<u16>> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
    (0..number).map(|_| user.endless(&path)).collect()
}

/// [sig-api-machinery] API priority and fairness should ensure that requests can be classified by adding FlowSchema and PriorityLevelConfiguration
#[tokio::test]
async fn requests_are_classified() {
    over_both_wires(async |cluster: Cluster| {
        let level = priority_level(&cluster, "e2e-testing-prioritylevel", json!({"type": "Reject"})).await;
        let level_name = "e2e-testing-prioritylevel";
        let schema = flow_schema(&cluster, "e2e-testing-flowschema", 1000, level_name, &["noxu"]).await;
        steady(&cluster, "e2e-testing-flowschema", level_name).await;
        let ids = async |user: &str| {
            let (_, headers) = as_user(&cluster, user).head("/version").await;
            let names = ["x-kubernetes-pf-flowschema-uid", "x-kubernetes-pf-prioritylevel-uid"];
            names.map(|name| headers[name].to_str().unwrap().to_owned())
        };
        let expected = [&schema, &level].map(|object| object["metadata"]["uid"].as_str().unwrap().to_owned());
        assert_eq!(ids("noxu").await, expected);
        let other = ids("foo").await;
        assert!(other.iter().all(|id| !id.is_empty() && !expected.contains(id)), "{other:?}");
    })
    .await;
}

/// [sig-api-machinery] API priority and fairness should ensure that requests can't be drowned out (priority)
#[tokio::test]
async fn levels_do_not_drown_each_other() {
    over_both_wires(async |cluster: Cluster| {
        for (user, precedence) in [("highqps", 999), ("lowqps", 1000)] {
            priority_level(&cluster, user, json!({"type": "Reject"})).await;
            flow_schema(&cluster, user, precedence, user, &[user]).await;
            steady(&cluster, user, user).await;
        }
        let high = writer(&cluster, "highqps").await;
        let held = endless(&high, SEATS);
        until(async || cluster.writes().0 == SEATS).await;
        let low = as_user(&cluster, "lowqps");
        for _ in 0..20 {
            assert_eq!(high.head("/version").await.0, 429);
            assert_eq!(low.head("/version").await.0, 200);
        }
        held.iter().for_each(JoinHandle::abort);
        until(async || cluster.writes().0 == 0).await;
        assert_eq!(high.head("/version").await.0, 200);
    })
    .await;
}

/// [sig-api-machinery] API priority and fairness should ensure that requests can't be drowned out (fairness)
#[tokio::test]
async fn users_of_a_level_do_not_drown_each_other() {
    over_both_wires(async |cluster: Cluster| {
        // With a hand of one a user's requests are served in the order in which they came.
        let queues = json!({"queues": 64, "handSize": 1, "queueLengthLimit": 50});
        priority_level(&cluster, "shared", json!({"type": "Queue", "queuing": queues})).await;
        flow_schema(&cluster, "shared", 1000, "shared", &["highqps", "lowqps"]).await;
        steady(&cluster, "shared", "shared").await;
        let high = writer(&cluster, "highqps").await;
        let flood = 40;
        let mut held = endless(&high, SEATS + flood).into_iter();
        until(async || cluster.writes() == (SEATS, flood)).await;
        let low = as_user(&cluster, "lowqps");
        let served = async {
            for _ in 0..10 {
                assert_eq!(low.head("/version").await.0, 200);
            }
        };
        // The oldest of the flood ends, and the next, each time all seats are taken.
        let ending = async {
            for next in held.by_ref() {
                next.abort();
                next.await.expect_err("it was aborted");
                until(async || cluster.writes().0 == SEATS).await;
            }
        };
        tokio::select! {
            () = served => {}
            () = ending => panic!("the flood is over before ten requests of the other are served"),
        }
        assert!(cluster.writes().1 > 0, "the others still wait");
        held.for_each(|next| next.abort());
    })
    .await;
}

//! What happens to a pod between the decision about it and its deletion.

use std::sync::Arc;

use amphipod_store::{Op, Store, Txn};
use serde_json::{Value, json};

use crate::cache::testing::{ProbedStore, put_op};
use crate::testing::send;
use crate::{ApiServer, Config};

const KEY: &str = "/registry/pods/default/p";
const PATH: &str = "/api/v1/namespaces/default/pods/p";

fn pod(uid: &str, phase: &str) -> Value {
    json!({"kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": "p", "namespace": "default", "uid": uid, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": phase, "conditions": [{"type": "Ready", "status": "True"}]}})
}

/// Allows this many disruptions.
fn budget(allowed: i64) -> Op {
    let object = json!({"kind": "PodDisruptionBudget", "apiVersion": "policy/v1",
        "metadata": {"name": "b", "namespace": "default", "uid": "b", "generation": 1},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}},
        "status": {"observedGeneration": 1, "disruptionsAllowed": allowed, "currentHealthy": 1, "desiredHealthy": 1,
            "expectedPods": 1}});
    put_op("/registry/poddisruptionbudgets/default/b", &object)
}

async fn write(store: &ProbedStore, op: Op) {
    store.txn(Txn { compare: vec![], then: vec![op] }).await.expect("the write is taken");
}

/// Replaces the pod when it is said why it goes.
fn replace(store: &ProbedStore) {
    let mut once = Some([Op::Delete { key: KEY.into() }, put_op(KEY, &pod("second", "Running"))]);
    *store.meddler.lock() = Some(Box::new(move |txn| {
        let is_last = txn.then.iter().any(|op| op.key() == KEY);
        Ok(once.take_if(|_| is_last).into_iter().flatten().collect())
    }));
}

#[tokio::test]
async fn what_was_decided_about_a_pod_is_not_done_to_its_successor() {
    let store = Arc::new(ProbedStore::default());
    let server = ApiServer::start(Config::default(), store.clone()).await.expect("a server");
    let eviction = |options: Value| {
        json!({"kind": "Eviction", "apiVersion": "policy/v1", "metadata": {"name": "p"}, "deleteOptions": options})
            .to_string()
    };
    let path = format!("{PATH}/eviction");
    // One that has ended asks no budget, and one that has spent it leaves nothing to the next.
    for (phase, allowed) in [("Failed", 0), ("Running", 1)] {
        write(&store, budget(allowed)).await;
        write(&store, put_op(KEY, &pod("first", phase))).await;
        replace(&store);
        let (code, status) = send(&server, "POST", &path, eviction(json!({}))).await;
        assert_eq!((code, &status["reason"]), (429, &json!("TooManyRequests")), "{phase}: {status}");
        let (_, left) = send(&server, "GET", PATH, String::new()).await;
        assert_eq!(
            (&left["metadata"]["uid"], left["status"]["phase"].as_str()),
            (&json!("second"), Some("Running"))
        );
        // Who meant the first is told that it is not there.
        write(&store, put_op(KEY, &pod("first", "Failed"))).await;
        replace(&store);
        let meant = eviction(json!({"preconditions": {"uid": "first"}}));
        let (code, status) = send(&server, "POST", &path, meant).await;
        assert_eq!((code, &status["reason"]), (409, &json!("Conflict")), "{phase}: {status}");
    }
    // Nothing comes between: the one that is there goes.
    write(&store, budget(1)).await;
    let (code, status) = send(&server, "POST", &path, eviction(json!({"gracePeriodSeconds": 0}))).await;
    assert_eq!(code, 201, "{status}");
    assert_eq!(send(&server, "GET", PATH, String::new()).await.0, 404);
}

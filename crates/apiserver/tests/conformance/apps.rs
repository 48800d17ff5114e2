//! sig-apps: what its tests ask of the API alone.

use serde_json::{Value, json};

use crate::client::{Cluster, NAMESPACE, Patch, named, over_both_wires, refused};
use crate::operations::Walk;

/// [sig-apps] CronJob should support CronJob API operations [Conformance]
#[tokio::test]
async fn cron_jobs() {
    let container = json!({"name": "c", "image": "busybox", "command": ["sh", "-c", "exit 0"]});
    let walk = Walk {
        api_version: "batch/v1",
        plural: "cronjobs",
        namespaced: true,
        template: json!({"metadata": {"generateName": "e2e-example", "labels": {"special-label": "walk"}}, "spec": {
            "schedule": "* */1 * * ?", "concurrencyPolicy": "Allow", "jobTemplate": {"spec": {"parallelism": 1,
                "completions": 1, "template": {"spec": {"restartPolicy": "OnFailure", "containers": [container]}}}}}}),
        selection: "labelSelector=special-label=walk",
        status: Some(json!({"lastScheduleTime": "2026-01-01T00:00:00Z"})),
    };
    over_both_wires(async |cluster| walk.run(cluster).await).await;
}

/// A controller owner that does not exist keeps nothing alive where no collector runs.
fn revision(name: &str, number: i64) -> Value {
    json!({"metadata": {"name": name, "labels": {"daemonset-name": "e2e", "app": "e2e"}}, "revision": number,
        "data": {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "busybox"}]}}}}})
}

/// [sig-apps] ControllerRevision should manage the lifecycle of a ControllerRevision [Conformance] [Serial]
#[tokio::test]
async fn controller_revisions() {
    over_both_wires(async |cluster: Cluster| {
        let revisions = cluster.of("apps/v1", "controllerrevisions", NAMESPACE);
        let everywhere = cluster.all("apps/v1", "controllerrevisions");
        let first = revisions.create(&revision("e2e-1", 1)).await.unwrap();
        assert_eq!(everywhere.list("labelSelector=daemonset-name=e2e").await.len(), 1);
        assert_eq!(revisions.get("e2e-1").await.unwrap()["data"], first["data"]);
        let patch = Patch::Strategic(json!({"metadata": {"labels": {"e2e-1": "patched"}}}));
        assert_eq!(revisions.patch("e2e-1", &patch).await.unwrap()["metadata"]["labels"]["e2e-1"], "patched");
        revisions.create(&revision("e2e-2", 2)).await.unwrap();
        assert_eq!(revisions.list("labelSelector=daemonset-name=e2e").await.len(), 2);
        revisions.delete("e2e-1").await.unwrap();
        refused(revisions.get("e2e-1").await, 404);
        let label = |r: &mut Value| r["metadata"]["labels"]["e2e-2"] = "updated".into();
        let updated = revisions.change("e2e-2", label).await.unwrap();
        assert_eq!(updated["metadata"]["labels"]["e2e-2"], "updated");
        let rewrite = |r: &mut Value| r["data"]["spec"]["template"] = json!({});
        refused(revisions.change("e2e-2", rewrite).await, 422);
        revisions.create(&revision("e2e-3", 3)).await.unwrap();
        revisions.delete_collection("labelSelector=e2e-2=updated").await.unwrap();
        let left = revisions.list("labelSelector=daemonset-name=e2e").await;
        assert_eq!((left.len(), &left[0]["revision"]), (1, &json!(3)));
    })
    .await;
}

fn budget(name: &str, minimum: Value) -> Value {
    let mut budget = named(name);
    budget["metadata"]["labels"] = json!({"foo": name});
    budget["spec"] = json!({"minAvailable": minimum, "selector": {"matchLabels": {"foo": "bar"}}});
    budget
}

/// [sig-apps] DisruptionController Listing PodDisruptionBudgets for all namespaces should list and delete a collection of PodDisruptionBudgets [Conformance]
#[tokio::test]
async fn collections_of_disruption_budgets() {
    over_both_wires(async |cluster: Cluster| {
        let budgets = cluster.of("policy/v1", "poddisruptionbudgets", NAMESPACE);
        cluster.create_namespace("disruption-2").await;
        let elsewhere = cluster.of("policy/v1", "poddisruptionbudgets", "disruption-2");
        for name in ["foo", "foo2"] {
            budgets.create(&budget(name, json!(1))).await.unwrap();
        }
        elsewhere.create(&budget("foo", json!("1%"))).await.unwrap();
        let everywhere = cluster.all("policy/v1", "poddisruptionbudgets");
        assert_eq!(everywhere.list("").await.len(), 3);
        assert_eq!(budgets.list("").await.len(), 2);
        budgets.delete_collection("").await.unwrap();
        assert_eq!((budgets.list("").await.len(), elsewhere.list("").await.len()), (0, 1));
    })
    .await;
}

//! What every cluster has from its first start.

use std::sync::Arc;

use amphipod_apiserver::{ApiServer, Config};
use amphipod_store::EmbeddedStore;
use serde_json::{Value, json};

use crate::support::{Server, server};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

/// The first `columns` cells of each row.
async fn rows(server: &Server, path: &str, columns: usize) -> Vec<Value> {
    let table = server.get_as(path, TABLE).await.expect(200);
    let rows = table["rows"].as_array().expect("rows").iter();
    rows.map(|row| row["cells"].as_array().expect("cells")[..columns].iter().cloned().collect()).collect()
}

#[tokio::test]
async fn flow_control_has_its_levels_and_schemas() {
    let server = server().await;
    let base = "/apis/flowcontrol.apiserver.k8s.io/v1";
    let schemas = rows(&server, &format!("{base}/flowschemas"), 4).await;
    let expected = [
        json!(["exempt", "exempt", 1, "<none>"]),
        json!(["probes", "exempt", 2, "<none>"]),
        json!(["system-leader-election", "leader-election", 100, "ByUser"]),
        json!(["endpoint-controller", "workload-high", 150, "ByUser"]),
        json!(["workload-leader-election", "leader-election", 200, "ByUser"]),
        json!(["system-node-high", "node-high", 400, "ByUser"]),
        json!(["system-nodes", "system", 500, "ByUser"]),
        json!(["kube-controller-manager", "workload-high", 800, "ByNamespace"]),
        json!(["kube-scheduler", "workload-high", 800, "ByNamespace"]),
        json!(["kube-system-service-accounts", "workload-high", 900, "ByNamespace"]),
        json!(["service-accounts", "workload-low", 9000, "ByUser"]),
        json!(["global-default", "global-default", 9900, "ByUser"]),
        json!(["catch-all", "catch-all", 10000, "ByUser"]),
    ];
    assert_eq!(schemas, expected, "in the order in which they are tried");
    let exempt = server.get(&format!("{base}/flowschemas/exempt")).await.expect(200);
    let condition = &exempt["status"]["conditions"][0];
    assert_eq!((&condition["type"], &condition["status"]), (&json!("Dangling"), &json!("False")));
    let levels = rows(&server, &format!("{base}/prioritylevelconfigurations"), 6).await;
    let expected = [
        json!(["catch-all", "Limited", 5, "<none>", "<none>", "<none>"]),
        json!(["exempt", "Exempt", "<none>", "<none>", "<none>", "<none>"]),
        json!(["global-default", "Limited", 20, 128, 6, 50]),
        json!(["leader-election", "Limited", 10, 16, 4, 50]),
        json!(["node-high", "Limited", 40, 64, 6, 50]),
        json!(["system", "Limited", 30, 64, 6, 50]),
        json!(["workload-high", "Limited", 40, 128, 6, 50]),
        json!(["workload-low", "Limited", 100, 128, 6, 50]),
    ];
    assert_eq!(levels, expected);
}

#[tokio::test]
async fn the_next_start_restores_schemas_but_not_the_administrators_own() {
    let store = Arc::new(EmbeddedStore::memory().expect("a store"));
    let before =
        Server::of(ApiServer::start(Config::default(), store.clone()).await.expect("a server")).await;
    let path = |name: &str| format!("/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/{name}");
    before.merge(&path("global-default"), &json!({"spec": {"matchingPrecedence": 9}})).await.expect(200);
    let own = json!({"metadata": {"annotations": {"apf.kubernetes.io/autoupdate-spec": "false"}},
        "spec": {"matchingPrecedence": 8}});
    before.merge(&path("service-accounts"), &own).await.expect(200);
    before.delete(&path("system-nodes")).await.expect(200);
    let after = Server::of(ApiServer::start(Config::default(), store.clone()).await.expect("a server")).await;
    for (name, precedence) in [("global-default", 9900), ("service-accounts", 8), ("system-nodes", 500)] {
        let schema = after.get(&path(name)).await.expect(200);
        assert_eq!(schema["spec"]["matchingPrecedence"], precedence, "{name}");
    }
    let last = Server::of(ApiServer::start(Config::default(), store).await.expect("a server")).await;
    for plural in ["flowschemas", "prioritylevelconfigurations"] {
        let list = format!("/apis/flowcontrol.apiserver.k8s.io/v1/{plural}");
        let (found, now) = (after.get(&list).await.expect(200), last.get(&list).await.expect(200));
        assert_eq!(now["items"], found["items"], "what is right is not written");
    }
}

#[tokio::test]
async fn every_group_version_has_its_api_service() {
    let server = server().await;
    let services = rows(&server, "/apis/apiregistration.k8s.io/v1/apiservices", 3).await;
    assert_eq!(services[0], json!(["v1.", "Local", "True"]));
    let served = server.get("/apis").await.expect(200);
    let groups = served["groups"].as_array().expect("groups").iter();
    let versions = groups.filter(|group| group["name"] != "apiregistration.k8s.io").flat_map(|group| {
        let name = group["name"].as_str().expect("a name").to_owned();
        let list = group["versions"].as_array().expect("versions").iter();
        list.map(move |version| format!("{}.{name}", version["version"].as_str().expect("a version")))
    });
    let mut named: Vec<String> = versions.chain(["v1.".to_owned()]).collect();
    named.sort();
    let names: Vec<&str> = services.iter().filter_map(|row| row[0].as_str()).collect();
    assert_eq!(names, named);
    let core = server.get("/apis/apiregistration.k8s.io/v1/apiservices/v1.").await.expect(200);
    assert_eq!(core["metadata"]["labels"], json!({"kube-aggregator.kubernetes.io/automanaged": "onstart"}));
    assert_eq!(core["spec"], json!({"version": "v1", "groupPriorityMinimum": 18000, "versionPriority": 1}));
}

#[tokio::test]
async fn what_was_done_at_start_is_told_as_checks() {
    let server = server().await;
    let answer = server.get("/readyz?verbose").await;
    let text = String::from_utf8_lossy(&answer.bytes).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..3], ["[+]ping ok", "[+]log ok", "[+]etcd ok"]);
    assert!(lines.contains(&"[+]poststarthook/rbac/bootstrap-roles ok"), "{text}");
    assert_eq!(lines[lines.len() - 2..], ["[+]shutdown ok", "readyz check passed"]);
    let single = "/readyz/poststarthook/priority-and-fairness-config-producer";
    assert_eq!(server.get(single).await.bytes, "ok");
}

#[tokio::test]
async fn kinds_to_be_left_warn_whoever_reads_them() {
    let server = server().await;
    for (path, text) in [
        (
            "/api/v1/namespaces/default/endpoints",
            "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
        ),
        ("/api/v1/componentstatuses", "v1 ComponentStatus is deprecated in v1.19+"),
    ] {
        let answer = server.get(path).await;
        assert_eq!(answer.code, 200);
        assert_eq!(answer.headers["warning"], format!("299 - \"{text}\""));
    }
}

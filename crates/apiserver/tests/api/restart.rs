use std::sync::Arc;

use amphipod_apiserver::{ApiServer, Config};
use amphipod_store::{EmbeddedStore, Store};
use serde_json::json;

use crate::support::{MAPS, Server, config_map};

#[tokio::test]
async fn a_restart_finds_everything_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str| {
        json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": name},
        "spec": {"type": "NodePort", "ports": [{"port": 80}]}})
    };
    let mut before = Vec::new();
    for round in 0..2 {
        let store: Arc<dyn Store> =
            Arc::new(EmbeddedStore::open(directory.path(), Default::default()).unwrap());
        let config = Config { advertise_address: [192, 0, 2, 1].into(), ..Config::default() };
        let api = ApiServer::start(config, store.clone()).await.unwrap();
        let server = Server::of(api.clone()).await;
        if round == 0 {
            server.post(MAPS, &config_map("a")).await.expect(201);
            let made = server.post(services, &service("a")).await.expect(201);
            before = vec![made, server.get("/api/v1/namespaces/kube-system").await.expect(200)];
        } else {
            assert_eq!(server.get(&format!("{MAPS}/a")).await.expect(200)["data"]["k"], "v");
            assert_eq!(server.get(&format!("{services}/a")).await.expect(200), before[0]);
            assert_eq!(server.get("/api/v1/namespaces/kube-system").await.expect(200), before[1]);
            let mut taken = service("b");
            taken["spec"]["clusterIP"] = before[0]["spec"]["clusterIP"].clone();
            taken["spec"]["ports"][0]["nodePort"] = before[0]["spec"]["ports"][0]["nodePort"].clone();
            let refused = server.post(services, &taken).await.refused(422, "Invalid");
            assert!(refused.ends_with("provided IP is already allocated"), "{refused}");
            taken["spec"].as_object_mut().unwrap().remove("clusterIP");
            let refused = server.post(services, &taken).await.refused(422, "Invalid");
            assert!(refused.ends_with("provided port is already allocated"), "{refused}");
        }
        api.close();
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn another_service_range_leaves_the_kubernetes_service_where_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = "/api/v1/namespaces/default/services/kubernetes";
    for (range, port, delete) in
        [("10.43.0.0/16", 6443, false), ("10.96.0.0/12", 6444, true), ("10.98.0.0/16", 6444, false)]
    {
        let store: Arc<dyn Store> =
            Arc::new(EmbeddedStore::open(directory.path(), Default::default()).unwrap());
        let config =
            Config { service_cidrs: vec![range.parse().unwrap()], advertise_port: port, ..Config::default() };
        let api = ApiServer::start(config, store.clone()).await.unwrap();
        let server = Server::of(api.clone()).await;
        let spec = server.get(path).await.expect(200)["spec"].clone();
        assert_eq!((&spec["clusterIP"], &spec["clusterIPs"]), (&json!("10.43.0.1"), &json!(["10.43.0.1"])));
        assert_eq!(spec["ports"][0]["targetPort"], port, "it leads to where the server is now");
        if delete {
            server.delete(path).await.expect(200);
        }
        api.close();
        store.close().await.unwrap();
    }
}

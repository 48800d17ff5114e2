//! Two servers over one store.

use std::sync::Arc;

use amphipod_apiserver::{ApiServer, Config};
use amphipod_store::EmbeddedStore;
use serde_json::json;

use crate::support::{Server, config_map};

/// Enough for one server to be caught before it has heard of what the other made.
const ROUNDS: usize = 50;

#[tokio::test(flavor = "multi_thread")]
async fn what_one_server_made_exists_for_the_other() {
    let store = Arc::new(EmbeddedStore::memory().expect("a store"));
    let one = Server::of(ApiServer::start(Config::default(), store.clone()).await.expect("a server")).await;
    let other = Server::of(ApiServer::start(Config::default(), store).await.expect("a server")).await;
    for round in 0..ROUNDS {
        let name = format!("n{round}");
        let namespace = json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name}});
        one.post("/api/v1/namespaces", &namespace).await.expect(201);
        other.post(&format!("/api/v1/namespaces/{name}/configmaps"), &config_map("a")).await.expect(201);
    }
}

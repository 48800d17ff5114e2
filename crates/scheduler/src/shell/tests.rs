use super::*;
use crate::framework::PluginSet;
use amphipod_apiserver::seams::UserInfo;
use amphipod_apiserver::{ApiServer, Config as ServerConfig};
use amphipod_client::{Api, Patch, Writable};
use amphipod_store::EmbeddedStore;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, ServiceAccount};
use serde_json::{Value, json};

async fn create<K: Writable>(client: &Client, namespace: &str, object: Value) {
    let api = match namespace {
        "" => Api::<K>::all(client.clone()),
        namespace => Api::namespaced(client.clone(), namespace),
    };
    api.create(&K::decode(object.to_string().as_bytes()).unwrap()).await.unwrap();
}

/// A node, a pod on it, one that waits, one that was given a node of which the API knows nothing yet.
async fn objects(client: &Client) {
    create::<Namespace>(client, "", json!({"metadata": {"name": "ns"}})).await;
    create::<ServiceAccount>(client, "ns", json!({"metadata": {"name": "default"}})).await;
    create::<Node>(client, "", json!({"metadata": {"name": "n", "labels": {"a": "b"}}})).await;
    let status =
        Patch::Merge(json!({"status": {"allocatable": {"cpu": "1", "pods": "9"}, "capacity": {"cpu": "1"}}}));
    Api::<Node>::all(client.clone()).patch_status("n", &status).await.unwrap();
    for (name, node) in [("placed", Value::from("n")), ("waiting", Value::Null), ("assumed", Value::Null)] {
        let container = json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": "100m"}}});
        let spec = json!({"containers": [container], "nodeName": node});
        create::<Pod>(client, "ns", json!({"metadata": {"name": name}, "spec": spec})).await;
    }
}

#[tokio::test]
async fn a_snapshot_built_anew_is_the_same_and_nothing_waiting_is_lost() {
    let store = Arc::new(EmbeddedStore::memory().unwrap());
    let server = ApiServer::start(ServerConfig::default(), store).await.unwrap();
    let client = Client::local(server.local_service(UserInfo::new("admin", &["system:masters"])));
    objects(&client).await;
    let cancel = CancellationToken::new();
    let config = Config::default();
    let sources = Sources::new(&SharedInformers::new(client.clone(), cancel.clone()));
    let shell = Arc::new(Shell {
        extenders: Extenders::default(),
        metrics: Metrics::default(),
        recorder: EventRecorder::new(client.clone(), DEFAULT_SCHEDULER, None),
        client,
        state: Mutex::new(State::new(&config)),
        config,
        work: Notify::new(),
        storage_news: Notify::new(),
        bindings: Arc::new(Semaphore::new(1)),
        sources,
        cancel: cancel.clone(),
    });
    let sources = &shell.sources;
    sources.synced().await;
    shell.observe(sources);

    let mut state = shell.state.lock();
    let pod = state.queue.get("ns/assumed").unwrap().clone();
    let slot = state.snapshot.slot("n").unwrap();
    let placed = state.snapshot.place(&pod, slot);
    state.assumed.insert(pod.key.clone(), placed);
    state.queue.remove("ns/assumed");
    let tried = state.queue.pop(Instant::now()).unwrap();
    state.queue.refused(&tried.key, PluginSet::default(), Instant::now());
    assert_eq!(&*tried.key, "ns/waiting");

    let rebuilt = State::rebuilt(&shell.config, &mut state, sources);
    assert_eq!(rebuilt.snapshot.differences(&state.snapshot), [] as [String; 0]);
    assert_eq!((rebuilt.snapshot.pod_count(), rebuilt.assumed.len()), (2, 1), "the placed and the assumed");
    *state = rebuilt;
    let after_back_off = state.queue.next_wake().unwrap();
    assert_eq!(state.queue.pop(after_back_off).as_deref().map(PodInfo::name), Some("waiting"));
    assert!(state.queue.pop(Instant::now()).is_none());
    drop(state);
    cancel.cancel();
    server.close();
}

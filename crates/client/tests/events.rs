//! Events of a burst, as of thousands of bindings in a second: none is lost.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use amphipod_apiserver::{ApiServer, Config, UserInfo};
use amphipod_client::{Api, Client, EventRecorder, ListParams};
use amphipod_store::EmbeddedStore;
use k8s_openapi::api::core::v1::{Event, ObjectReference};

const BURST: usize = 5000;
const DEADLINE: Duration = Duration::from_secs(300);
/// Between two looks at what is there.
const GLANCE: Duration = Duration::from_millis(20);

async fn count(api: &Api<Event>) -> usize {
    let (meta, page) = api.list(&ListParams { limit: Some(1), ..ListParams::default() }).await.unwrap();
    page.len() + usize::try_from(meta.remaining_item_count.unwrap_or(0)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_arrives_whole() {
    let store = Arc::new(EmbeddedStore::memory().unwrap());
    let server = ApiServer::start(Config::default(), store).await.unwrap();
    let client = Client::local(server.local_service(UserInfo::new("admin", &["system:masters"])));
    let recorder = EventRecorder::new(client.clone(), "default-scheduler", None);
    let began = Instant::now();
    for number in 0..BURST {
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(format!("pod-{number}")),
            namespace: Some("default".into()),
            uid: Some(format!("uid-{number}")),
            ..ObjectReference::default()
        };
        let message = format!("Successfully assigned default/pod-{number} to node-{}", number % 100);
        recorder.record(about, "Normal", "Scheduled", message);
    }
    let api = Api::<Event>::all(client);
    while count(&api).await < BURST {
        assert!(began.elapsed() < DEADLINE, "{} of {BURST} events are there", count(&api).await);
        tokio::time::sleep(GLANCE).await;
    }
    println!("{BURST} events in {:?}", began.elapsed());
    let (_, events) = api.list(&ListParams::default()).await.unwrap();
    let messages: HashSet<_> = events.into_iter().filter_map(|event| event.message).collect();
    assert_eq!(messages.len(), BURST);
    server.close();
}

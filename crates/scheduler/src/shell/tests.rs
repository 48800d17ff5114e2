use std::time::Duration;

use super::bind::NotBound;
use super::*;
use crate::devices::ClaimWork;
use crate::framework::PluginSet;
use crate::node::Slot;
use crate::storage::Reservation;
use amphipod_apiserver::seams::UserInfo;
use amphipod_apiserver::{ApiServer, Config as ServerConfig};
use amphipod_client::{Api, DeleteParams, Patch, Writable};
use amphipod_store::EmbeddedStore;
use k8s_openapi::api::core::v1::{
    Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ServiceAccount,
};
use k8s_openapi::api::resource::v1::ResourceClaim;
use serde_json::{Value, json};
use tower::ServiceExt;

async fn create<K: Writable>(client: &Client, namespace: &str, object: Value) {
    let api = match namespace {
        "" => Api::<K>::all(client.clone()),
        namespace => Api::namespaced(client.clone(), namespace),
    };
    api.create(&K::decode(object.to_string().as_bytes()).unwrap()).await.unwrap();
}

/// A node, a pod on it, one that waits, one that was given a node of which the API knows nothing yet;
/// and claims of which no pod knows, with a volume.
async fn objects(client: &Client) {
    create::<Namespace>(client, "", json!({"metadata": {"name": "ns"}})).await;
    create::<ServiceAccount>(client, "ns", json!({"metadata": {"name": "default"}})).await;
    create::<Node>(client, "", json!({"metadata": {"name": "n", "labels": {"a": "b"}}})).await;
    let status =
        Patch::Merge(json!({"status": {"allocatable": {"cpu": "1", "pods": "9"}, "capacity": {"cpu": "1"}}}));
    Api::<Node>::all(client.clone()).patch_status("n", &status).await.unwrap();
    for (name, node) in [("placed", Value::from("n")), ("waiting", Value::Null), ("assumed", Value::Null)] {
        create::<Pod>(client, "ns", pod(name, node)).await;
    }
    let size = json!({"storage": "1Gi"});
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": size}, "storageClassName": "late"});
    create::<PersistentVolumeClaim>(client, "ns", json!({"metadata": {"name": "disk"}, "spec": spec})).await;
    let spec = json!({"accessModes": ["ReadWriteOnce"], "capacity": size, "hostPath": {"path": "/disk"}});
    create::<PersistentVolume>(client, "", json!({"metadata": {"name": "disk"}, "spec": spec})).await;
    let request = json!({"name": "r", "exactly": {"deviceClassName": "gpu"}});
    let spec = json!({"devices": {"requests": [request]}});
    create::<ResourceClaim>(client, "ns", json!({"metadata": {"name": "gpu"}, "spec": spec})).await;
}

const DEADLINE: Duration = Duration::from_secs(60);
const GLANCE: Duration = Duration::from_millis(5);

/// A scheduler that has seen everything and decides only what it is told to.
struct Cluster {
    shell: Arc<Shell>,
    server: Arc<ApiServer>,
    client: Client,
    watching: CancellationToken,
    /// The paths of what the scheduler has begun to patch.
    patched: Arc<Mutex<Vec<String>>>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.watching.cancel();
        self.server.close();
    }
}

impl Cluster {
    async fn start() -> Self {
        let store = Arc::new(EmbeddedStore::memory().unwrap());
        let server = ApiServer::start(ServerConfig::default(), store).await.unwrap();
        let client = Client::local(server.local_service(UserInfo::new("admin", &["system:masters"])));
        objects(&client).await;
        let watching = CancellationToken::new();
        let sources = Sources::new(&SharedInformers::new(client.clone(), watching.clone()));
        let patched = Arc::new(Mutex::new(Vec::new()));
        let (told, service) =
            (patched.clone(), server.local_service(UserInfo::new("admin", &["system:masters"])));
        let own = Client::local(tower::service_fn(move |request: http::Request<_>| {
            if request.method() == http::Method::PATCH {
                told.lock().push(request.uri().path().to_owned());
            }
            service.clone().oneshot(request)
        }));
        let (extenders, config, metrics) = (Extenders::default(), Config::default(), Metrics::default());
        let cancel = CancellationToken::new();
        let shell = Arc::new(Shell::new(own, sources, extenders, config, metrics, cancel));
        shell.sources.synced().await;
        shell.observe(&shell.sources);
        Cluster { shell, server, client, watching, patched }
    }
    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "ns")
    }
    /// Once its informer shows it so.
    async fn seen(&self, name: &str, is_so: impl Fn(Option<&CachedPod>) -> bool) {
        let key = format!("ns/{name}");
        let look = async {
            while !is_so(self.shell.sources.pods.get(&key).as_deref()) {
                tokio::time::sleep(GLANCE).await;
            }
        };
        tokio::time::timeout(DEADLINE, look).await.unwrap();
    }
    /// The pod of the name, taken from the queue.
    fn popped(&self, name: &str) -> (Arc<PodInfo>, Arc<CachedPod>) {
        let mut state = self.shell.state.lock();
        let pod = std::iter::from_fn(|| state.queue.pop(Instant::now())).find(|pod| pod.name() == name);
        let pod = pod.unwrap();
        let object = self.shell.sources.pods.get(&pod.key).unwrap();
        (pod, object)
    }
    /// Decided to go to the node.
    fn decided(&self, name: &str) -> Binding {
        let (pod, object) = self.popped(name);
        let mut state = self.shell.state.lock();
        let slot = state.snapshot.slot("n").unwrap();
        match state.settle(pod, object, Decision::Node(slot), false) {
            Step::Bind(binding) => binding,
            Step::Refuse(_) => panic!("refused"),
        }
    }
    /// Deletes the pod and makes another of its name.
    async fn replace(&self, name: &str) {
        let old = self.pods().get(name).await.unwrap().metadata.uid.unwrap();
        self.pods().delete(name, &DeleteParams::default()).await.unwrap();
        create::<Pod>(&self.client, "ns", pod(name, Value::Null)).await;
        self.seen(name, |now| now.is_some_and(|now| now.uid() != old)).await;
    }
    fn queued(&self, name: &str) -> Option<Arc<PodInfo>> {
        self.shell.state.lock().queue.get(&format!("ns/{name}")).cloned()
    }
}

fn pod(name: &str, node: Value) -> Value {
    let container = json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": "100m"}}});
    json!({"metadata": {"name": name}, "spec": {"containers": [container], "nodeName": node}})
}

/// What a claim is given that is nowhere but here.
fn device() -> ClaimWork {
    let consumed = ClaimWork::to_consume("ns/device".to_owned(), "uid".into());
    ClaimWork { allocation: Some(json!({})), ..consumed }
}

fn failed() -> NotBound {
    NotBound { why: "no answer".to_owned(), is_gone: false }
}

#[tokio::test]
async fn a_snapshot_built_anew_is_the_same_and_nothing_waiting_is_lost() {
    let cluster = Cluster::start().await;
    let (shell, sources) = (&cluster.shell, &cluster.shell.sources);
    let mut state = shell.state.lock();
    let pod = state.queue.get("ns/assumed").unwrap().clone();
    let slot = state.snapshot.slot("n").unwrap();
    let placed = state.snapshot.place(&pod, slot);
    state.assumed.insert(pod.key.clone(), placed);
    state.queue.remove("ns/assumed");
    let tried = state.queue.pop(Instant::now()).unwrap();
    state.queue.refused(&tried.key, PluginSet::default(), Instant::now());
    assert_eq!(&*tried.key, "ns/waiting");

    state.snapshot.assume_devices(&[device()]);
    let rebuilt = State::rebuilt(&shell.config, &mut state, sources);
    assert!(state.snapshot.devices.is_pending(state.snapshot.catalogue.symbols.find("ns/device").unwrap()));
    assert_eq!(rebuilt.snapshot.differences(&state.snapshot), [] as [String; 0]);
    assert_eq!((rebuilt.snapshot.pod_count(), rebuilt.assumed.len()), (2, 1), "the placed and the assumed");
    *state = rebuilt;
    let after_back_off = state.queue.next_wake().unwrap();
    assert_eq!(state.queue.pop(after_back_off).as_deref().map(PodInfo::name), Some("waiting"));
    assert!(state.queue.pop(Instant::now()).is_none());
}

#[tokio::test]
async fn a_pod_not_bound_is_taken_back_as_it_is_now() {
    let cluster = Cluster::start().await;
    let leaving = cluster.decided("assumed");
    let kept = Patch::Merge(json!({"metadata": {"finalizers": ["example.com/stay"]}}));
    cluster.pods().patch("assumed", &kept).await.unwrap();
    cluster.pods().delete("assumed", &DeleteParams::default()).await.unwrap();
    cluster.seen("assumed", |now| now.is_some_and(CachedPod::is_terminating)).await;
    cluster.shell.take_back(&leaving, &failed());
    assert!(cluster.queued("assumed").is_none(), "it is on its way out");

    let same = cluster.decided("waiting");
    let labels = Patch::Merge(json!({"metadata": {"labels": {"changed": "meanwhile"}}}));
    cluster.pods().patch("waiting", &labels).await.unwrap();
    cluster.seen("waiting", |now| now.is_some_and(|now| now.metadata.labels.is_some())).await;
    cluster.shell.take_back(&same, &failed());
    let again = cluster.queued("waiting").unwrap();
    assert_eq!(again.uid, same.pod.uid);
    assert_ne!(again.template.id, same.pod.template.id, "as it is labelled now");
    assert!(cluster.shell.state.lock().assumed.is_empty());
}

#[tokio::test]
async fn what_was_announced_of_a_pod_that_is_not_bound_is_taken_back() {
    let cluster = Cluster::start().await;
    let mut binding = cluster.decided("waiting");
    let shown = || async { cluster.pods().get("waiting").await.unwrap().status.unwrap() };
    binding.object = cluster.shell.announce(binding.object, "n").await;
    assert_eq!(shown().await.nominated_node_name.as_deref(), Some("n"));
    // Whatever the informer has seen of it.
    cluster.shell.tell_and_take_back(&binding, &failed()).await;
    let status = shown().await;
    assert_eq!(status.nominated_node_name, None);
    let reason = status.conditions.unwrap().into_iter().find_map(|c| c.reason);
    assert_eq!(reason.as_deref(), Some(SCHEDULER_ERROR));
}

#[tokio::test]
async fn another_pod_of_the_name_is_not_taken_for_the_one_before() {
    let cluster = Cluster::start().await;
    let old = cluster.decided("waiting");
    let placed = cluster.shell.state.lock().assumed["ns/waiting"].clone();
    cluster.replace("waiting").await;
    // As if it had been told of both at once.
    cluster.shell.state.lock().assumed.insert(old.pod.key.clone(), placed);
    cluster.shell.take_back(&old, &failed());
    let new = cluster.queued("waiting").unwrap();
    assert_ne!(new.uid, old.pod.uid);

    let (asked, object) = cluster.popped("waiting");
    assert_eq!(asked.uid, new.uid);
    cluster.replace("waiting").await;
    let question = consult::Question { pod: asked, object, nodes: vec!["n".to_owned()], events: 0 };
    assert!(cluster.shell.consult(question, &cluster.shell.sources).await.is_none());
    assert!(cluster.shell.state.lock().assumed.is_empty());
    cluster.popped("waiting");
}

#[tokio::test]
async fn that_the_claims_of_one_are_seen_to_says_nothing_of_another_of_its_name() {
    let cluster = Cluster::start().await;
    let prepare = |pod: &PodInfo| {
        let preparation = Preparation::of(pod, Reservation::default());
        cluster.shell.state.lock().preparations.insert(pod.key.clone(), preparation);
    };
    let prepares = || cluster.shell.state.lock().preparations.contains_key("ns/waiting");
    let old = cluster.decided("waiting");
    cluster.replace("waiting").await;
    prepare(&cluster.queued("waiting").unwrap());
    cluster.shell.prepare_and_bind(old).await;
    assert!(prepares());
    let new = cluster.decided("waiting");
    cluster.shell.prepare_and_bind(new).await;
    assert!(!prepares());
}

#[tokio::test]
async fn each_write_for_a_pod_with_claims_waits_for_its_place() {
    for (places, writes) in [(WRITES_IN_FLIGHT, 6), (0, 0)] {
        let cluster = Cluster::start().await;
        let shell = &cluster.shell;
        let taken = u32::try_from(WRITES_IN_FLIGHT - places).unwrap();
        let _taken = shell.writes.clone().acquire_many_owned(taken).await.unwrap();
        let (_, object) = cluster.popped("waiting");
        let of = |volumes, provisions, claims| {
            let reservation = Reservation { node: "n".to_owned(), volumes, provisions };
            storage::Work { reservation, claims, timeout: Duration::ZERO }
        };
        let disk = || "ns/disk".to_owned();
        let volume = of(vec![(disk(), "disk".to_owned())], Vec::new(), Vec::new());
        let provision = of(Vec::new(), vec![disk()], Vec::new());
        let devices = of(Vec::new(), Vec::new(), vec![ClaimWork { claim: "ns/gpu".to_owned(), ..device() }]);
        let given_and_given_back = async {
            let _ = shell.prepare(&object, &devices).await;
            shell.disclaim_devices(&object, &devices.claims).await;
        };
        let ends = async {
            if places == 0 {
                shell.cancel.cancel(); // or they would wait for ever
            }
        };
        let _ = tokio::join!(
            shell.announce(object.clone(), "n"),
            shell.prepare(&object, &volume),
            shell.prepare(&object, &provision),
            given_and_given_back,
            ends,
        );
        let patched = cluster.patched.lock();
        assert_eq!(patched.len(), writes, "{patched:?}");
    }
}

#[tokio::test]
async fn lesser_pods_are_sent_away_from_the_node_of_the_name_if_it_is_there_yet() {
    let cluster = Cluster::start().await;
    let (pod, object) = cluster.popped("waiting");
    let nominate = |name: &str| {
        let mut state = cluster.shell.state.lock();
        let slot = state.snapshot.slot(name).unwrap();
        state.snapshot.nominate(pod.clone(), slot);
    };
    let mut important = (*object).clone();
    Arc::make_mut(important.spec.get_or_insert_default()).priority = Some(1);
    // The slot of a decision may be of no node by now.
    let plan = Plan { slot: Slot::MAX, victims: Vec::new() };
    nominate("n");
    assert!(cluster.shell.evict(&important, "gone", &plan).await);
    assert_eq!(cluster.shell.state.lock().nominated("ns/waiting"), "n");
    assert!(cluster.shell.evict(&important, "n", &plan).await);
    assert_eq!(cluster.shell.state.lock().nominated("ns/waiting"), "");
}

#[tokio::test]
async fn what_is_given_back_is_offered_to_those_that_wait_for_it() {
    let cluster = Cluster::start().await;
    let (volume, sharing) = (("ns/data".to_owned(), "v".to_owned()), "ns/shared".to_owned());
    let reservation = |volumes, provisions| Reservation { node: "n".to_owned(), volumes, provisions };
    let device = device();
    // Nothing of it exists, so that all of it fails; the last pod can only use one claim.
    let cases = [
        ("VolumeBinding", "waiting", reservation(vec![volume], Vec::new()), Vec::new()),
        ("DynamicResources", "assumed", Reservation::default(), vec![device]),
        ("VolumeBinding", "sharing", reservation(Vec::new(), vec![sharing]), Vec::new()),
    ];
    let mut with_claim = pod("sharing", Value::Null);
    let source = json!({"claimName": "shared"});
    with_claim["spec"]["volumes"] = json!([{"name": "v", "persistentVolumeClaim": source}]);
    create::<Pod>(&cluster.client, "ns", with_claim).await;
    cluster.seen("sharing", |now| now.is_some()).await;
    let (_, leaving) = cluster.popped("waiting");
    for (plugin, name, reservation, claims) in cases {
        let key = format!("ns/{name}");
        let parked = || cluster.shell.state.lock().queue.parked().any(|(pod, _)| *pod.key == *key);
        cluster.shell.state.lock().queue.refused(&key, PluginSet::of([plugin]), Instant::now());
        assert!(parked());
        let work = storage::Work { reservation, claims, timeout: Duration::ZERO };
        cluster.shell.prepare(&leaving, &work).await.unwrap_err();
        assert!(!parked(), "{name}");
    }
}

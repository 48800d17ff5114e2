//! kube-rs: typed calls, watchers with and without streaming lists, a reflector, a controller with
//! finalizers and server-side apply, events, and leader election on a Lease.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret};
use k8s_openapi::api::events::v1::Event as ClusterEvent;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::finalizer::{Event as Finalizer, finalizer};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client, Config, Error, Resource, ResourceExt};
use serde_json::json;

use crate::plane::Plane;

const NAMESPACE: &str = "kube-rs";
const FINALIZER: &str = "example.com/mirror";
/// Whatever is waited for has come by then.
const PATIENCE: Duration = Duration::from_secs(180);

#[test]
fn kube_rs() {
    let plane = Plane::shared();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = connect(&plane).await;
        let namespaces = Api::<Namespace>::all(client.clone());
        namespaces.create(&PostParams::default(), &named(NAMESPACE)).await.unwrap();
        typed(&client).await;
        watchers(&client, watcher::Config::default().page_size(2)).await;
        watchers(&client, watcher::Config::default().streaming_lists()).await;
        controller(&client).await;
        events(&client).await;
        leader_election(&client).await;
        namespaces.delete(NAMESPACE, &DeleteParams::default()).await.unwrap();
    });
}

async fn connect(plane: &Plane) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = kube::config::Kubeconfig::read_from(plane.kubeconfig()).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: too late"))
}

fn from<K: serde::de::DeserializeOwned>(value: serde_json::Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn named<K: serde::de::DeserializeOwned>(name: &str) -> K {
    from(json!({"metadata": {"name": name}}))
}

fn code(error: &Error) -> u16 {
    match error {
        Error::Api(status) => status.code,
        other => panic!("not an answer of the server: {other}"),
    }
}

async fn typed(client: &Client) {
    let maps = Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE);
    let made: ConfigMap = from(json!({"metadata": {"name": "typed"}, "data": {"a": "1"}}));
    let made = maps.create(&PostParams::default(), &made).await.unwrap();
    assert_eq!(code(&maps.create(&PostParams::default(), &named("typed")).await.unwrap_err()), 409);
    assert!(maps.get_opt("missing").await.unwrap().is_none());

    let merged = Patch::Merge(json!({"data": {"b": "2"}}));
    let patched = maps.patch("typed", &PatchParams::default(), &merged).await.unwrap();
    assert_eq!(patched.data.as_ref().unwrap().len(), 2);
    let stale = maps.replace("typed", &PostParams::default(), &made).await.unwrap_err();
    assert_eq!(code(&stale), 409);

    let config = |value: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"b": value}});
    let apply = PatchParams::apply("kube-rs");
    assert_eq!(code(&maps.patch("typed", &apply, &Patch::Apply(config("3"))).await.unwrap_err()), 409);
    let forced = maps.patch("typed", &apply.clone().force(), &Patch::Apply(config("3"))).await.unwrap();
    assert_eq!(forced.data.unwrap()["b"], "3");

    let metadata = maps.get_metadata("typed").await.unwrap();
    assert_eq!(metadata.uid(), made.uid());
    maps.delete("typed", &DeleteParams::default()).await.unwrap();

    let pods = Api::<Pod>::namespaced(client.clone(), NAMESPACE);
    let pod: Pod = from(
        json!({"metadata": {"name": "typed"}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}}),
    );
    let pod = pods.create(&PostParams::default(), &pod).await.unwrap();
    within("a running pod", await_condition(pods.clone(), "typed", conditions::is_pod_running()))
        .await
        .unwrap();
    pods.evict("typed", &Default::default()).await.unwrap();
    let uid = pod.uid().unwrap();
    let gone = conditions::is_deleted(&uid);
    within("the evicted pod to go", await_condition(pods, "typed", gone)).await.unwrap();
}

/// What exists at the start comes once, then every change, and the reflector's store follows.
async fn watchers(client: &Client, config: watcher::Config) {
    let secrets = Api::<Secret>::namespaced(client.clone(), NAMESPACE);
    for index in 0..5 {
        let name = format!("watched-{index}");
        secrets.create(&PostParams::default(), &named(&name)).await.unwrap();
    }
    let (store, writer) = reflector::store();
    let stream = watcher(secrets.clone(), config).reflect(writer);
    let mut stream = std::pin::pin!(stream);
    let (mut initial, mut complete) = (Vec::new(), false);
    // A server may begin with a view that is a moment old; what that lacks comes as a change.
    while !complete || initial.len() < 5 {
        match within("the initial objects", stream.try_next()).await.unwrap().unwrap() {
            watcher::Event::Init => initial.clear(),
            watcher::Event::InitApply(secret) => initial.push(secret.name_any()),
            watcher::Event::InitDone => complete = true,
            watcher::Event::Apply(secret) if complete => initial.push(secret.name_any()),
            other => panic!("before the initial objects were complete: {other:?}"),
        }
    }
    assert_eq!(initial, ["watched-0", "watched-1", "watched-2", "watched-3", "watched-4"]);
    assert_eq!(store.state().len(), 5);

    let changed = Patch::Merge(json!({"stringData": {"k": "v"}}));
    secrets.patch("watched-3", &PatchParams::default(), &changed).await.unwrap();
    secrets.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
    let (mut applied, mut deleted) = (Vec::new(), Vec::new());
    while deleted.len() < 5 {
        match within("the changes", stream.try_next()).await.unwrap().unwrap() {
            watcher::Event::Apply(secret) => applied.push(secret.name_any()),
            watcher::Event::Delete(secret) => deleted.push(secret.name_any()),
            other => panic!("began again: {other:?}"),
        }
    }
    deleted.sort();
    assert_eq!((applied, deleted), (vec!["watched-3".to_owned()], initial));
    assert!(store.state().is_empty());
}

/// Mirrors each ConfigMap labelled `mirror` into a Secret, and takes the Secret away before the
/// ConfigMap goes.
async fn reconcile(map: Arc<ConfigMap>, client: Arc<Client>) -> Result<Action, Error> {
    let maps = Api::<ConfigMap>::namespaced(client.as_ref().clone(), NAMESPACE);
    let secrets = Api::<Secret>::namespaced(client.as_ref().clone(), NAMESPACE);
    let done = finalizer(&maps, FINALIZER, map, |event| async {
        match event {
            Finalizer::Apply(map) => {
                let mirror = json!({"apiVersion": "v1", "kind": "Secret", "stringData": map.data,
                    "metadata": {"name": map.name_any(), "labels": {"mirrored": "yes"},
                        "ownerReferences": [map.controller_owner_ref(&())]}});
                let apply = PatchParams::apply("mirror").force();
                secrets.patch(&map.name_any(), &apply, &Patch::Apply(mirror)).await?;
            }
            Finalizer::Cleanup(map) => {
                secrets.delete(&map.name_any(), &DeleteParams::default()).await?;
            }
        }
        Ok::<_, Error>(Action::await_change())
    });
    // Someone else wrote in between: the next event brings the newer object.
    Ok(done.await.unwrap_or_else(|_| Action::requeue(Duration::from_millis(50))))
}

async fn controller(client: &Client) {
    let maps = Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE);
    let secrets = Api::<Secret>::namespaced(client.clone(), NAMESPACE);
    let running = Controller::new(maps.clone(), watcher::Config::default().labels("mirror"))
        .owns(secrets.clone(), watcher::Config::default())
        .run(reconcile, |_, _, _| Action::requeue(Duration::from_millis(50)), Arc::new(client.clone()))
        .for_each(|_| std::future::ready(()));
    let running = tokio::spawn(running);

    let map: ConfigMap =
        from(json!({"metadata": {"name": "m", "labels": {"mirror": "yes"}}, "data": {"a": "1"}}));
    maps.create(&PostParams::default(), &map).await.unwrap();
    let holds = |text: &'static str| {
        move |secret: Option<&Secret>| {
            secret.and_then(|s| s.data.as_ref()?.get("a")).is_some_and(|value| value.0 == text.as_bytes())
        }
    };
    within("the mirror", await_condition(secrets.clone(), "m", holds("1"))).await.unwrap();
    let changed = Patch::Merge(json!({"data": {"a": "2"}}));
    maps.patch("m", &PatchParams::default(), &changed).await.unwrap();
    within("the mirror's change", await_condition(secrets.clone(), "m", holds("2"))).await.unwrap();

    // Taken away by someone else, it comes back; taken away with its ConfigMap, it does not.
    let first = secrets.get("m").await.unwrap().uid().unwrap();
    secrets.delete("m", &DeleteParams::default()).await.unwrap();
    let again =
        move |secret: Option<&Secret>| secret.and_then(ResourceExt::uid).is_some_and(|uid| uid != first);
    within("the mirror's return", await_condition(secrets.clone(), "m", again)).await.unwrap();
    let map = maps.get("m").await.unwrap();
    assert_eq!(map.finalizers(), [FINALIZER]);
    maps.delete("m", &DeleteParams::default()).await.unwrap();
    let uid = map.uid().unwrap();
    let gone = conditions::is_deleted(&uid);
    within("the map to go", await_condition(maps, "m", gone)).await.unwrap();
    assert!(secrets.get_opt("m").await.unwrap().is_none());
    running.abort();
}

async fn events(client: &Client) {
    let maps = Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE);
    let about = maps.create(&PostParams::default(), &named("about")).await.unwrap();
    let recorder = Recorder::new(client.clone(), Reporter::from("kube-rs-test"));
    let event = Event {
        type_: EventType::Warning,
        reason: "Tested".into(),
        note: Some("seen by a test".into()),
        action: "Testing".into(),
        secondary: None,
    };
    recorder.publish(&event, &about.object_ref(&())).await.unwrap();
    recorder.publish(&event, &about.object_ref(&())).await.unwrap();
    let found = Api::<ClusterEvent>::namespaced(client.clone(), NAMESPACE)
        .list(&ListParams::default().fields("reason=Tested"))
        .await
        .unwrap();
    let [found] = found.items.as_slice() else { panic!("one event: {found:?}") };
    assert_eq!(found.series.as_ref().map(|series| series.count), Some(2));
    // The same event, seen through the core group.
    let core = Api::<k8s_openapi::api::core::v1::Event>::namespaced(client.clone(), NAMESPACE);
    let seen = core.get(&found.name_any()).await.unwrap();
    assert_eq!(seen.message.as_deref(), Some("seen by a test"));
    assert_eq!(seen.involved_object.uid, about.uid());
    assert_eq!(seen.reporting_component.as_deref(), Some("kube-rs-test"));
}

/// Takes the lease when it is free or has run out: what every leader election does.
async fn acquire(leases: &Api<Lease>, who: &str, now: Timestamp) -> bool {
    let mut lease = match leases.get_opt("leader").await.unwrap() {
        Some(lease) => lease,
        None => named("leader"),
    };
    let spec = lease.spec.take().unwrap_or_default();
    let until = spec
        .renew_time
        .as_ref()
        .map(|t| t.0.as_second() + i64::from(spec.lease_duration_seconds.unwrap_or(0)));
    let held_by_other =
        spec.holder_identity.as_deref().is_some_and(|holder| holder != who && !holder.is_empty());
    if held_by_other && until.is_some_and(|until| until > now.as_second()) {
        return false;
    }
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(who.to_owned()),
        lease_duration_seconds: Some(15),
        renew_time: Some(MicroTime(now)),
        acquire_time: spec.acquire_time.or(Some(MicroTime(now))),
        lease_transitions: Some(spec.lease_transitions.unwrap_or(0) + i32::from(held_by_other)),
        ..spec
    });
    let written = match lease.metadata.resource_version {
        Some(_) => leases.replace("leader", &PostParams::default(), &lease).await,
        None => leases.create(&PostParams::default(), &lease).await,
    };
    match written {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(code(&error), 409);
            false
        }
    }
}

async fn leader_election(client: &Client) {
    let leases = Api::<Lease>::namespaced(client.clone(), NAMESPACE);
    let now = Timestamp::now();
    let candidates: Vec<String> = (0..8).map(|index| format!("candidate-{index}")).collect();
    let race = candidates.iter().map(|who| acquire(&leases, who, now));
    let won = futures::future::join_all(race).await;
    assert_eq!(won.iter().filter(|won| **won).count(), 1, "{won:?}");
    let leader = &candidates[won.iter().position(|won| *won).unwrap()];
    let other = candidates.iter().find(|who| *who != leader).unwrap();
    assert!(acquire(&leases, leader, now).await, "the leader renews");
    assert!(!acquire(&leases, other, now).await, "held");
    assert!(acquire(&leases, other, now + k8s_openapi::jiff::SignedDuration::from_secs(16)).await, "run out");
    let lease = leases.get("leader").await.unwrap().spec.unwrap();
    assert_eq!((lease.holder_identity.as_ref(), lease.lease_transitions), (Some(other), Some(1)));
}

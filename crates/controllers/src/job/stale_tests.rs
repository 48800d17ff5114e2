//! The controller while its caches are behind what it and others wrote.

use amphipod_client::{ListParams, Patch};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::*;
use crate::testing::{World, eventually};
use crate::{meta, pods};

const JOB: &str = "ns/j";

/// A controller that knows the job.
async fn start(world: &World, spec: Value) -> JobController {
    let controller = JobController::new(world.scope());
    assert!(controller.synced().await);
    controller.watch(&WorkQueue::new());
    let template =
        json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "agnhost:2"}]}});
    let mut spec = spec;
    spec["template"] = template;
    world.create::<Job>("ns", json!({"metadata": {"name": "j"}, "spec": spec})).await;
    eventually("the job is known", async || controller.jobs.get(JOB)).await;
    controller
}

/// The pods once the cache shows so many, each as wanted.
async fn known(
    controller: &JobController,
    count: usize,
    is: impl Fn(&CachedPod) -> bool,
) -> Vec<Arc<CachedPod>> {
    let shown = async || {
        let pods = controller.pods.list();
        (pods.len() == count && pods.iter().all(|pod| is(pod))).then_some(pods)
    };
    eventually("the pods are known", shown).await
}

/// Ends the pods the cache shows, and waits until it shows that.
async fn succeed(world: &World, controller: &JobController, count: usize) {
    let ended = Patch::Merge(json!({"status": {"phase": "Succeeded"}}));
    for pod in known(controller, count, |_| true).await {
        world.api::<Pod>("ns").patch_status(pod.name(), &ended).await.unwrap();
    }
    known(controller, count, |pod| pods::phase(pod) == "Succeeded").await;
}

async fn until_job(controller: &JobController, fits: impl Fn(&JobStatus) -> bool) {
    let shown = async || controller.jobs.get(JOB).filter(|job| job.status.as_ref().is_some_and(&fits));
    eventually("the status is known", shown).await;
}

async fn indexes(world: &World) -> Vec<String> {
    let pods = world.api::<Pod>("ns").list(&ListParams::default()).await.unwrap().1;
    let index = |pod: &Pod| meta::annotation(&pod.metadata, view::INDEX).unwrap().to_owned();
    let mut indexes: Vec<String> = pods.iter().map(index).collect();
    indexes.sort();
    indexes
}

#[tokio::test]
async fn no_index_is_run_twice() {
    let world = World::with_namespace("ns").await;
    let indexed = json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2});
    let controller = start(&world, indexed).await;
    controller.sync(JOB).await.unwrap();
    until_job(&controller, |status| status.active == Some(2)).await;
    succeed(&world, &controller, 2).await;
    world.hold("jobs?watch");
    controller.sync(JOB).await.unwrap();
    let job = world.api::<Job>("ns").get("j").await.unwrap();
    assert_eq!(job.status.unwrap().completed_indexes.as_deref(), Some("0,1"));
    known(&controller, 2, |pod| !view::is_tracked(pod)).await;
    controller.sync(JOB).await.unwrap();
    assert_eq!(indexes(&world).await, ["0", "1"], "the job as it was would have them run again");
    world.pass("jobs?watch");
    until_job(&controller, |status| status.completion_time.is_some()).await;
    controller.sync(JOB).await.unwrap();
    assert_eq!(indexes(&world).await, ["0", "1"]);
}

#[tokio::test]
async fn an_end_whose_news_come_in_the_midst_of_a_sync_is_counted_once() {
    let world = World::with_namespace("ns").await;
    let controller = start(&world, json!({"completions": 5, "parallelism": 1})).await;
    controller.sync(JOB).await.unwrap();
    until_job(&controller, |status| status.active == Some(1)).await;
    succeed(&world, &controller, 1).await;
    let mut lone = lone();
    let uid = controller.jobs.get(JOB).unwrap().uid().to_owned();
    lone["metadata"]["labels"] = json!({"batch.kubernetes.io/controller-uid": uid});
    world.create::<Pod>("ns", lone).await;
    known(&controller, 2, |_| true).await;
    world.hold("pods?watch");
    controller.sync(JOB).await.unwrap();
    until_job(&controller, |status| status.succeeded == Some(1)).await;
    // By its cache the controller has a pod to adopt, before which it asks for the job.
    world.hold("jobs/j");
    let midst = async {
        world.pass("pods?watch");
        let let_go = async || controller.pods.list().into_iter().find(|pod| !view::is_tracked(pod));
        eventually("the pod that ended is let go", let_go).await;
        world.pass("jobs/j");
    };
    let (synced, ()) = tokio::join!(controller.sync(JOB), midst);
    synced.unwrap();
    let status = world.api::<Job>("ns").get("j").await.unwrap().status.unwrap();
    assert_eq!((status.succeeded, status.uncounted_terminated_pods), (Some(1), Some(Default::default())));
}

fn lone() -> Value {
    json!({"metadata": {"name": "lone", "finalizers": [view::FINALIZER]},
        "spec": {"containers": [{"name": "c", "image": "agnhost:2"}]}})
}

#[tokio::test]
async fn an_adopted_pod_keeps_its_finalizer() {
    let world = World::with_namespace("ns").await;
    let controller = start(&world, json!({})).await;
    world.create::<Pod>("ns", lone()).await;
    known(&controller, 1, |_| true).await;
    world.hold("pods?watch");
    let owner = meta::controller_reference(controller.jobs.get(JOB).unwrap().as_ref());
    let pods = world.api::<Pod>("ns");
    let mut adopted = pods.get("lone").await.unwrap();
    adopted.metadata.owner_references = Some(vec![owner]);
    pods.update(&adopted).await.unwrap();
    let orphans = orphans::Orphans::new(&world.scope(), controller.jobs.clone(), controller.pods.clone());
    orphans.sync("ns/lone").await.expect_err("it is not as the cache says");
    let is_tracked = async || view::is_tracked(&pods.get("lone").await.unwrap().into());
    assert!(is_tracked().await);
    world.pass("pods?watch");
    known(&controller, 1, |pod| meta::controller_of(&pod.metadata).is_some()).await;
    orphans.sync("ns/lone").await.unwrap();
    assert!(is_tracked().await);
}

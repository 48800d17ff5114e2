//! sig-apps: jobs that adopt, count by index, and forgive.

use amphipod_client::{DeleteParams, ListParams, Patch, Resource};
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::cluster::{self, Cluster, eventually};
use crate::template;

const NAMESPACE: &str = "jobs";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";

async fn start() -> Cluster {
    let cluster = cluster::start().await;
    cluster.namespace(NAMESPACE).await;
    cluster
}

/// A job called `x` with what `extra` adds to its spec; `fates` are labels of its pods.
fn job(parallelism: i32, completions: i32, fates: &Value, extra: &Value) -> Value {
    let mut template = template("x");
    template["spec"]["restartPolicy"] = "Never".into();
    let labels = template["metadata"]["labels"].as_object_mut().unwrap();
    labels.extend(fates.as_object().unwrap().clone());
    let mut spec = json!({"parallelism": parallelism, "completions": completions, "template": template});
    spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": spec})
}

fn reason(job: &Job, condition: &str) -> Option<String> {
    let conditions = job.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.filter(|c| c.type_ == condition && c.status == "True").find_map(|c| c.reason.clone())
}

/// Waits for the condition and gives the status that comes with it.
async fn ends(cluster: &Cluster, condition: &str, why: &str) -> JobStatus {
    let job = cluster.until::<Job>(condition, NAMESPACE, "x", |job| reason(job, condition).is_some()).await;
    assert_eq!(reason(&job, condition).as_deref(), Some(why));
    job.status.unwrap()
}

async fn pods(cluster: &Cluster) -> Vec<Pod> {
    cluster.api::<Pod>(NAMESPACE).list(&ListParams::default()).await.unwrap().1
}
fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("")
}

/// The pods of the job that run, once there are so many.
async fn running(cluster: &Cluster, count: usize) -> Vec<Pod> {
    eventually(&format!("{count} running"), || async {
        let found: Vec<Pod> = pods(cluster)
            .await
            .into_iter()
            .filter(|p| phase(p) == "Running" && !p.is_terminating())
            .collect();
        (found.len() == count).then_some(found)
    })
    .await
}

/// [sig-apps] Job should adopt matching orphans and release non-matching pods [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn jobs_adopt_and_release() {
    let cluster = start().await;
    let job = cluster.create::<Job>(NAMESPACE, job(2, 4, &json!({}), &json!({}))).await;
    let name = running(&cluster, 2).await.remove(0).name().to_owned();
    let owner = |pod: &Pod| {
        let owners = pod.metadata.owner_references.iter().flatten();
        owners.filter(|o| o.controller == Some(true)).map(|o| o.uid.clone()).next()
    };
    let api = cluster.api::<Pod>(NAMESPACE);
    api.patch(&name, &Patch::Merge(json!({"metadata": {"ownerReferences": null}}))).await.unwrap();
    let adopted = |pod: &Pod| owner(pod).as_deref() == Some(job.uid());
    cluster.until::<Pod>("adopted", NAMESPACE, &name, adopted).await;
    api.patch(&name, &Patch::Merge(json!({"metadata": {"labels": null}}))).await.unwrap();
    cluster.until::<Pod>("released", NAMESPACE, &name, |pod| owner(pod).is_none()).await;
}

/// [sig-apps] Job should create pods for an Indexed job with completion indexes and specified hostname [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn indexed_jobs() {
    let cluster = start().await;
    let indexed = job(2, 4, &json!({"fate": "succeed"}), &json!({"completionMode": "Indexed"}));
    cluster.create::<Job>(NAMESPACE, indexed).await;
    let status = ends(&cluster, "Complete", "CompletionsReached").await;
    assert_eq!(status.succeeded, Some(4));
    let mut indexes: Vec<String> = Vec::new();
    for pod in pods(&cluster).await {
        assert_eq!(phase(&pod), "Succeeded");
        let index = pod.metadata.annotations.as_ref().unwrap()[INDEX].clone();
        assert_eq!(pod.spec.as_ref().unwrap().hostname, Some(format!("x-{index}")));
        indexes.push(index);
    }
    indexes.sort();
    assert_eq!(indexes, ["0", "1", "2", "3"]);
}

/// [sig-apps] Job should allow to use a pod failure policy to ignore failure matching on DisruptionTarget condition [Conformance]
#[tokio::test(flavor = "multi_thread")]
async fn a_disruption_is_no_failure() {
    let cluster = start().await;
    let policy = json!({"rules": [{"action": "Ignore",
        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]});
    let extra = json!({"backoffLimit": 0, "podFailurePolicy": policy});
    cluster.create::<Job>(NAMESPACE, job(1, 3, &json!({}), &extra)).await;
    let first = running(&cluster, 1).await.remove(0);
    let api = cluster.api::<Pod>(NAMESPACE);
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": first.name(), "namespace": NAMESPACE}});
    api.create_subresource(first.name(), "eviction", &eviction).await.unwrap();
    cluster.until_gone::<Pod>(NAMESPACE, first.name()).await;
    // The others do their work.
    for _ in 0..3 {
        let next = running(&cluster, 1).await.remove(0);
        let done = Patch::Merge(json!({"status": {"phase": "Succeeded"}}));
        api.patch_status(next.name(), &done).await.unwrap();
    }
    let status = ends(&cluster, "Complete", "CompletionsReached").await;
    assert_eq!((status.succeeded, status.failed.unwrap_or(0)), (Some(3), 0));
    let background = DeleteParams { propagation: Some("Background"), ..DeleteParams::default() };
    cluster.api::<Job>(NAMESPACE).delete("x", &background).await.unwrap();
    cluster.until_gone::<Job>(NAMESPACE, "x").await;
}

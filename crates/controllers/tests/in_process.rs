//! The controllers against the real API server, in this process.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod cluster;

use amphipod_client::{DeleteParams, ListParams, Patch, Resource};
use cluster::eventually;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Event, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod,
    ReplicationController, ResourceQuota, Secret, Service,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::{Value, json};

fn template(labels: Value, image: &str) -> Value {
    json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn deployment(replicas: i32) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "demo"}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": "demo"}},
        "template": template(json!({"app": "demo"}), "demo:1")}})
}

fn available(wanted: i32) -> impl Fn(&Deployment) -> bool {
    move |d| {
        let Some(s) = &d.status else { return false };
        let all = [s.replicas, s.updated_replicas, s.available_replicas];
        all == [Some(wanted); 3] && s.observed_generation == d.metadata.generation
    }
}

fn progress(d: &Deployment) -> String {
    let conditions = d.status.clone().and_then(|s| s.conditions).unwrap_or_default();
    conditions.into_iter().find(|c| c.type_ == "Progressing").and_then(|c| c.reason).unwrap_or_default()
}

/// One of each row, but for those that have none (dead pods' collector) or two (jobs, the garbage collector).
const QUEUES: usize = 25;

#[tokio::test(flavor = "multi_thread")]
async fn what_the_controllers_do_is_shown_with_the_servers_series() {
    let cluster = cluster::start().await;
    cluster.namespace("seen").await;
    cluster.create::<Deployment>("seen", deployment(1)).await;
    cluster.until("rollout", "seen", "demo", available(1)).await;
    eventually("series of all queues", || async {
        let request = http::Request::builder().uri("/metrics").body(Vec::new()).unwrap();
        let text = String::from_utf8(cluster.client.request(request).await.unwrap().into()).unwrap();
        let queues = text.lines().filter(|line| line.starts_with("workqueue_depth{")).count();
        let seen = [
            "workqueue_work_duration_seconds_count{name=\"deployment\"} ",
            "workqueue_adds_total{name=\"replicaset\"} ",
            "rest_client_requests_total{code=\"201\",method=\"POST\",host=\"in-process\"} ",
        ];
        let at_work = |series: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(series));
            value.is_some_and(|value| value.parse::<u64>().unwrap() > 0)
        };
        (queues == QUEUES && seen.into_iter().all(at_work)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_rolls_out_scales_and_shows_in_endpoints() {
    let cluster = cluster::start().await;
    cluster.namespace("roll").await;
    cluster
        .create::<Service>(
            "roll",
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "demo"},
            "spec": {"selector": {"app": "demo"}, "ports": [{"port": 80, "targetPort": 8080}]}}),
        )
        .await;
    cluster.create::<Deployment>("roll", deployment(3)).await;
    let d = cluster.until("rollout", "roll", "demo", available(3)).await;
    assert_eq!(progress(&d), "NewReplicaSetAvailable");
    let revision = |d: &Deployment| {
        d.metadata.annotations.as_ref().and_then(|a| a.get("deployment.kubernetes.io/revision")).cloned()
    };
    assert_eq!(revision(&d).as_deref(), Some("1"));

    let slices = cluster.api::<EndpointSlice>("roll");
    let of_service = ListParams {
        label_selector: Some("kubernetes.io/service-name=demo".into()),
        ..ListParams::default()
    };
    eventually("three endpoints", || async {
        let (_, slices) = slices.list(&of_service).await.unwrap();
        let ready = slices
            .iter()
            .flat_map(|s| &s.endpoints)
            .filter(|e| e.conditions.as_ref().is_some_and(|c| c.ready == Some(true)));
        (ready.count() == 3).then_some(())
    })
    .await;
    cluster
        .until::<Endpoints>("endpoints", "roll", "demo", |e| {
            e.subsets.as_ref().is_some_and(|s| s[0].addresses.as_ref().is_some_and(|a| a.len() == 3))
        })
        .await;

    let api = cluster.api::<Deployment>("roll");
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "demo:2"}]}}}});
    let changed = api.patch("demo", &Patch::Strategic(image)).await.unwrap();
    let generation = changed.metadata.generation;
    let d = cluster
        .until("second rollout", "roll", "demo", |d| {
            available(3)(d) && d.metadata.generation == generation && progress(d) == "NewReplicaSetAvailable"
        })
        .await;
    assert_eq!(revision(&d).as_deref(), Some("2"));
    api.patch("demo", &Patch::Merge(json!({"spec": {"replicas": 5}}))).await.unwrap();
    cluster.until("scaled", "roll", "demo", available(5)).await;
    let (_, sets) = cluster.api::<ReplicaSet>("roll").list(&ListParams::default()).await.unwrap();
    let mut sizes: Vec<_> = sets.iter().map(|rs| rs.spec.as_ref().unwrap().replicas.unwrap()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [0, 5]);
    for text in ["from 0 to 3", "Created pod: demo-"] {
        eventually(text, || async {
            let (_, events) = cluster.api::<Event>("roll").list(&ListParams::default()).await.unwrap();
            events.iter().any(|e| e.message.as_deref().unwrap_or("").contains(text)).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_written_by_hand_are_mirrored() {
    let cluster = cluster::start().await;
    cluster.namespace("roll").await;
    let slices = cluster.api::<EndpointSlice>("roll");
    let by_hand = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "db"}, "spec": {"ports": [{"port": 1}]}});
    cluster.create::<Service>("roll", by_hand).await;
    let subsets = json!([{"addresses": [{"ip": "192.0.2.9"}], "ports": [{"port": 1}]}]);
    let by_hand =
        json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "db"}, "subsets": subsets});
    cluster.create::<Endpoints>("roll", by_hand).await;
    let mirrored =
        ListParams { label_selector: Some("kubernetes.io/service-name=db".into()), ..ListParams::default() };
    eventually("mirrored", || async {
        let (_, slices) = slices.list(&mirrored).await.unwrap();
        slices.first().filter(|s| s.endpoints[0].addresses == ["192.0.2.9"]).map(|_| ())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_sets_mend_adopt_and_release() {
    let cluster = cluster::start().await;
    cluster.namespace("rs").await;
    let lone = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "lone", "labels": {"app": "x"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    cluster.create::<Pod>("rs", lone).await;
    // Once it runs the caches know it, and the set counts it in.
    let running = |pod: &Pod| pod.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Running"));
    let lone = cluster.until::<Pod>("running", "rs", "lone", running).await;
    let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "x"}, "spec": {
        "replicas": 2, "selector": {"matchLabels": {"app": "x"}}, "template": template(json!({"app": "x"}), "i")}});
    let set = cluster.create::<ReplicaSet>("rs", set).await;
    let owned_by = |pod: &Pod| {
        pod.metadata.owner_references.as_ref().is_some_and(|o| o.iter().any(|o| o.uid == set.uid()))
    };
    cluster.until::<Pod>("adopted", "rs", lone.name(), owned_by).await;
    let ready =
        |rs: &ReplicaSet| rs.status.as_ref().is_some_and(|s| s.ready_replicas == Some(2) && s.replicas == 2);
    cluster.until::<ReplicaSet>("two ready", "rs", "x", ready).await;

    let pods = cluster.api::<Pod>("rs");
    let relabel = Patch::Merge(json!({"metadata": {"labels": {"app": "y"}}}));
    pods.patch("lone", &relabel).await.unwrap();
    cluster.until::<Pod>("released", "rs", "lone", |pod| !owned_by(pod)).await;
    eventually("replaced", || async {
        let (_, all) = pods.list(&ListParams::default()).await.unwrap();
        (all.iter().filter(|p| owned_by(p)).count() == 2).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_goes_with_all_it_holds() {
    let cluster = cluster::start().await;
    cluster.namespace("doomed").await;
    cluster.create::<Deployment>("doomed", deployment(4)).await;
    cluster.until("rollout", "doomed", "demo", available(4)).await;
    cluster
        .create::<Secret>("doomed", json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}))
        .await;
    cluster
        .until::<ConfigMap>("root CA", "doomed", "kube-root-ca.crt", |map| {
            map.data.as_ref().is_some_and(|d| d["ca.crt"].starts_with("-----BEGIN"))
        })
        .await;
    let namespaces = cluster.api::<Namespace>("");
    namespaces.delete("doomed", &DeleteParams::default()).await.unwrap();
    cluster.until_gone::<Namespace>("", "doomed").await;
    cluster.namespace("doomed").await;
    let (_, pods) = cluster.api::<Pod>("doomed").list(&ListParams::default()).await.unwrap();
    assert!(pods.is_empty());
}

fn map(name: &str, owner: Option<&ConfigMap>) -> Value {
    let mut map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    if let Some(owner) = owner {
        map["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "ConfigMap",
            "name": owner.name(), "uid": owner.uid(), "blockOwnerDeletion": true}]);
    }
    map
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_collected_as_asked() {
    let cluster = cluster::start().await;
    cluster.namespace("gc").await;
    let maps = cluster.api::<ConfigMap>("gc");
    for policy in ["Background", "Foreground", "Orphan"] {
        let owner = cluster.create::<ConfigMap>("gc", map("owner", None)).await;
        let child = cluster.create::<ConfigMap>("gc", map("child", Some(&owner))).await;
        cluster.create::<ConfigMap>("gc", map("grandchild", Some(&child))).await;
        let params = DeleteParams { propagation: Some(policy), ..DeleteParams::default() };
        maps.delete("owner", &params).await.unwrap();
        cluster.until_gone::<ConfigMap>("gc", "owner").await;
        if policy == "Orphan" {
            let child = maps.get("child").await.unwrap();
            assert!(child.metadata.owner_references.unwrap_or_default().is_empty());
            maps.get("grandchild").await.unwrap();
            continue;
        }
        if policy == "Foreground" {
            assert!(maps.get_opt("child").await.unwrap().is_none());
        }
        cluster.until_gone::<ConfigMap>("gc", "child").await;
        cluster.until_gone::<ConfigMap>("gc", "grandchild").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dependent_with_a_solid_owner_only_loses_the_reference() {
    let cluster = cluster::start().await;
    cluster.namespace("gc").await;
    let (a, b) = (
        cluster.create::<ConfigMap>("gc", map("a", None)).await,
        cluster.create::<ConfigMap>("gc", map("b", None)).await,
    );
    let mut shared = map("shared", Some(&a));
    let second = map("x", Some(&b))["metadata"]["ownerReferences"][0].clone();
    shared["metadata"]["ownerReferences"].as_array_mut().unwrap().push(second);
    cluster.create::<ConfigMap>("gc", shared).await;
    // An owner that never was: the uid of another life.
    let mut lost = map("lost", Some(&a));
    lost["metadata"]["ownerReferences"][0]["uid"] = "11111111-2222-3333-4444-555555555555".into();
    cluster.create::<ConfigMap>("gc", lost).await;
    let params = DeleteParams { propagation: Some("Foreground"), ..DeleteParams::default() };
    cluster.api::<ConfigMap>("gc").delete("a", &params).await.unwrap();
    cluster.until_gone::<ConfigMap>("gc", "a").await;
    cluster.until_gone::<ConfigMap>("gc", "lost").await;
    cluster
        .until::<ConfigMap>("one owner left", "gc", "shared", |map| {
            map.metadata.owner_references.as_ref().is_some_and(|o| o.len() == 1 && o[0].uid == b.uid())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_count_their_pods_and_end() {
    let cluster = cluster::start().await;
    cluster.namespace("jobs").await;
    let job = |name: &str, fate: &str, extra: Value| {
        let mut pod = template(json!({"fate": fate}), "i");
        pod["spec"]["restartPolicy"] = "Never".into();
        let mut job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
            "spec": {"template": pod}});
        for (key, value) in extra.as_object().unwrap() {
            job["spec"][key] = value.clone();
        }
        job
    };
    let indexed = json!({"completions": 3, "parallelism": 2, "completionMode": "Indexed"});
    cluster.create::<Job>("jobs", job("good", "succeed", indexed)).await;
    cluster.create::<Job>("jobs", job("bad", "fail", json!({"backoffLimit": 0}))).await;
    cluster.create::<Job>("jobs", job("brief", "succeed", json!({"ttlSecondsAfterFinished": 0}))).await;
    let ended = |kind: &'static str| {
        move |job: &Job| {
            let conditions = job.status.clone().and_then(|s| s.conditions).unwrap_or_default();
            conditions.iter().any(|c| c.type_ == kind && c.status == "True")
        }
    };
    let good = cluster.until::<Job>("complete", "jobs", "good", ended("Complete")).await.status.unwrap();
    assert_eq!((good.succeeded, good.completed_indexes.as_deref()), (Some(3), Some("0-2")));
    assert_eq!((good.ready, good.terminating, good.active), (Some(0), Some(0), None));
    let bad = cluster.until::<Job>("failed", "jobs", "bad", ended("Failed")).await.status.unwrap();
    assert_eq!(bad.failed, Some(1));
    let types: Vec<_> = bad.conditions.unwrap().into_iter().map(|c| c.type_).collect();
    assert_eq!(types, ["FailureTarget", "Failed"]);
    cluster.until_gone::<Job>("jobs", "brief").await;
    let (_, pods) = cluster.api::<Pod>("jobs").list(&ListParams::default()).await.unwrap();
    assert!(pods.iter().all(|p| p.metadata.finalizers.is_none()), "{pods:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stateful_and_daemon_sets_have_their_pods() {
    let cluster = cluster::start().await;
    cluster.namespace("sets").await;
    for node in ["n1", "n2"] {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        cluster.create::<Node>("", node).await;
    }
    let set = |kind: &str, name: &str, extra: Value| {
        let mut set = json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": {
            "selector": {"matchLabels": {"app": name}}, "template": template(json!({"app": name}), "i")}});
        for (key, value) in extra.as_object().unwrap() {
            set["spec"][key] = value.clone();
        }
        set
    };
    let stateful = set("StatefulSet", "web", json!({"serviceName": "web", "replicas": 3}));
    cluster.create::<StatefulSet>("sets", stateful).await;
    cluster.create::<DaemonSet>("sets", set("DaemonSet", "agent", json!({}))).await;
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    cluster.create::<PodDisruptionBudget>("sets", budget).await;
    let web = |s: &StatefulSet| {
        s.status
            .as_ref()
            .is_some_and(|s| s.ready_replicas == Some(3) && s.current_revision == s.update_revision)
    };
    cluster.until::<StatefulSet>("stateful set", "sets", "web", web).await;
    let agent = |s: &DaemonSet| s.status.as_ref().is_some_and(|s| s.number_ready == 2);
    cluster.until::<DaemonSet>("daemon set", "sets", "agent", agent).await;
    let allowed = |b: &PodDisruptionBudget| {
        b.status.as_ref().is_some_and(|s| s.disruptions_allowed == 1 && s.expected_pods == 3)
    };
    cluster.until::<PodDisruptionBudget>("budget", "sets", "web", allowed).await;
    let pod = cluster.api::<Pod>("sets").get("web-2").await.unwrap();
    assert_eq!(pod.spec.unwrap().hostname.as_deref(), Some("web-2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_node_is_tainted_and_loses_its_pods() {
    let mut config = amphipod_controllers::Config::new("");
    config.node_grace = std::time::Duration::from_secs(2);
    let cluster = cluster::start_with(config).await;
    cluster.namespace("nodes").await;
    for name in ["alive", "silent"] {
        let status = json!({"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]});
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": status});
        cluster.create::<Node>("", node).await;
    }
    let pod = |name: &str, patient: bool| {
        let seconds = if patient { json!(3600) } else { json!(0) };
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
            "nodeName": "silent", "containers": [{"name": "c", "image": "i"}],
            "tolerations": [{"key": "node.kubernetes.io/unreachable", "operator": "Exists",
                "effect": "NoExecute", "tolerationSeconds": seconds}]}})
    };
    cluster.create::<Pod>("nodes", pod("patient", true)).await;
    cluster.create::<Pod>("nodes", pod("hasty", false)).await;
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "alive"}, "spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}});
    cluster.create::<Lease>("kube-node-lease", lease).await;
    let (leases, nodes) = (cluster.api::<Lease>("kube-node-lease"), cluster.api::<Node>(""));
    let heart = tokio::spawn(async move {
        let mut beat = tokio::time::interval(std::time::Duration::from_millis(300));
        for number in 1.. {
            beat.tick().await;
            let time = format!("2026-01-01T00:{:02}:{:02}.000000Z", number / 60 % 60, number % 60);
            let _ = leases.patch("alive", &Patch::Merge(json!({"spec": {"renewTime": time}}))).await;
            // As a kubelet does that was not heard for a while because the machine is busy.
            let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
            let _ = nodes.patch_status("alive", &Patch::Strategic(ready)).await;
        }
    });
    cluster.until_gone::<Pod>("nodes", "hasty").await;
    let node = cluster.api::<Node>("").get("silent").await.unwrap();
    let taints = node.spec.unwrap().taints.unwrap();
    let mut taints: Vec<_> = taints.iter().map(|t| (t.key.as_str(), t.effect.as_str())).collect();
    taints.sort_unstable();
    let key = "node.kubernetes.io/unreachable";
    assert_eq!(taints, [(key, "NoExecute"), (key, "NoSchedule")]);
    let ready = node.status.unwrap().conditions.unwrap().into_iter().find(|c| c.type_ == "Ready").unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("Unknown", Some("NodeStatusUnknown")));
    let unready = |pod: &Pod| {
        let conditions = pod.status.clone().and_then(|s| s.conditions).unwrap_or_default();
        conditions.iter().any(|c| c.type_ == "Ready" && c.status == "False")
    };
    cluster.until::<Pod>("the other told unready", "nodes", "patient", unready).await;
    let untainted =
        |node: &Node| node.spec.as_ref().is_none_or(|s| s.taints.as_ref().is_none_or(Vec::is_empty));
    cluster.until::<Node>("the one that is heard is not tainted", "", "alive", untainted).await;
    heart.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn replication_controllers_and_quotas_keep_count() {
    let cluster = cluster::start().await;
    cluster.namespace("rc").await;
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"},
        "spec": {"hard": {"pods": "9", "services": "1", "count/replicationcontrollers": "5"}}});
    cluster.create::<ResourceQuota>("rc", quota).await;
    let rc = json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "old"}, "spec": {
        "replicas": 2, "selector": {"app": "old"}, "template": template(json!({"app": "old"}), "i")}});
    cluster.create::<ReplicationController>("rc", rc).await;
    let ready = |rc: &ReplicationController| {
        rc.status.as_ref().is_some_and(|s| s.replicas == 2 && s.available_replicas == Some(2))
    };
    cluster.until::<ReplicationController>("two", "rc", "old", ready).await;
    let counted = |quota: &ResourceQuota| {
        let used = quota.status.clone().and_then(|s| s.used).unwrap_or_default();
        let used: Vec<_> = used.iter().map(|(name, n)| format!("{name}={}", n.0)).collect();
        used == ["count/replicationcontrollers=1", "pods=2", "services=0"]
    };
    cluster.until::<ResourceQuota>("counted", "rc", "q", counted).await;
    let orphan = DeleteParams { propagation: Some("Orphan"), ..DeleteParams::default() };
    cluster.api::<ReplicationController>("rc").delete("old", &orphan).await.unwrap();
    cluster.until_gone::<ReplicationController>("rc", "old").await;
    let (_, pods) = cluster.api::<Pod>("rc").list(&ListParams::default()).await.unwrap();
    assert_eq!(pods.len(), 2);
    assert!(pods.iter().all(|p| p.metadata.owner_references.is_none()), "{pods:#?}");
}

#[tokio::test]
async fn a_service_range_stays_while_services_need_it() {
    let cluster = cluster::start().await;
    let ranges = cluster.api::<ServiceCIDR>("");
    let more = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "more"},
        "spec": {"cidrs": ["10.200.0.0/24"]}});
    cluster.create::<ServiceCIDR>("", more).await;
    let ready = async |status: &str| {
        eventually("the condition", || async {
            let range = ranges.get("more").await.unwrap();
            let conditions = range.status?.conditions?;
            conditions.into_iter().find(|c| c.type_ == "Ready" && c.status == status)
        })
        .await
    };
    assert_eq!(ready("True").await.message, "Kubernetes Service CIDR is ready");
    let range = ranges.get("more").await.unwrap();
    assert_eq!(range.metadata.finalizers.unwrap(), ["networking.k8s.io/service-cidr-finalizer"]);
    let named = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "in-more"},
        "spec": {"clusterIP": "10.200.0.7", "ports": [{"port": 80}]}});
    cluster.create::<Service>("default", named).await;
    cluster.api::<IPAddress>("").get("10.200.0.7").await.unwrap();

    ranges.delete("more", &DeleteParams::default()).await.unwrap();
    let held = ready("False").await;
    assert_eq!(
        (held.reason.as_str(), held.message.as_str()),
        (
            "Terminating",
            "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR"
        )
    );
    cluster.api::<Service>("default").delete("in-more", &DeleteParams::default()).await.unwrap();
    cluster.until_gone::<ServiceCIDR>("", "more").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_and_volumes_in_use_stay() {
    let cluster = cluster::start().await;
    cluster.namespace("data").await;
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let claim = cluster.create::<PersistentVolumeClaim>("data", claim).await;
    assert_eq!(claim.metadata.finalizers, Some(vec!["kubernetes.io/pvc-protection".to_owned()]));
    let user = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "user"}, "spec": {
        "nodeName": "somewhere", "containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}});
    cluster.create::<Pod>("data", user).await;
    let claims = cluster.api::<PersistentVolumeClaim>("data");
    claims.delete("c", &DeleteParams::default()).await.unwrap();
    // A second claim that nobody uses passes the first on its way out.
    let idle = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "idle"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    cluster.create::<PersistentVolumeClaim>("data", idle).await;
    claims.delete("idle", &DeleteParams::default()).await.unwrap();
    cluster.until_gone::<PersistentVolumeClaim>("data", "idle").await;
    assert!(claims.get("c").await.unwrap().is_terminating());
    cluster.api::<Pod>("data").delete("user", &DeleteParams::default()).await.unwrap();
    cluster.until_gone::<PersistentVolumeClaim>("data", "c").await;

    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/data"}}});
    cluster.create::<PersistentVolume>("", volume).await;
    let volumes = cluster.api::<PersistentVolume>("");
    let phase = |phase: &str| Patch::Merge(json!({"status": {"phase": phase}}));
    volumes.patch_status("v", &phase("Bound")).await.unwrap();
    volumes.delete("v", &DeleteParams::default()).await.unwrap();
    assert!(volumes.get("v").await.unwrap().is_terminating());
    volumes.patch_status("v", &phase("Released")).await.unwrap();
    cluster.until_gone::<PersistentVolume>("", "v").await;
}

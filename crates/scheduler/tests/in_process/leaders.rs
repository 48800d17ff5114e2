//! Two schedulers fight for the leadership while pods come and go; and schedulers that lead as their
//! configuration file says.

use std::sync::atomic::{AtomicUsize, Ordering};

use amphipod_client::leader;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tower::ServiceExt;

use super::books::Books;
use super::seam::Seam;
use super::*;

const ROUNDS: usize = 4;

/// Who leads: how many leaderships have begun, and how many go on.
#[derive(Clone, Copy, Default)]
struct Reigns {
    begun: usize,
    going_on: usize,
}

/// A scheduler that stands by for the leadership until cancelled.
async fn stand_by(client: Client, name: &str, reigns: watch::Sender<Reigns>, cancel: CancellationToken) {
    while !cancel.is_cancelled() {
        let lease = leader::Config {
            // Nothing but the test ends a leadership.
            lease_duration: Duration::from_secs(3600),
            renew_deadline: DEADLINE,
            retry_period: Duration::from_millis(10),
            ..leader::Config::new("kube-system", "kube-scheduler", name)
        };
        let (own, reigns) = (client.clone(), reigns.clone());
        let work = |working: CancellationToken| async move {
            reigns.send_modify(|reigns| {
                (reigns.begun, reigns.going_on) = (reigns.begun + 1, reigns.going_on + 1)
            });
            scheduler(own, Config::default(), Metrics::default(), working).await.unwrap();
            reigns.send_modify(|reigns| reigns.going_on -= 1);
        };
        leader::lead(client.clone(), lease, cancel.clone(), work).await.unwrap();
    }
}

async fn reach(reigns: &watch::Sender<Reigns>, is_so: impl FnMut(&Reigns) -> bool) {
    let mut watched = reigns.subscribe();
    tokio::time::timeout(DEADLINE, watched.wait_for(is_so)).await.unwrap().unwrap();
}

/// Writes another holder into the lease.
async fn hand_to(cluster: &Cluster, holder: &str) {
    let leases = cluster.api::<Lease>("kube-system");
    let patch = Patch::Merge(json!({"spec": {"holderIdentity": holder}}));
    leases.patch("kube-scheduler", &patch).await.unwrap();
}

/// Pods that matter more than those of the rounds before, but make nobody leave.
async fn newcomers(cluster: &Cluster, round: usize) {
    let class = format!("round-{round}");
    let priority = json!({"metadata": {"name": class}, "value": round, "preemptionPolicy": "Never"});
    cluster.create::<PriorityClass>("", priority).await;
    for index in 0..12 {
        cluster.pod(&format!("p{round}-{index}"), "250m", json!({"priorityClassName": class})).await;
    }
}

/// Some of those that have a node go.
async fn leavers(cluster: &Cluster) {
    let (_, pods) = cluster.api::<CachedPod>("ns").list(&ListParams::default()).await.unwrap();
    for pod in pods.iter().filter(|pod| pod.node_name.is_some()).step_by(2) {
        cluster.finish(pod.name()).await;
    }
}

#[tokio::test]
async fn two_that_fight_for_the_leadership_bind_nothing_twice_and_overfill_no_node() {
    let cluster = unscheduled().await;
    for index in 0..4 {
        cluster.node(&format!("n{index}")).await;
    }
    let books = Books::open(&cluster).await;
    let (reigns, _) = watch::channel(Reigns::default());
    // Of the bindings of all leaders but the last, every fourth does not get through in time.
    let mut seams = ["first", "second"].map(|name| {
        let (watched, cancel) = (reigns.subscribe(), cluster.cancel.clone());
        let late = move |number| number % 4 == 0 && watched.borrow().begun <= ROUNDS;
        let seam = Seam::holding(&cluster.server, late);
        tokio::spawn(stand_by(seam.client.clone(), name, reigns.clone(), cancel));
        seam
    });
    for round in 0..ROUNDS {
        let before = books.bound();
        let handed_on = async {
            if round > 0 {
                hand_to(&cluster, "").await;
            }
            let busy = || async { (books.bound() > before).then_some(()) };
            eventually("the leader binds", busy).await;
            hand_to(&cluster, "nobody of them").await;
            leavers(&cluster).await;
            reach(&reigns, |reigns| reigns.going_on == 0).await;
        };
        tokio::join!(newcomers(&cluster, round), handed_on);
    }
    hand_to(&cluster, "").await;
    let full = || async { (books.placed() >= 16).then_some(()) };
    eventually("all nodes are full", full).await;
    for seam in &mut seams {
        seam.open();
        seam.reached(0).await;
    }
    books.close(&cluster).await;
    assert_eq!(reigns.borrow().begun, ROUNDS + 1);
}

/// Long enough for a busy machine to renew it in time.
const BY_FILE: &str = "
leaderElection:
  leaseDuration: 6s
  renewDeadline: 5s
  retryPeriod: 100ms
  resourceName: standing-by
  resourceNamespace: ns";

/// A scheduler as `amphipod scheduler --config` runs it, with threads of its own.
struct ByFile {
    runtime: Option<Runtime>,
    cancel: CancellationToken,
    bindings: Arc<AtomicUsize>,
}

impl ByFile {
    fn start(cluster: &Cluster, identity: &str) -> Self {
        let config = configured(BY_FILE);
        let lease = config.leader_election.lease(identity).unwrap();
        let service = cluster.server.local_service(seam::scheduler_user());
        let bindings: Arc<AtomicUsize> = Arc::default();
        let counted = Arc::clone(&bindings);
        let client = Client::local(tower::service_fn(move |request: http::Request<_>| {
            counted.fetch_add(usize::from(seam::is_binding(&request)), Ordering::Relaxed);
            service.clone().oneshot(request)
        }));
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (cancel, metrics) = (cluster.cancel.child_token(), Metrics::default());
        let (own, stop) = (client.clone(), cancel.clone());
        runtime.spawn(leader::lead(client, lease, stop, |working| async move {
            scheduler(own, config, metrics, working).await.unwrap();
        }));
        ByFile { runtime: Some(runtime), cancel, bindings }
    }
    fn bindings(&self) -> usize {
        self.bindings.load(Ordering::Relaxed)
    }
}

/// Killed: nothing of it gets to say goodbye.
impl Drop for ByFile {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn leads(cluster: &Cluster, holder: &str) -> Lease {
    let leases = cluster.api::<Lease>("ns");
    let held = || async {
        let lease = leases.get_opt("standing-by").await.unwrap()?;
        (lease.spec.as_ref()?.holder_identity.as_deref() == Some(holder)).then_some(lease)
    };
    eventually(&format!("{holder} leads"), held).await
}

#[tokio::test]
async fn a_configuration_file_says_who_leads_and_another_takes_over() {
    let election = &configured("leaderElection: {leaderElect: false}").leader_election;
    assert!(election.lease("anybody").is_none());
    let cluster = unscheduled().await;
    cluster.node("n").await;
    // The scheduler's role speaks of its default lease only.
    let rules = json!([{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["*"]}]);
    cluster.create::<Role>("ns", json!({"metadata": {"name": "leases"}, "rules": rules})).await;
    let group = "rbac.authorization.k8s.io";
    let binding = json!({"metadata": {"name": "leases"},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": "leases"},
        "subjects": [{"apiGroup": group, "kind": "User", "name": "system:kube-scheduler"}]});
    cluster.create::<RoleBinding>("ns", binding).await;

    let first = ByFile::start(&cluster, "first");
    let lease = leads(&cluster, "first").await;
    assert_eq!(lease.spec.unwrap().lease_duration_seconds, Some(6));
    let second = ByFile::start(&cluster, "second");
    cluster.pod("a", "100m", json!({})).await;
    cluster.bound("a").await;
    assert_eq!((first.bindings(), second.bindings()), (1, 0));

    first.cancel.cancel();
    leads(&cluster, "second").await;
    cluster.pod("b", "100m", json!({})).await;
    cluster.bound("b").await;
    assert_eq!((first.bindings(), second.bindings()), (1, 1));

    let third = ByFile::start(&cluster, "third");
    drop(second);
    let lease = leads(&cluster, "third").await;
    assert_eq!(lease.spec.unwrap().lease_transitions, Some(2));
    cluster.pod("c", "100m", json!({})).await;
    cluster.bound("c").await;
    assert_eq!(third.bindings(), 1);
}

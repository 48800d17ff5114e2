//! Two schedulers fight for the leadership while pods come and go.

use amphipod_client::leader;
use k8s_openapi::api::coordination::v1::Lease;
use tokio::sync::watch;

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
            let informers = SharedInformers::new(own.clone(), working.clone());
            amphipod_scheduler::run(
                own,
                &informers,
                Config::default(),
                Metrics::default(),
                QueueView::default(),
                working,
            )
            .await
            .unwrap();
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

//! How a scheduler ends: soon, whatever the server does; what it has sent arrives before; nothing comes after.

use amphipod_client::Error;
use tokio::task::JoinHandle;

use super::seam::Seam;
use super::*;

/// A scheduler behind a seam, and the end of it.
fn schedule_behind(seam: &Seam, cancel: &CancellationToken) -> JoinHandle<Result<(), Error>> {
    tokio::spawn(scheduler(seam.client.clone(), Config::default(), Metrics::default(), cancel.clone()))
}

async fn ended(scheduler: JoinHandle<Result<(), Error>>) {
    tokio::time::timeout(DEADLINE, scheduler).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_server_that_does_not_answer_does_not_keep_the_scheduler_from_ending() {
    let cluster = unscheduled().await;
    cluster.node("n").await;
    let large = json!({"status": {"allocatable": {"pods": "200"}, "capacity": {"pods": "200"}}});
    cluster.api::<Node>("").patch_status("n", &Patch::Merge(large)).await.unwrap();
    let mut seam = Seam::new(&cluster.server);
    let scheduler = schedule_behind(&seam, &cluster.cancel);
    // As many as may be on their way at once, and some that wait for them.
    for index in 0..70 {
        cluster.pod(&format!("p{index}"), "1m", json!({})).await;
    }
    seam.reached(64).await;
    cluster.cancel.cancel();
    ended(scheduler).await;
}

#[tokio::test]
async fn a_binding_on_its_way_arrives_before_the_scheduler_has_ended() {
    let cluster = unscheduled().await;
    cluster.node("n").await;
    let mut seam = Seam::new(&cluster.server);
    let scheduler = schedule_behind(&seam, &cluster.cancel);
    cluster.pod("p", "1m", json!({})).await;
    seam.reached(1).await;
    cluster.cancel.cancel();
    seam.open();
    ended(scheduler).await;
    assert_eq!(cluster.get("p").await.unwrap().node_name.as_deref(), Some("n"));
}

#[tokio::test]
async fn a_binding_of_a_scheduler_that_has_ended_does_not_come_after_it() {
    let cluster = unscheduled().await;
    cluster.node("n").await;
    let mut seam = Seam::new(&cluster.server);
    let first = CancellationToken::new();
    let scheduler = schedule_behind(&seam, &first);
    cluster.pod("stale", "800m", json!({})).await;
    seam.reached(1).await;
    first.cancel();
    ended(scheduler).await;
    // The next one gives the room to what matters more.
    cluster.pod("important", "800m", json!({"priorityClassName": "high"})).await;
    cluster.schedule(Config::default());
    assert_eq!(cluster.bound("important").await, "n");
    seam.open();
    seam.reached(0).await;
    assert_eq!(cluster.get("stale").await.unwrap().node_name, None);
}

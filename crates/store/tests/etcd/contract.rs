//! The contract's test-suite: every check below a prefix of its own in one etcd.

use std::sync::atomic::{AtomicUsize, Ordering};

use amphipod_store::suite;

use crate::cluster::Cluster;

async fn keeps_the_contract(size: usize) {
    let Some(cluster) = Cluster::start(size, &[]).await else { return };
    let count = AtomicUsize::new(0);
    suite::run(|| async {
        let number = count.fetch_add(1, Ordering::Relaxed);
        cluster.store(&format!("/check-{number}")).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member() {
    keeps_the_contract(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members() {
    keeps_the_contract(3).await;
}

//! A scheduler killed between its decisions and their bindings, again and again, and the one after it.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;
use tower::ServiceExt;

use super::books::Books;
use super::*;

/// Bindings lost on the way there or back, of this generation, before the scheduler is killed.
const LOST: usize = 3;

/// A scheduler in a runtime of its own, as if in a process: with it all of it goes at once, whatever it
/// waits for. The server's side goes on.
struct Process {
    runtime: Runtime,
    lost: watch::Receiver<usize>,
    /// Bindings the server is at.
    open: watch::Receiver<usize>,
}

impl Process {
    fn start(cluster: &Cluster) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let service = cluster.server.local_service(seam::scheduler_user());
        let (losing, lost) = watch::channel(0);
        let (opening, open) = watch::channel(0);
        let (servers, count) = (Handle::current(), Arc::new(AtomicUsize::new(0)));
        // Of three bindings one does not reach the server, one is not answered, one is as it should be.
        let lossy = tower::service_fn(move |request: http::Request<_>| {
            let number = seam::is_binding(&request).then(|| count.fetch_add(1, Ordering::Relaxed) % 3);
            let (service, servers) = (service.clone(), servers.clone());
            let (losing, opening) = (losing.clone(), opening.clone());
            async move {
                if number == Some(0) {
                    losing.send_modify(|lost| *lost += 1);
                    return std::future::pending().await;
                }
                let binds = usize::from(number.is_some());
                opening.send_modify(|open| *open += binds);
                let served = servers.spawn(async move {
                    let answer = service.oneshot(request).await;
                    opening.send_modify(|open| *open -= binds);
                    answer
                });
                let answer = served.await.unwrap();
                if number == Some(1) {
                    losing.send_modify(|lost| *lost += 1);
                    return std::future::pending().await;
                }
                answer
            }
        });
        let client = Client::local(lossy);
        runtime.spawn(scheduler(client, Config::default(), Metrics::default(), CancellationToken::new()));
        Process { runtime, lost, open }
    }
    async fn kill(mut self) {
        let runtime = self.runtime;
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(DEADLINE)).await.unwrap();
        // Nobody leads before what was sent has come to something: leases are longer than requests.
        let quiet = self.open.wait_for(|open| *open == 0);
        tokio::time::timeout(DEADLINE, quiet).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_kill_between_decision_and_binding_binds_nothing_twice_and_overfills_no_node() {
    let cluster = unscheduled().await;
    for index in 0..5 {
        cluster.node(&format!("n{index}")).await;
    }
    let books = Books::open(&cluster).await;
    for generation in 0..4 {
        let mut process = Process::start(&cluster);
        for index in 0..8 {
            cluster.pod(&format!("p{generation}-{index}"), "200m", json!({})).await;
        }
        let lost = process.lost.wait_for(|lost| *lost >= LOST);
        tokio::time::timeout(DEADLINE, lost).await.unwrap().unwrap();
        process.kill().await;
    }
    // Of 32 there is room for 25.
    let metrics = cluster.schedule(Config::default());
    let settled = || async {
        let waiting = "scheduler_pending_pods{queue=\"unschedulable\"} 7";
        (books.placed() == 25 && metrics.render().lines().any(|line| line == waiting)).then_some(())
    };
    eventually("all are bound for which there is room", settled).await;
    books.close(&cluster).await;
}

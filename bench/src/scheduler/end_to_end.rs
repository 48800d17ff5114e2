//! The scheduler in a whole cluster: pods are created over TLS as fast as they are answered, and one
//! watch tells when each has a node; both writes are durable by then. The cluster is one of this
//! machine, started for each scenario, or any other.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};

use super::scenarios::{
    BACKLOG, CHURN, Churn, Make, Scenario, high_priority, node_name, pod_name, service, too_large,
};
use crate::api::NAMESPACE;
use crate::arrivals::{Arrivals, BOUND};
use crate::flood::Flood;
use crate::process::Usage;
use crate::report::{Report, percentile};
use crate::target::{Running, Target};
use crate::wire::{Call, Wire};
use crate::world::{World, mentions, until};
use crate::{Outcome, metrics};

/// As often as scheduler_perf's.
const MIXED_INTERVAL: Duration = Duration::from_secs(1);
const PREEMPTOR_INTERVAL: Duration = Duration::from_millis(200);
/// Pods must be bound at least at this rate, or the run is given up.
const SLOWEST_PODS_PER_SECOND: u64 = 20;
const PATIENCE: Duration = Duration::from_secs(60);

pub async fn measure(target: &Target, scenario: &Scenario, report: &mut Report) -> Outcome<()> {
    let running = target.start(&["--no-node"]).await?;
    let world = World { wire: running.wire.clone(), nodes: scenario.nodes, node: scenario.node };
    let outcome = async {
        world.clear().await?; // what an interrupted run has left
        world.build().await?;
        figures(&running, &world, scenario, report).await
    };
    let outcome = outcome.await;
    if target.is_given() {
        world.clear().await?;
    }
    running.stop().await?;
    outcome
}

async fn figures(
    running: &Running<'_>,
    world: &World,
    scenario: &Scenario,
    report: &mut Report,
) -> Outcome<()> {
    world.alive(fill(&world.wire, scenario)).await?;
    let name = format!("{}, end to end ({} nodes)", scenario.name, scenario.nodes);
    let pods = Pods::new(0, scenario.pods, scenario.pod);
    let before = metrics::read(&world.wire).await?;
    let placed = world.alive(async {
        let usage = Usage::start(&running.pids)?; // the first renewals are no part of it
        let placed = tokio::select! {
            placed = pods.place(&world.wire) => placed?,
            Err(error) = churn(world, scenario.churn) => return Err(error),
        };
        placed.report(report, &name);
        usage.report(report, &name)
    });
    placed.await?;
    if let Some((decisions, seconds)) = metrics::read(&world.wire).await?.since(&before) {
        report.add(&format!("{name}, decisions by the scheduler's metrics"), decisions, "");
        report.add(&format!("{name}, each"), seconds / decisions * 1e6, "us");
    }
    Ok(())
}

fn collection() -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/pods")
}

/// What is there before.
async fn fill(wire: &Wire, scenario: &Scenario) -> Outcome<()> {
    wire.drain(Call::post(&format!("/api/v1/namespaces/{NAMESPACE}/services"), &service())).await?;
    Pods::new(scenario.pods, scenario.filled, scenario.filling).place(wire).await?;
    Pods::new(BACKLOG, scenario.backlog, too_large).create(wire, |_| ()).await?;
    let path = format!("{}?resourceVersion=0&fieldSelector=spec.nodeName%3D", collection());
    let patience = PATIENCE + Duration::from_secs(scenario.backlog as u64 / SLOWEST_PODS_PER_SECOND);
    let tried = |list: &[u8]| mentions(list, r#""reason":"Unschedulable""#) >= scenario.backlog;
    until(wire, &path, patience, "not all of the backlog was tried", tried).await
}

/// Pods of successive numbers, as they are sent.
struct Pods {
    first: usize,
    bodies: Arc<Vec<Bytes>>,
}

impl Pods {
    fn new(first: usize, count: usize, make: Make) -> Self {
        let bodies = (first..first + count).map(|index| make(index).to_string().into());
        Pods { first, bodies: Arc::new(bodies.collect()) }
    }

    /// Creates all; `before` is told the place of each before it is sent.
    async fn create(&self, wire: &Wire, before: impl Fn(usize) + Send + Sync + 'static) -> Outcome<()> {
        let (bodies, path) = (self.bodies.clone(), collection());
        let each = move |index: usize| {
            before(index);
            (path.clone(), bodies[index].clone())
        };
        Flood::posts(self.bodies.len()).send(wire, each).await
    }

    /// Creates all and waits until each has a node.
    async fn place(&self, wire: &Wire) -> Outcome<Placed> {
        let (count, first) = (self.bodies.len(), self.first);
        if count == 0 {
            return Ok(Placed::default());
        }
        let arrivals = Arrivals::watch(wire, &collection(), BOUND).await?;
        let start = Instant::now();
        let created: Arc<Vec<AtomicU64>> = Arc::new((0..count).map(|_| AtomicU64::new(0)).collect());
        let sent = created.clone();
        let micros = move || start.elapsed().as_micros() as u64;
        let watching = tokio::spawn(async move {
            let (mut bound, mut left) = (vec![None; count], count);
            let outcome = arrivals.until(|name, now| {
                let index = name.strip_prefix("pod-").and_then(|number| number.parse::<usize>().ok());
                let place = index.and_then(|index| index.checked_sub(first));
                if let Some(at @ None) = place.and_then(|place| bound.get_mut(place)) {
                    *at = Some(now.duration_since(start).as_micros() as u64);
                    left -= 1;
                }
                left == 0
            });
            outcome.await.map(|()| bound)
        });
        self.create(wire, move |index| sent[index].store(micros(), Ordering::Relaxed)).await?;
        let patience = PATIENCE + Duration::from_secs(count as u64 / SLOWEST_PODS_PER_SECOND);
        let bound = tokio::time::timeout(patience, watching).await;
        let bound = bound.map_err(|_| format!("not all of {count} pods were bound in time"))???;
        let created = created.iter().map(|at| at.load(Ordering::Relaxed));
        Ok(Placed { spans: created.zip(bound.into_iter().flatten()).collect() })
    }
}

/// When each pod was sent and when it was seen with a node, in microseconds.
#[derive(Default)]
struct Placed {
    spans: Vec<(u64, u64)>,
}

impl Placed {
    fn report(&self, report: &mut Report, name: &str) {
        let begin = self.spans.iter().map(|(sent, _)| *sent).min().unwrap_or(0);
        let all_sent = self.spans.iter().map(|(sent, _)| *sent).max().unwrap_or(0);
        let end = self.spans.iter().map(|(_, bound)| *bound).max().unwrap_or(0);
        let rate = |until: u64| self.spans.len() as f64 * 1e6 / until.saturating_sub(begin) as f64;
        let delay = |(sent, bound): &(u64, u64)| bound.saturating_sub(*sent) as f64 / 1e3;
        let mut delays: Vec<f64> = self.spans.iter().map(delay).collect();
        report.add(name, rate(end), "pods/s");
        report.add(&format!("{name}, sent"), rate(all_sent), "pods/s");
        report.add(&format!("{name}, create to bound, p50"), percentile(&mut delays, 0.5), "ms");
        report.add(&format!("{name}, create to bound, p99"), percentile(&mut delays, 0.99), "ms");
    }
}

/// Goes on until an error.
async fn churn(world: &World, churn: Option<Churn>) -> Outcome<Infallible> {
    let wire = &world.wire;
    match churn {
        None => std::future::pending().await,
        Some(Churn::Mixed) => mixed(wire, (world.node)(world.nodes), &node_name(world.nodes)).await,
        Some(Churn::Preemptors) => {
            let mut clock = tokio::time::interval(PREEMPTOR_INTERVAL);
            for index in CHURN.. {
                clock.tick().await;
                wire.drain(Call::post(&collection(), &high_priority(index))).await?;
            }
            std::future::pending().await
        }
    }
}

/// A node, a pod that no node has room for, and a service come, and go a moment later.
async fn mixed(wire: &Wire, node: Value, node_name: &str) -> Outcome<Infallible> {
    let mut clock = tokio::time::interval(MIXED_INTERVAL);
    let services = format!("/api/v1/namespaces/{NAMESPACE}/services");
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "churn"},
        "spec": {"selector": {"app": "nothing"}, "ports": [{"port": 8080}]}});
    let objects = [
        ("/api/v1/nodes".to_owned(), node_name.to_owned(), node),
        (collection(), pod_name(CHURN), too_large(CHURN)),
        (services, "churn".to_owned(), service),
    ];
    loop {
        for (collection, _, object) in &objects {
            clock.tick().await;
            wire.drain(Call::post(collection, object)).await?;
        }
        for (collection, name, _) in &objects {
            clock.tick().await;
            wire.drain(Call::delete(&format!("{collection}/{name}"))).await?;
        }
    }
}

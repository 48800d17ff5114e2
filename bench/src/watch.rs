//! Many watchers of one resource: how much the server delivers when writers go as fast as they
//! can, how late an event is at a modest rate, and what a watcher costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::api::{NAMESPACE, Options, config_map};
use crate::report::{Report, percentile};
use crate::wire::{Call, Wire};
use crate::{Outcome, process};

const WRITERS: usize = 8;
/// Writes per second where delay is measured.
const CALM_WRITES: u64 = 10;
const PREFIX: &str = "watched-";
/// Every event is a line of its own.
const EVENT_END: u8 = b'\n';

pub async fn figures(wire: &Wire, options: &Options, report: &mut Report) -> Outcome<()> {
    let watching = Wire::with_streams(&options.kubeconfig, options.watchers).await?;
    let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
    let version = newest(wire, &path).await?;
    let before = options.pid.map(process::resident_mb).transpose()?;
    let delivered = Arc::new(AtomicU64::new(0));
    // One write is out at a time while arrivals are read: each watcher has one to tell.
    let (arrivals, arrived) = mpsc::channel(options.watchers.max(1));
    let mut watchers = JoinSet::new();
    let url = format!("{path}?watch=1&resourceVersion={version}");
    for _ in 0..options.watchers {
        let response = watching.send(Call::get(&url)).await?;
        watchers.spawn(count(response.into_body(), delivered.clone(), arrivals.clone()));
    }
    if let (Some(pid), Some(before)) = (options.pid, before) {
        let each = (process::resident_mb(pid)? - before) * 1024.0 / options.watchers as f64;
        report.add("memory per watcher", each, "KB");
    }
    let name = format!("{} watchers", options.watchers);
    calm(wire, &path, options, arrived).await?.into_iter().for_each(|(which, value)| {
        report.add(&format!("{name}, {CALM_WRITES} writes/s, delay {which}"), value, "ms");
    });
    let start = Instant::now();
    let before = delivered.load(Ordering::Relaxed);
    storm(wire, &path, Duration::from_secs(options.seconds)).await?;
    let events = delivered.load(Ordering::Relaxed) - before;
    report.add(
        &format!("{name}, events delivered at saturation"),
        events as f64 / start.elapsed().as_secs_f64(),
        "/s",
    );
    watchers.shutdown().await;
    Ok(())
}

async fn newest(wire: &Wire, path: &str) -> Outcome<String> {
    let url = format!("{path}?limit=1");
    let list: Value = serde_json::from_slice(&wire.call(Call::get(&url)).await?)?;
    Ok(list["metadata"]["resourceVersion"].as_str().unwrap_or("").to_owned())
}

/// Counts the events of one watch and tells when each came, for as long as someone listens.
async fn count(mut body: hyper::body::Incoming, delivered: Arc<AtomicU64>, arrivals: mpsc::Sender<Instant>) {
    while let Some(Ok(frame)) = body.frame().await {
        let Some(data) = frame.data_ref() else { continue };
        let events = data.iter().filter(|byte| **byte == EVENT_END).count();
        delivered.fetch_add(events as u64, Ordering::Relaxed);
        let now = Instant::now();
        for _ in 0..events {
            if arrivals.send(now).await.is_err() {
                break;
            }
        }
    }
}

/// One write at a time, each watched until every watcher has it: delays from the call to arrival.
async fn calm(
    wire: &Wire,
    path: &str,
    options: &Options,
    mut arrived: mpsc::Receiver<Instant>,
) -> Outcome<[(&'static str, f64); 2]> {
    let mut delays = Vec::new();
    for index in 0..options.seconds * CALM_WRITES {
        let begin = Instant::now();
        wire.drain(Call::post(path, &config_map(&format!("{PREFIX}calm-{index}")))).await?;
        for _ in 0..options.watchers {
            let arrival = tokio::time::timeout(Duration::from_secs(30), arrived.recv()).await;
            let at = arrival.map_err(|_| "an event did not reach all watchers within 30 s")?;
            let at = at.ok_or("all watches ended")?;
            delays.push(at.duration_since(begin).as_secs_f64() * 1000.0);
        }
        tokio::time::sleep(Duration::from_secs(1) / CALM_WRITES as u32).await;
    }
    Ok([("p50", percentile(&mut delays, 0.5)), ("p99", percentile(&mut delays, 0.99))])
}

/// Writers that go as fast as they are answered.
async fn storm(wire: &Wire, path: &str, period: Duration) -> Outcome<()> {
    let start = Instant::now();
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let (wire, path) = (wire.clone(), path.to_owned());
        writers.spawn(async move {
            let mut index = 0;
            while start.elapsed() < period {
                let object = config_map(&format!("{PREFIX}{writer}-{index}"));
                wire.drain(Call::post(&path, &object)).await?;
                index += 1;
            }
            Outcome::Ok(())
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended??;
    }
    Ok(())
}

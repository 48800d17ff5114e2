//! Measures durable writes: `cargo run --release -p amphipod-store --example throughput [waiters] [seconds] [dir]`.
//! Loading is measured by `fill DIR [objects]` (500,000 values of 2 KB by default), then `load DIR`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use amphipod_store::{EmbeddedStore, Op, Options, Range, Store, Txn};
use bytes::Bytes;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["fill", dir] => return runtime.block_on(fill(dir.as_ref(), 500_000)),
        ["fill", dir, objects] => return runtime.block_on(fill(dir.as_ref(), objects.parse()?)),
        ["load", dir] => return runtime.block_on(load(dir.as_ref())),
        _ => {}
    }
    let waiters = args.first().map_or(Ok(64), |arg| arg.parse())?;
    let seconds = args.get(1).map_or(Ok(5), |arg| arg.parse())?;
    runtime.block_on(writes(waiters, Duration::from_secs(seconds), &directory(args.get(2))))
}

fn directory(arg: Option<&String>) -> PathBuf {
    let name = format!("amphipod-throughput-{}", std::process::id());
    arg.map_or(std::env::temp_dir(), PathBuf::from).join(name)
}

fn put(key: String, value: Bytes) -> Txn {
    Txn { compare: vec![], then: vec![Op::Put { key, value, stamp: Some(1), lease: None }] }
}

async fn writes(waiters: usize, time: Duration, dir: &PathBuf) -> Result<(), Failure> {
    let store = Arc::new(EmbeddedStore::open(dir, Options::default())?);
    let value = Bytes::from(vec![b'x'; 1024]);
    let begin = Instant::now();
    let tasks = (0..waiters).map(|waiter| {
        let (store, value) = (store.clone(), value.clone());
        tokio::spawn(async move {
            let mut latencies = Vec::new();
            while begin.elapsed() < time {
                let key = format!("/registry/pods/default/w{waiter}-{}", latencies.len() % 10_000);
                let asked = Instant::now();
                store.txn(put(key, value.clone())).await?;
                latencies.push(asked.elapsed());
            }
            Ok::<_, amphipod_store::Error>(latencies)
        })
    });
    let mut latencies = Vec::new();
    for task in futures::future::join_all(tasks).await {
        latencies.extend(task??);
    }
    let seconds = begin.elapsed().as_secs_f64();
    latencies.sort();
    let at =
        |share: f64| latencies.get((latencies.len() as f64 * share) as usize).copied().unwrap_or_default();
    println!(
        "{waiters} waiters, 1 KiB: {:.0} durable writes/s, p50 {:?}, p99 {:?}",
        latencies.len() as f64 / seconds,
        at(0.5),
        at(0.99)
    );
    store.close().await?;
    drop(store);
    std::fs::remove_dir_all(dir)?;
    Ok(())
}

async fn fill(dir: &Path, objects: usize) -> Result<(), Failure> {
    let store = EmbeddedStore::open(dir, Options { fsync: false, ..Options::default() })?;
    let value = Bytes::from(vec![b'x'; 2048]);
    let key = |n: usize| format!("/registry/pods/namespace-{:03}/some-deployment-abcdef-{n:07}", n % 100);
    let writes = (0..objects).map(|n| store.txn(put(key(n), value.clone())));
    let writes = futures::stream::StreamExt::buffer_unordered(futures::stream::iter(writes), 64);
    futures::TryStreamExt::try_for_each(writes, |_| async { Ok(()) }).await?;
    println!("{objects} x 2 KiB: {} bytes on disk; resident {}", store.size_bytes().await?, resident()?);
    Ok(())
}

async fn load(dir: &Path) -> Result<(), Failure> {
    let begin = Instant::now();
    let store = EmbeddedStore::open(dir, Options::default())?;
    println!("opened in {:.2} s; resident {}", begin.elapsed().as_secs_f64(), resident()?);
    let begin = Instant::now();
    let all = store.range(Range::prefix("/registry/pods/")).await?;
    println!(
        "{} listed in {:.3} s; resident {}",
        all.items.len(),
        begin.elapsed().as_secs_f64(),
        resident()?
    );
    Ok(())
}

fn resident() -> Result<String, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    Ok(line.unwrap_or_default().trim_start_matches("VmRSS:").trim().to_owned())
}

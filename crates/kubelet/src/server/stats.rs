//! `/stats/summary`: what the node and its pods use, as metrics-server reads it.

use amphipod_cri::v1 as cri;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::context::Context;
use crate::node::machine;

fn time(nanos: i64) -> Value {
    Timestamp::from_nanosecond(i128::from(nanos)).map_or(Value::Null, |t| second(t).into())
}

fn second(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn put(map: &mut Map<String, Value>, key: &str, value: Option<&cri::UInt64Value>) {
    if let Some(value) = value {
        map.insert(key.to_owned(), value.value.into());
    }
}

fn cpu(usage: Option<&cri::CpuUsage>) -> Value {
    let Some(usage) = usage else { return Value::Null };
    let mut map = Map::from_iter([("time".to_owned(), time(usage.timestamp))]);
    put(&mut map, "usageNanoCores", usage.usage_nano_cores.as_ref());
    put(&mut map, "usageCoreNanoSeconds", usage.usage_core_nano_seconds.as_ref());
    map.into()
}

fn memory(usage: Option<&cri::MemoryUsage>) -> Value {
    let Some(usage) = usage else { return Value::Null };
    let mut map = Map::from_iter([("time".to_owned(), time(usage.timestamp))]);
    put(&mut map, "availableBytes", usage.available_bytes.as_ref());
    put(&mut map, "usageBytes", usage.usage_bytes.as_ref());
    put(&mut map, "workingSetBytes", usage.working_set_bytes.as_ref());
    put(&mut map, "rssBytes", usage.rss_bytes.as_ref());
    put(&mut map, "pageFaults", usage.page_faults.as_ref());
    put(&mut map, "majorPageFaults", usage.major_page_faults.as_ref());
    map.into()
}

fn network(usage: Option<&cri::NetworkUsage>) -> Value {
    let Some(usage) = usage else { return Value::Null };
    let interface = |i: &cri::NetworkInterfaceUsage| {
        let mut map = Map::from_iter([("name".to_owned(), i.name.clone().into())]);
        put(&mut map, "rxBytes", i.rx_bytes.as_ref());
        put(&mut map, "rxErrors", i.rx_errors.as_ref());
        put(&mut map, "txBytes", i.tx_bytes.as_ref());
        put(&mut map, "txErrors", i.tx_errors.as_ref());
        map
    };
    let mut map = usage.default_interface.as_ref().map(interface).unwrap_or_default();
    map.insert("time".to_owned(), time(usage.timestamp));
    let all: Vec<Value> = usage.interfaces.iter().map(|i| interface(i).into()).collect();
    map.insert("interfaces".to_owned(), all.into());
    map.into()
}

fn container(stats: &cri::ContainerStats) -> Value {
    let name = stats.attributes.as_ref().and_then(|a| a.metadata.as_ref()).map_or("", |m| &m.name);
    let mut rootfs = Map::new();
    if let Some(layer) = &stats.writable_layer {
        rootfs.insert("time".to_owned(), time(layer.timestamp));
        put(&mut rootfs, "usedBytes", layer.used_bytes.as_ref());
        put(&mut rootfs, "inodesUsed", layer.inodes_used.as_ref());
    }
    let started = stats.cpu.as_ref().map_or(Value::Null, |c| time(c.timestamp));
    json!({
        "name": name, "startTime": started,
        "cpu": cpu(stats.cpu.as_ref()), "memory": memory(stats.memory.as_ref()), "rootfs": rootfs,
    })
}

fn pod(stats: &cri::PodSandboxStats) -> Option<Value> {
    let meta = stats.attributes.as_ref()?.metadata.as_ref()?;
    let linux = stats.linux.clone().unwrap_or_default();
    let containers: Vec<Value> = linux.containers.iter().map(container).collect();
    let processes = linux.process.as_ref().and_then(|p| p.process_count.as_ref()).map_or(0, |c| c.value);
    Some(json!({
        "podRef": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
        "startTime": linux.cpu.as_ref().map_or(Value::Null, |c| time(c.timestamp)),
        "containers": containers,
        "cpu": cpu(linux.cpu.as_ref()),
        "memory": memory(linux.memory.as_ref()),
        "network": network(linux.network.as_ref()),
        "process_stats": {"process_count": processes},
    }))
}

fn node_cpu_nanoseconds() -> u64 {
    /// Clock ticks per second as the kernel tells user space, on every architecture we build for.
    const TICKS: u64 = 100;
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = text.lines().next().unwrap_or("").split_whitespace().skip(1);
    let numbers: Vec<u64> = fields.filter_map(|f| f.parse().ok()).collect();
    // user, nice, system, (idle, iowait,) irq, softirq, steal
    let busy: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|i| numbers.get(*i)).sum();
    busy * (1_000_000_000 / TICKS)
}

pub async fn summary(context: &Context) -> Result<Value, crate::Error> {
    let pods: Vec<Value> = context.runtime.sandbox_stats().await?.iter().filter_map(pod).collect();
    let now = second(Timestamp::now());
    let total = u64::try_from(context.machine.memory_bytes).unwrap_or(0);
    let available = machine::meminfo("MemAvailable") * 1024;
    let working = context.cgroups.memory_working_set().unwrap_or(total.saturating_sub(available));
    let disk = machine::disk(&context.config.root_dir).unwrap_or_default();
    let fs = json!({
        "time": now, "availableBytes": disk.available, "capacityBytes": disk.total,
        "usedBytes": disk.total.saturating_sub(disk.available),
        "inodesFree": disk.inodes_free, "inodes": disk.inodes,
        "inodesUsed": disk.inodes.saturating_sub(disk.inodes_free),
    });
    let cores = usage_nano_cores(node_cpu_nanoseconds());
    Ok(json!({
        "node": {
            "nodeName": context.config.node_name,
            "startTime": now,
            "cpu": {"time": now, "usageCoreNanoSeconds": node_cpu_nanoseconds(), "usageNanoCores": cores},
            "memory": {
                "time": now, "availableBytes": available,
                "usageBytes": total.saturating_sub(available), "workingSetBytes": working,
            },
            "fs": fs,
            "runtime": {"imageFs": fs, "containerFs": fs},
        },
        "pods": pods,
    }))
}

/// The rate since the last time it was asked.
fn usage_nano_cores(busy: u64) -> u64 {
    static LAST: parking_lot::Mutex<Option<(tokio::time::Instant, u64, u64)>> = parking_lot::Mutex::new(None);
    let now = tokio::time::Instant::now();
    let mut last = LAST.lock();
    let rate = match *last {
        Some((at, before, rate)) => {
            let elapsed = now.duration_since(at).as_secs_f64();
            // Too short a span says nothing.
            if elapsed < 1.0 { return rate } else { (busy.saturating_sub(before) as f64 / elapsed) as u64 }
        }
        None => 0,
    };
    *last = Some((now, busy, rate));
    rate
}

/// `/metrics/resource`: the same figures as Prometheus text, which metrics-server prefers.
pub async fn resource_metrics(context: &Context) -> Result<String, crate::Error> {
    let stats = context.runtime.sandbox_stats().await?;
    let mut text = Exposition::default();
    let total = u64::try_from(context.machine.memory_bytes).unwrap_or(0);
    let working = total.saturating_sub(machine::meminfo("MemAvailable") * 1024);
    text.family(
        "node_cpu_usage_seconds_total",
        "counter",
        [(String::new(), seconds(node_cpu_nanoseconds()))],
    );
    text.family("node_memory_working_set_bytes", "gauge", [(String::new(), working.to_string())]);
    let containers: Vec<(String, &cri::ContainerStats)> = stats.iter().flat_map(of_containers).collect();
    let pods: Vec<(String, &cri::LinuxPodSandboxStats)> =
        stats.iter().filter_map(|s| Some((pod_labels(s)?, s.linux.as_ref()?))).collect();
    text.family(
        "container_cpu_usage_seconds_total",
        "counter",
        containers.iter().filter_map(|(l, c)| Some((l.clone(), seconds(used(c.cpu.as_ref())?)))),
    );
    text.family(
        "container_memory_working_set_bytes",
        "gauge",
        containers.iter().filter_map(|(l, c)| Some((l.clone(), set(c.memory.as_ref())?))),
    );
    text.family(
        "pod_cpu_usage_seconds_total",
        "counter",
        pods.iter().filter_map(|(l, p)| Some((l.clone(), seconds(used(p.cpu.as_ref())?)))),
    );
    text.family(
        "pod_memory_working_set_bytes",
        "gauge",
        pods.iter().filter_map(|(l, p)| Some((l.clone(), set(p.memory.as_ref())?))),
    );
    text.family("scrape_error", "gauge", [(String::new(), "0".to_owned())]);
    Ok(text.0)
}

#[derive(Default)]
struct Exposition(String);

impl Exposition {
    fn family(&mut self, name: &str, kind: &str, samples: impl IntoIterator<Item = (String, String)>) {
        self.0.push_str(&format!("# TYPE {name} {kind}\n"));
        for (labels, value) in samples {
            self.0.push_str(&format!("{name}{labels} {value}\n"));
        }
    }
}

fn seconds(nanos: u64) -> String {
    format!("{:.6}", nanos as f64 / 1e9)
}
fn used(cpu: Option<&cri::CpuUsage>) -> Option<u64> {
    Some(cpu?.usage_core_nano_seconds.as_ref()?.value)
}
fn set(memory: Option<&cri::MemoryUsage>) -> Option<String> {
    Some(memory?.working_set_bytes.as_ref()?.value.to_string())
}

/// Names of Kubernetes need no escaping inside quotes.
fn pod_labels(stats: &cri::PodSandboxStats) -> Option<String> {
    let meta = stats.attributes.as_ref()?.metadata.as_ref()?;
    Some(format!("{{namespace=\"{}\",pod=\"{}\"}}", meta.namespace, meta.name))
}

fn of_containers(stats: &cri::PodSandboxStats) -> Vec<(String, &cri::ContainerStats)> {
    let meta = stats.attributes.as_ref().and_then(|a| a.metadata.clone()).unwrap_or_default();
    let containers = stats.linux.as_ref().map(|l| l.containers.as_slice()).unwrap_or_default();
    let labelled = containers.iter().map(|c| {
        let name = c.attributes.as_ref().and_then(|a| a.metadata.as_ref()).map_or("", |m| &m.name);
        (format!("{{container=\"{name}\",namespace=\"{}\",pod=\"{}\"}}", meta.namespace, meta.name), c)
    });
    labelled.collect()
}

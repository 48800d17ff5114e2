//! `up`: the whole cluster in one process.

use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use amphipod_apiserver::seams::SchedulingExplainer;
use amphipod_cluster::instance::{self, Instance, Lock};
use amphipod_cluster::preflight::{self, Needs};
use amphipod_cluster::progress::Progress;
use amphipod_cluster::{Files, node as host};
use amphipod_kubelet::hollow;
use amphipod_scheduler::why::{QueueView, Source};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::compose::{self, Failure, Local};
use crate::options::UpOptions;
use crate::plane::{self, Addresses};
use crate::storage::Place;
use crate::{node, roles};

/// Readiness that does not come within this is reported as a failure.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// More for each hollow node: many times what a registration takes.
const READY_PER_HOLLOW_NODE: Duration = Duration::from_millis(20);
/// A runtime reads the network's configuration as soon as it is there; one that has not for this
/// long looks elsewhere.
const NETWORK_PATIENCE: Duration = Duration::from_secs(10);
const NETWORK_POLL: Duration = Duration::from_millis(200);
const POLL: Duration = Duration::from_millis(10);
/// Components get this long to end by themselves.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// Everything that can be checked before anything is started; how the scheduler is configured.
pub fn preflight(options: &UpOptions) -> Result<amphipod_scheduler::Config, Failure> {
    let files = Files::new(&options.data.data_dir);
    if files.run("lock").exists()
        && let Err(running @ amphipod_cluster::Error::Running { .. }) = Lock::acquire(&files)
    {
        return Err(running.into());
    }
    options.store.check()?;
    options.hollow.config(options.hollow_pod_cidr())?;
    let scheduler = roles::scheduler_config(options.scheduler_config.as_deref())?;
    preflight::check(&Needs {
        data_dir: &options.data.data_dir,
        embedded_store: options.store.store == Place::Embedded,
        listen: options.listen,
        pod_cidr: options.network.pod_cidr,
        service_cidr: options.network.service_cidr,
        node: options.has_node(),
        runtime_endpoint: options.container_runtime_endpoint.as_deref(),
    })?;
    Ok(scheduler)
}

pub fn run(options: &UpOptions) -> Result<ExitCode, Failure> {
    roles::start_logging();
    let scheduler = preflight(options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let code = runtime.block_on(up(options, scheduler))?;
    runtime.shutdown_timeout(Duration::from_secs(2));
    Ok(code)
}

/// What keeps running after the start.
struct Cluster {
    files: Files,
    cancel: CancellationToken,
    tasks: JoinSet<(&'static str, Result<(), Failure>)>,
    _locks: Vec<Lock>,
    /// Held for the API server, which asks it.
    explainer: Option<Arc<dyn SchedulingExplainer>>,
}

impl Cluster {
    fn spawn<F>(&mut self, name: &'static str, role: F)
    where
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        self.tasks.spawn(async move { (name, role.await) });
    }
}

async fn up(options: &UpOptions, scheduler: amphipod_scheduler::Config) -> Result<ExitCode, Failure> {
    let mut progress = Progress::default();
    let files = Files::new(&options.data.data_dir);
    files.create()?;
    let mut locks = vec![Lock::acquire(&files)?];
    if options.has_node() {
        locks.push(Lock::acquire_node(&files)?);
    }
    let cancel = CancellationToken::new();
    let mut cluster =
        Cluster { files, cancel: cancel.clone(), tasks: JoinSet::new(), _locks: locks, explainer: None };
    let hollow = options.hollow.config(options.hollow_pod_cidr())?;
    let mut record = record(options, &cluster.files, hollow.as_ref());
    instance::write(&cluster.files, &record)?;

    let outcome = tokio::select! {
        outcome = start(options, hollow, scheduler, &mut cluster, &mut progress) => outcome,
        () = roles::stop_requested() => Err(Failure::new("stopped while starting")),
    };
    let outcome = match outcome {
        Ok(()) => {
            record.ready = true;
            instance::write(&cluster.files, &record)?;
            tell_next_steps(options, &record, &progress);
            if options.detached {
                close_output()?;
            }
            attend(&mut cluster).await
        }
        Err(failure) => Err(failure),
    };
    stop(cluster).await;
    if outcome.is_ok() && options.has_node() && !options.detached {
        println!("stopped; containers keep running, `amphipod down` stops them too");
    }
    outcome.map(|()| ExitCode::SUCCESS)
}

fn record(options: &UpOptions, files: &Files, hollow: Option<&hollow::Config>) -> Instance {
    Instance {
        pid: std::process::id() as i32,
        server: format!("https://{}", plane::reachable(options.listen)),
        kubeconfig: kubeconfig(options, files).display().to_string(),
        node_name: options.has_node().then(|| node_name(options)),
        hollow_nodes: hollow.map_or(0, hollow::Config::count),
        pod_cidr: options.network.pod_cidr.to_string(),
        service_cidr: options.network.service_cidr.to_string(),
        started_at: roles::now(),
        ready: false,
        owns_node: options.has_node(),
        runtime_endpoint: options.container_runtime_endpoint.clone().filter(|_| options.has_node()),
        former_runtime_endpoints: Vec::new(),
    }
    .after(instance::read(files))
}

fn node_name(options: &UpOptions) -> String {
    options.node_name.clone().unwrap_or_else(host::default_name)
}

fn kubeconfig(options: &UpOptions, files: &Files) -> std::path::PathBuf {
    options.kubeconfig.clone().unwrap_or_else(|| files.admin_kubeconfig())
}

fn addresses(options: &UpOptions) -> Result<Addresses, Failure> {
    let gateway = node::gateway(&options.network)?.into();
    let advertise =
        if options.has_node() { SocketAddr::new(gateway, options.listen.port()) } else { options.listen };
    Ok(Addresses {
        listen: options.listen,
        advertise: plane::reachable(advertise),
        node_name: node_name(options),
        node_ip: host::outward_address().unwrap_or(gateway),
    })
}

async fn start(
    options: &UpOptions,
    hollow: Option<hollow::Config>,
    scheduler: amphipod_scheduler::Config,
    cluster: &mut Cluster,
    progress: &mut Progress,
) -> Result<(), Failure> {
    let (files, network, cancel) = (cluster.files.clone(), options.network.clone(), cluster.cancel.clone());
    progress.say(&format!("bringing up the cluster in {}", files.root().display()));
    if options.has_node() {
        let pods = node::pod_network(&files, &network)?;
        tokio::task::spawn_blocking(move || amphipod_network::setup_node(&pods)).await??;
        progress.done("pod network");
    }
    let at = addresses(options)?;
    let keys = plane::keys(&files, &at, &network, &kubeconfig(options, &files))?;
    progress.done("keys and kubeconfigs");
    let config = plane::server_config(&keys, &at, &network, &options.limits);
    let (server, store) = plane::start(&files, config, &options.store).await?;
    let mut listen = vec![at.listen];
    if options.has_node() && !at.listen.ip().is_unspecified() {
        listen.push(at.advertise);
    }
    for address in listen {
        let listener = TcpListener::bind(address)?;
        let (server, cancel) = (server.clone(), cancel.clone());
        cluster.spawn("apiserver", async move { Ok(server.serve(listener, cancel).await?) });
    }
    let closing = cancel.clone();
    cluster.spawn("store", async move {
        closing.cancelled().await;
        // Requests still draining may write; the store refuses cleanly once closed.
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok(store.close().await?)
    });
    let local = Local::new(server);
    compose::grant_rights(&local.admin()).await?;
    progress.done("API server");

    let informers = local.informers(cancel.clone());
    let queue = QueueView::default();
    let source = |_: &_| Source::Informers(informers.clone());
    cluster.explainer = Some(local.explain_scheduling(scheduler.clone(), source, Some(queue.clone())));
    roles::spawn_local_plane(&local, &informers, &keys, (scheduler, queue), &cancel, |name, role| {
        cluster.spawn(name, role);
    });
    progress.done("scheduler and controllers");
    if let Some(config) = hollow {
        start_hollow(config, cluster, &local, informers, progress).await?;
    } else if options.has_node() {
        start_node(options, cluster, &local, &informers, &at, progress).await?;
    }
    Ok(())
}

async fn start_hollow(
    config: hollow::Config,
    cluster: &mut Cluster,
    local: &Local,
    informers: amphipod_client::SharedInformers,
    progress: &mut Progress,
) -> Result<(), Failure> {
    let (client, cancel, count) =
        (local.admin().called(compose::KUBELET), cluster.cancel.clone(), config.count());
    let (sender, registered) = tokio::sync::oneshot::channel();
    cluster.spawn("hollow nodes", async move {
        Ok(hollow::run(config, client, informers, sender, cancel).await?)
    });
    let patience = READY_DEADLINE + READY_PER_HOLLOW_NODE * count;
    match tokio::time::timeout(patience, registered).await {
        Ok(Ok(())) => progress.done(&format!("{count} hollow nodes Ready")),
        _ => return Err(in_vain("the hollow nodes to be Ready", patience)),
    }
    Ok(())
}

async fn start_node(
    options: &UpOptions,
    cluster: &mut Cluster,
    local: &Local,
    informers: &amphipod_client::SharedInformers,
    at: &Addresses,
    progress: &mut Progress,
) -> Result<(), Failure> {
    let (files, network, cancel) = (cluster.files.clone(), options.network.clone(), cluster.cancel.clone());
    let external = options.container_runtime_endpoint.as_deref();
    if external.is_none() {
        let config = node::runtime_config(&files)?;
        let cancel = cancel.clone();
        cluster.spawn("runtime", async move { Ok(amphipod_runtime::serve(config, cancel).await?) });
        // The file alone says nothing: a killed instance leaves its own.
        let socket = files.cri_socket();
        wait("the container runtime", || async { tokio::net::UnixStream::connect(&socket).await.is_ok() })
            .await?;
        progress.done("container runtime");
    }
    let endpoint = node::cri_endpoint(&files, external);
    if external.is_some() {
        let version = amphipod_kubelet::runtime_version(&endpoint).await.map_err(|error| {
            Failure::new(format!("{endpoint} is no container runtime that speaks CRI v1: {error}"))
        })?;
        progress.done(&format!("container runtime {version}"));
    }
    let since = jiff::Timestamp::now();
    let config = node::kubelet_config(&files, &network, &at.node_name, at.node_ip, &endpoint);
    let client = local.client(compose::KUBELET, &format!("system:node:{}", at.node_name), &["system:nodes"]);
    let (kubelet_informers, kubelet_cancel) = (informers.clone(), cancel.clone());
    cluster.spawn("kubelet", async move {
        Ok(amphipod_kubelet::run(config, client, kubelet_informers, kubelet_cancel).await?)
    });
    let (client, shared, name) =
        (local.client(compose::PROXY, "system:kube-proxy", &[]), informers.clone(), at.node_name.clone());
    let (proxy_network, proxy_cancel) = (network.clone(), cancel.clone());
    cluster.spawn(
        "proxy",
        async move { node::proxy(client, shared, &proxy_network, &name, proxy_cancel).await },
    );
    let client = local.client(compose::DNS, compose::DNS_USER, &[]);
    let dns = roles::dns_config(&network, None)?;
    let server = dns.listen[0];
    let (shared, dns_cancel) = (informers.clone(), cancel.clone());
    cluster.spawn("dns", async move { Ok(amphipod_dns::run(dns, client, shared, dns_cancel).await?) });
    let admin = local.admin();
    let ready = wait("the node to be Ready", || compose::node_is_ready(&admin, &at.node_name, since));
    tokio::select! {
        outcome = ready => outcome?,
        problem = network_missing(&admin, &at.node_name), if external.is_some() => {
            return Err(no_network(&files, &endpoint, &problem));
        }
    }
    progress.done(&format!("node {} Ready", at.node_name));
    wait("DNS", || amphipod_dns::answers(server, &network.cluster_domain)).await?;
    progress.done("cluster DNS answering");
    Ok(())
}

/// Resolves when the node has told for too long that its runtime has no network, with its words.
async fn network_missing(client: &amphipod_client::Client, node: &str) -> String {
    let mut since = None;
    loop {
        match compose::network_problem(client, node).await {
            Some(problem) if since.get_or_insert_with(Instant::now).elapsed() > NETWORK_PATIENCE => {
                return problem;
            }
            Some(_) => {}
            None => since = None,
        }
        tokio::time::sleep(NETWORK_POLL).await;
    }
}

fn no_network(files: &Files, endpoint: &str, problem: &str) -> Failure {
    Failure::new(format!(
        "the runtime at {endpoint} has no network for pods ({problem}); have it read CNI configuration from {} and \
         plugins from {} (containerd: conf_dir and bin_dir in [plugins.\"io.containerd.grpc.v1.cri\".cni] of its \
         config.toml), restart it, and run `amphipod up` again",
        files.cni_conf().display(),
        files.cni_bin().display()
    ))
}

async fn wait<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) -> Result<(), Failure> {
    let deadline = Instant::now() + READY_DEADLINE;
    while !condition().await {
        if Instant::now() > deadline {
            return Err(in_vain(what, READY_DEADLINE));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

fn in_vain(what: &str, waited: Duration) -> Failure {
    let seconds = waited.as_secs();
    Failure::new(format!("waited {seconds} s for {what} in vain; run again with RUST_LOG=info to see why"))
}

fn tell_next_steps(options: &UpOptions, record: &Instance, progress: &Progress) {
    let data = &options.data.data_dir;
    let flag = if data.as_os_str() == "/var/lib/amphipod" {
        String::new()
    } else {
        format!(" --data-dir {}", data.display())
    };
    progress.say(&format!("ready in {} ms", progress.total_ms()));
    progress.say("");
    progress.say(&format!("  export KUBECONFIG={}", record.kubeconfig));
    progress.say("  kubectl get nodes        # or: amphipod get nodes");
    progress.say(&format!("  amphipod down{flag}            # stops everything, pods too"));
}

/// Lets the parent of `--detach` return: it reads our output until the end.
fn close_output() -> Result<(), Failure> {
    let null = std::fs::File::options().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(())
}

/// Until a signal, or until a component fails.
async fn attend(cluster: &mut Cluster) -> Result<(), Failure> {
    tokio::select! {
        () = roles::stop_requested() => Ok(()),
        Some(ended) = cluster.tasks.join_next() => match ended {
            Ok((name, Ok(()))) => Err(Failure::new(format!("the {name} ended unexpectedly"))),
            Ok((name, Err(failure))) => Err(Failure::new(format!("the {name} failed: {failure}"))),
            Err(panic) => Err(Failure::new(format!("a component crashed: {panic}"))),
        },
    }
}

async fn stop(mut cluster: Cluster) {
    cluster.cancel.cancel();
    let finish = async { while cluster.tasks.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(STOP_DEADLINE, finish).await;
    instance::write(
        &cluster.files,
        &Instance { ready: false, ..instance::read(&cluster.files).unwrap_or_default() },
    )
    .unwrap_or_else(|error| tracing::warn!(%error, "the instance record was not updated"));
}

//! The roles: each alone in a process with a kubeconfig, or together in one.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use amphipod_api::codec::go_duration;
use amphipod_client::leader;
use amphipod_client::{Client, Metrics, SharedInformers};
use amphipod_cluster::{Files, node as host};
use futures::future::BoxFuture;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use amphipod_scheduler::why::{QueueView, Source};
use amphipod_serving::{Component, election};
use serde_json::{Value, json};

use crate::compose::{self, Failure, Local};
use crate::node;
use crate::options::{
    ApiserverOptions, ControllerManagerOptions, DnsOptions, KubeletOptions, Network, ProxyOptions,
    SchedulerOptions,
};
use crate::plane::{self, Addresses, Keys};

/// As kube-scheduler and kube-controller-manager have them.
const SCHEDULER_PORT: u16 = 10259;
const CONTROLLER_MANAGER_PORT: u16 = 10257;

type Role = BoxFuture<'static, Result<(), Failure>>;

/// Logs go to standard error; `RUST_LOG` chooses, warnings by default.
pub fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}

/// Resolves on TERM or INT.
pub async fn stop_requested() {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

/// The time of day, for the instance record.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Runs a role until it ends or a signal comes.
fn alone<F>(role: impl FnOnce(CancellationToken) -> F) -> Result<ExitCode, Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    start_logging();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let cancel = CancellationToken::new();
        let stop = cancel.clone();
        tokio::spawn(async move {
            stop_requested().await;
            stop.cancel();
        });
        role(cancel).await
    });
    runtime.shutdown_timeout(Duration::from_secs(2));
    outcome.map(|()| ExitCode::SUCCESS)
}

pub fn apiserver(options: &ApiserverOptions) -> Result<ExitCode, Failure> {
    alone(|cancel| async move {
        let files = Files::new(&options.data.data_dir);
        files.create()?;
        let _lock = amphipod_cluster::instance::Lock::acquire(&files)?;
        let at = Addresses {
            listen: options.listen,
            advertise: plane::reachable(options.listen),
            node_name: options.node_name.clone().unwrap_or_else(host::default_name),
            node_ip: host::outward_address().unwrap_or(options.listen.ip()),
        };
        let keys = plane::keys(&files, &at, &options.network, &files.admin_kubeconfig())?;
        let config = plane::server_config(&keys, &at, &options.network, &options.limits);
        let (server, store) = plane::start(&files, config, &options.store).await?;
        let local = Local::new(server.clone());
        compose::grant_rights(&local.admin()).await?;
        // The scheduler's own settings are not known here.
        let lists = |client: &Client| Source::Lists(client.clone());
        let _explainer = local.explain_scheduling(amphipod_scheduler::Config::default(), lists, None);
        server.serve(TcpListener::bind(options.listen)?, cancel).await?;
        store.close().await?;
        Ok(())
    })
}

/// A client and the informers of a role that runs alone.
async fn remote(
    component: &str,
    kubeconfig: &Path,
    cancel: &CancellationToken,
) -> Result<(Client, SharedInformers), Failure> {
    let client = Client::from_kubeconfig(kubeconfig).await?.called(component);
    Ok((client.clone(), SharedInformers::new(client, cancel.clone())))
}

/// As whom this process leads. In containers on one host, process ids and names may be the same.
fn identity() -> String {
    format!("{}_{}", host::default_name(), uuid::Uuid::new_v4())
}

/// Leads first where there is a lease, then works.
async fn led<F, Fut>(
    client: Client,
    lease: Option<leader::Config>,
    cancel: CancellationToken,
    work: F,
) -> Result<(), Failure>
where
    F: FnOnce(CancellationToken) -> Fut,
    Fut: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let Some(lease) = lease else { return work(cancel).await };
    let name = lease.name.clone();
    let outcome = Arc::new(parking_lot::Mutex::new(None));
    let told = outcome.clone();
    leader::lead(client, lease, cancel.clone(), |working| {
        let work = work(working);
        async move {
            *told.lock() = Some(work.await);
        }
    })
    .await?;
    let ended = outcome.lock().take();
    match ended {
        Some(Err(failure)) => Err(failure),
        _ if cancel.is_cancelled() => Ok(()),
        _ => Err(Failure::new(format!("lost the leadership of {name}; start again to stand by"))),
    }
}

/// What a scheduler's configuration file says; the defaults without one.
pub fn scheduler_config(file: Option<&Path>) -> Result<amphipod_scheduler::Config, Failure> {
    let Some(file) = file else { return Ok(amphipod_scheduler::Config::default()) };
    let told = |why: String| {
        let lines: Vec<String> = why.lines().map(|line| format!("{}: {line}", file.display())).collect();
        Failure::new(lines.join("\n"))
    };
    let contents = std::fs::read(file).map_err(|error| told(error.to_string()))?;
    amphipod_scheduler::Config::parse(&contents).map_err(|error| told(error.to_string()))
}

pub fn scheduler(options: &SchedulerOptions) -> Result<ExitCode, Failure> {
    let mut config = scheduler_config(options.config.as_deref())?;
    if let Some(elect) = options.leader_elect {
        config.leader_election.leader_elect = elect;
    }
    let configured = Some(&config.client_connection.kubeconfig).filter(|path| !path.is_empty());
    let kubeconfig = options.kubeconfig.clone().or(configured.map(PathBuf::from));
    let Some(kubeconfig) = kubeconfig else {
        return Err(Failure::new(
            "the scheduler needs --kubeconfig, or clientConnection.kubeconfig in --config",
        ));
    };
    alone(|cancel| async move {
        let (client, informers) = remote(compose::SCHEDULER, &kubeconfig, &cancel).await?;
        let lease = config.leader_election.lease(&identity());
        let metrics = amphipod_scheduler::Metrics::default();
        if let Some(serving) = options.serving.serving(SCHEDULER_PORT) {
            let watchdog = lease.as_ref().map(|lease| lease.watchdog.clone());
            let component = amphipod_scheduler::serving::component(&config, &metrics, watchdog);
            amphipod_serving::tell(serving, client.clone(), component, cancel.clone()).await?;
        }
        led(client.clone(), lease, cancel, |working| async move {
            Ok(amphipod_scheduler::run(client, &informers, config, metrics, QueueView::default(), working)
                .await?)
        })
        .await
    })
}

pub fn controller_manager(options: &ControllerManagerOptions) -> Result<ExitCode, Failure> {
    alone(|cancel| async move {
        let (client, informers) = remote(compose::CONTROLLERS, &options.role.kubeconfig, &cancel).await?;
        let root_ca = match &options.root_ca_file {
            Some(path) => std::fs::read_to_string(path)?,
            None => authority_of(&options.role.kubeconfig)?,
        };
        let counts = Metrics::of(&amphipod_cluster::kubeconfig::host(&options.role.kubeconfig)?);
        let (client, mut clients) = (client.counted(&counts), HashMap::new());
        for name in amphipod_controllers::names() {
            let user = format!("system:serviceaccount:kube-system:{name}");
            let client = Client::impersonating(&options.role.kubeconfig, &user).await?;
            clients.insert(name, client.counted(&counts).called(compose::CONTROLLERS));
        }
        let own = client.clone();
        let client_for = move |name: &str| clients.get(name).unwrap_or(&own).clone();
        let context = controllers_context(Arc::new(client_for), informers, root_ca);
        let lease = leader::Config::new("kube-system", "kube-controller-manager", &identity());
        let lease = options.role.leader_elect.then_some(lease);
        if let Some(serving) = options.serving.serving(CONTROLLER_MANAGER_PORT) {
            let component = controllers_component(&context.config, lease.as_ref(), counts);
            amphipod_serving::tell(serving, client.clone(), component, cancel.clone()).await?;
        }
        led(client, lease, cancel, |working| async move {
            amphipod_controllers::run(context, working).await;
            Ok(())
        })
        .await
    })
}

/// What a controller manager tells of itself: one that stands by is as well as one that leads.
fn controllers_component(
    config: &amphipod_controllers::Config,
    lease: Option<&leader::Config>,
    counts: Metrics,
) -> Component {
    let election = || lease.map(|lease| election(lease.watchdog.clone())).into_iter().collect();
    let shown = controllers_config(config, lease);
    Component {
        health: election(),
        readiness: election(),
        metrics: Box::new(move || counts.render()),
        config: ("kubecontrollermanager.config.k8s.io", shown),
    }
}

/// Under the names kube-controller-manager shows its own under.
fn controllers_config(config: &amphipod_controllers::Config, lease: Option<&leader::Config>) -> Value {
    let go = |duration: Duration| go_duration(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX));
    let election = lease.map(|lease| {
        json!({
            "LeaseDuration": go(lease.lease_duration),
            "RenewDeadline": go(lease.renew_deadline),
            "RetryPeriod": go(lease.retry_period),
            "ResourceLock": "leases",
            "ResourceName": lease.name,
            "ResourceNamespace": lease.namespace,
        })
    });
    let mut election = election.unwrap_or_else(|| json!({}));
    election["LeaderElect"] = lease.is_some().into();
    let names: Vec<&str> = amphipod_controllers::names().collect();
    json!({
        "Generic": {"LeaderElection": election, "Controllers": names},
        "NodeLifecycleController": {
            "NodeMonitorGracePeriod": go(config.node_grace),
            "NodeStartupGracePeriod": go(config.node_startup_grace),
        },
        "PodGCController": {"TerminatedPodGCThreshold": config.terminated_pod_threshold},
    })
}

/// The CA a kubeconfig trusts.
fn authority_of(path: &Path) -> Result<String, Failure> {
    amphipod_cluster::kubeconfig::authority(path).map_err(Into::into)
}

fn controllers_context(
    client_for: Arc<dyn Fn(&str) -> Client + Send + Sync>,
    informers: SharedInformers,
    root_ca_pem: String,
) -> amphipod_controllers::Context {
    amphipod_controllers::Context {
        client_for,
        informers,
        config: amphipod_controllers::Config::new(&root_ca_pem),
    }
}

/// Scheduler and controllers on the in-process server.
pub fn spawn_local_plane(
    local: &Local,
    informers: &SharedInformers,
    keys: &Keys,
    (scheduler, queue): (amphipod_scheduler::Config, QueueView),
    cancel: &CancellationToken,
    mut spawn: impl FnMut(&'static str, Role),
) {
    let (client, shared, stop) = (local.scheduler(), informers.clone(), cancel.clone());
    let metrics = amphipod_scheduler::Metrics::default();
    let counted = metrics.clone();
    local.0.metrics.also(move || metrics.render());
    spawn(
        "scheduler",
        Box::pin(async move {
            Ok(amphipod_scheduler::run(client, &shared, scheduler, counted, queue, stop).await?)
        }),
    );
    let each = local.clone();
    let context = controllers_context(
        Arc::new(move |name: &str| each.controller(name)),
        informers.clone(),
        keys.ca.clone(),
    );
    let stop = cancel.clone();
    spawn(
        "controllers",
        Box::pin(async move {
            amphipod_controllers::run(context, stop).await;
            Ok(())
        }),
    );
}

pub fn kubelet(options: &KubeletOptions) -> Result<ExitCode, Failure> {
    alone(|cancel| async move {
        let files = Files::new(&options.data.data_dir);
        files.create()?;
        let _lock = amphipod_cluster::instance::Lock::acquire_node(&files)?;
        let (client, informers) = remote(compose::KUBELET, &options.kubeconfig, &cancel).await?;
        let name = options.node_name.clone().unwrap_or_else(host::default_name);
        let pods = node::pod_network(&files, &options.network)?;
        let address = host::outward_address().unwrap_or(pods.gateway.into());
        tokio::task::spawn_blocking(move || amphipod_network::setup_node(&pods)).await??;
        let external = options.container_runtime_endpoint.as_deref();
        let endpoint = node::cri_endpoint(&files, external);
        let mut config = node::kubelet_config(&files, &options.network, &name, address, &endpoint);
        if !files.pki("kubelet.crt").exists() {
            config.serving_cert = None;
            let ca = authority_of(&options.kubeconfig)?;
            let path = files.pki("ca.crt");
            amphipod_cluster::files::write(&path, ca.as_bytes(), 0o644)?;
        }
        let runtime = async {
            match external {
                Some(_) => std::future::pending().await,
                None => Ok::<(), Failure>(
                    amphipod_runtime::serve(node::runtime_config(&files)?, cancel.clone()).await?,
                ),
            }
        };
        let kubelet = async { Ok(amphipod_kubelet::run(config, client, informers, cancel.clone()).await?) };
        tokio::select! {
            outcome = runtime => outcome,
            outcome = kubelet => outcome,
        }
    })
}

pub fn proxy(options: &ProxyOptions) -> Result<ExitCode, Failure> {
    alone(|cancel| async move {
        let (client, informers) = remote(compose::PROXY, &options.kubeconfig, &cancel).await?;
        let name = options.node_name.clone().unwrap_or_else(host::default_name);
        node::proxy(client, informers, &options.network, &name, cancel).await
    })
}

pub fn dns_config(network: &Network, listen: Option<SocketAddr>) -> Result<amphipod_dns::Config, Failure> {
    let listen = listen.unwrap_or(SocketAddr::new(node::gateway(network)?.into(), 53));
    let mut config =
        amphipod_dns::Config::new(vec![listen], &network.cluster_domain, node::dns_service(network));
    config.networks = vec![network.pod_cidr, network.service_cidr];
    Ok(config)
}

pub fn dns(options: &DnsOptions) -> Result<ExitCode, Failure> {
    alone(|cancel| async move {
        let (client, informers) = remote(compose::DNS, &options.kubeconfig, &cancel).await?;
        let config = dns_config(&options.network, options.listen)?;
        Ok(amphipod_dns::run(config, client, informers, cancel).await?)
    })
}

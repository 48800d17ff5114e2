//! The controllers: loops that bring the cluster in line with what its objects ask for. Each is a
//! module with a pure core (what is there -> what to write) and a thin shell on the shared harness;
//! adding one is a module and a row in the table below.

mod claim;
mod cluster_role_aggregation;
mod cron_job;
mod daemon_set;
mod deployment;
mod disruption;
mod endpoint_slice;
mod endpoint_slice_mirroring;
mod endpoints;
mod error;
mod expectations;
mod garbage_collector;
mod harness;
mod job;
mod meta;
mod namespace;
mod node_lifecycle;
mod pod_control;
mod pod_disruption_budget;
mod pod_gc;
mod pods;
mod replica_set;
mod resource_quota;
mod revisions;
mod root_ca;
mod selector;
mod service_account;
mod service_cidrs;
mod stateful_set;
mod taint_eviction;
#[cfg(test)]
mod testing;
mod ttl_after_finished;
mod volume_protection;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use amphipod_client::{Client, SharedInformers};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

pub use error::Error;
use harness::Scope;

/// What the controllers need to know about their cluster.
#[derive(Clone, Debug)]
pub struct Config {
    /// Published in each namespace as `kube-root-ca.crt`.
    pub root_ca_pem: String,
    /// Keys each controller works on at once.
    pub workers: usize,
    /// A node silent for longer is shown as unknown.
    pub node_grace: Duration,
    /// The same for a node that has never been heard of.
    pub node_startup_grace: Duration,
    /// Finished pods kept before the oldest are removed.
    pub terminated_pod_threshold: usize,
}

impl Config {
    /// Kubernetes' defaults.
    pub fn new(root_ca_pem: &str) -> Self {
        Config {
            root_ca_pem: root_ca_pem.to_owned(),
            workers: 5,
            node_grace: Duration::from_secs(40),
            node_startup_grace: Duration::from_secs(60),
            terminated_pod_threshold: 12_500,
        }
    }
}

/// How the controllers reach the cluster.
#[derive(Clone)]
pub struct Context {
    /// A client per controller, with the identity `system:serviceaccount:kube-system:<name>`.
    pub client_for: Arc<dyn Fn(&str) -> Client + Send + Sync>,
    /// The caches all components of the process share.
    pub informers: SharedInformers,
    pub config: Config,
}

type Running = Pin<Box<dyn Future<Output = ()> + Send>>;
type Start = fn(Scope) -> Running;

macro_rules! controllers {
    ($($name:literal => $($run:ident)::+;)+) => {
        /// By the service account (in kube-system) that the controller acts as.
        const CONTROLLERS: &[(&str, Start)] = &[$(($name, |scope| Box::pin($($run)::+(scope)))),+];
    };
}

controllers! {
    "namespace-controller" => namespace::run;
    "service-account-controller" => service_account::run;
    "root-ca-cert-publisher" => root_ca::run;
    "replicaset-controller" => replica_set::run_replica_sets;
    "replication-controller" => replica_set::run_replication_controllers;
    "deployment-controller" => deployment::run;
    "statefulset-controller" => stateful_set::run;
    "daemon-set-controller" => daemon_set::run;
    "job-controller" => job::run;
    "cronjob-controller" => cron_job::run;
    "ttl-after-finished-controller" => ttl_after_finished::run;
    "endpointslice-controller" => endpoint_slice::run;
    "endpointslicemirroring-controller" => endpoint_slice_mirroring::run;
    "endpoint-controller" => endpoints::run;
    "node-controller" => node_lifecycle::run;
    "node-controller" => taint_eviction::run;
    "generic-garbage-collector" => garbage_collector::run;
    "pod-garbage-collector" => pod_gc::run;
    "clusterrole-aggregation-controller" => cluster_role_aggregation::run;
    "resourcequota-controller" => resource_quota::run;
    "service-cidrs-controller" => service_cidrs::run;
    "disruption-controller" => pod_disruption_budget::run;
    "pvc-protection-controller" => volume_protection::run_claims;
    "pv-protection-controller" => volume_protection::run_volumes;
}

/// The service accounts (in kube-system) the controllers act as.
pub fn names() -> impl Iterator<Item = &'static str> {
    CONTROLLERS.iter().map(|(name, _)| *name)
}

/// Runs all controllers until cancelled. The caller sees to it that only one process does.
pub async fn run(context: Context, cancel: CancellationToken) {
    let config = Arc::new(context.config);
    let informers = context.informers.for_run(&cancel);
    let mut running = JoinSet::new();
    for (name, start) in CONTROLLERS {
        let scope = Scope {
            name,
            client: (context.client_for)(name),
            informers: informers.clone(),
            config: config.clone(),
            cancel: cancel.clone(),
        };
        running.spawn(start(scope));
    }
    debug!(count = CONTROLLERS.len(), "controllers started");
    while let Some(ended) = running.join_next().await {
        if let Err(failure) = ended {
            error!(%failure, "a controller ended unexpectedly");
        }
    }
}

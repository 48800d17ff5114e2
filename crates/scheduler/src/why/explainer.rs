//! The shell: reads the objects, puts in what is to be assumed, and explains on a thread of its own,
//! for that takes as long as building a snapshot does.

use std::sync::Arc;

use amphipod_api::scheduling_review::{Changes, GROUP, KIND, Status as Report};
use amphipod_api::status::Status;
use amphipod_client::{Api, CachedPod, Client, Error, ListParams, Resource, SharedInformers};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use tokio::sync::Semaphore;

use super::waits::{Claim, claim_names};
use super::{Asked, Cluster, Faults, change_nodes, change_requests, explain, waits};
use crate::Config;

/// A snapshot of a large cluster takes seconds of one core and hundreds of megabytes; more of them at
/// once would take from the cluster itself.
const EXPLANATIONS_AT_ONCE: usize = 1;
const PAGE_SIZE: u32 = 500;

/// Where objects come from.
pub enum Source {
    /// Caches this process has anyway.
    Informers(SharedInformers),
    /// Lists, read for each question.
    Lists(Client),
}

pub struct Explainer {
    client: Client,
    source: Source,
    config: Config,
    turns: Arc<Semaphore>,
}

impl Explainer {
    /// `config`: the scheduler's own.
    pub fn new(client: Client, source: Source, config: Config) -> Self {
        Explainer { client, source, config, turns: Arc::new(Semaphore::new(EXPLANATIONS_AT_ONCE)) }
    }

    /// Explains a pod, given as the API has it.
    pub async fn explain(&self, pod: &[u8], changes: &Changes) -> Result<Report, Status> {
        let mut pod = Pod::decode(pod).map_err(refusal)?;
        let claims = self.claims(&pod).await.map_err(refusal)?;
        let turn = self.turns.clone().acquire_owned().await.map_err(Status::internal)?;
        let mut cluster = self.cluster().await.map_err(refusal)?;
        let (config, changes) = (self.config.clone(), changes.clone());
        let work = move || {
            // It lasts as long as the work, also where whoever asked is gone.
            let _turn = turn;
            let mut assumed = change_requests(&mut pod, &changes.requests);
            assumed.extend(change_nodes(&mut cluster, &changes)?);
            Ok(on_snapshot(&cluster, &config, pod, &claims, assumed))
        };
        let told: Result<Report, Faults> =
            tokio::task::spawn_blocking(work).await.map_err(Status::internal)?;
        told.map_err(|faults| Status::invalid(GROUP, KIND, "", &faults))
    }

    async fn cluster(&self) -> Result<Cluster, Error> {
        Ok(Cluster {
            nodes: self.all().await?,
            pods: self.all::<CachedPod>().await?,
            namespaces: self.all().await?,
            services: self.all().await?,
            replication_controllers: self.all().await?,
            replica_sets: self.all().await?,
            stateful_sets: self.all().await?,
            budgets: self.all().await?,
            claims: self.all().await?,
            volumes: self.all().await?,
            storage_classes: self.all().await?,
            csi_nodes: self.all().await?,
            csi_drivers: self.all().await?,
            capacities: self.all().await?,
            attachments: self.all().await?,
            resource_claims: self.all().await?,
            resource_slices: self.all().await?,
            device_classes: self.all().await?,
        })
    }

    async fn all<T: Resource>(&self) -> Result<Vec<Arc<T>>, Error> {
        let client = match &self.source {
            Source::Informers(informers) => {
                let informer = informers.get::<T>();
                informer.synced().await;
                return Ok(informer.list());
            }
            Source::Lists(client) => client,
        };
        let api = Api::<T>::all(client.clone());
        let mut params = ListParams { limit: Some(PAGE_SIZE), ..ListParams::default() };
        let mut found = Vec::new();
        loop {
            let (metadata, page) = api.list(&params).await?;
            found.extend(page.into_iter().map(Arc::new));
            params.continue_token = metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                return Ok(found);
            }
        }
    }

    async fn claims(&self, pod: &Pod) -> Result<Vec<Claim>, Error> {
        let api = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), pod.namespace());
        let classes = Api::<StorageClass>::all(self.client.clone());
        let mut claims = Vec::new();
        for name in claim_names(pod) {
            let found = api.get_opt(&name).await?;
            let class = found.as_ref().and_then(|claim| claim.spec.as_ref()?.storage_class_name.clone());
            let class = match class.filter(|class| !class.is_empty()) {
                Some(class) => classes.get_opt(&class).await?,
                None => None,
            };
            claims.push(Claim { name, found, class });
        }
        Ok(claims)
    }
}

fn refusal(error: Error) -> Status {
    match error {
        Error::Api(status) => *status,
        other => Status::internal(other),
    }
}

fn on_snapshot(
    cluster: &Cluster,
    config: &Config,
    mut pod: Pod,
    claims: &[Claim],
    assumed: Vec<String>,
) -> Report {
    let mut snapshot = cluster.snapshot();
    let profiles = config.profiles(&mut snapshot.catalogue);
    let scheduler = pod.spec.as_ref().and_then(|spec| spec.scheduler_name.clone());
    let ours = profiles.iter().any(|profile| Some(&profile.scheduler_name) == scheduler.as_ref());
    let waits_for = waits(&pod, claims, ours);
    let node = pod.spec.as_mut().and_then(|spec| spec.node_name.take()).filter(|name| !name.is_empty());
    let nominated = pod.status.as_mut().and_then(|status| status.nominated_node_name.take());
    let nominated = nominated.filter(|name| !name.is_empty() && node.is_none());
    let info = Arc::new(snapshot.catalogue.pod(&CachedPod::from(pod)));
    explain(&mut snapshot, profiles, &info, Asked { node, nominated, waits_for, assumed })
}

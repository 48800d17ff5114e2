//! The shell: reads the objects, puts in what is to be assumed, and explains on a thread of its own,
//! for that takes as long as bringing a snapshot up to date does.

use std::sync::{Arc, Weak};
use std::time::Duration;

use amphipod_api::scheduling_review::{Changes, GROUP, KIND, QueueState, Status as Report};
use amphipod_api::status::Status;
use amphipod_client::{Api, CachedPod, Client, Error, ListParams, Resource, SharedInformers};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::waits::{Claim, RETRY, claim_names};
use super::{Asked, Cluster, Faults, Kept, QueueView, change_nodes, change_requests, explain, queue, waits};
use crate::Config;
use crate::pod::written;

/// Who asks once asks again, with other requests or another node. After this long the snapshot's memory
/// is worth more than its time.
const KEPT_FOR: Duration = Duration::from_secs(60);
const PAGE_SIZE: u32 = 500;

/// Where objects come from.
pub enum Source {
    /// Caches this process has anyway.
    Informers(SharedInformers),
    /// Lists, read for each question.
    Lists(Client),
}

/// A snapshot of a large cluster takes hundreds of megabytes; there is one, and one question at a time.
type Shared = tokio::sync::Mutex<Kept>;

pub struct Explainer {
    client: Client,
    source: Source,
    config: Config,
    /// That of the scheduler in this process, if one may decide here.
    queue: Option<QueueView>,
    kept: Arc<Shared>,
    forgetting: Mutex<Option<JoinHandle<()>>>,
}

/// A question as it is worked on.
struct Question {
    pod: Pod,
    claims: Vec<Claim>,
    changes: Changes,
    config: Config,
    queue: Option<QueueView>,
}

impl Explainer {
    /// `config`: the scheduler's own. `queue`: that of the scheduler of this process, if there is one.
    pub fn new(client: Client, source: Source, config: Config, queue: Option<QueueView>) -> Self {
        Explainer { client, source, config, queue, kept: Arc::default(), forgetting: Mutex::default() }
    }

    /// Explains a pod, given as the API has it.
    pub async fn explain(&self, pod: &[u8], changes: &Changes) -> Result<Report, Status> {
        let pod = Pod::decode(pod).map_err(refusal)?;
        let claims = self.claims(&pod).await.map_err(refusal)?;
        let (changes, config, queue) = (changes.clone(), self.config.clone(), self.queue.clone());
        let question = Question { pod, claims, changes, config, queue };
        let mut shared = self.kept.clone().lock_owned().await;
        self.forget_later();
        let cluster = self.cluster().await.map_err(refusal)?;
        // What is listed is new each time: nothing would be found to be the same.
        let keeps = matches!(self.source, Source::Informers(_));
        let work = move || {
            // The lock lasts as long as the work, also where whoever asked is gone; a snapshot that a
            // panic left half changed is not seen again.
            let mut kept = std::mem::take(&mut *shared);
            let told = question.answer(&mut kept, cluster);
            if keeps {
                *shared = kept;
            }
            told
        };
        let told = tokio::task::spawn_blocking(work).await.map_err(Status::internal)?;
        told.map_err(|faults| Status::invalid(GROUP, KIND, "", &faults))
    }

    /// Gives the snapshot's memory back when nobody has asked for a while.
    fn forget_later(&self) {
        let kept = Arc::downgrade(&self.kept);
        let task = tokio::spawn(async move {
            tokio::time::sleep(KEPT_FOR).await;
            if let Some(kept) = Weak::upgrade(&kept) {
                *kept.lock().await = Kept::default();
            }
        });
        if let Some(earlier) = self.forgetting.lock().replace(task) {
            earlier.abort();
        }
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

impl Question {
    fn answer(self, kept: &mut Kept, mut cluster: Cluster) -> Result<Report, Faults> {
        let Question { mut pod, claims, changes, config, queue } = self;
        let exists = cluster.pods.iter().any(|known| known.uid() == pod.uid());
        let mut assumed = change_requests(&mut pod, &changes.requests);
        assumed.extend(change_nodes(&mut cluster, &changes)?);
        let has = |name: &str| config.profiles.iter().any(|profile| profile.scheduler_name == name);
        let snapshot = kept.follow_as(cluster, has);
        let profiles = config.profiles(&mut snapshot.catalogue);
        let scheduler = pod.spec.as_ref().and_then(|spec| spec.scheduler_name.clone());
        let ours = profiles.iter().any(|profile| Some(&profile.scheduler_name) == scheduler.as_ref());
        let waits_for = waits(&pod, &claims, ours);
        let node = pod.spec.as_mut().and_then(|spec| spec.node_name.take()).filter(|name| !name.is_empty());
        let nominated = pod.status.as_mut().and_then(|status| status.nominated_node_name.take());
        let nominated = nominated.filter(|name| !name.is_empty() && node.is_none());
        let waits = ours && exists && node.is_none();
        let pod = CachedPod::from(pod);
        let info = Arc::new(snapshot.catalogue.pod(&pod));
        let written = written(&mut snapshot.catalogue.resources, &pod);
        let counted = snapshot.pod(&info.key).is_some();
        let mut report =
            explain(snapshot, profiles, &info, Asked { node, nominated, waits_for, written, assumed });
        if counted {
            kept.lost_pod(pod.namespace(), pod.name());
        }
        report.queue = waits.then(|| queue::report(queue.as_ref(), &info.key, &info.uid));
        // The queue knows better than the condition.
        if report.queue.as_ref().is_some_and(|queue| queue.state != QueueState::Unknown) {
            report.waits_for.retain(|wait| wait.kind != RETRY);
        }
        Ok(report)
    }
}

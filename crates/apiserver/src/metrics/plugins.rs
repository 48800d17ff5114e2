//! How long each plugin of admission takes, by upstream's names of them. All of them run for every write,
//! so whoever ran one finds its histogram by a number; it comes to be with its first use.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use amphipod_api::status::Status;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::access::{STEPS, Step};
use super::{Histograms, histograms};
use crate::seams::Operation;

/// In the order in which they are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugin {
    NamespaceLifecycle,
    LimitRanger,
    ServiceAccount,
    NodeRestriction,
    TaintNodesByCondition,
    Priority,
    DefaultTolerationSeconds,
    RuntimeClass,
    PodTopologyLabels,
    StorageObjectInUseProtection,
    DefaultStorageClass,
    DefaultIngressClass,
    PersistentVolumeClaimResize,
    CertificateApproval,
    CertificateSigning,
    CertificateSubjectRestriction,
    ResourceQuota,
}

const PLUGINS: usize = Plugin::ResourceQuota as usize + 1;
const STEP_KINDS: usize = Step::Validate as usize + 1;
const OPERATIONS: usize = Operation::Connect as usize + 1;
/// Taken and rejected.
const OUTCOMES: usize = 2;

impl Plugin {
    /// Whether upstream asks it about such requests; of others it has no series.
    fn handles(self, operation: Operation) -> bool {
        use Operation::{Connect, Create, Delete, Update};
        match self {
            Plugin::NamespaceLifecycle | Plugin::NodeRestriction => operation != Connect,
            Plugin::LimitRanger
            | Plugin::ServiceAccount
            | Plugin::Priority
            | Plugin::DefaultTolerationSeconds
            | Plugin::ResourceQuota => !matches!(operation, Delete | Connect),
            Plugin::PersistentVolumeClaimResize
            | Plugin::CertificateApproval
            | Plugin::CertificateSigning => operation == Update,
            _ => operation == Create,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PluginLabels {
    name: String,
    operation: &'static str,
    rejected: &'static str,
    r#type: &'static str,
}

/// Cheap to clone; all clones count together.
#[derive(Clone)]
pub struct PluginDurations {
    family: Histograms<PluginLabels>,
    known: Arc<[OnceLock<Histogram>]>,
}

impl Default for PluginDurations {
    fn default() -> Self {
        let count = PLUGINS * STEP_KINDS * OPERATIONS * OUTCOMES;
        let known = (0..count).map(|_| OnceLock::new()).collect();
        PluginDurations { family: histograms(|| Histogram::new(STEPS)), known }
    }
}

impl PluginDurations {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "apiserver_admission_controller_admission_duration_seconds",
            "Time a plugin of admission took",
            self.family.clone(),
        );
    }

    pub fn timed(&self, step: Step, operation: Operation) -> Timed<'_> {
        Timed { durations: self, step, operation }
    }

    fn of(&self, plugin: Plugin, step: Step, operation: Operation, rejected: bool) -> &Histogram {
        let place = (plugin as usize * STEP_KINDS + step as usize) * OPERATIONS + operation as usize;
        self.known[place * OUTCOMES + usize::from(rejected)].get_or_init(|| {
            let labels = PluginLabels {
                name: format!("{plugin:?}"),
                operation: operation.as_str(),
                rejected: if rejected { "true" } else { "false" },
                r#type: step.name(),
            };
            self.family.get_or_create(&labels).clone()
        })
    }
}

/// One step of admission of one request.
#[derive(Clone, Copy)]
pub struct Timed<'a> {
    durations: &'a PluginDurations,
    step: Step,
    operation: Operation,
}

impl Timed<'_> {
    /// Runs the plugin.
    pub async fn run(
        self,
        plugin: Plugin,
        work: impl Future<Output = Result<(), Status>> + Send,
    ) -> Result<(), Status> {
        if !plugin.handles(self.operation) {
            return work.await;
        }
        let started = Instant::now();
        let outcome = work.await;
        let histogram = self.durations.of(plugin, self.step, self.operation, outcome.is_err());
        histogram.observe(started.elapsed().as_secs_f64());
        outcome
    }
}

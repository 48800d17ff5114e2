//! What one sync of a deployment writes.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

/// Carried out in this order; what fails ends it, and the next sync plans anew.
#[derive(Debug, Default)]
pub struct Plan {
    pub create: Option<ReplicaSet>,
    pub update: Vec<ReplicaSet>,
    /// Reason and message, told once the replica sets are written.
    pub events: Vec<(&'static str, String)>,
    pub delete: Vec<Arc<ReplicaSet>>,
    /// The deployment with its new status (and revision), where it changes.
    pub status: Option<Deployment>,
    /// Look again without a change: progress has a deadline.
    pub again: Option<Duration>,
}

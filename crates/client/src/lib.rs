//! How components reach data: only through the API. A `kube::Client` over an in-process or a TLS
//! transport, typed calls, one shared informer per kind, work queues, events, leader election.

pub mod api;
pub mod dynamic;
pub mod error;
pub mod events;
pub mod informer;
mod interner;
pub mod leader;
pub mod metrics;
pub mod pod;
pub mod resource;
pub mod transport;
pub mod workqueue;

pub use api::{Api, DeleteParams, ListParams, Patch, Query};
pub use dynamic::{ApiKind, Dynamic};
pub use error::Error;
pub use events::EventRecorder;
pub use informer::{Change, Informer, SharedInformers};
pub use metrics::Metrics;
pub use pod::{CachedPod, Condition};
pub use resource::{Resource, Writable};
pub use transport::Client;

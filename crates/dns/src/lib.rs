//! Cluster DNS: names of Services and pods answered from the API's objects, everything else asked
//! upstream. Follows the Kubernetes DNS specification (schema 1.1.0) and, where that is silent,
//! what clusters have come to expect of the CoreDNS `kubernetes` plugin (TTL 5, for one).
//!
//! [`answer`] decides, over a [`View`] of the cluster; `handler` turns decisions into messages;
//! `forward` asks upstream; `publish` puts the server behind the Service `kube-system/kube-dns`.

mod answer;
mod error;
mod forward;
mod handler;
mod metrics;
mod probe;
mod publish;
mod run;
mod view;
mod zone;

pub use answer::{Answer, answer};
pub use error::Error;
pub use forward::Upstream;
pub use metrics::Metrics;
pub use probe::{answers, probe};
pub use run::{Config, run};
pub use view::View;
pub use zone::Zone;

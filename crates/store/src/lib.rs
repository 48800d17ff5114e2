//! Revisioned key-value storage. The contract is etcd's: one revision counter for the whole store,
//! ordered keys, transactions that compare revisions, watches with history, compaction, leases.
//!
//! [`contract`] says what every engine does; [`EmbeddedStore`] is the default engine, which needs
//! nothing but a directory, [`EtcdStore`] (feature `etcd`) the one for clusters with an etcd. [`suite`] (feature `suite`) checks any engine against the contract.

pub mod contract;
mod embedded;
#[cfg(feature = "etcd")]
mod etcd;
#[cfg(feature = "suite")]
pub mod suite;
mod text;

pub use contract::*;
pub use embedded::{EmbeddedStore, Faults, Options, Step};
#[cfg(feature = "etcd")]
pub use etcd::{EtcdOptions, EtcdStore, TlsFiles};
pub use text::Text;

//! Revisioned key-value storage. The contract is etcd's: one revision counter for the whole store,
//! ordered keys, transactions that compare revisions, watches with history, compaction, leases.

pub mod contract;

pub use contract::*;

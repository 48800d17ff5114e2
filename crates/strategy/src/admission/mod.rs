//! Kinds that put a word in for every request: webhook configurations and admission policies.

mod policy;
mod rules;
mod webhooks;

pub use policy::{ADMISSION_BINDING, ADMISSION_POLICY};
pub use webhooks::WEBHOOKS;

const FAILURE_POLICIES: [&str; 2] = ["Fail", "Ignore"];
const MATCH_POLICIES: [&str; 2] = ["Equivalent", "Exact"];

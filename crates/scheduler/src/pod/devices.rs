//! A pod's claims of devices: named ones, and those made for the pod, whose names its status tells.

use std::sync::Arc;

use amphipod_client::{CachedPod, Resource};

use crate::symbols::{Symbol, Symbols};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceClaim {
    /// `namespace/name`; none where the pod turned out to need no claim, an error where it has not been
    /// made yet.
    pub key: Result<Option<Symbol>, NotMade>,
    /// The claim is made for the pod, and has to be owned by it.
    pub owned: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotMade;

/// `None` for the many pods that have no such claims.
pub fn claims(symbols: &mut Symbols, pod: &CachedPod) -> Option<Arc<[DeviceClaim]>> {
    let claims = pod.spec.as_ref()?.resource_claims.as_deref().filter(|claims| !claims.is_empty())?;
    let mut key = |name: &str| symbols.intern(&format!("{}/{name}", pod.namespace()));
    let made = pod.status.as_ref().and_then(|s| s.resource_claim_statuses.as_deref()).unwrap_or_default();
    let claims = claims.iter().map(|claim| match &claim.resource_claim_name {
        Some(name) => DeviceClaim { key: Ok(Some(key(name))), owned: false },
        None => {
            let made = made.iter().find(|made| made.name == claim.name);
            let name = made.map(|made| made.resource_claim_name.as_deref());
            DeviceClaim { key: name.map(|name| name.map(&mut key)).ok_or(NotMade), owned: true }
        }
    });
    Some(claims.collect())
}

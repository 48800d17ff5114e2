//! When the change that a slice shows happened: the newest moment a pod turned ready or a service
//! was made, not told before. Users measure propagation by it.

use std::collections::HashMap;
use std::sync::Arc;

use amphipod_client::{CachedPod, Resource};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;

/// What was told for one service, by pod.
#[derive(Default)]
pub struct Told {
    service: Option<Timestamp>,
    pods: HashMap<String, Timestamp>,
}

impl Told {
    /// The earliest change since the last call, if any; remembers what it saw.
    pub fn advance(&mut self, service: &Service, all: &[Arc<CachedPod>]) -> Option<Timestamp> {
        let mut changes = Vec::new();
        let mut seen = HashMap::with_capacity(all.len());
        for pod in all {
            let Some(at) = pod.condition("Ready").and_then(|ready| ready.since) else { continue };
            let before = self.pods.get(pod.name()).copied();
            if before.is_none_or(|before| at > before) {
                changes.push(at);
            }
            seen.insert(pod.name().to_owned(), at);
        }
        self.pods = seen;
        let made = service.metadata.creation_timestamp.as_ref().map(|time| time.0);
        if made > self.service {
            changes.extend(made);
            self.service = made;
        }
        changes.into_iter().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, named, pod, set_ready};

    #[test]
    fn each_change_is_told_once() {
        let mut service: Service = named("ns", "s");
        service.metadata.creation_timestamp = crate::meta::time(at(10));
        let mut a = pod("ns", "a", "Running");
        set_ready(&mut a, Some(at(20)));
        let mut told = Told::default();
        assert_eq!(told.advance(&service, &[]), Some(at(10)));
        assert_eq!(told.advance(&service, &[Arc::new(a.clone())]), Some(at(20)));
        assert_eq!(told.advance(&service, &[Arc::new(a)]), None);
    }
}

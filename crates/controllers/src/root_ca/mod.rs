//! The cluster's CA in each namespace, for pods to trust the API server by.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use amphipod_client::workqueue::WorkQueue;
use amphipod_client::{Api, Informer, ListParams, Resource};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};

use crate::harness::{Controller, Scope, enqueue_all};
use crate::service_account::is_wanted;
use crate::{Error, meta};

const NAME: &str = "kube-root-ca.crt";
const KEY: &str = "ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
const DESCRIPTION_TEXT: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

#[derive(Debug, PartialEq)]
enum Plan {
    Nothing,
    Create(Box<ConfigMap>),
    Update(Box<ConfigMap>),
}

fn reconcile(namespace: &str, ca_pem: &str, existing: Option<&ConfigMap>) -> Plan {
    let data = Some(BTreeMap::from([(KEY.to_owned(), ca_pem.to_owned())]));
    let Some(existing) = existing else {
        let mut map = ConfigMap { data, ..ConfigMap::default() };
        map.metadata.name = Some(NAME.to_owned());
        map.metadata.namespace = Some(namespace.to_owned());
        meta::annotate(&mut map.metadata, DESCRIPTION, DESCRIPTION_TEXT);
        return Plan::Create(Box::new(map));
    };
    let described = meta::annotation(&existing.metadata, DESCRIPTION) == Some(DESCRIPTION_TEXT);
    if existing.data == data && described {
        return Plan::Nothing;
    }
    let mut map = existing.clone();
    map.data = data;
    meta::annotate(&mut map.metadata, DESCRIPTION, DESCRIPTION_TEXT);
    Plan::Update(Box::new(map))
}

struct RootCaPublisher {
    scope: Scope,
    namespaces: Informer<Namespace>,
    maps: Informer<ConfigMap>,
}

pub async fn run(scope: Scope) {
    let namespaces = scope.informers.get::<Namespace>();
    // Only the maps of that name: all others are no business of a controller.
    let by_name =
        ListParams { field_selector: Some(format!("metadata.name={NAME}")), ..ListParams::default() };
    let maps = scope.informers.get_selected::<ConfigMap>(by_name);
    if !(scope.synced(&namespaces).await && scope.synced(&maps).await) {
        return;
    }
    let queue = WorkQueue::new();
    enqueue_all(&namespaces, &queue);
    let by_map = queue.clone();
    maps.on_change(move |change| by_map.add(change.object().namespace()));
    let controller = RootCaPublisher { scope: scope.clone(), namespaces, maps };
    scope.work(queue, scope.config.workers, Arc::new(controller)).await;
}

impl Controller for RootCaPublisher {
    const QUEUE: &'static str = "root_ca_cert_publisher";
    async fn sync(&self, key: &str) -> Result<Option<Duration>, Error> {
        if !self.namespaces.get(key).is_some_and(|namespace| is_wanted(&namespace)) {
            return Ok(None);
        }
        let existing = self.maps.get(&format!("{key}/{NAME}"));
        let api = Api::<ConfigMap>::namespaced(self.scope.client.clone(), key);
        let written = match reconcile(key, &self.scope.config.root_ca_pem, existing.as_deref()) {
            Plan::Nothing => return Ok(None),
            Plan::Create(map) => api.create(&map).await,
            Plan::Update(map) => api.update(&map).await,
        };
        match written {
            Err(error) if error.is_already_exists() => Err(Error::Stale(key.to_owned())),
            Err(error) => {
                let error = Error::from(error);
                if error.is_namespace_terminating() { Ok(None) } else { Err(error) }
            }
            Ok(_) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_undone() {
        let Plan::Create(map) = reconcile("ns", "PEM", None) else { panic!("creates") };
        assert_eq!(map.name(), NAME);
        assert_eq!(reconcile("ns", "PEM", Some(&map)), Plan::Nothing);
        let mut edited = *map.clone();
        edited.data = Some(BTreeMap::from([("x".to_owned(), "y".to_owned())]));
        let Plan::Update(mended) = reconcile("ns", "PEM", Some(&edited)) else { panic!("updates") };
        assert_eq!(mended.data, map.data);
    }
}

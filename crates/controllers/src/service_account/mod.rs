//! A `default` ServiceAccount in each namespace: without it no pod can be created there.

use std::sync::Arc;
use std::time::Duration;

use amphipod_client::workqueue::WorkQueue;
use amphipod_client::{Api, Change, Informer, Resource};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};

use crate::Error;
use crate::harness::{Controller, Scope, enqueue_all};

const NAME: &str = "default";

struct ServiceAccountController {
    scope: Scope,
    namespaces: Informer<Namespace>,
    accounts: Informer<ServiceAccount>,
}

pub async fn run(scope: Scope) {
    let namespaces = scope.informers.get::<Namespace>();
    let accounts = scope.informers.get::<ServiceAccount>();
    if !(scope.synced(&namespaces).await && scope.synced(&accounts).await) {
        return;
    }
    let queue = WorkQueue::new();
    enqueue_all(&namespaces, &queue);
    let deleted = queue.clone();
    accounts.on_change(move |change| {
        if let Change::Deleted(account) = change
            && account.name() == NAME
        {
            deleted.add(account.namespace());
        }
    });
    let controller = ServiceAccountController { scope: scope.clone(), namespaces, accounts };
    scope.work(queue, scope.config.workers, Arc::new(controller)).await;
}

/// Namespaces that go away get nothing new.
pub fn is_wanted(namespace: &Namespace) -> bool {
    let phase = namespace.status.as_ref().and_then(|s| s.phase.as_deref());
    !namespace.is_terminating() && phase != Some("Terminating")
}

impl Controller for ServiceAccountController {
    const QUEUE: &'static str = "serviceaccount";
    async fn sync(&self, key: &str) -> Result<Option<Duration>, Error> {
        let wanted = self.namespaces.get(key).is_some_and(|namespace| is_wanted(&namespace));
        if !wanted || self.accounts.get(&format!("{key}/{NAME}")).is_some() {
            return Ok(None);
        }
        let mut account = ServiceAccount::default();
        account.metadata.name = Some(NAME.to_owned());
        account.metadata.namespace = Some(key.to_owned());
        let api = Api::<ServiceAccount>::namespaced(self.scope.client.clone(), key);
        match api.create(&account).await {
            Err(error) if error.is_already_exists() => Ok(None),
            Err(error) => {
                let error = Error::from(error);
                if error.is_namespace_terminating() { Ok(None) } else { Err(error) }
            }
            Ok(_) => Ok(None),
        }
    }
}

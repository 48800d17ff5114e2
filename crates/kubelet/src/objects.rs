//! Config maps and secrets that pods refer to: fetched by name (all a node may do), kept for a
//! short while so that many pods with the same source ask once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use amphipod_client::{Api, Client, Resource};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::Error;

/// Objects kept; beyond, all are forgotten and fetched again.
const MAX_KEPT: usize = 2048;

struct Kept<T> {
    at: Instant,
    object: Option<Arc<T>>,
}

struct Kind<T> {
    client: Client,
    kept: Mutex<HashMap<(String, String), Kept<T>>>,
}

impl<T: Resource> Kind<T> {
    fn new(client: Client) -> Self {
        Kind { client, kept: Mutex::default() }
    }
    async fn get(&self, namespace: &str, name: &str, max_age: Duration) -> Result<Option<Arc<T>>, Error> {
        let key = (namespace.to_owned(), name.to_owned());
        let kept = self.kept.lock().get(&key).filter(|k| k.at.elapsed() < max_age).map(|k| k.object.clone());
        if let Some(object) = kept {
            return Ok(object);
        }
        let object = Api::<T>::namespaced(self.client.clone(), namespace).get_opt(name).await?.map(Arc::new);
        let mut all = self.kept.lock();
        if all.len() >= MAX_KEPT {
            all.clear();
        }
        all.insert(key, Kept { at: Instant::now(), object: object.clone() });
        Ok(object)
    }
}

pub struct Objects {
    config_maps: Kind<ConfigMap>,
    secrets: Kind<Secret>,
}

impl Objects {
    pub fn new(client: &Client) -> Self {
        Objects { config_maps: Kind::new(client.clone()), secrets: Kind::new(client.clone()) }
    }
    pub async fn config_map(
        &self,
        ns: &str,
        name: &str,
        max_age: Duration,
    ) -> Result<Option<Arc<ConfigMap>>, Error> {
        self.config_maps.get(ns, name, max_age).await
    }
    pub async fn secret(
        &self,
        ns: &str,
        name: &str,
        max_age: Duration,
    ) -> Result<Option<Arc<Secret>>, Error> {
        self.secrets.get(ns, name, max_age).await
    }
}

//! An in-memory [`Reader`] for tests of policy, and requests for tests of a whole server.

use std::collections::BTreeMap;
use std::sync::Arc;

use amphipod_api::object;
use amphipod_api::status::Status;
use amphipod_store::Text;
use async_trait::async_trait;
use http::Request;
use http_body_util::{BodyExt, Full};
use parking_lot::Mutex;
use serde_json::Value;
use tower::ServiceExt;

use crate::seams::{Listing, QuotaLedger, Reader};
use crate::{ApiServer, UserInfo};

#[derive(Default)]
struct State {
    revision: u64,
    objects: BTreeMap<(String, String, String, String), Text>,
    changes: BTreeMap<(String, String), u64>,
}

#[derive(Default)]
pub struct MemoryReader(Mutex<State>);

impl MemoryReader {
    pub fn put(&self, group: &str, plural: &str, value: &Value) {
        let mut state = self.0.lock();
        state.revision += 1;
        let revision = state.revision;
        state.changes.insert((group.into(), plural.into()), revision);
        let key = (group.into(), plural.into(), object::namespace(value).into(), object::name(value).into());
        state.objects.insert(key, value.to_string().into());
    }
    pub fn remove(&self, group: &str, plural: &str, namespace: &str, name: &str) {
        let mut state = self.0.lock();
        state.revision += 1;
        let revision = state.revision;
        state.changes.insert((group.into(), plural.into()), revision);
        state.objects.remove(&(group.into(), plural.into(), namespace.into(), name.into()));
    }
}

#[async_trait]
impl Reader for MemoryReader {
    async fn get(
        &self,
        group: &str,
        plural: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Text>, Status> {
        let key = (group.into(), plural.into(), namespace.into(), name.into());
        Ok(self.0.lock().objects.get(&key).cloned())
    }
    async fn labels(
        &self,
        group: &str,
        plural: &str,
        namespace: &str,
        name: &str,
        keys: &[&str],
    ) -> Result<Option<Vec<Option<String>>>, Status> {
        let Some(text) = self.get(group, plural, namespace, name).await? else { return Ok(None) };
        let object = self.value(&text)?;
        let value = |key: &&str| Some(object::labels(&object)?.get(*key)?.as_str()?.to_owned());
        Ok(Some(keys.iter().map(value).collect()))
    }
    async fn list(&self, group: &str, plural: &str, namespace: &str) -> Result<Listing, Status> {
        let state = self.0.lock();
        let items = state
            .objects
            .iter()
            .filter(|((g, p, n, _), _)| g == group && p == plural && (namespace.is_empty() || n == namespace))
            .map(|(_, text)| text.clone())
            .collect();
        Ok(Listing { revision: state.revision, items })
    }
    async fn last_change(&self, group: &str, plural: &str) -> Result<u64, Status> {
        Ok(self.0.lock().changes.get(&(group.into(), plural.into())).copied().unwrap_or(0))
    }
}

#[async_trait]
impl QuotaLedger for MemoryReader {
    async fn record(&self, quota: &Value, used: serde_json::Map<String, Value>) -> Result<bool, Status> {
        let mut quota = quota.clone();
        quota["status"]["used"] = used.into();
        self.put("", "resourcequotas", &quota);
        Ok(true)
    }
}

/// As one who may do everything; null where the answer is no JSON.
pub async fn send(server: &Arc<ApiServer>, method: &str, path: &str, body: String) -> (u16, Value) {
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    let request = request.body(Full::new(body.into())).expect("a request");
    let service = server.local_service(UserInfo::new("admin", &["system:masters"]));
    let (parts, body) = service.oneshot(request).await.expect("never fails").into_parts();
    let bytes = body.collect().await.expect("a whole answer").to_bytes();
    (parts.status.as_u16(), serde_json::from_slice(&bytes).unwrap_or_default())
}

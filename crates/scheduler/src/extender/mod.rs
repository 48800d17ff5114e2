//! HTTP extenders: servers that are asked about nodes beside the plugins, in the wire format of
//! `k8s.io/kube-scheduler/extender/v1`. What is asked and what an answer means is plain data
//! ([`wire`]); here are the calls.

pub mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use amphipod_client::{CachedPod, Client, Error};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Request;
use k8s_openapi::api::core::v1::Container;
use serde_json::{Map, Value, json};

use crate::config;

pub struct Extender {
    settings: config::Extender,
    client: Client,
}

/// All extenders in the order they are asked: those that may fail come last.
#[derive(Clone, Default)]
pub struct Extenders(Arc<[Extender]>);

impl Extenders {
    pub async fn connect(configured: &[config::Extender]) -> Result<Self, Error> {
        let mut settings: Vec<&config::Extender> = configured.iter().collect();
        settings.sort_by_key(|extender| extender.ignorable);
        let mut extenders = Vec::with_capacity(settings.len());
        for settings in settings {
            check_tls(settings)?;
            let client = Client::to_server(&kubeconfig(settings)).await?;
            extenders.push(Extender { settings: settings.clone(), client });
        }
        Ok(Extenders(extenders.into()))
    }

    /// Those that want to be asked about a pod.
    pub fn interested(&self, pod: &CachedPod) -> impl Iterator<Item = &Extender> {
        self.0.iter().filter(|extender| extender.is_interested(pod))
    }
    pub fn consults(&self, pod: &CachedPod) -> bool {
        self.interested(pod).any(|extender| extender.filters() || extender.prioritizes())
    }
}

/// What kube-scheduler does not start with.
fn check_tls(extender: &config::Extender) -> Result<(), Error> {
    let tls = extender.tls.clone().unwrap_or_default();
    if tls.insecure && has_ca(&tls) {
        let why = "specifying a root certificates file with the insecure flag is not allowed".to_owned();
        return Err(Error::Kubeconfig { path: format!("extender {}", extender.url_prefix), why });
    }
    Ok(())
}

fn has_ca(tls: &config::ExtenderTls) -> bool {
    !tls.ca_file.is_empty() || !tls.ca_data.is_empty()
}

/// How to reach an extender, in the terms every client here is made from.
fn kubeconfig(extender: &config::Extender) -> Value {
    let tls = extender.tls.clone().unwrap_or_default();
    let (mut cluster, mut user) = (Map::new(), Map::new());
    let insecure = tls.insecure || (extender.enable_https && !has_ca(&tls));
    cluster.insert("server".to_owned(), extender.url_prefix.trim_end_matches('/').into());
    cluster.insert("insecure-skip-tls-verify".to_owned(), insecure.into());
    let text = |map: &mut Map<String, Value>, name: &str, value: &str| {
        if !value.is_empty() {
            map.insert(name.to_owned(), value.into());
        }
    };
    text(&mut cluster, "tls-server-name", &tls.server_name);
    if !insecure {
        text(&mut cluster, "certificate-authority", &tls.ca_file);
        text(&mut cluster, "certificate-authority-data", &STANDARD.encode(&tls.ca_data));
    }
    text(&mut user, "client-certificate", &tls.cert_file);
    text(&mut user, "client-certificate-data", &STANDARD.encode(&tls.cert_data));
    text(&mut user, "client-key", &tls.key_file);
    text(&mut user, "client-key-data", &STANDARD.encode(&tls.key_data));
    json!({
        "clusters": [{"name": "extender", "cluster": cluster}],
        "users": [{"name": "extender", "user": user}],
        "contexts": [{"name": "extender", "context": {"cluster": "extender", "user": "extender"}}],
        "current-context": "extender",
    })
}

impl Extender {
    pub fn url(&self) -> &str {
        &self.settings.url_prefix
    }
    pub fn is_ignorable(&self) -> bool {
        self.settings.ignorable
    }
    pub fn filters(&self) -> bool {
        !self.settings.filter_verb.is_empty()
    }
    pub fn prioritizes(&self) -> bool {
        !self.settings.prioritize_verb.is_empty()
    }
    pub fn preempts(&self) -> bool {
        !self.settings.preempt_verb.is_empty()
    }
    pub fn binds(&self) -> bool {
        !self.settings.bind_verb.is_empty()
    }
    /// It wants to see nodes, and not only their names.
    pub fn needs_nodes(&self) -> bool {
        !self.settings.node_cache_capable
    }

    fn is_interested(&self, pod: &CachedPod) -> bool {
        let managed = &self.settings.managed_resources;
        let asks = |container: &Container| {
            let resources = container.resources.iter();
            let lists = resources.flat_map(|r| [&r.requests, &r.limits]).flatten();
            lists.flat_map(|list| list.keys()).any(|name| managed.iter().any(|m| m.name == *name))
        };
        let spec = pod.spec.as_deref();
        let init = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
        let containers = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
        managed.is_empty() || containers.iter().chain(init).any(asks)
    }

    /// Which of these nodes will do, and why the others will not.
    pub async fn filter(&self, pod: &Value, nodes: &wire::Nodes<'_>) -> Result<wire::Filtered, String> {
        let question = wire::question(pod, nodes, self.needs_nodes());
        let answer = self.ask(&self.settings.filter_verb, &question).await?;
        wire::filtered(self.url(), &answer, nodes, self.needs_nodes())
    }
    /// What is to be added to the scores of nodes.
    pub async fn prioritize(
        &self,
        pod: &Value,
        nodes: &wire::Nodes<'_>,
    ) -> Result<Vec<(String, i64)>, String> {
        let question = wire::question(pod, nodes, self.needs_nodes());
        let answer = self.ask(&self.settings.prioritize_verb, &question).await?;
        wire::priorities(&answer, self.settings.weight)
    }
    /// Where room may be made, and by taking which pods away.
    pub async fn preempt(
        &self,
        pod: &Value,
        nodes: &BTreeMap<&str, wire::Victims>,
        whole: &BTreeMap<String, Value>,
    ) -> Result<BTreeMap<String, wire::Victims>, String> {
        let question = wire::preemption(pod, nodes, self.needs_nodes().then_some(whole));
        Ok(wire::preempted(&self.ask(&self.settings.preempt_verb, &question).await?))
    }
    pub async fn bind(&self, binding: &wire::Binding<'_>) -> Result<(), String> {
        wire::bound(&self.ask(&self.settings.bind_verb, &binding.question()).await?)
    }

    async fn ask(&self, verb: &str, question: &Value) -> Result<Value, String> {
        let url = format!("{}/{verb}", self.url().trim_end_matches('/'));
        let request = Request::post(format!("/{verb}")).header("content-type", "application/json");
        let request = request.body(question.to_string().into_bytes()).map_err(|error| error.to_string())?;
        let answer = within(self.settings.timeout, self.client.request(request)).await;
        let told = |what: &dyn std::fmt::Display| format!("Post \"{url}\": {what}");
        let bytes = match answer {
            None => return Err(told(&"context deadline exceeded")),
            Some(Err(Error::Api(status))) => {
                return Err(format!("failed {verb} with extender at URL {url}, code {}", status.code));
            }
            Some(Err(Error::Transport(why))) => return Err(told(&why)),
            Some(Err(other)) => return Err(told(&other)),
            Some(Ok(bytes)) => bytes,
        };
        serde_json::from_slice(&bytes).map_err(|error| error.to_string())
    }
}

/// `None` where it took too long.
async fn within<F: Future>(timeout: Duration, work: F) -> Option<F::Output> {
    tokio::time::timeout(timeout, work).await.ok()
}

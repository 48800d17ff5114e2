//! The scheduler's configuration file: `KubeSchedulerConfiguration` of
//! `kubescheduler.config.k8s.io/v1`, read strictly, with kube-scheduler's defaults (v1.35), judged by
//! its rules in its words, and turned into profiles. What a field means here, and which have no
//! meaning, is in `docs/scheduler-configuration.md`.

mod arguments;
mod fields;
mod plugins;
mod profile;
mod read;
mod show;
#[cfg(test)]
mod tests;
mod validate;
mod validate_arguments;

use std::time::Duration;

use amphipod_api::codec;
use amphipod_api::field::{Faults, go_quote};
use amphipod_api::schema::Node;
use amphipod_client::leader;
use serde_json::Value;

pub use arguments::PluginConfig;
pub use plugins::{PluginSet, Plugins};
pub use show::NAME as SHOWN_AS;

use crate::framework::Profile;
use crate::pod::Catalogue;
use crate::queue::Backoff;
use fields::{Fields, Problems};

const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";
const KIND: &str = "KubeSchedulerConfiguration";
/// Of pods that name no scheduler, and of a profile without a name that is the only one.
pub const DEFAULT_SCHEDULER: &str = "default-scheduler";
/// How long an extender may take where its configuration does not say.
const EXTENDER_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is no such document.
    #[error("{0}")]
    Document(String),
    /// Its values are not allowed; one fault a line.
    #[error("{}", lines(.0))]
    Values(Faults),
}

fn lines(faults: &Faults) -> String {
    let texts: Vec<String> = faults.iter().map(ToString::to_string).collect();
    texts.join("\n")
}

#[derive(Clone, Debug)]
pub struct Config {
    /// The scheduler decides in one thread; upstream's number of workers is only checked.
    pub parallelism: i32,
    pub leader_election: LeaderElection,
    pub client_connection: ClientConnection,
    /// Upstream looks at a part of the nodes; here all are, which finds no worse ones.
    pub percentage_of_nodes_to_score: Option<i32>,
    pub pod_initial_backoff_seconds: i64,
    pub pod_max_backoff_seconds: i64,
    pub profiles: Vec<ProfileSettings>,
    pub extenders: Vec<Extender>,
}

#[derive(Clone, Debug)]
pub struct LeaderElection {
    pub leader_elect: bool,
    /// Durations are in nanoseconds, as Go counts them: a file may name negative ones.
    pub lease_duration: i64,
    pub renew_deadline: i64,
    pub retry_period: i64,
    pub resource_lock: String,
    pub resource_name: String,
    pub resource_namespace: String,
}

#[derive(Clone, Debug)]
pub struct ClientConnection {
    pub kubeconfig: String,
    pub burst: i32,
}

/// A profile as the file has it, defaults filled in.
#[derive(Clone, Debug)]
pub struct ProfileSettings {
    pub scheduler_name: String,
    pub percentage_of_nodes_to_score: Option<i32>,
    pub plugins: Plugins,
    pub plugin_config: Vec<PluginConfig>,
}

/// A server that is asked about nodes beside the plugins.
#[derive(Clone, Debug)]
pub struct Extender {
    pub url_prefix: String,
    /// Verbs are empty where the extender has no such call.
    pub filter_verb: String,
    pub preempt_verb: String,
    pub prioritize_verb: String,
    pub weight: i64,
    pub bind_verb: String,
    pub enable_https: bool,
    pub tls: Option<ExtenderTls>,
    pub timeout: Duration,
    /// It knows the nodes; their names are enough.
    pub node_cache_capable: bool,
    pub managed_resources: Vec<ManagedResource>,
    pub ignorable: bool,
}

#[derive(Clone, Debug)]
pub struct ManagedResource {
    pub name: String,
    pub ignored_by_scheduler: bool,
}

#[derive(Clone, Debug, Default)]
pub struct ExtenderTls {
    pub insecure: bool,
    pub server_name: String,
    pub cert_file: String,
    pub key_file: String,
    pub ca_file: String,
    /// PEM; these go before the files.
    pub cert_data: Vec<u8>,
    pub key_data: Vec<u8>,
    pub ca_data: Vec<u8>,
}

impl LeaderElection {
    /// The lease to hold; `None` where the scheduler is not to wait for one.
    pub fn lease(&self, identity: &str) -> Option<leader::Config> {
        // Validation leaves no negative ones.
        let duration = |nanoseconds: i64| Duration::from_nanos(nanoseconds.unsigned_abs());
        self.leader_elect.then(|| leader::Config {
            namespace: self.resource_namespace.clone(),
            name: self.resource_name.clone(),
            identity: identity.to_owned(),
            lease_duration: duration(self.lease_duration),
            renew_deadline: duration(self.renew_deadline),
            retry_period: duration(self.retry_period),
            ..leader::Config::new("", "", "")
        })
    }
}

impl Default for Config {
    fn default() -> Self {
        Fields::read(KIND, Value::Null, read::configuration).0
    }
}

impl Config {
    /// Reads a file's contents, YAML or JSON.
    pub fn parse(contents: &[u8]) -> Result<Self, Error> {
        // Upstream takes what begins like JSON for nothing else.
        let is_yaml = !contents.trim_ascii_start().starts_with(b"{");
        let (value, duplicates) =
            codec::parse_reporting(contents, is_yaml, Node::Deduced).map_err(Error::Document)?;
        check_kind(&value).map_err(Error::Document)?;
        let (configuration, found) = Fields::read(KIND, value, read::configuration);
        let mut problems = Problems { mismatch: None, strict: duplicates };
        problems.add(found);
        if !problems.is_empty() {
            return Err(Error::Document(problems.text()));
        }
        let faults = validate::configuration(&configuration);
        if faults.is_empty() { Ok(configuration) } else { Err(Error::Values(faults)) }
    }

    /// The profiles, in the symbols of one snapshot.
    pub fn profiles(&self, catalogue: &mut Catalogue) -> Vec<Profile> {
        let ignored = self.extenders.iter().flat_map(|extender| &extender.managed_resources);
        let ignored = ignored.filter(|resource| resource.ignored_by_scheduler);
        let ignored: Vec<String> = ignored.map(|resource| resource.name.clone()).collect();
        let profiles = self.profiles.iter().map(|settings| profile::build(settings, &ignored, catalogue));
        profiles.collect()
    }

    pub fn backoff(&self) -> Backoff {
        // Validation leaves no negative ones.
        let seconds = |number: i64| Duration::from_secs(number.unsigned_abs());
        Backoff {
            first: seconds(self.pod_initial_backoff_seconds),
            last: seconds(self.pod_max_backoff_seconds),
        }
    }
}

fn check_kind(value: &Value) -> Result<(), String> {
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    for (name, found) in [("Kind", kind), ("apiVersion", api_version)] {
        if found.is_empty() {
            return Err(format!("Object '{name}' is missing in '{value}'"));
        }
    }
    if api_version != API_VERSION {
        let (kind, version) = (go_quote(kind), go_quote(api_version));
        return Err(format!("no kind {kind} is registered for version {version}"));
    }
    if kind != KIND {
        return Err(format!("couldn't decode as {KIND}, got {api_version}, Kind={kind}"));
    }
    Ok(())
}

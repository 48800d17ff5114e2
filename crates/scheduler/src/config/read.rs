//! From the document's fields to the configuration, with the defaults of those that are absent.
//! Fields without a meaning here are read for their type all the same.

use std::time::Duration;

use super::arguments::{self, PluginConfig};
use super::fields::Fields;
use super::{
    ClientConnection, Config, DEFAULT_SCHEDULER, EXTENDER_TIMEOUT, Extender, ExtenderTls, LeaderElection,
    ManagedResource, Plugins, ProfileSettings,
};

const SECOND: i64 = 1_000_000_000;

pub(super) fn configuration(fields: &mut Fields) -> Config {
    for known in ["apiVersion", "kind"] {
        fields.text(known);
    }
    for ignored in ["enableProfiling", "enableContentionProfiling", "delayCacheUntilActive"] {
        fields.boolean(ignored);
    }
    Config {
        parallelism: fields.int32("parallelism").unwrap_or(16),
        leader_election: fields.object_or_empty("leaderElection", leader_election),
        client_connection: fields.object_or_empty("clientConnection", client_connection),
        percentage_of_nodes_to_score: fields.int32("percentageOfNodesToScore"),
        pod_initial_backoff_seconds: fields.int64("podInitialBackoffSeconds").unwrap_or(1),
        pod_max_backoff_seconds: fields.int64("podMaxBackoffSeconds").unwrap_or(10),
        profiles: profiles(fields),
        extenders: fields.objects("extenders", extender),
    }
}

fn non_zero(value: Option<i64>, default: i64) -> i64 {
    value.filter(|value| *value != 0).unwrap_or(default)
}

fn non_empty(text: String, default: &str) -> String {
    if text.is_empty() { default.to_owned() } else { text }
}

fn leader_election(fields: &mut Fields) -> LeaderElection {
    LeaderElection {
        leader_elect: fields.boolean("leaderElect").unwrap_or(true),
        lease_duration: non_zero(fields.duration("leaseDuration"), 15 * SECOND),
        renew_deadline: non_zero(fields.duration("renewDeadline"), 10 * SECOND),
        retry_period: non_zero(fields.duration("retryPeriod"), 2 * SECOND),
        resource_lock: non_empty(fields.text("resourceLock"), "leases"),
        resource_name: non_empty(fields.text("resourceName"), "kube-scheduler"),
        resource_namespace: non_empty(fields.text("resourceNamespace"), "kube-system"),
    }
}

fn client_connection(fields: &mut Fields) -> ClientConnection {
    for ignored in ["acceptContentTypes", "contentType"] {
        fields.text(ignored);
    }
    fields.float("qps");
    ClientConnection {
        kubeconfig: fields.text("kubeconfig"),
        burst: fields.int32("burst").unwrap_or_default(),
    }
}

/// One profile where there is none, and a name for it where it is the only one.
fn profiles(fields: &mut Fields) -> Vec<ProfileSettings> {
    let mut profiles = fields.objects("profiles", profile);
    if profiles.is_empty() {
        profiles.push(Fields::read("", serde_json::Value::Null, profile).0);
    }
    let names: Vec<Option<String>> = profiles.iter_mut().map(|(_, name)| name.take()).collect();
    let only = profiles.len() == 1;
    let name = |name: Option<String>| name.or(only.then(|| DEFAULT_SCHEDULER.to_owned())).unwrap_or_default();
    let named = profiles.into_iter().zip(names);
    named.map(|((settings, _), named)| ProfileSettings { scheduler_name: name(named), ..settings }).collect()
}

fn profile(fields: &mut Fields) -> (ProfileSettings, Option<String>) {
    let name = fields.string("schedulerName");
    let path = fields.path().clone();
    let mut index = 0;
    let settings = ProfileSettings {
        scheduler_name: String::new(),
        percentage_of_nodes_to_score: fields.int32("percentageOfNodesToScore"),
        plugins: fields.object_or_empty("plugins", Plugins::read),
        plugin_config: fields.objects("pluginConfig", |fields| {
            let at = path.child("pluginConfig").index(index);
            index += 1;
            plugin_config(fields, at.as_str())
        }),
    };
    (settings, name)
}

fn plugin_config(fields: &mut Fields, path: &str) -> PluginConfig {
    let (name, value) = (fields.text("name"), fields.value("args").unwrap_or_default());
    let (arguments, problems) = arguments::read(&name, value, path);
    fields.found(problems);
    PluginConfig { name, arguments }
}

fn extender(fields: &mut Fields) -> Extender {
    let timeout = fields.duration("httpTimeout").and_then(|time| u64::try_from(time).ok());
    Extender {
        url_prefix: fields.text("urlPrefix"),
        filter_verb: fields.text("filterVerb"),
        preempt_verb: fields.text("preemptVerb"),
        prioritize_verb: fields.text("prioritizeVerb"),
        weight: fields.int64("weight").unwrap_or_default(),
        bind_verb: fields.text("bindVerb"),
        enable_https: fields.boolean("enableHTTPS").unwrap_or_default(),
        tls: fields.object("tlsConfig", extender_tls),
        timeout: timeout.filter(|time| *time != 0).map_or(EXTENDER_TIMEOUT, Duration::from_nanos),
        node_cache_capable: fields.boolean("nodeCacheCapable").unwrap_or_default(),
        managed_resources: fields.objects("managedResources", |fields| ManagedResource {
            name: fields.text("name"),
            ignored_by_scheduler: fields.boolean("ignoredByScheduler").unwrap_or_default(),
        }),
        ignorable: fields.boolean("ignorable").unwrap_or_default(),
    }
}

fn extender_tls(fields: &mut Fields) -> ExtenderTls {
    ExtenderTls {
        insecure: fields.boolean("insecure").unwrap_or_default(),
        server_name: fields.text("serverName"),
        cert_file: fields.text("certFile"),
        key_file: fields.text("keyFile"),
        ca_file: fields.text("caFile"),
        cert_data: fields.bytes("certData"),
        key_data: fields.bytes("keyData"),
        ca_data: fields.bytes("caData"),
    }
}

//! The configuration as it is in force, for `/configz`: under the names Go gives the fields of
//! kube-scheduler's internal type, which is what kube-scheduler shows: what the file accepts, used here
//! or not. Keys are not shown.

use amphipod_api::codec::go_duration;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::arguments::{self, Arguments, ResourceSpec};
use super::plugins::PluginSet;
use super::{ClientConnection, Config, Extender, ExtenderTls, LeaderElection, ProfileSettings};
use crate::framework::ShapePoint;

/// Under what kube-scheduler shows its configuration.
pub const NAME: &str = "componentconfig";

impl Config {
    pub fn shown(&self) -> Value {
        json!({
            "Parallelism": self.parallelism,
            "LeaderElection": leader_election(&self.leader_election),
            "ClientConnection": client_connection(&self.client_connection),
            "PercentageOfNodesToScore": self.percentage_of_nodes_to_score,
            "PodInitialBackoffSeconds": self.pod_initial_backoff_seconds,
            "PodMaxBackoffSeconds": self.pod_max_backoff_seconds,
            "Profiles": self.profiles.iter().map(profile).collect::<Vec<_>>(),
            "Extenders": self.extenders.iter().map(extender).collect::<Vec<_>>(),
        })
    }
}

fn leader_election(election: &LeaderElection) -> Value {
    json!({
        "LeaderElect": election.leader_elect,
        "LeaseDuration": go_duration(election.lease_duration),
        "RenewDeadline": go_duration(election.renew_deadline),
        "RetryPeriod": go_duration(election.retry_period),
        "ResourceLock": election.resource_lock,
        "ResourceName": election.resource_name,
        "ResourceNamespace": election.resource_namespace,
    })
}

fn client_connection(connection: &ClientConnection) -> Value {
    json!({"Kubeconfig": connection.kubeconfig, "Burst": connection.burst})
}

fn profile(settings: &ProfileSettings) -> Value {
    let plugins = settings.plugins.points().map(|(field, set)| (go_name(field), plugin_set(set)));
    let mut plugins: Map<String, Value> = plugins.collect();
    plugins.insert("MultiPoint".to_owned(), plugin_set(&settings.plugins.everywhere()));
    let arguments = arguments::names().filter_map(|name| {
        let given = settings.plugin_config.iter().rev().find(|config| config.name == name);
        let arguments = given.and_then(|config| config.arguments.clone());
        let arguments = arguments.or_else(|| arguments::read(name, Value::Null, "").0)?;
        Some(json!({"Name": name, "Args": args(&arguments)}))
    });
    json!({
        "SchedulerName": settings.scheduler_name,
        "PercentageOfNodesToScore": settings.percentage_of_nodes_to_score,
        "Plugins": plugins,
        "PluginConfig": arguments.collect::<Vec<_>>(),
    })
}

/// `preFilter` as Go writes an exported field.
fn go_name(field: &str) -> String {
    let (first, rest) = field.split_at(1);
    first.to_ascii_uppercase() + rest
}

fn plugin_set(set: &PluginSet) -> Value {
    let named = |(name, weight): &(String, i32)| json!({"Name": name, "Weight": weight});
    let enabled: Vec<Value> = set.enabled.iter().map(named).collect();
    let disabled: Vec<Value> = set.disabled.iter().map(|name| json!({"Name": name, "Weight": 0})).collect();
    json!({"Enabled": enabled, "Disabled": disabled})
}

fn args(arguments: &Arguments) -> Value {
    match arguments {
        Arguments::DefaultPreemption(args) => json!({
            "MinCandidateNodesPercentage": args.min_candidate_nodes_percentage,
            "MinCandidateNodesAbsolute": args.min_candidate_nodes_absolute,
        }),
        Arguments::DynamicResources(args) => json!({"FilterTimeout": go_duration(args.filter_timeout)}),
        Arguments::InterPodAffinity(args) => json!({
            "HardPodAffinityWeight": args.hard_weight,
            "IgnorePreferredTermsOfExistingPods": args.ignore_preferred_terms_of_existing_pods,
        }),
        Arguments::NodeAffinity(added) => json!({"AddedAffinity": added}),
        Arguments::BalancedAllocation(specs) => json!({"Resources": resources(specs)}),
        Arguments::Fit(fit) => json!({
            "IgnoredResources": fit.ignored_resources,
            "IgnoredResourceGroups": fit.ignored_resource_groups,
            "ScoringStrategy": {
                "Type": fit.strategy.kind,
                "Resources": resources(&fit.strategy.resources),
                "RequestedToCapacityRatio": fit.strategy.shape.as_deref().map(|points| json!({"Shape": shape(points)})),
            },
        }),
        Arguments::PodTopologySpread(spread) => json!({
            "DefaultConstraints": spread.default_constraints,
            "DefaultingType": spread.defaulting_type,
        }),
        Arguments::VolumeBinding(args) => json!({"BindTimeoutSeconds": args.bind_timeout_seconds}),
    }
}

fn resources(specs: &[ResourceSpec]) -> Vec<Value> {
    specs.iter().map(|spec| json!({"Name": spec.name, "Weight": spec.weight})).collect()
}

fn shape(points: &[ShapePoint]) -> Vec<Value> {
    let point = |p: &ShapePoint| json!({"Utilization": p.utilization, "Score": p.score});
    points.iter().map(point).collect()
}

fn extender(extender: &Extender) -> Value {
    let managed = extender.managed_resources.iter();
    let managed = managed.map(|r| json!({"Name": r.name, "IgnoredByScheduler": r.ignored_by_scheduler}));
    let timeout = i64::try_from(extender.timeout.as_nanos()).unwrap_or(i64::MAX);
    json!({
        "URLPrefix": extender.url_prefix,
        "FilterVerb": extender.filter_verb,
        "PreemptVerb": extender.preempt_verb,
        "PrioritizeVerb": extender.prioritize_verb,
        "Weight": extender.weight,
        "BindVerb": extender.bind_verb,
        "EnableHTTPS": extender.enable_https,
        "TLSConfig": extender.tls.as_ref().map(tls),
        "HTTPTimeout": go_duration(timeout),
        "NodeCacheCapable": extender.node_cache_capable,
        "ManagedResources": managed.collect::<Vec<_>>(),
        "Ignorable": extender.ignorable,
    })
}

fn tls(tls: &ExtenderTls) -> Value {
    json!({
        "Insecure": tls.insecure,
        "ServerName": tls.server_name,
        "CertFile": tls.cert_file,
        "KeyFile": tls.key_file,
        "CAFile": tls.ca_file,
        "CertData": STANDARD.encode(&tls.cert_data),
        "CAData": STANDARD.encode(&tls.ca_data),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_force_is_shown_under_gos_names() {
        let file = "
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
leaderElection: {leaseDuration: 90s, resourceName: mine}
profiles:
- pluginConfig:
  - name: NodeResourcesFit
    args: {scoringStrategy: {type: MostAllocated}}
  plugins:
    multiPoint: {disabled: [{name: ImageLocality}]}
    score: {enabled: [{name: NodeAffinity, weight: 7}]}
extenders: [{urlPrefix: 'https://e', bindVerb: b, enableHTTPS: true, tlsConfig: {keyData: aGlkZGVu, certFile: c}}]";
        let shown = Config::parse(file.as_bytes()).unwrap().shown();
        let at = |path: &str| shown.pointer(path).unwrap_or_else(|| panic!("{path} in {shown}")).clone();
        assert_eq!(at("/LeaderElection/LeaseDuration"), "1m30s");
        assert_eq!(at("/LeaderElection/RetryPeriod"), "2s");
        assert_eq!(at("/LeaderElection/ResourceName"), "mine");
        let profile = |path: &str| at(&format!("/Profiles/0/{path}"));
        assert_eq!(profile("SchedulerName"), "default-scheduler");
        assert_eq!(profile("Plugins/Score/Enabled/0"), json!({"Name": "NodeAffinity", "Weight": 7}));
        let everywhere = profile("Plugins/MultiPoint/Enabled");
        let names = everywhere.as_array().unwrap().iter().map(|row| row["Name"].as_str().unwrap());
        let names: Vec<&str> = names.collect();
        assert!(names.contains(&"TaintToleration") && !names.contains(&"ImageLocality"), "{names:?}");
        let config = profile("PluginConfig");
        let args = |name: &str| {
            let found = config.as_array().unwrap().iter().find(|config| config["Name"] == name);
            found.unwrap()["Args"].clone()
        };
        assert_eq!(args("NodeResourcesFit")["ScoringStrategy"]["Type"], "MostAllocated");
        assert_eq!(args("VolumeBinding"), json!({"BindTimeoutSeconds": 600}), "by default");
        assert_eq!(at("/Extenders/0/HTTPTimeout"), "5s");
        assert_eq!(at("/Extenders/0/TLSConfig/CertFile"), "c");
        assert!(!shown.to_string().contains("aGlkZGVu"), "keys stay hidden");
    }
}

//! What a configuration must be, as kube-scheduler judges it, in its words.

use amphipod_api::codec::go_duration;
use amphipod_api::field::{Error, Faults, Path, go_quote};
use amphipod_api::names::qualified_name;
use amphipod_api::pod_resources::is_extended;
use serde_json::Value;

use super::plugins::PluginSet;
use super::validate_arguments;
use super::{API_VERSION, Config, Extender, LeaderElection, ProfileSettings};

/// Plugins that earlier versions had.
const GONE: [&str; 4] = ["AzureDiskLimits", "CinderLimits", "EBSLimits", "GCEPDLimits"];

pub(super) fn configuration(config: &Config) -> Faults {
    let mut faults = Faults::new();
    let root = Path::default();
    if config.client_connection.burst < 0 {
        let path = root.child("clientConnection").child("burst");
        faults.push(Error::invalid(&path, config.client_connection.burst, "must be non-negative"));
    }
    leader_election(&mut faults, &root.child("leaderElection"), &config.leader_election);
    if config.parallelism <= 0 {
        let why = "should be an integer value greater than zero";
        faults.push(Error::invalid(&root.child("parallelism"), config.parallelism, why));
    }
    profiles(&mut faults, &root.child("profiles"), &config.profiles);
    percentage(&mut faults, &root, config.percentage_of_nodes_to_score);
    let (initial, max) = (config.pod_initial_backoff_seconds, config.pod_max_backoff_seconds);
    if initial <= 0 {
        let path = root.child("podInitialBackoffSeconds");
        faults.push(Error::invalid(&path, initial, "must be greater than 0"));
    }
    if max < initial {
        let path = root.child("podMaxBackoffSeconds");
        faults.push(Error::invalid(&path, max, "must be greater than or equal to PodInitialBackoffSeconds"));
    }
    extenders(&mut faults, &root.child("extenders"), &config.extenders);
    faults
}

/// A value that is shown as it is, without quotes.
pub(super) fn shown(mut fault: Error, value: String) -> Error {
    fault.value = Some(value);
    fault
}

pub(super) fn bad_duration(path: &Path, nanoseconds: i64, why: &str) -> Error {
    shown(Error::invalid(path, Value::Null, why), go_duration(nanoseconds))
}

fn leader_election(faults: &mut Faults, path: &Path, election: &LeaderElection) {
    if !election.leader_elect {
        return;
    }
    let durations = [
        ("leaseDuration", election.lease_duration),
        ("renewDeadline", election.renew_deadline),
        ("retryPeriod", election.retry_period),
    ];
    for (name, duration) in durations {
        if duration <= 0 {
            faults.push(bad_duration(&path.child(name), duration, "must be greater than zero"));
        }
    }
    if election.lease_duration <= election.renew_deadline {
        let why = "must be greater than `RenewDeadline`";
        faults.push(bad_duration(&path.child("leaseDuration"), election.renew_deadline, why));
    }
    if election.resource_lock != "leases" {
        let lock = election.resource_lock.as_str();
        faults.push(Error::invalid(
            &path.child("resourceLock"),
            lock,
            "resourceLock value must be \"leases\"",
        ));
    }
}

fn percentage(faults: &mut Faults, path: &Path, percentage: Option<i32>) {
    if let Some(value) = percentage.filter(|value| !(0..=100).contains(value)) {
        let path = path.child("percentageOfNodesToScore");
        faults.push(Error::invalid(&path, value, "not in valid range [0-100]"));
    }
}

fn profiles(faults: &mut Faults, path: &Path, profiles: &[ProfileSettings]) {
    for (index, settings) in profiles.iter().enumerate() {
        let path_of = |index| path.index(index).child("schedulerName");
        profile(faults, &path.index(index), settings);
        let same = |other: &ProfileSettings| other.scheduler_name == settings.scheduler_name;
        if let Some(earlier) = profiles[..index].iter().rposition(same) {
            let fault = Error::duplicate(&path_of(index), Value::Null);
            faults.push(shown(fault, path_of(earlier).to_string()));
        }
    }
    queue_sort(faults, path, profiles);
}

fn profile(faults: &mut Faults, path: &Path, settings: &ProfileSettings) {
    if settings.scheduler_name.is_empty() {
        faults.push(Error::required(&path.child("schedulerName"), ""));
    }
    percentage(faults, path, settings.percentage_of_nodes_to_score);
    let before = faults.len();
    let plugins = path.child("plugins");
    for (name, set) in settings.plugins.points() {
        for (index, (plugin, _)) in set.enabled.iter().enumerate() {
            gone(faults, &plugins.child(name).child("enabled").index(index), plugin);
        }
    }
    for (index, config) in settings.plugin_config.iter().enumerate() {
        let path = path.child("pluginConfig").index(index);
        if settings.plugin_config[..index].iter().any(|earlier| earlier.name == config.name) {
            faults.push(Error::duplicate(&path, config.name.as_str()));
        }
        gone(faults, &path, &config.name);
        if let Some(arguments) = &config.arguments {
            validate_arguments::arguments(faults, &path.child("args"), arguments);
        }
    }
    if faults.len() == before
        && let Err(misplaced) = settings.plugins.enabled(&settings.scheduler_name)
    {
        let path = if misplaced.field.is_empty() { plugins } else { plugins.child(misplaced.field) };
        faults.push(whole(&path, misplaced.why));
    }
}

/// A field that is refused with a sentence of its own; its value would say nothing.
fn whole(path: &Path, why: String) -> Error {
    let mut fault = Error::invalid(path, Value::Null, why);
    fault.value = None;
    fault
}

fn gone(faults: &mut Faults, path: &Path, plugin: &str) {
    if GONE.contains(&plugin) {
        let why = format!(
            "was invalid in version {} (KubeSchedulerConfiguration is version {})",
            go_quote("v1"),
            go_quote(API_VERSION)
        );
        faults.push(Error::invalid(path, plugin, why));
    }
}

/// There is one queue for all profiles.
fn queue_sort(faults: &mut Faults, path: &Path, profiles: &[ProfileSettings]) {
    let sorting = |settings: &ProfileSettings| -> PluginSet {
        settings.plugins.at(crate::framework::Point::QueueSort).clone()
    };
    let Some(first) = profiles.first().map(sorting) else { return };
    let field = |index: usize| path.index(index).child("plugins").child("queueSort");
    if first.enabled.len() > 1 {
        let why = "only one queue sort plugin can be enabled";
        faults.push(Error::invalid(&field(0).child("Enabled"), first.enabled.len(), why));
    }
    for (index, settings) in profiles.iter().enumerate().skip(1) {
        if sorting(settings) != first {
            faults.push(whole(&field(index), "must be the same for all profiles".to_owned()));
        }
    }
}

fn extenders(faults: &mut Faults, path: &Path, extenders: &[Extender]) {
    let mut managed: Vec<&str> = Vec::new();
    for (index, extender) in extenders.iter().enumerate() {
        let path = path.index(index);
        if !extender.prioritize_verb.is_empty() && extender.weight <= 0 {
            let why = "must have a positive weight applied to it";
            faults.push(Error::invalid(&path.child("weight"), extender.weight, why));
        }
        for (index, resource) in extender.managed_resources.iter().enumerate() {
            let path = path.child("managedResources").index(index).child("name");
            let name = resource.name.as_str();
            extended_resource(faults, &path, name);
            if managed.contains(&name) {
                faults.push(Error::invalid(&path, name, "duplicate extender managed resource name"));
            }
            managed.push(name);
        }
    }
    let binders = extenders.iter().filter(|extender| !extender.bind_verb.is_empty()).count();
    if binders > 1 {
        let found = format!("found {binders} extenders implementing bind");
        faults.push(Error::invalid(path, found, "only one extender can implement bind"));
    }
}

fn extended_resource(faults: &mut Faults, path: &Path, name: &str) {
    let texts = qualified_name(name);
    if texts.is_empty() && !is_extended(name) {
        faults.push(Error::invalid(path, name, "is an invalid extended resource name"));
    }
    faults.extend(texts.into_iter().map(|text| Error::invalid(path, name, text)));
}

//! What is measured of a request before its handler and around its write: who asks, whether they
//! may, what admission made of it. And who came no further than the door.

use std::time::Duration;

use amphipod_api::resource::Resource;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::plugins::PluginDurations;
use super::{Histograms, histograms};
use crate::seams::{Decision, Operation};

/// Upper bounds in seconds of finding out who asks and whether they may: from 1 ms, doubling.
const DECISIONS: [f64; 15] = [
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384,
];
/// Upper bounds in seconds of a step of admission, and of a plugin in it.
pub(super) const STEPS: [f64; 6] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5];
const HOUR: f64 = 3600.0;
const DAY: f64 = 24.0 * HOUR;
/// Upper bounds in seconds of what is left of a client's certificate.
const LEFT: [f64; 14] = [
    0.0,
    0.5 * HOUR,
    HOUR,
    2.0 * HOUR,
    6.0 * HOUR,
    12.0 * HOUR,
    DAY,
    2.0 * DAY,
    4.0 * DAY,
    7.0 * DAY,
    30.0 * DAY,
    90.0 * DAY,
    180.0 * DAY,
    365.0 * DAY,
];
/// Users that are counted by name; there is no bound to the names of others.
const KNOWN_USERS: [&str; 5] =
    ["admin", "client", "kube_proxy", "kubelet", "system:serviceaccount:kube-system:default"];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UserLabels {
    username: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabels {
    operation: &'static str,
    rejected: &'static str,
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeprecatedLabels {
    group: String,
    version: String,
    resource: String,
    subresource: String,
    removed_release: &'static str,
}

/// The two steps of admission.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Admit,
    Validate,
}

impl Step {
    pub(super) fn name(self) -> &'static str {
        match self {
            Step::Admit => "admit",
            Step::Validate => "validate",
        }
    }
}

pub struct Access {
    attempts: Family<Outcome, Counter>,
    attempt_durations: Histograms<Outcome>,
    users: Family<UserLabels, Counter>,
    certificates: Histogram,
    decisions: Family<Outcome, Counter>,
    decision_durations: Histograms<Outcome>,
    steps: Histograms<StepLabels>,
    pub plugins: PluginDurations,
    deprecated: Family<DeprecatedLabels, Gauge>,
    bad_handshakes: Counter,
}

impl Access {
    pub fn new(registry: &mut Registry) -> Self {
        let access = Access {
            attempts: Family::default(),
            attempt_durations: histograms(|| Histogram::new(DECISIONS)),
            users: Family::default(),
            certificates: Histogram::new(LEFT),
            decisions: Family::default(),
            decision_durations: histograms(|| Histogram::new(DECISIONS)),
            steps: histograms(|| Histogram::new(STEPS)),
            plugins: PluginDurations::default(),
            deprecated: Family::default(),
            bad_handshakes: Counter::default(),
        };
        access.register(registry);
        access
    }

    fn register(&self, registry: &mut Registry) {
        registry.register(
            "authentication_attempts",
            "Requests whose asker was looked for",
            self.attempts.clone(),
        );
        registry.register(
            "authentication_duration_seconds",
            "Time until it was known who asks",
            self.attempt_durations.clone(),
        );
        registry.register("authenticated_user_requests", "Requests by who asks", self.users.clone());
        registry.register(
            "apiserver_client_certificate_expiration_seconds",
            "What was left of the certificates clients showed",
            self.certificates.clone(),
        );
        registry.register("authorization_attempts", "Decisions whether somebody may", self.decisions.clone());
        registry.register(
            "authorization_duration_seconds",
            "Time until it was known whether they may",
            self.decision_durations.clone(),
        );
        registry.register(
            "apiserver_admission_step_admission_duration_seconds",
            "Time a step of admission took",
            self.steps.clone(),
        );
        self.plugins.register(registry);
        registry.register(
            "apiserver_requested_deprecated_apis",
            "APIs clients should leave that were asked for",
            self.deprecated.clone(),
        );
        registry.register(
            "apiserver_tls_handshake_errors",
            "Connections that did not get through their TLS handshake",
            self.bad_handshakes.clone(),
        );
    }

    /// Who asks was found out, or that they are not who they say.
    pub fn authenticated(&self, user: Option<&str>, took: Duration) {
        let outcome = Outcome { result: if user.is_some() { "success" } else { "failure" } };
        self.attempts.get_or_create(&outcome).inc();
        self.attempt_durations.get_or_create(&outcome).observe(took.as_secs_f64());
        if let Some(user) = user {
            self.users.get_or_create(&UserLabels { username: known(user) }).inc();
        }
    }

    /// A certificate was shown that has so many seconds left.
    pub fn shown(&self, seconds_left: i64) {
        self.certificates.observe(seconds_left as f64);
    }

    pub fn authorized(&self, decision: &Decision, took: Duration) {
        let outcome = Outcome {
            result: match decision {
                Decision::Allow { .. } => "allowed",
                Decision::Deny { .. } => "denied",
                Decision::NoOpinion { .. } => "no-opinion",
            },
        };
        self.decisions.get_or_create(&outcome).inc();
        self.decision_durations.get_or_create(&outcome).observe(took.as_secs_f64());
    }

    pub fn admitted(&self, step: Step, operation: Operation, rejected: bool, took: Duration) {
        let labels = StepLabels {
            operation: operation.as_str(),
            rejected: if rejected { "true" } else { "false" },
            r#type: step.name(),
        };
        self.steps.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// No release is named in which they end: none has been.
    pub fn deprecated(&self, resource: &Resource, subresource: &str) {
        let labels = DeprecatedLabels {
            group: resource.group.to_string(),
            version: resource.version.to_string(),
            resource: resource.plural.to_string(),
            subresource: subresource.to_owned(),
            removed_release: "",
        };
        self.deprecated.get_or_create(&labels).set(1);
    }

    pub fn handshake_failed(&self) {
        self.bad_handshakes.inc();
    }
}

fn known(user: &str) -> &'static str {
    let named = KNOWN_USERS.iter().find(|name| **name == user).copied();
    named.unwrap_or(if user.contains('@') { "email_id" } else { "other" })
}

#[cfg(test)]
mod tests {
    use super::known;

    #[test]
    fn users_are_few() {
        for (user, counted) in
            [("admin", "admin"), ("jane@a.b", "email_id"), ("system:node:n", "other"), ("", "other")]
        {
            assert_eq!(known(user), counted, "{user}");
        }
    }
}

//! What a scheduler that runs alone tells of itself.

use amphipod_client::leader::Watchdog;
use amphipod_serving::{Check, Component, election};

use crate::{Config, Metrics, config};

/// `watchdog`: of its lease, if it needs one to decide.
pub fn component(config: &Config, metrics: &Metrics, watchdog: Option<Watchdog>) -> Component {
    let (counted, ready) = (metrics.clone(), metrics.clone());
    let election = || watchdog.clone().map(election);
    let synced: Check = ("sched-handler-sync", Box::new(move || ready.is_ready()));
    Component {
        health: election().into_iter().collect(),
        readiness: election().into_iter().chain([synced]).collect(),
        metrics: Box::new(move || counted.render()),
        config: (config::SHOWN_AS, config.shown()),
    }
}

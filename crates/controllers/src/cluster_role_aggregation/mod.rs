//! Aggregated ClusterRoles: their rules are the union of those of the roles they select.

use std::sync::Arc;
use std::time::Duration;

use amphipod_client::workqueue::WorkQueue;
use amphipod_client::{Api, Informer, Resource};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};

use crate::harness::{Controller, Scope};
use crate::{Error, selector};

/// The rules an aggregated role should have; None for a role that is not aggregated.
fn rules(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let rule = role.aggregation_rule.as_ref()?;
    let mut rules: Vec<PolicyRule> = Vec::new();
    for wanted in rule.cluster_role_selectors.iter().flatten() {
        let Some(selector) = selector::from_object(Some(wanted)) else { continue };
        // In order of names, each rule once.
        for other in all {
            let taken =
                other.name() != role.name() && selector::matches(&selector, other.metadata.labels.as_ref());
            if !taken {
                continue;
            }
            for rule in other.rules.iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    Some(rules)
}

struct Aggregation {
    scope: Scope,
    roles: Informer<ClusterRole>,
}

pub async fn run(scope: Scope) {
    let roles = scope.informers.get::<ClusterRole>();
    if !scope.synced(&roles).await {
        return;
    }
    let queue = WorkQueue::new();
    let (all, enqueue) = (roles.clone(), queue.clone());
    // Any role may feed any aggregated one; there are few of these.
    roles.on_change(move |change| {
        if change.object().aggregation_rule.is_some() {
            enqueue.add(change.object().name());
        }
        for role in all.list().iter().filter(|role| role.aggregation_rule.is_some()) {
            enqueue.add(role.name());
        }
    });
    let controller = Aggregation { scope: scope.clone(), roles };
    scope.work(queue, 1, Arc::new(controller)).await;
}

impl Controller for Aggregation {
    const QUEUE: &'static str = "ClusterRoleAggregator";
    async fn sync(&self, key: &str) -> Result<Option<Duration>, Error> {
        let Some(role) = self.roles.get(key) else { return Ok(None) };
        let Some(rules) = rules(&role, &self.roles.list()) else { return Ok(None) };
        if role.rules.clone().unwrap_or_default() == rules {
            return Ok(None);
        }
        let mut changed = role.as_ref().clone();
        changed.rules = Some(rules);
        Api::<ClusterRole>::all(self.scope.client.clone()).update(&changed).await?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::object;
    use serde_json::json;

    #[test]
    fn rules_are_united_in_order_without_repeats() {
        let role = |name: &str, feeds: bool, verbs: &[&str]| -> Arc<ClusterRole> {
            let labels = if feeds { json!({"feeds": "view"}) } else { json!({}) };
            let rules: Vec<_> = verbs.iter().map(|v| json!({"verbs": [v]})).collect();
            Arc::new(object(json!({"metadata": {"name": name, "labels": labels}, "rules": rules})))
        };
        let view: ClusterRole = object(json!({"metadata": {"name": "view"}, "aggregationRule":
            {"clusterRoleSelectors": [{"matchLabels": {"feeds": "view"}}]}}));
        let all = [
            role("a", true, &["get", "list"]),
            role("b", false, &["x"]),
            role("c", true, &["list", "watch"]),
        ];
        let verbs: Vec<String> =
            rules(&view, &all).unwrap().into_iter().flat_map(|rule| rule.verbs).collect();
        assert_eq!(verbs, ["get", "list", "watch"]);
        assert_eq!(rules(&all[0], &all), None);
    }
}

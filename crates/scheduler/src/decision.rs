//! The decision itself: filter, score, choose. Pure: the same snapshot, pod and tie-break give the
//! same node.

use std::collections::BTreeMap;

use crate::cache::{NodeState, Snapshot};
use crate::pod::PodState;
use crate::{plugins, preemption};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Node(String),
    Unschedulable(Explanation),
}

/// Why no node would do, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    pub nodes: usize,
    /// A reason that holds for all nodes; nobody looked at them one by one then.
    pub beforehand: Option<&'static str>,
    pub reasons: BTreeMap<String, usize>,
    /// What was tried afterwards, and why it did not help.
    pub afterwards: Vec<String>,
}

impl Explanation {
    pub(crate) fn count(&mut self, reason: &str, times: usize) {
        if times > 0 {
            *self.reasons.entry(reason.to_owned()).or_insert(0) += times;
        }
    }
    /// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
    pub fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let mut text = format!("0/{} nodes are available:", self.nodes);
        let mut parts: Vec<String> =
            self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        parts.sort();
        let reasons = self.beforehand.map_or_else(|| parts.join(", "), str::to_owned);
        if !reasons.is_empty() {
            text += &format!(" {reasons}.");
        }
        if !self.afterwards.is_empty() {
            text += &format!(" {}", self.afterwards.join(", "));
        }
        text
    }
}

/// `tie_break` chooses among equally good nodes; any number will do.
pub fn schedule(snapshot: &Snapshot, pod: &PodState, tie_break: u64) -> Decision {
    let mut prepared = match plugins::prepare(snapshot, pod) {
        Ok(prepared) => prepared,
        Err(reason) => {
            let nodes = snapshot.nodes().count();
            let mut explanation = Explanation { nodes, beforehand: Some(reason), ..Explanation::default() };
            explanation.afterwards = afterwards(pod, nodes, preemption::hopeless(pod, nodes));
            return Decision::Unschedulable(explanation);
        }
    };
    let mut explanation = Explanation::default();
    let mut feasible: Vec<&NodeState> = Vec::new();
    let mut resolvable: Vec<&NodeState> = Vec::new();
    for node in snapshot.nodes() {
        explanation.nodes += 1;
        match plugins::filter(&prepared, pod, node) {
            Ok(()) => feasible.push(node),
            Err(refusal) => {
                for reason in &refusal.reasons {
                    explanation.count(reason, 1);
                }
                if refusal.resolvable {
                    resolvable.push(node);
                }
            }
        }
    }
    match feasible.as_slice() {
        [] => {
            let nodes = explanation.nodes;
            let tried = preemption::dry_run(snapshot, &mut prepared, pod, &resolvable, nodes);
            explanation.afterwards = afterwards(pod, nodes, tried);
            Decision::Unschedulable(explanation)
        }
        [only] => Decision::Node(only.name.clone()),
        several => Decision::Node(best(snapshot, pod, several, tie_break)),
    }
}

/// What the plugins that run after the filters say. When preemption would help, nothing is said.
fn afterwards(pod: &PodState, nodes: usize, preemption: Option<String>) -> Vec<String> {
    let Some(preemption) = preemption.filter(|_| nodes > 0) else { return Vec::new() };
    let claims = (!pod.has_claims()).then(|| "no new claims to deallocate".to_owned());
    claims.into_iter().chain([format!("preemption: {preemption}")]).collect()
}

fn best(snapshot: &Snapshot, pod: &PodState, nodes: &[&NodeState], tie_break: u64) -> String {
    let mut totals = vec![0; nodes.len()];
    for (_, score, weight) in plugins::SCORERS {
        for (total, mark) in totals.iter_mut().zip(score(snapshot, pod, nodes)) {
            *total += mark * weight;
        }
    }
    let highest = totals.iter().copied().max().unwrap_or(0);
    let winners: Vec<usize> = (0..nodes.len()).filter(|i| totals[*i] == highest).collect();
    nodes[winners[(tie_break % winners.len() as u64) as usize]].name.clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::tests::pod;
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn cluster(nodes: &[Value]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (index, extra) in nodes.iter().enumerate() {
            let mut node = json!({
                "metadata": {"name": format!("n{index}"), "labels": {"kubernetes.io/hostname": format!("n{index}"), "zone": "a"}},
                "spec": {},
                "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "3"}},
            });
            for (key, value) in extra.as_object().unwrap() {
                node["spec"][key] = value.clone();
            }
            snapshot.set_node(Arc::new(serde_json::from_value(node).unwrap()));
        }
        snapshot
    }
    fn asking(cpu: &str) -> Value {
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]})
    }
    fn reasons(snapshot: &Snapshot, spec: Value) -> String {
        match schedule(snapshot, &pod("p", spec), 0) {
            Decision::Node(node) => node,
            Decision::Unschedulable(explanation) => explanation.message(),
        }
    }

    /// A cluster for the texts: `n0` holds a pod of priority 5, `n1` is cordoned, `n2` tainted.
    fn mixed() -> Snapshot {
        let taint = json!({"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]});
        let mut snapshot = cluster(&[json!({}), json!({"unschedulable": true}), taint]);
        let mut spec = asking("1500m");
        spec["priority"] = 5.into();
        spec["containers"][0]["ports"] = json!([{"containerPort": 80, "hostPort": 80}]);
        snapshot.place(Arc::new(pod("there", spec)), "n0");
        snapshot
    }
    const HOPELESS: &str = "no new claims to deallocate, preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.";
    const NO_VICTIMS: &str = "no new claims to deallocate, preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling.";

    #[test]
    fn refusals_are_counted_in_kubernetes_words() {
        let elsewhere = "1 node(s) had untolerated taint(s), 1 node(s) were unschedulable";
        let cases: Vec<(&str, Value, String)> = vec![
            (
                "more than any node has",
                json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "3", "memory": "9Gi"}}}]}),
                format!("1 Insufficient cpu, 1 Insufficient memory, {elsewhere}. {HOPELESS}"),
            ),
            ("a full node", asking("1"), format!("1 Insufficient cpu, {elsewhere}. {NO_VICTIMS}")),
            (
                "a taken port",
                json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 80}]}]}),
                format!(
                    "1 node(s) didn't have free ports for the requested pod ports, {elsewhere}. {NO_VICTIMS}"
                ),
            ),
            (
                "a selector",
                json!({"containers": [], "nodeSelector": {"zone": "b"}}),
                format!("1 node(s) didn't match Pod's node affinity/selector, {elsewhere}. {HOPELESS}"),
            ),
            (
                "claims of devices",
                json!({"containers": [], "nodeSelector": {"zone": "b"}, "resourceClaims": [{"name": "gpu"}]}),
                format!(
                    "1 node(s) didn't match Pod's node affinity/selector, {elsewhere}. {}",
                    HOPELESS.split_once(", ").unwrap().1
                ),
            ),
            (
                "a named node",
                by_name(&[json!(["n1"])], asking("1")),
                format!(
                    "1 node(s) were unschedulable, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]. {HOPELESS}"
                ),
            ),
            (
                "names that exclude each other",
                by_name(&[json!(["n0"]), json!(["n1"])], asking("1")),
                format!("pod affinity terms conflict. {HOPELESS}"),
            ),
        ];
        for (name, spec, expected) in cases {
            assert_eq!(reasons(&mixed(), spec), format!("0/3 nodes are available: {expected}"), "{name}");
        }
        assert_eq!(reasons(&Snapshot::default(), asking("1")), "no nodes available to schedule pods");
    }

    /// Required affinity for nodes of these names, all of them at once.
    fn by_name(names: &[Value], mut spec: Value) -> Value {
        let fields: Vec<Value> = names
            .iter()
            .map(|names| json!({"key": "metadata.name", "operator": "In", "values": names}))
            .collect();
        spec["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchFields": fields}]}}});
        spec
    }

    #[test]
    fn what_preemption_would_come_to() {
        let elsewhere = "1 node(s) had untolerated taint(s), 1 node(s) were unschedulable";
        let asking = |cpu: &str, priority: i32, policy: &str| {
            let mut spec = asking(cpu);
            (spec["priority"], spec["preemptionPolicy"]) = (priority.into(), policy.into());
            spec
        };
        let lower = "PreemptLowerPriority";
        let cases = [
            ("less important", asking("1", 5, lower), NO_VICTIMS.to_owned()),
            (
                "never",
                asking("1", 9, "Never"),
                "no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never."
                    .to_owned(),
            ),
            // It would help: nothing is said against it.
            ("helps", asking("1", 9, lower), String::new()),
        ];
        for (name, spec, expected) in cases {
            let text = format!("0/3 nodes are available: 1 Insufficient cpu, {elsewhere}. {expected}");
            assert_eq!(reasons(&mixed(), spec), text.trim_end(), "{name}");
        }
        // One victim there is, but a pod that matters as much stays in the way.
        let mut snapshot = mixed();
        let mut other = asking("400m", 9, lower);
        other["containers"][0]["ports"] = json!([{"containerPort": 80, "hostPort": 81}]);
        snapshot.place(Arc::new(pod("stays", other)), "n0");
        let mut wants_port = asking("1", 9, lower);
        wants_port["containers"][0]["ports"] = json!([{"containerPort": 80, "hostPort": 81}]);
        assert_eq!(
            reasons(&snapshot, wants_port),
            format!(
                "0/3 nodes are available: 1 node(s) didn't have free ports for the requested pod ports, {elsewhere}. \
                no new claims to deallocate, preemption: 0/3 nodes are available: \
                1 node(s) didn't have free ports for the requested pod ports, 2 Preemption is not helpful for scheduling."
            )
        );
    }

    #[test]
    fn a_trial_counts_without_the_victims_and_leaves_no_trace() {
        let term = json!([{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]);
        let spread = json!([{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]);
        let mut apart = asking("1m");
        apart["affinity"] =
            json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}});
        let mut even = asking("1m");
        even["topologySpreadConstraints"] = spread;
        for (spec, reason) in [
            (apart, "node(s) didn't match pod anti-affinity rules"),
            (even, "node(s) didn't match pod topology spread constraints"),
        ] {
            // `n0` has the only such pod; `n1` is cordoned, so an even spread needs it gone as well.
            let mut snapshot = cluster(&[json!({}), json!({"unschedulable": true})]);
            snapshot.place(Arc::new(pod("a", asking("1m"))), "n0");
            let refused = format!("0/2 nodes are available: 1 {reason}, 1 node(s) were unschedulable.");
            let same = reasons(&snapshot, spec.clone());
            assert!(same.starts_with(&refused) && same.contains("1 No preemption victims found"), "{same}");
            let mut important = spec;
            important["priority"] = 1.into();
            assert_eq!(reasons(&snapshot, important.clone()), refused, "the trial succeeds");

            let candidate = pod("p", important);
            let mut prepared = plugins::prepare(&snapshot, &candidate).unwrap();
            let node = snapshot.node("n0").unwrap();
            let before = plugins::filter(&prepared, &candidate, node);
            let tried = preemption::dry_run(&snapshot, &mut prepared, &candidate, &[node], 2);
            assert_eq!((tried, plugins::filter(&prepared, &candidate, node)), (None, before));
        }
    }

    #[test]
    fn pods_of_one_owner_spread_and_capacity_is_never_exceeded() {
        let mut snapshot = cluster(&[json!({}), json!({}), json!({})]);
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for index in 0..9 {
            let mut state = pod(&format!("p{index}"), asking("100m"));
            state.owner = Some("rs".into());
            match schedule(&snapshot, &state, index) {
                Decision::Node(node) => {
                    *counts.entry(node.clone()).or_insert(0) += 1;
                    snapshot.place(Arc::new(state), &node);
                }
                Decision::Unschedulable(why) => panic!("{}", why.message()),
            }
        }
        assert_eq!(counts.values().copied().collect::<Vec<_>>(), [3, 3, 3]);
        assert_eq!(
            reasons(&snapshot, asking("0")),
            format!(
                "0/3 nodes are available: 3 Too many pods. {}",
                NO_VICTIMS
                    .replace("1 No", "3 No")
                    .replace(", 2 Preemption is not helpful for scheduling", "")
            )
        );
    }

    #[test]
    fn anti_affinity_holds_both_ways_and_the_first_of_a_group_starts() {
        let mut snapshot = cluster(&[json!({}), json!({})]);
        let term = json!([{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]);
        let mut apart = asking("1m");
        apart["affinity"] =
            json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}});
        for (index, node) in ["n0", "n1"].into_iter().enumerate() {
            snapshot.place(Arc::new(pod(&format!("a{index}"), apart.clone())), node);
        }
        for (spec, rule) in [
            (apart, "node(s) didn't match pod anti-affinity rules"),
            (asking("1m"), "node(s) didn't satisfy existing pods anti-affinity rules"),
        ] {
            let text = reasons(&snapshot, spec);
            assert!(text.starts_with(&format!("0/2 nodes are available: 2 {rule}. ")), "{text}");
        }
        let mut together = asking("1m");
        together["affinity"] =
            json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}});
        assert_eq!(reasons(&cluster(&[json!({})]), together), "n0");
    }

    #[test]
    fn hard_topology_spread_keeps_the_skew() {
        let mut snapshot = cluster(&[json!({}), json!({})]);
        let mut spec = asking("1m");
        spec["topologySpreadConstraints"] = json!([{
            "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "web"}},
        }]);
        snapshot.place(Arc::new(pod("a", spec.clone())), "n0");
        assert_eq!(reasons(&snapshot, spec), "n1");
    }
}

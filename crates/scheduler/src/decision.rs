//! The decision itself: filter, score, choose. Pure: the same snapshot, pod and tie-break give the
//! same node.

use std::collections::BTreeMap;

use crate::cache::{NodeState, Snapshot};
use crate::plugins;
use crate::pod::PodState;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Node(String),
    Unschedulable(Explanation),
}

/// Why no node would do, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    pub nodes: usize,
    pub reasons: BTreeMap<String, usize>,
}

impl Explanation {
    /// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
    pub fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let mut parts: Vec<String> =
            self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        parts.sort();
        format!("0/{} nodes are available: {}.", self.nodes, parts.join(", "))
    }
}

/// `tie_break` chooses among equally good nodes; any number will do.
pub fn schedule(snapshot: &Snapshot, pod: &PodState, tie_break: u64) -> Decision {
    let prepared = plugins::prepare(snapshot, pod);
    let mut explanation = Explanation::default();
    let mut feasible: Vec<&NodeState> = Vec::new();
    for node in snapshot.nodes() {
        explanation.nodes += 1;
        match plugins::filter(&prepared, pod, node) {
            Ok(()) => feasible.push(node),
            Err(reasons) => {
                for reason in reasons {
                    *explanation.reasons.entry(reason).or_insert(0) += 1;
                }
            }
        }
    }
    match feasible.as_slice() {
        [] => Decision::Unschedulable(explanation),
        [only] => Decision::Node(only.name.clone()),
        several => Decision::Node(best(snapshot, pod, several, tie_break)),
    }
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

    #[test]
    fn refusals_are_counted_in_kubernetes_words() {
        let taint = json!({"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]});
        let snapshot = cluster(&[json!({}), json!({"unschedulable": true}), taint]);
        assert_eq!(
            reasons(&snapshot, asking("3")),
            "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable."
        );
        assert_eq!(reasons(&Snapshot::default(), asking("1")), "no nodes available to schedule pods");
        let mut elsewhere = asking("1");
        elsewhere["nodeSelector"] = json!({"zone": "b"});
        assert_eq!(
            reasons(&cluster(&[json!({})]), elsewhere),
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
        );
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
        assert_eq!(reasons(&snapshot, asking("0")), "0/3 nodes are available: 3 Too many pods.");
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
        assert_eq!(
            reasons(&snapshot, apart),
            "0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules."
        );
        assert_eq!(
            reasons(&snapshot, asking("1m")),
            "0/2 nodes are available: 2 node(s) didn't satisfy existing pods anti-affinity rules."
        );
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

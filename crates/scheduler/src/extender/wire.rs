//! What extenders are asked and what their answers mean. Go writes these types without field tags, so
//! fields are named as in Go; and its decoder does not mind their case, so answers are read that way.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::framework::MAX_SCORE;

/// The best score an extender gives.
const MAX_EXTENDER_PRIORITY: i64 = 10;

/// Nodes in question, by name, whole where an extender is to see them.
pub type Nodes<'a> = BTreeMap<&'a str, Value>;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Filtered {
    pub nodes: Vec<String>,
    /// Why others will not do, by node.
    pub failed: BTreeMap<String, String>,
}

pub struct Binding<'a> {
    pub pod: &'a str,
    pub namespace: &'a str,
    pub uid: &'a str,
    pub node: &'a str,
}

impl Binding<'_> {
    pub fn question(&self) -> Value {
        json!({"PodName": self.pod, "PodNamespace": self.namespace, "PodUID": self.uid, "Node": self.node})
    }
}

/// `ExtenderArgs`, for filtering and for priorities.
pub fn question(pod: &Value, nodes: &Nodes<'_>, whole: bool) -> Value {
    if whole {
        let items: Vec<&Value> = nodes.values().collect();
        return json!({"Pod": pod, "Nodes": {"metadata": {}, "items": items}, "NodeNames": null});
    }
    let names: Vec<&&str> = nodes.keys().collect();
    json!({"Pod": pod, "Nodes": null, "NodeNames": names})
}

/// `ExtenderFilterResult`
pub fn filtered(url: &str, answer: &Value, asked: &Nodes<'_>, whole: bool) -> Result<Filtered, String> {
    fault(answer)?;
    let mut failed = texts(answer, "FailedNodes");
    failed.extend(texts(answer, "FailedAndUnresolvableNodes"));
    let list = |value: &Value| value.as_array().cloned();
    let named = field(answer, "NodeNames").and_then(list).filter(|_| !whole);
    let nodes: Vec<String> = match named {
        Some(names) => names.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        None => {
            let items = field(answer, "Nodes").and_then(|nodes| field(nodes, "items")).and_then(list);
            let items = items.unwrap_or_default();
            let name =
                |node: &Value| node.pointer("/metadata/name").and_then(Value::as_str).map(str::to_owned);
            items.iter().filter_map(name).collect()
        }
    };
    if let Some(stranger) = nodes.iter().find(|name| !asked.contains_key(name.as_str())) {
        return Err(format!(
            "extender {url:?} claims a filtered node {stranger:?} which is not found in the input node list"
        ));
    }
    Ok(Filtered { nodes, failed })
}

/// Of one node: the uids of its victims, and how many of them overrun a disruption budget.
#[derive(Debug, PartialEq, Eq)]
pub struct Victims {
    pub uids: Vec<String>,
    pub violations: usize,
}

/// `ExtenderPreemptionArgs`; `whole` are the victims' pods by uid, where the extender is to see them.
pub fn preemption(
    pod: &Value,
    nodes: &BTreeMap<&str, Victims>,
    whole: Option<&BTreeMap<String, Value>>,
) -> Value {
    let victims = |victims: &Victims| {
        let shown = |uid: &String| match whole {
            Some(pods) => pods.get(uid).cloned().unwrap_or_default(),
            None => json!({"UID": uid}),
        };
        let pods: Vec<Value> = victims.uids.iter().map(shown).collect();
        json!({"Pods": pods, "NumPDBViolations": victims.violations})
    };
    let nodes: Map<String, Value> =
        nodes.iter().map(|(node, there)| ((*node).to_owned(), victims(there))).collect();
    let (known, shown) = if whole.is_some() { (None, Some(nodes)) } else { (Some(nodes), None) };
    json!({"Pod": pod, "NodeNameToVictims": shown, "NodeNameToMetaVictims": known})
}

/// `ExtenderPreemptionResult`
pub fn preempted(answer: &Value) -> BTreeMap<String, Victims> {
    let nodes = field(answer, "NodeNameToMetaVictims").and_then(Value::as_object).into_iter().flatten();
    let victims = |there: &Value| {
        let pods = field(there, "Pods").and_then(Value::as_array).into_iter().flatten();
        let uid = |pod: &Value| field(pod, "UID").and_then(Value::as_str).map(str::to_owned);
        let violations = field(there, "NumPDBViolations").and_then(Value::as_u64).unwrap_or_default();
        Victims {
            uids: pods.filter_map(uid).collect(),
            violations: usize::try_from(violations).unwrap_or(usize::MAX),
        }
    };
    nodes.map(|(node, there)| (node.clone(), victims(there))).collect()
}

/// `HostPriorityList`, weighted and scaled to the plugins' scores.
pub fn priorities(answer: &Value, weight: i64) -> Result<Vec<(String, i64)>, String> {
    let Some(list) = answer.as_array() else {
        return Err("json: cannot unmarshal into Go value of type v1.HostPriorityList".to_owned());
    };
    let scaled = |entry: &Value| {
        let host = field(entry, "Host")?.as_str()?.to_owned();
        let score = field(entry, "Score").and_then(Value::as_i64).unwrap_or_default();
        Some((host, score.saturating_mul(weight).saturating_mul(MAX_SCORE / MAX_EXTENDER_PRIORITY)))
    };
    Ok(list.iter().filter_map(scaled).collect())
}

/// `ExtenderBindingResult`
pub fn bound(answer: &Value) -> Result<(), String> {
    fault(answer)
}

fn fault(answer: &Value) -> Result<(), String> {
    match field(answer, "Error").and_then(Value::as_str) {
        Some(error) if !error.is_empty() => Err(error.to_owned()),
        _ => Ok(()),
    }
}

fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let map: &Map<String, Value> = value.as_object()?;
    map.get(name)
        .or_else(|| map.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value))
}

fn texts(answer: &Value, name: &str) -> BTreeMap<String, String> {
    let map = field(answer, name).and_then(Value::as_object).into_iter().flatten();
    map.map(|(node, why)| (node.clone(), why.as_str().unwrap_or_default().to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Nodes<'static> {
        ["a", "b"].into_iter().map(|name| (name, json!({"metadata": {"name": name}}))).collect()
    }

    #[test]
    fn questions_are_as_go_writes_them() {
        let pod = json!({"kind": "Pod"});
        let names = json!({"Pod": {"kind": "Pod"}, "Nodes": null, "NodeNames": ["a", "b"]});
        assert_eq!(question(&pod, &asked(), false), names);
        let items = json!([{"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}]);
        let whole =
            json!({"Pod": {"kind": "Pod"}, "Nodes": {"metadata": {}, "items": items}, "NodeNames": null});
        assert_eq!(question(&pod, &asked(), true), whole);
        let binding = Binding { pod: "p", namespace: "n", uid: "u", node: "a" };
        let expected = json!({"PodName": "p", "PodNamespace": "n", "PodUID": "u", "Node": "a"});
        assert_eq!(binding.question(), expected);
    }

    #[test]
    fn answers_of_filters() {
        let read = |answer: Value, whole: bool| filtered("http://x", &answer, &asked(), whole);
        let of = |nodes: &[&str], failed: &[(&str, &str)]| {
            let owned = |text: &&str| (*text).to_owned();
            let failed = failed.iter().map(|(node, why)| ((*node).to_owned(), (*why).to_owned()));
            Ok(Filtered { nodes: nodes.iter().map(owned).collect(), failed: failed.collect() })
        };
        let names = json!({"NodeNames": ["a"], "FailedNodes": {"b": "full"}, "Error": ""});
        assert_eq!(read(names.clone(), false), of(&["a"], &[("b", "full")]));
        assert_eq!(read(names, true), of(&[], &[("b", "full")]), "names count only where names were sent");
        let whole = json!({"nodes": {"items": [{"metadata": {"name": "b"}}]}, "failednodes": null});
        assert_eq!(read(whole, true), of(&["b"], &[]));
        let both = json!({"FailedNodes": {"a": "now"}, "FailedAndUnresolvableNodes": {"a": "never"}});
        assert_eq!(read(both, false), of(&[], &[("a", "never")]));
        assert_eq!(read(json!({"Error": "broken"}), false), Err("broken".to_owned()));
        let stranger =
            "extender \"http://x\" claims a filtered node \"c\" which is not found in the input node list";
        assert_eq!(read(json!({"NodeNames": ["c"]}), false), Err(stranger.to_owned()));
    }

    #[test]
    fn victims_are_shown_whole_or_by_uid() {
        let there = || Victims { uids: vec!["u1".to_owned()], violations: 2 };
        let nodes = BTreeMap::from([("a", there())]);
        let known = json!({"Pod": {}, "NodeNameToVictims": null,
            "NodeNameToMetaVictims": {"a": {"Pods": [{"UID": "u1"}], "NumPDBViolations": 2}}});
        assert_eq!(preemption(&json!({}), &nodes, None), known);
        let pods = BTreeMap::from([("u1".to_owned(), json!({"kind": "Pod"}))]);
        let shown = json!({"Pod": {}, "NodeNameToMetaVictims": null,
            "NodeNameToVictims": {"a": {"Pods": [{"kind": "Pod"}], "NumPDBViolations": 2}}});
        assert_eq!(preemption(&json!({}), &nodes, Some(&pods)), shown);
        let answer =
            json!({"nodeNameToMetaVictims": {"a": {"pods": [{"uid": "u1"}], "numPDBViolations": 2}}});
        assert_eq!(preempted(&answer), BTreeMap::from([("a".to_owned(), there())]));
        assert_eq!(preempted(&json!({})), BTreeMap::new());
    }

    #[test]
    fn priorities_are_scaled() {
        let answer = json!([{"Host": "a", "Score": 7}, {"host": "b", "score": 1}, {"Host": "c"}]);
        let expected = [("a", 140), ("b", 20), ("c", 0)].map(|(host, score)| (host.to_owned(), score));
        assert_eq!(priorities(&answer, 2), Ok(expected.into()));
        assert!(priorities(&json!({}), 2).is_err());
        assert_eq!(bound(&json!({"error": "taken"})), Err("taken".to_owned()));
    }
}

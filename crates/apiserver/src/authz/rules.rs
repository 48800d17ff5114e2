//! Policy rules: whether one allows a request, and whether a set of them covers another.

use serde_json::{Map, Value};

use crate::seams::Attributes;

/// `rbac/v1.PolicyRule`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    pub verbs: Vec<String>,
    pub groups: Vec<String>,
    pub resources: Vec<String>,
    pub names: Vec<String>,
    pub urls: Vec<String>,
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

impl Rule {
    pub fn from_value(value: &Value) -> Self {
        Rule {
            verbs: texts(&value["verbs"]),
            groups: texts(&value["apiGroups"]),
            resources: texts(&value["resources"]),
            names: texts(&value["resourceNames"]),
            urls: texts(&value["nonResourceURLs"]),
        }
    }
    pub fn list(value: &Value) -> Vec<Rule> {
        value.as_array().into_iter().flatten().map(Rule::from_value).collect()
    }
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        let mut put = |key: &str, list: &[String]| {
            if !list.is_empty() {
                map.insert(key.to_owned(), list.to_vec().into());
            }
        };
        put("verbs", &self.verbs);
        put("apiGroups", &self.groups);
        put("resources", &self.resources);
        put("resourceNames", &self.names);
        put("nonResourceURLs", &self.urls);
        Value::Object(map)
    }

    pub fn allows(&self, request: &Attributes) -> bool {
        if !has(&self.verbs, &request.verb) {
            return false;
        }
        if !request.resource_request {
            return self.urls.iter().any(|url| url_covers(url, &request.path));
        }
        has(&self.groups, &request.group)
            && self.resources.iter().any(|r| resource_covers(r, &request.resource, &request.subresource))
            && (self.names.is_empty() || self.names.contains(&request.name))
    }

    /// One rule per verb, group, resource and name (or verb and path): what is compared when
    /// somebody grants rights.
    pub fn atoms(&self) -> Vec<Rule> {
        let mut out = Vec::new();
        for verb in &self.verbs {
            for url in &self.urls {
                out.push(Rule { verbs: vec![verb.clone()], urls: vec![url.clone()], ..Rule::default() });
            }
            for group in &self.groups {
                for resource in &self.resources {
                    let plain = Rule {
                        verbs: vec![verb.clone()],
                        groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        ..Rule::default()
                    };
                    if self.names.is_empty() {
                        out.push(plain);
                        continue;
                    }
                    let named = |name: &String| Rule { names: vec![name.clone()], ..plain.clone() };
                    out.extend(self.names.iter().map(named));
                }
            }
        }
        out
    }

    /// Whether this rule allows all that `atom` (one of [`Rule::atoms`]) does.
    fn covers(&self, atom: &Rule) -> bool {
        let all = |own: &[String], wanted: &[String]| wanted.iter().all(|w| has(own, w));
        if !all(&self.verbs, &atom.verbs) {
            return false;
        }
        if !atom.urls.is_empty() {
            return atom.urls.iter().all(|wanted| self.urls.iter().any(|url| url_covers(url, wanted)));
        }
        let resources = atom.resources.iter().all(|wanted| {
            let (resource, subresource) = wanted.split_once('/').unwrap_or((wanted, ""));
            self.resources.iter().any(|own| own == wanted || resource_covers(own, resource, subresource))
        });
        let names = self.names.is_empty()
            || (!atom.names.is_empty() && atom.names.iter().all(|name| self.names.contains(name)));
        all(&self.groups, &atom.groups) && resources && names
    }

    /// As refusals print it: `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`.
    pub fn shown(&self) -> String {
        let list = |items: &[String]| {
            let quoted: Vec<String> = items.iter().map(|i| amphipod_api::field::go_quote(i)).collect();
            format!("[{}]", quoted.join(" "))
        };
        let mut parts = Vec::new();
        for (label, items) in [
            ("NonResourceURLs", &self.urls),
            ("APIGroups", &self.groups),
            ("Resources", &self.resources),
            ("ResourceNames", &self.names),
            ("Verbs", &self.verbs),
        ] {
            if !items.is_empty() {
                parts.push(format!("{label}:{}", list(items)));
            }
        }
        format!("{{{}}}", parts.join(", "))
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

fn url_covers(own: &str, path: &str) -> bool {
    own == "*" || own == path || own.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

fn resource_covers(own: &str, resource: &str, subresource: &str) -> bool {
    match own.split_once('/') {
        None if subresource.is_empty() => own == "*" || own == resource,
        None => own == "*",
        Some((parent, sub)) => {
            !subresource.is_empty() && sub == subresource && (parent == "*" || parent == resource)
        }
    }
}

/// The parts of `wanted` that `owned` does not cover, put together again where they differ in
/// verbs only.
pub fn not_covered(owned: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let mut missing: Vec<Rule> = Vec::new();
    for atom in wanted.iter().flat_map(Rule::atoms) {
        if owned.iter().any(|rule| rule.covers(&atom)) {
            continue;
        }
        let same = |m: &&mut Rule| {
            m.groups == atom.groups
                && m.resources == atom.resources
                && m.names == atom.names
                && m.urls == atom.urls
        };
        match missing.iter_mut().find(same) {
            Some(rule) if !rule.verbs.contains(&atom.verbs[0]) => rule.verbs.extend(atom.verbs),
            Some(_) => {}
            None => missing.push(atom),
        }
    }
    missing.sort();
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &[&str], groups: &[&str], resources: &[&str]) -> Rule {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        Rule { verbs: own(verbs), groups: own(groups), resources: own(resources), ..Rule::default() }
    }
    fn request(verb: &str, resource: &str, subresource: &str) -> Attributes {
        Attributes {
            verb: verb.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            resource_request: true,
            ..Attributes::default()
        }
    }

    #[test]
    fn rules_match_requests() {
        let pods = rule(&["get"], &[""], &["pods", "*/scale"]);
        assert!(pods.allows(&request("get", "pods", "")));
        assert!(!pods.allows(&request("get", "pods", "log")));
        assert!(!pods.allows(&request("list", "pods", "")));
        assert!(pods.allows(&request("get", "anything", "scale")));
        assert!(rule(&["*"], &["*"], &["*"]).allows(&request("get", "pods", "exec")));
        let path = Rule { verbs: vec!["get".into()], urls: vec!["/api/*".into()], ..Rule::default() };
        assert!(path.allows(&Attributes {
            verb: "get".into(),
            path: "/api/v1".into(),
            ..Attributes::default()
        }));
    }

    #[test]
    fn nobody_grants_what_they_lack() {
        let owned = [rule(&["get", "list"], &[""], &["pods"])];
        assert!(not_covered(&owned, &[rule(&["get"], &[""], &["pods"])]).is_empty());
        let missing = not_covered(&owned, &[rule(&["get", "delete", "watch"], &[""], &["pods"])]);
        assert_eq!(missing.len(), 1);
        assert_eq!(missing[0].shown(), r#"{APIGroups:[""], Resources:["pods"], Verbs:["delete" "watch"]}"#);
        assert!(not_covered(&[rule(&["*"], &["*"], &["*"])], &[rule(&["get"], &["x"], &["y/z"])]).is_empty());
    }
}

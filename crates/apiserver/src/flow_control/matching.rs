//! Whether a FlowSchema means a request: its rules, compiled for being asked with every request.

use serde::Deserialize;

use crate::seams::{Attributes, UserInfo};

const ANY: &str = "*";
const ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// The `rules` of a FlowSchema.
#[derive(Clone, Debug, Default)]
pub struct Matcher(Vec<Rule>);

#[derive(Clone, Debug)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    urls: Vec<UrlRule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Subject {
    Anyone,
    User(String),
    Group(String),
    /// `system:serviceaccount:<namespace>:`
    AccountsOf(String),
}

/// Names one by one, or all of them.
#[derive(Clone, Debug)]
enum Names {
    All,
    These(Vec<String>),
}

impl Names {
    /// `*` means all where it stands alone, which is the only place validation allows it.
    fn new(names: Vec<String>) -> Self {
        match names.as_slice() {
            [only] if only == ANY => Names::All,
            _ => Names::These(names),
        }
    }
    fn has(&self, name: &str) -> bool {
        match self {
            Names::All => true,
            Names::These(names) => names.iter().any(|one| one == name),
        }
    }
    /// `pods/log` is the subresource `log` of `pods`.
    fn has_resource(&self, resource: &str, subresource: &str) -> bool {
        let Names::These(names) = self else { return true };
        if subresource.is_empty() {
            return self.has(resource);
        }
        let parts = names.iter().filter_map(|name| name.split_once('/'));
        parts.into_iter().any(|parts| parts == (resource, subresource))
    }
}

#[derive(Clone, Debug)]
struct ResourceRule {
    verbs: Names,
    groups: Names,
    resources: Names,
    namespaces: Names,
    cluster_scope: bool,
}

impl ResourceRule {
    fn matches(&self, asked: &Attributes) -> bool {
        self.verbs.has(&asked.verb)
            && self.resources.has_resource(&asked.resource, &asked.subresource)
            && self.groups.has(&asked.group)
            && match asked.namespace.as_str() {
                "" => self.cluster_scope,
                namespace => self.namespaces.has(namespace),
            }
    }
}

#[derive(Clone, Debug)]
struct UrlRule {
    verbs: Names,
    urls: Vec<Url>,
}

#[derive(Clone, Debug)]
enum Url {
    All,
    /// The path itself, and what is below it: ends with a slash.
    Below {
        path: String,
        prefix: String,
    },
}

impl Url {
    fn new(path: String) -> Self {
        if path == ANY {
            return Url::All;
        }
        let mut prefix = path.trim_end_matches('*').to_owned();
        if !prefix.ends_with('/') {
            prefix.push('/');
        }
        Url::Below { path, prefix }
    }
    fn matches(&self, asked: &str) -> bool {
        match self {
            Url::All => true,
            Url::Below { path, prefix } => asked == path || asked.starts_with(prefix),
        }
    }
}

impl Subject {
    fn matches(&self, user: &UserInfo) -> bool {
        match self {
            Subject::Anyone => true,
            Subject::User(name) => user.name == *name,
            Subject::Group(name) => user.is_in(name),
            Subject::AccountsOf(prefix) => user.name.starts_with(prefix),
        }
    }
}

impl Matcher {
    pub fn new(rules: Vec<RuleSpec>) -> Self {
        Matcher(rules.into_iter().map(Rule::new).collect())
    }

    pub fn matches(&self, asked: &Attributes) -> bool {
        self.0.iter().any(|rule| rule.matches(asked))
    }
}

impl Rule {
    fn new(spec: RuleSpec) -> Self {
        Rule {
            subjects: spec.subjects.into_iter().filter_map(SubjectSpec::compiled).collect(),
            resources: spec.resource_rules.into_iter().map(ResourceRuleSpec::compiled).collect(),
            urls: spec.non_resource_rules.into_iter().map(UrlRuleSpec::compiled).collect(),
        }
    }

    fn matches(&self, asked: &Attributes) -> bool {
        // What is asked is compared only for those whose kind of request the rule is about at all.
        let is_about =
            if asked.resource_request { !self.resources.is_empty() } else { !self.urls.is_empty() };
        if !is_about || !self.subjects.iter().any(|subject| subject.matches(&asked.user)) {
            return false;
        }
        if asked.resource_request {
            return self.resources.iter().any(|rule| rule.matches(asked));
        }
        let urls = self.urls.iter().filter(|rule| rule.verbs.has(&asked.verb));
        urls.into_iter().any(|rule| rule.urls.iter().any(|url| url.matches(&asked.path)))
    }
}

/// A rule as its FlowSchema has it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RuleSpec {
    subjects: Vec<SubjectSpec>,
    resource_rules: Vec<ResourceRuleSpec>,
    non_resource_rules: Vec<UrlRuleSpec>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct SubjectSpec {
    kind: String,
    user: Named,
    group: Named,
    service_account: Named,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Named {
    namespace: String,
    name: String,
}

impl SubjectSpec {
    /// `None`: nobody.
    fn compiled(self) -> Option<Subject> {
        let anyone_or = |name: String, one: fn(String) -> Subject| match name.as_str() {
            "" => None,
            ANY => Some(Subject::Anyone),
            _ => Some(one(name)),
        };
        match self.kind.as_str() {
            "User" => anyone_or(self.user.name, Subject::User),
            "Group" => anyone_or(self.group.name, Subject::Group),
            "ServiceAccount" => {
                let Named { namespace, name } = self.service_account;
                let prefix = format!("{ACCOUNT_PREFIX}{namespace}:");
                (!namespace.is_empty() && !name.is_empty()).then(|| match name.as_str() {
                    ANY => Subject::AccountsOf(prefix),
                    _ => Subject::User(prefix + &name),
                })
            }
            _ => None,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ResourceRuleSpec {
    verbs: Vec<String>,
    api_groups: Vec<String>,
    resources: Vec<String>,
    namespaces: Vec<String>,
    cluster_scope: bool,
}

impl ResourceRuleSpec {
    fn compiled(self) -> ResourceRule {
        ResourceRule {
            verbs: Names::new(self.verbs),
            groups: Names::new(self.api_groups),
            resources: Names::new(self.resources),
            namespaces: Names::new(self.namespaces),
            cluster_scope: self.cluster_scope,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct UrlRuleSpec {
    verbs: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    urls: Vec<String>,
}

impl UrlRuleSpec {
    fn compiled(self) -> UrlRule {
        UrlRule { verbs: Names::new(self.verbs), urls: self.urls.into_iter().map(Url::new).collect() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn matcher(subjects: Value, resources: Value, urls: Value) -> Matcher {
        let rule = json!([{"subjects": subjects, "resourceRules": resources, "nonResourceRules": urls}]);
        Matcher::new(serde_json::from_value(rule).expect("rules"))
    }

    fn asks(user: &str, groups: &[&str]) -> Attributes {
        let user = UserInfo::new(user, groups);
        Attributes { user, verb: "get".into(), path: "/healthz".into(), ..Attributes::default() }
    }

    fn of_resource(text: &str) -> Attributes {
        let [verb, group, resource, subresource, namespace] =
            text.split(' ').map(str::to_owned).collect::<Vec<_>>().try_into().expect("five words");
        Attributes { verb, group, resource, subresource, namespace, resource_request: true, ..asks("u", &[]) }
    }

    #[test]
    fn subjects_are_users_groups_and_service_accounts() {
        let everything = json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]);
        let user = |name: &str| json!({"kind": "User", "user": {"name": name}});
        let group = |name: &str| json!({"kind": "Group", "group": {"name": name}});
        let account = |namespace: &str, name: &str| json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": namespace, "name": name}});
        let default = asks("system:serviceaccount:a:default", &["system:serviceaccounts"]);
        for (subject, asked, expected) in [
            (user("jane"), asks("jane", &[]), true),
            (user("jane"), asks("joe", &[]), false),
            (user("*"), asks("joe", &[]), true),
            (group("g"), asks("joe", &["f", "g"]), true),
            (group("g"), asks("g", &[]), false),
            (group("*"), asks("joe", &[]), true),
            (account("a", "default"), default.clone(), true),
            (account("a", "other"), default.clone(), false),
            (account("a", "*"), default.clone(), true),
            (account("", "*"), default.clone(), false),
            (account("ab", "*"), default.clone(), false),
            (account("a", "*"), asks("system:serviceaccount:ab:default", &[]), false),
            (json!({"kind": "Else"}), asks("jane", &[]), false),
            (json!({"kind": "User"}), asks("", &[]), false),
        ] {
            let found = matcher(json!([subject]), json!([]), everything.clone()).matches(&asked);
            assert_eq!(found, expected, "{subject} {}", asked.user.name);
        }
    }

    #[test]
    fn resources_match_in_all_their_parts() {
        let anyone = json!([{"kind": "User", "user": {"name": "*"}}]);
        let rule =
            |verbs: &[&str], groups: &[&str], resources: &[&str], namespaces: &[&str], cluster: bool| {
                json!({"verbs": verbs, "apiGroups": groups, "resources": resources, "namespaces": namespaces,
                "clusterScope": cluster})
            };
        let all = ["*"].as_slice();
        for (rule, asked, expected) in [
            (rule(all, all, all, all, true), "get apps deployments scale n", true),
            (rule(all, all, all, all, true), "get  nodes  ", true),
            (rule(all, all, all, all, false), "get  nodes  ", false),
            (rule(all, all, all, &[], true), "get  nodes  ", true),
            (rule(all, all, all, &[], true), "get  pods  n", false),
            (rule(&["get", "list"], all, all, all, false), "list  pods  n", true),
            (rule(&["get", "list"], all, all, all, false), "watch  pods  n", false),
            (rule(all, &[""], all, all, false), "get  pods  n", true),
            (rule(all, &[""], all, all, false), "get apps deployments  n", false),
            (rule(all, all, &["pods"], all, false), "get  pods status n", false),
            (rule(all, all, &["pods", "pods/status"], all, false), "get  pods status n", true),
            (rule(all, all, &["pods/status"], all, false), "get  pods  n", false),
            (rule(all, all, all, &["n", "m"], false), "get  pods  m", true),
            (rule(all, all, all, &["n", "m"], false), "get  pods  o", false),
        ] {
            let found = matcher(anyone.clone(), json!([rule]), json!([])).matches(&of_resource(asked));
            assert_eq!(found, expected, "{rule} {asked}");
        }
        let urls_only = matcher(anyone, json!([]), json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]));
        assert!(!urls_only.matches(&of_resource("get  pods  n")), "a rule of the other kind");
    }

    #[test]
    fn paths_match_with_what_is_below_them() {
        let anyone = json!([{"kind": "Group", "group": {"name": "*"}}]);
        for (url, path, expected) in [
            ("*", "/anything", true),
            ("/healthz", "/healthz", true),
            ("/healthz", "/healthz/etcd", true),
            ("/healthz", "/healthzz", false),
            ("/openapi/*", "/openapi/v2", true),
            ("/openapi/*", "/openapi", false),
        ] {
            let urls = json!([{"verbs": ["get"], "nonResourceURLs": [url]}]);
            let mut asked = asks("u", &[]);
            asked.path = path.into();
            let matcher = matcher(anyone.clone(), json!([]), urls);
            assert_eq!(matcher.matches(&asked), expected, "{url} {path}");
            asked.verb = "post".into();
            assert!(!matcher.matches(&asked));
        }
    }
}

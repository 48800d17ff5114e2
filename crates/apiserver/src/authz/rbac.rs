//! RBAC: roles and bindings read from the cache into an index by subject, made anew when one of
//! the four collections has changed, so that a request costs a few hash lookups.

use std::collections::HashMap;
use std::sync::Arc;

use amphipod_api::object;
use amphipod_api::selector::LabelSelector;
use amphipod_api::status::Status;
use amphipod_store::Text;
use arc_swap::ArcSwapOption;
use serde_json::Value;

use super::rules::Rule;
use crate::authn::token::service_account_name;
use crate::seams::{Attributes, Decision, Reader, UserInfo};

pub const GROUP: &str = "rbac.authorization.k8s.io";
const COLLECTIONS: [&str; 4] = ["clusterroles", "roles", "clusterrolebindings", "rolebindings"];

/// What one binding gives one of its subjects.
#[derive(Clone, Debug)]
struct Grant {
    /// `None` when the role does not exist.
    rules: Option<Arc<Vec<Rule>>>,
    /// `ClusterRoleBinding "x" of ClusterRole "y" to Group "z"`.
    shown: Arc<str>,
    missing: Option<Arc<str>>,
}

type BySubject = HashMap<String, Vec<Grant>>;

#[derive(Default, Debug)]
struct Index {
    revisions: [u64; 4],
    cluster: BySubject,
    by_namespace: HashMap<String, BySubject>,
}

pub struct Rbac {
    reader: Arc<dyn Reader>,
    index: ArcSwapOption<Index>,
    /// One rebuild at a time; the rest wait for its result.
    building: tokio::sync::Mutex<()>,
}

impl Rbac {
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        Rbac { reader, index: ArcSwapOption::empty(), building: tokio::sync::Mutex::new(()) }
    }

    async fn revisions(&self) -> Result<[u64; 4], Status> {
        let mut revisions = [0; 4];
        for (slot, plural) in revisions.iter_mut().zip(COLLECTIONS) {
            *slot = self.reader.last_change(GROUP, plural).await?;
        }
        Ok(revisions)
    }

    async fn index(&self) -> Result<Arc<Index>, Status> {
        let revisions = self.revisions().await?;
        let fresh = |index: &Arc<Index>| index.revisions == revisions;
        if let Some(index) = self.index.load_full().filter(fresh) {
            return Ok(index);
        }
        let _guard = self.building.lock().await;
        let newer =
            |index: &Arc<Index>| index.revisions.iter().zip(&revisions).all(|(own, seen)| own >= seen);
        if let Some(index) = self.index.load_full().filter(newer) {
            return Ok(index);
        }
        // Read before the lists: a change in between only makes the next request build again.
        let revisions = self.revisions().await?;
        let mut lists = Vec::with_capacity(COLLECTIONS.len());
        for plural in COLLECTIONS {
            lists.push(self.reader.list(GROUP, plural, "").await?.items);
        }
        let index = Arc::new(build(revisions, &lists));
        self.index.store(Some(index.clone()));
        Ok(index)
    }

    pub async fn authorize(&self, request: &Attributes) -> Decision {
        let index = match self.index().await {
            Ok(index) => index,
            Err(status) => return Decision::NoOpinion { reason: format!("RBAC: {status}") },
        };
        let mut missing: Vec<Arc<str>> = Vec::new();
        for grant in index.grants(&request.user, &request.namespace) {
            match &grant.rules {
                Some(rules) if rules.iter().any(|rule| rule.allows(request)) => {
                    return Decision::Allow { reason: format!("RBAC: allowed by {}", grant.shown) };
                }
                Some(_) => {}
                None => missing.extend(grant.missing.clone().filter(|text| !missing.contains(text))),
            }
        }
        let reason = match missing.as_slice() {
            [] => String::new(),
            [one] => format!("RBAC: {one}"),
            many => format!("RBAC: [{}]", many.join(", ")),
        };
        Decision::NoOpinion { reason }
    }

    /// All rules a user has in a namespace (cluster-wide ones included; empty: only those).
    pub async fn rules_for(&self, user: &UserInfo, namespace: &str) -> Result<Vec<Rule>, Status> {
        let index = self.index().await?;
        let grants = index.grants(user, namespace);
        Ok(grants.iter().filter_map(|grant| grant.rules.as_deref()).flatten().cloned().collect())
    }

    /// The rules of a role, aggregation included.
    pub async fn role_rules(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Vec<Rule>>, Status> {
        if kind != "ClusterRole" {
            let Some(text) = self.reader.get(GROUP, "roles", namespace, name).await? else {
                return Ok(None);
            };
            let role: Value = serde_json::from_slice(&text.contiguous()).map_err(Status::internal)?;
            return Ok(Some(Rule::list(&role["rules"])));
        }
        let roles = parse(&self.reader.list(GROUP, "clusterroles", "").await?.items);
        let role = roles.iter().find(|role| object::name(role) == name);
        Ok(role.map(|role| effective_rules(role, &roles)))
    }
}

impl Index {
    fn grants(&self, user: &UserInfo, namespace: &str) -> Vec<&Grant> {
        let keys: Vec<String> =
            std::iter::once(user_key(&user.name)).chain(user.groups.iter().map(|g| group_key(g))).collect();
        let cluster = keys.iter().filter_map(|key| self.cluster.get(key)).flatten();
        let local = (!namespace.is_empty()).then(|| self.by_namespace.get(namespace)).flatten();
        let local = keys.iter().filter_map(|key| local.and_then(|map| map.get(key))).flatten();
        cluster.chain(local).collect()
    }
}

fn user_key(name: &str) -> String {
    format!("u/{name}")
}
fn group_key(name: &str) -> String {
    format!("g/{name}")
}

fn parse(items: &[Text]) -> Vec<Value> {
    items.iter().filter_map(|text| serde_json::from_slice(&text.contiguous()).ok()).collect()
}

fn build(revisions: [u64; 4], lists: &[Vec<Text>]) -> Index {
    let cluster_roles = cluster_role_rules(&parse(&lists[0]));
    let roles: HashMap<(String, String), Arc<Vec<Rule>>> = parse(&lists[1])
        .iter()
        .map(|role| {
            let key = (object::namespace(role).to_owned(), object::name(role).to_owned());
            (key, Arc::new(Rule::list(&role["rules"])))
        })
        .collect();
    let mut index = Index { revisions, ..Index::default() };
    for binding in parse(&lists[2]).iter().chain(&parse(&lists[3])) {
        let namespace = object::namespace(binding);
        let (kind, name) = (object::text(binding, "/roleRef/kind"), object::text(binding, "/roleRef/name"));
        let (rules, noun) = if kind == "ClusterRole" {
            (cluster_roles.get(name), "clusterrole")
        } else {
            (roles.get(&(namespace.to_owned(), name.to_owned())), "role")
        };
        let missing =
            rules.is_none().then(|| Arc::from(format!("{noun}.{GROUP} {} not found", quote(name)).as_str()));
        let target = if namespace.is_empty() {
            &mut index.cluster
        } else {
            index.by_namespace.entry(namespace.to_owned()).or_default()
        };
        for subject in binding["subjects"].as_array().into_iter().flatten() {
            let Some(key) = subject_key(subject, namespace) else { continue };
            let shown = shown(binding, kind, name, subject);
            target.entry(key).or_default().push(Grant {
                rules: rules.cloned(),
                shown,
                missing: missing.clone(),
            });
        }
    }
    index
}

fn quote(text: &str) -> String {
    amphipod_api::field::go_quote(text)
}

/// Rules by name; an aggregated role has those of the roles its selectors find.
fn cluster_role_rules(roles: &[Value]) -> HashMap<String, Arc<Vec<Rule>>> {
    roles.iter().map(|role| (object::name(role).to_owned(), Arc::new(effective_rules(role, roles)))).collect()
}

/// An aggregated role's rules are those of the roles its selectors find (one level at a time, as
/// the found roles may be aggregated themselves, the search goes on into them).
pub fn effective_rules(role: &Value, all: &[Value]) -> Vec<Rule> {
    let mut rules = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    collect_rules(role, all, &mut seen, &mut rules);
    rules
}

fn collect_rules<'a>(role: &'a Value, all: &'a [Value], seen: &mut Vec<&'a str>, rules: &mut Vec<Rule>) {
    let name = object::name(role);
    if seen.contains(&name) {
        return;
    }
    seen.push(name);
    let Some(selectors) = role.pointer("/aggregationRule/clusterRoleSelectors").and_then(Value::as_array)
    else {
        for rule in Rule::list(&role["rules"]) {
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
        return;
    };
    for selector in selectors.iter().filter_map(|s| LabelSelector::from_object(s).ok()) {
        for found in all.iter().filter(|other| object::name(other) != name && selector.matches_object(other))
        {
            collect_rules(found, all, seen, rules);
        }
    }
}

fn subject_key(subject: &Value, binding_namespace: &str) -> Option<String> {
    let name = object::text(subject, "/name");
    match object::text(subject, "/kind") {
        "User" => Some(user_key(name)),
        "Group" => Some(group_key(name)),
        "ServiceAccount" => {
            let own = object::text(subject, "/namespace");
            let namespace = if own.is_empty() { binding_namespace } else { own };
            (!namespace.is_empty()).then(|| user_key(&service_account_name(namespace, name)))
        }
        _ => None,
    }
}

fn shown(binding: &Value, role_kind: &str, role: &str, subject: &Value) -> Arc<str> {
    let namespace = object::namespace(binding);
    let own = object::name(binding);
    let (kind, own) = if namespace.is_empty() {
        ("ClusterRoleBinding", own.to_owned())
    } else {
        ("RoleBinding", format!("{own}/{namespace}"))
    };
    let (subject_kind, name) = (object::text(subject, "/kind"), object::text(subject, "/name"));
    let subject = match (subject_kind, object::text(subject, "/namespace")) {
        ("ServiceAccount", namespace) => format!("ServiceAccount {}", quote(&format!("{name}/{namespace}"))),
        (kind, _) => format!("{kind} {}", quote(name)),
    };
    format!("{kind} {} of {role_kind} {} to {subject}", quote(&own), quote(role)).into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::MemoryReader;

    fn request(user: &str, groups: &[&str], verb: &str, namespace: &str) -> Attributes {
        Attributes {
            user: UserInfo::new(user, groups),
            verb: verb.into(),
            resource: "pods".into(),
            namespace: namespace.into(),
            resource_request: true,
            ..Attributes::default()
        }
    }

    #[tokio::test]
    async fn bindings_decide_and_changes_are_seen() {
        let reader = Arc::new(MemoryReader::default());
        let role = json!({"metadata": {"name": "r", "namespace": "n"},
            "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
        reader.put(GROUP, "roles", &role);
        reader.put(
            GROUP,
            "rolebindings",
            &json!({"metadata": {"name": "b", "namespace": "n"},
            "roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "Group", "name": "g"},
            {"kind": "ServiceAccount", "name": "s"}]}),
        );
        let rbac = Rbac::new(reader.clone());
        assert!(matches!(
            rbac.authorize(&request("u", &["g"], "get", "n")).await,
            Decision::Allow { reason } if reason == "RBAC: allowed by RoleBinding \"b/n\" of Role \"r\" to Group \"g\""
        ));
        let account = request("system:serviceaccount:n:s", &[], "get", "n");
        assert!(matches!(rbac.authorize(&account).await, Decision::Allow { .. }));
        assert!(matches!(
            rbac.authorize(&request("u", &["g"], "get", "other")).await,
            Decision::NoOpinion { .. }
        ));
        assert!(matches!(
            rbac.authorize(&request("u", &["g"], "list", "n")).await,
            Decision::NoOpinion { .. }
        ));
        reader.put(
            GROUP,
            "clusterrolebindings",
            &json!({"metadata": {"name": "c"},
            "roleRef": {"kind": "ClusterRole", "name": "gone"}, "subjects": [{"kind": "User", "name": "u"}]}),
        );
        assert_eq!(
            rbac.authorize(&request("u", &[], "list", "n")).await,
            Decision::NoOpinion {
                reason: "RBAC: clusterrole.rbac.authorization.k8s.io \"gone\" not found".into()
            }
        );
    }
}

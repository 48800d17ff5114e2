//! What kinds the server has, from aggregated discovery: two requests, no cache on disk.

use amphipod_client::Client;
use http::Request;
use serde_json::Value;

use crate::Error;

const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

#[derive(Clone, Debug, PartialEq)]
pub struct Kind {
    pub group: String,
    pub version: String,
    pub plural: String,
    pub singular: String,
    pub kind: String,
    pub namespaced: bool,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub verbs: Vec<String>,
}

impl Kind {
    /// The path of the collection, or of one object in it.
    pub fn path(&self, namespace: Option<&str>, name: &str) -> String {
        let mut path = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        if let Some(namespace) = namespace.filter(|_| self.namespaced) {
            path += &format!("/namespaces/{namespace}");
        }
        path += &format!("/{}", self.plural);
        if !name.is_empty() {
            path += &format!("/{name}");
        }
        path
    }
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
    /// `pod` or `deployment.apps`, as messages name a kind.
    pub fn display(&self) -> String {
        if self.group.is_empty() {
            self.singular.clone()
        } else {
            format!("{}.{}", self.singular, self.group)
        }
    }
}

pub struct Discovery {
    kinds: Vec<Kind>,
}

impl Discovery {
    pub async fn fetch(client: &Client) -> Result<Self, Error> {
        let mut kinds = Vec::new();
        for path in ["/api", "/apis"] {
            let request = Request::builder().uri(path).header("accept", ACCEPT).body(Vec::new())?;
            let answer: Value = serde_json::from_slice(&client.request(request).await?)?;
            for group in list(&answer, "items") {
                // The first version is the preferred one; others are found by their full name.
                for version in list(group, "versions") {
                    let name = text(&group["metadata"], "name");
                    kinds.extend(list(version, "resources").map(|r| kind(name, text(version, "version"), r)));
                }
            }
        }
        Ok(Discovery { kinds })
    }

    /// `pods`, `pod`, `po`, `Pod`, `deployments.apps`, `deployments.v1.apps`.
    pub fn find(&self, word: &str) -> Option<&Kind> {
        let lower = word.to_ascii_lowercase();
        let (name, rest) = lower.split_once('.').unwrap_or((&lower, ""));
        let names = |k: &&Kind| k.plural == name || k.singular == name || k.kind.to_ascii_lowercase() == name;
        let qualified = |k: &&Kind| {
            rest.is_empty()
                || k.group == rest
                || rest.strip_prefix(&format!("{}.", k.version)) == Some(&k.group)
        };
        let exact = self.kinds.iter().filter(qualified).find(names);
        exact
            .or_else(|| self.kinds.iter().filter(qualified).find(|k| k.short_names.iter().any(|s| s == name)))
    }
    pub fn by_object(&self, api_version: &str, kind: &str) -> Option<&Kind> {
        self.kinds.iter().find(|k| k.kind == kind && k.api_version() == api_version)
    }
    pub fn category(&self, name: &str) -> Vec<Kind> {
        let mut found: Vec<Kind> = Vec::new();
        for kind in self.kinds.iter().filter(|k| k.categories.iter().any(|c| c == name)) {
            if !found.iter().any(|k| k.plural == kind.plural && k.group == kind.group) {
                found.push(kind.clone());
            }
        }
        found
    }
}

fn kind(group: &str, version: &str, resource: &Value) -> Kind {
    let strings = |name: &str| list(resource, name).filter_map(Value::as_str).map(str::to_owned).collect();
    Kind {
        group: group.to_owned(),
        version: version.to_owned(),
        plural: text(resource, "resource").to_owned(),
        singular: text(resource, "singularResource").to_owned(),
        kind: text(&resource["responseKind"], "kind").to_owned(),
        namespaced: text(resource, "scope") == "Namespaced",
        short_names: strings("shortNames"),
        categories: strings("categories"),
        verbs: strings("verbs"),
    }
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.get(name).and_then(Value::as_array).into_iter().flatten()
}
fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or("")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample(group: &str, plural: &str, name: &str, short: &str) -> Kind {
        Kind {
            group: group.into(),
            version: "v1".into(),
            plural: plural.into(),
            singular: name.to_ascii_lowercase(),
            kind: name.into(),
            namespaced: true,
            short_names: vec![short.into()],
            categories: vec!["all".into()],
            verbs: Vec::new(),
        }
    }

    #[test]
    fn words_find_kinds() {
        let kinds = vec![
            sample("", "pods", "Pod", "po"),
            sample("", "events", "Event", "ev"),
            sample("apps", "deployments", "Deployment", "deploy"),
            sample("events.k8s.io", "events", "Event", "ev"),
        ];
        let discovery = Discovery { kinds };
        let path = |word: &str| discovery.find(word).map(|k| k.path(Some("ns"), "x")).unwrap_or_default();
        for word in ["po", "pod", "pods", "Pod"] {
            assert_eq!(path(word), "/api/v1/namespaces/ns/pods/x");
        }
        assert_eq!(path("deployments.v1.apps"), "/apis/apps/v1/namespaces/ns/deployments/x");
        assert_eq!(path("events"), "/api/v1/namespaces/ns/events/x");
        assert_eq!(path("events.events.k8s.io"), "/apis/events.k8s.io/v1/namespaces/ns/events/x");
        assert_eq!(path("nonsense"), "");
        assert_eq!(discovery.category("all").len(), 4);
    }
}

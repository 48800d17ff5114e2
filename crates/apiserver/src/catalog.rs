//! What is served right now: the rows, found by path or kind, and the discovery documents made
//! from them. Replaced as a whole when custom resources come and go.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use amphipod_api::resource::{self, Resource};
use bytes::Bytes;
use serde_json::Value;

use crate::discovery::{self, Group};

pub struct Catalog {
    resources: Vec<Arc<Resource>>,
    by_plural: HashMap<String, Vec<usize>>,
    documents: OnceLock<Documents>,
}

/// A finished answer with its digest.
#[derive(Clone, Debug)]
pub struct Document {
    pub bytes: Bytes,
    pub etag: String,
}

struct Documents {
    /// By path: `/api`, `/apis`, `/apis/<group>`, `/apis/<group>/<version>`.
    plain: HashMap<String, Document>,
    aggregated_core: Document,
    aggregated: Document,
}

fn document(value: &Value) -> Document {
    let bytes = Bytes::from(value.to_string());
    Document { etag: discovery::etag(&bytes), bytes }
}

impl Catalog {
    pub fn builtin() -> Self {
        Self::new(resource::builtin().iter().cloned().map(Arc::new).collect())
    }

    pub fn new(resources: Vec<Arc<Resource>>) -> Self {
        let mut by_plural = HashMap::<String, Vec<usize>>::new();
        for (index, resource) in resources.iter().enumerate() {
            by_plural.entry(resource.plural.to_string()).or_default().push(index);
        }
        Catalog { resources, by_plural, documents: OnceLock::new() }
    }

    pub fn resources(&self) -> &[Arc<Resource>] {
        &self.resources
    }

    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        self.called(plural).find(|r| r.group == group && r.version == version).cloned()
    }

    fn called(&self, plural: &str) -> impl Iterator<Item = &Arc<Resource>> + Clone {
        self.by_plural.get(plural).into_iter().flatten().map(|index| &self.resources[*index])
    }

    /// The resource at the version it is stored at (any, where that is not served).
    pub fn stored(&self, group: &str, plural: &str) -> Option<Arc<Resource>> {
        let mut same = self.called(plural).filter(|r| r.group == group);
        let at_storage =
            same.clone().find(|r| r.storage.as_ref().is_some_and(|s| s.api_version == r.api_version()));
        at_storage.or_else(|| same.next()).cloned()
    }

    pub fn find_kind(&self, api_version: &str, kind: &str) -> Option<Arc<Resource>> {
        self.resources.iter().find(|r| r.kind == kind && r.api_version() == api_version).cloned()
    }

    /// The discovery document at this path (no trailing slash).
    pub fn discovery(&self, path: &str, aggregated: bool) -> Option<Document> {
        let documents = self.documents.get_or_init(|| self.render());
        match (path, aggregated) {
            ("/api", true) => Some(documents.aggregated_core.clone()),
            ("/apis", true) => Some(documents.aggregated.clone()),
            _ => documents.plain.get(path).cloned(),
        }
    }

    fn groups(&self) -> Vec<Group<'_>> {
        let known = resource::groups().iter().map(|group| {
            let versions = group.versions.iter().map(|v| (v.version, self.rows(group.name, v.version)));
            Group { name: group.name, versions: versions.filter(|(_, rows)| !rows.is_empty()).collect() }
        });
        known.filter(|g| !g.versions.is_empty()).collect()
    }

    fn rows(&self, group: &str, version: &str) -> Vec<&Resource> {
        self.resources.iter().map(Arc::as_ref).filter(|r| r.group == group && r.version == version).collect()
    }

    fn render(&self) -> Documents {
        let groups = self.groups();
        let mut plain = HashMap::new();
        // Relative to whatever name the client used: an empty list of addresses would be legal too.
        plain.insert("/api".to_owned(), document(&discovery::core_versions("")));
        plain.insert("/apis".to_owned(), document(&discovery::group_list(&groups)));
        for group in &groups {
            let base =
                if group.name.is_empty() { "/api".to_owned() } else { format!("/apis/{}", group.name) };
            if !group.name.is_empty() {
                plain.insert(base.clone(), document(&discovery::group(group)));
            }
            for (version, rows) in &group.versions {
                let list = discovery::resource_list(group.name, version, rows);
                plain.insert(format!("{base}/{version}"), document(&list));
            }
        }
        let (core, named): (Vec<&Group>, Vec<&Group>) = groups.iter().partition(|g| g.name.is_empty());
        Documents {
            plain,
            aggregated_core: document(&discovery::aggregated(&core)),
            aggregated: document(&discovery::aggregated(&named)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_rows_and_renders_documents() {
        let catalog = Catalog::builtin();
        assert!(catalog.find("apps", "v1", "deployments").is_some());
        let stored = catalog.stored("autoscaling", "horizontalpodautoscalers").map(|r| r.version.to_string());
        assert_eq!(stored.as_deref(), Some("v2"));
        for path in ["/api", "/apis", "/api/v1", "/apis/apps", "/apis/apps/v1", "/apis/autoscaling/v1"] {
            assert!(catalog.discovery(path, false).is_some(), "{path}");
        }
        assert!(catalog.discovery("/apis/nope", false).is_none());
    }
}

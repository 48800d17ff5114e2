//! One row per resource: everything the generic server needs to know about a kind. Built-in rows
//! are constants; custom resources build theirs at run time, hence the `Cow`s.

mod builtin;
mod groups;
mod rows;

use std::borrow::Cow;

pub use builtin::{builtin, find, find_kind};
pub use groups::{Group, GroupVersion, groups};

type Text = Cow<'static, str>;

/// A served resource at one group and version.
#[derive(Clone, Debug)]
pub struct Resource {
    pub group: Text,
    pub version: Text,
    pub plural: Text,
    pub singular: Text,
    pub kind: Text,
    pub namespaced: bool,
    /// In discovery's order: create delete deletecollection get list patch update watch.
    pub verbs: Cow<'static, [Text]>,
    pub short_names: Cow<'static, [Text]>,
    pub categories: Cow<'static, [Text]>,
    pub subresources: Cow<'static, [Subresource]>,
    /// Where its objects are kept; `None` for resources without storage (reviews, bindings).
    pub storage: Option<Storage>,
    /// Field selectors besides metadata.name and metadata.namespace.
    pub selectable_fields: Cow<'static, [SelectableField]>,
}

/// Several resources may be views of one stored collection (events, autoscaling).
#[derive(Clone, Debug)]
pub struct Storage {
    /// The `<resource>` part of `/registry/<resource>/...`, e.g. `pods`, `apps/deployments`.
    pub prefix: Text,
    /// The version objects are stored at, e.g. `apps/v1` and `Deployment`.
    pub api_version: Text,
    pub kind: Text,
    /// base64(first 8 bytes of sha256("<group>/<version>/<Kind>")), shown in discovery.
    pub version_hash: Text,
}

#[derive(Clone, Debug)]
pub struct Subresource {
    pub name: Text,
    /// Group and version of the subresource's own kind where it is another than the parent's.
    pub group: Text,
    pub version: Text,
    pub kind: Text,
    pub verbs: Cow<'static, [Text]>,
}

#[derive(Clone, Debug)]
pub struct SelectableField {
    /// As the client writes it: `spec.nodeName`.
    pub label: Text,
    /// JSON pointer into the stored object: `/spec/nodeName`.
    pub pointer: Text,
    /// What an absent field compares as: `""`, `"false"`, `"0"`; or the pointer to the field that
    /// then counts instead.
    pub absent: Text,
}

impl SelectableField {
    /// Where to look when there is nothing at `pointer`.
    pub fn instead(&self) -> Option<&str> {
        self.absent.starts_with('/').then_some(&*self.absent)
    }
}

/// Core kinds whose delete answers with the object itself instead of a bare success.
const CORE_ANSWERING_DELETES: [&str; 7] = [
    "pods",
    "persistentvolumes",
    "persistentvolumeclaims",
    "podtemplates",
    "resourcequotas",
    "serviceaccounts",
    "services",
];

impl Resource {
    /// Whether deleting answers with the deleted object: typed clients decode it as one.
    pub fn delete_answers_object(&self) -> bool {
        match self.group.as_ref() {
            "" => CORE_ANSWERING_DELETES.contains(&self.plural.as_ref()),
            "storage.k8s.io" => self.plural != "csistoragecapacities",
            "resource.k8s.io" => true,
            _ => false,
        }
    }
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }
    /// `pods` or `deployments.apps`.
    pub fn qualified(&self) -> String {
        crate::status::qualified(&self.group, &self.plural)
    }
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }
}

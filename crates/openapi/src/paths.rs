//! The operations on each resource, as data; the two dialects write them in their own ways.

use amphipod_api::resource::{Resource, Subresource};
use amphipod_api::schema;

/// One method on one path.
#[derive(Clone, Debug)]
pub struct Operation {
    /// With `{namespace}` and `{name}` where they stand.
    pub path: String,
    /// `get`, `put`, `post`, `patch`, `delete`.
    pub method: &'static str,
    /// `x-kubernetes-action`.
    pub action: &'static str,
    pub id: String,
    pub description: String,
    pub group: String,
    pub version: String,
    pub kind: String,
    /// Definition of the body sent, if any; `Patch` and `DeleteOptions` stand for the meta types.
    pub body: Option<String>,
    /// Definition of the answer, if it has one.
    pub answer: Option<String>,
    pub query: &'static [Parameter],
    /// Lists and watches.
    pub collection: bool,
}

/// Query parameters: name, type, description.
pub type Parameter = (&'static str, &'static str, &'static str);

const PRETTY: Parameter = ("pretty", "string", "Print the answer indented.");
const DRY_RUN: Parameter = ("dryRun", "string", "`All`: run every stage of the request but store nothing.");
const MANAGER: Parameter =
    ("fieldManager", "string", "The name changes are recorded under, at most 128 characters.");
const VALIDATION: Parameter = (
    "fieldValidation",
    "string",
    "What to do about unknown and duplicate fields: `Ignore`, `Warn` (the default) or `Strict`.",
);
const FORCE: Parameter = ("force", "boolean", "Take fields over from other managers; apply patches only.");
const READ: &[Parameter] = &[PRETTY];
const WRITE: &[Parameter] = &[PRETTY, DRY_RUN, MANAGER, VALIDATION];
const PATCH: &[Parameter] = &[PRETTY, DRY_RUN, MANAGER, VALIDATION, FORCE];
const DELETE: &[Parameter] = &[
    PRETTY,
    DRY_RUN,
    ("gracePeriodSeconds", "integer", "Seconds before the object goes; zero is at once."),
    ("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
    ("propagationPolicy", "string", "`Orphan`, `Background` or `Foreground`."),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean", "Delete objects that cannot be read."),
];
const LIST: &[Parameter] = &[
    PRETTY,
    ("allowWatchBookmarks", "boolean", "Send bookmark events while watching."),
    ("continue", "string", "Where the last page ended."),
    ("fieldSelector", "string", "Only objects whose fields match."),
    ("labelSelector", "string", "Only objects whose labels match."),
    ("limit", "integer", "The most objects of one page."),
    ("resourceVersion", "string", "How old the answer may be."),
    ("resourceVersionMatch", "string", "How resourceVersion is taken: `Exact` or `NotOlderThan`."),
    ("sendInitialEvents", "boolean", "Begin a watch with the objects there are."),
    ("timeoutSeconds", "integer", "When the call ends at the latest."),
    ("watch", "boolean", "Stream changes instead of listing."),
];

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// All operations on a resource whose type has the definition `definition`.
pub fn operations(resource: &Resource, definition: &str) -> Vec<Operation> {
    let maker = Maker { resource, definition };
    let mut found = maker.collection();
    found.extend(maker.item());
    for subresource in resource.subresources.iter() {
        found.extend(maker.subresource(subresource));
    }
    found
}

struct Maker<'a> {
    resource: &'a Resource,
    definition: &'a str,
}

impl Maker<'_> {
    fn prefix(&self) -> String {
        format!("/{}", crate::group_version_path(&self.resource.group, &self.resource.version))
    }
    fn collection_path(&self) -> String {
        let plural = &self.resource.plural;
        match self.resource.namespaced {
            true => format!("{}/namespaces/{{namespace}}/{plural}", self.prefix()),
            false => format!("{}/{plural}", self.prefix()),
        }
    }
    fn item_path(&self) -> String {
        format!("{}/{{name}}", self.collection_path())
    }

    fn operation(&self, path: String, method: &'static str, action: &'static str, verb: &str) -> Operation {
        let scope = if self.resource.namespaced { "Namespaced" } else { "" };
        Operation {
            path,
            method,
            action,
            id: format!("{verb}{}{scope}{}", self.group_title(), self.resource.kind),
            description: String::new(),
            group: self.resource.group.to_string(),
            version: self.resource.version.to_string(),
            kind: self.resource.kind.to_string(),
            body: None,
            answer: Some(self.definition.to_owned()),
            query: READ,
            collection: false,
        }
    }

    /// `CoreV1`, `AppsV1`, `RbacAuthorizationV1`.
    fn group_title(&self) -> String {
        let group = self.resource.group.strip_suffix(".k8s.io").unwrap_or(&self.resource.group);
        let group = if group.is_empty() { "core" } else { group };
        group.split('.').chain([self.resource.version.as_ref()]).map(capitalised).collect()
    }

    fn collection(&self) -> Vec<Operation> {
        let mut found = Vec::new();
        let kind = &self.resource.kind;
        let path = self.collection_path();
        if self.resource.has_verb("list") {
            let mut list = self.operation(path.clone(), "get", "list", "list");
            list.description = format!("list or watch objects of kind {kind}");
            list.answer = Some(format!("{}List", self.definition));
            list.query = LIST;
            list.collection = true;
            if self.resource.namespaced {
                let mut everywhere = list.clone();
                everywhere.path = format!("{}/{}", self.prefix(), self.resource.plural);
                everywhere.id = format!("list{}{kind}ForAllNamespaces", self.group_title());
                found.push(everywhere);
            }
            found.push(list);
        }
        if self.resource.has_verb("create") {
            found.push(self.write(path.clone(), "post", "post", "create", self.definition));
        }
        if self.resource.has_verb("deletecollection") {
            let mut delete = self.operation(path, "delete", "deletecollection", "deleteCollection");
            delete.description = format!("delete collection of {kind}");
            delete.body = Some(format!("{META}.DeleteOptions"));
            delete.answer = Some(format!("{META}.Status"));
            delete.query = LIST;
            found.push(delete);
        }
        found
    }

    fn write(
        &self,
        path: String,
        method: &'static str,
        action: &'static str,
        verb: &str,
        definition: &str,
    ) -> Operation {
        let mut write = self.operation(path, method, action, verb);
        let article = if self.resource.kind.starts_with(['A', 'E', 'I', 'O', 'U']) { "an" } else { "a" };
        write.description = format!("{verb} {article} {}", self.resource.kind);
        write.body = Some(definition.to_owned());
        write.answer = Some(definition.to_owned());
        write.query = WRITE;
        write
    }

    fn patch(&self, path: String, definition: &str) -> Operation {
        let mut patch = self.write(path, "patch", "patch", "patch", definition);
        patch.description = format!("partially update the specified {}", self.resource.kind);
        patch.body = Some(format!("{META}.Patch"));
        patch.query = PATCH;
        patch
    }

    fn item(&self) -> Vec<Operation> {
        let mut found = Vec::new();
        let kind = &self.resource.kind;
        if self.resource.has_verb("get") {
            let mut read = self.operation(self.item_path(), "get", "get", "read");
            read.description = format!("read the specified {kind}");
            found.push(read);
        }
        if self.resource.has_verb("update") {
            let mut replace = self.write(self.item_path(), "put", "put", "replace", self.definition);
            replace.description = format!("replace the specified {kind}");
            found.push(replace);
        }
        if self.resource.has_verb("patch") {
            found.push(self.patch(self.item_path(), self.definition));
        }
        if self.resource.has_verb("delete") {
            let mut delete = self.operation(self.item_path(), "delete", "delete", "delete");
            delete.description = format!("delete the specified {kind}");
            delete.body = Some(format!("{META}.DeleteOptions"));
            if !self.resource.delete_answers_object() {
                delete.answer = Some(format!("{META}.Status"));
            }
            delete.query = DELETE;
            found.push(delete);
        }
        found
    }

    fn subresource(&self, subresource: &Subresource) -> Vec<Operation> {
        let path = format!("{}/{}", self.item_path(), subresource.name);
        let group = if subresource.version.is_empty() { &self.resource.group } else { &subresource.group };
        let version =
            if subresource.version.is_empty() { &self.resource.version } else { &subresource.version };
        let connects = subresource.kind.ends_with("Options");
        let definition = match schema::kind(group, version, &subresource.kind) {
            _ if connects || subresource.name == "log" => None,
            Some(message) => Some(message.name),
            None => Some(self.definition),
        };
        let made = subresource.verbs.iter().filter_map(|verb| {
            let mut operation = match (verb.as_ref(), definition) {
                ("get", _) if connects => self.operation(path.clone(), "get", "connect", "connectGet"),
                ("create", _) if connects => self.operation(path.clone(), "post", "connect", "connectPost"),
                ("update", _) if connects => self.operation(path.clone(), "put", "connect", "connectPut"),
                ("patch", _) if connects => self.operation(path.clone(), "patch", "connect", "connectPatch"),
                ("delete", _) if connects => {
                    self.operation(path.clone(), "delete", "connect", "connectDelete")
                }
                ("get", _) => self.operation(path.clone(), "get", "get", "read"),
                ("create", Some(body)) => self.write(path.clone(), "post", "post", "create", body),
                ("update", Some(body)) => self.write(path.clone(), "put", "put", "replace", body),
                ("patch", Some(body)) => self.patch(path.clone(), body),
                _ => return None,
            };
            operation.id.push_str(&capitalised(&subresource.name));
            operation.description = format!("{} of the specified {}", subresource.name, self.resource.kind);
            operation.kind = subresource.kind.to_string();
            operation.group = group.to_string();
            operation.version = version.to_string();
            operation.answer = definition.map(str::to_owned);
            Some(operation)
        });
        made.collect()
    }
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    let first = letters.next().map(|c| c.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

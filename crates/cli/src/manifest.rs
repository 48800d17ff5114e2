//! Reading manifests: files, directories, standard input; YAML documents, JSON, and Lists.

use std::io::Read;
use std::path::{Path, PathBuf};

use amphipod_api::object;
use serde_json::Value;

use crate::Error;
use crate::context::Session;
use crate::discovery::Kind;
use crate::error::usage;

/// An object of a manifest, and where it goes.
pub struct Item {
    pub kind: Kind,
    pub namespace: String,
    pub object: Value,
}

impl Item {
    pub fn name(&self) -> &str {
        object::name(&self.object)
    }
    pub fn path(&self) -> String {
        self.kind.path(Some(&self.namespace), self.name())
    }
}

fn sources(names: &[String], recursive: bool) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    for name in names {
        let path = Path::new(name);
        if name == "-" || !path.is_dir() {
            found.push(path.to_owned());
            continue;
        }
        directory(path, recursive, &mut found)?;
    }
    Ok(found)
}

fn directory(path: &Path, recursive: bool, found: &mut Vec<PathBuf>) -> Result<(), Error> {
    let fail = |e: std::io::Error| usage(format!("{}: {e}", path.display()));
    let entries = std::fs::read_dir(path).map_err(fail)?.collect::<Result<Vec<_>, _>>();
    let mut entries: Vec<PathBuf> = entries.map_err(fail)?.into_iter().map(|e| e.path()).collect();
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            if recursive {
                directory(&entry, true, found)?;
            }
        } else if entry.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json") {
            found.push(entry);
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, Error> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            usage(format!("the path {:?} does not exist", path.display().to_string()))
        }
        _ => usage(format!("{}: {e}", path.display())),
    })
}

/// All objects of a text, in order; Lists are taken apart.
pub fn parse(text: &str, source: &str) -> Result<Vec<Value>, Error> {
    let fail = |e: &dyn std::fmt::Display| usage(format!("error parsing {source}: {e}"));
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|e| fail(&e))?;
    let mut objects = Vec::new();
    for document in documents.into_iter().filter(|d| !d.is_null()) {
        if object::kind(&document).is_empty() {
            return Err(fail(&"Object 'Kind' is missing"));
        }
        if object::api_version(&document).is_empty() {
            return Err(fail(&"Object 'apiVersion' is missing"));
        }
        match document.get("items").and_then(Value::as_array) {
            Some(items) if object::kind(&document).ends_with("List") => objects.extend(items.iter().cloned()),
            _ => objects.push(document),
        }
    }
    Ok(objects)
}

impl Session {
    pub async fn manifests(&self, names: &[String], recursive: bool) -> Result<Vec<Item>, Error> {
        if names.is_empty() {
            return Err(usage("must specify one of -f"));
        }
        let mut items = Vec::new();
        for path in sources(names, recursive)? {
            let source = path.display().to_string();
            for object in parse(&read(&path)?, &source)? {
                items.push(self.item(object, &source).await?);
            }
        }
        if items.is_empty() { Err(usage("no objects passed")) } else { Ok(items) }
    }

    async fn item(&self, object: Value, source: &str) -> Result<Item, Error> {
        let (api_version, kind) = (object::api_version(&object), object::kind(&object));
        let Some(found) = self.discovery().await?.by_object(api_version, kind).cloned() else {
            return Err(usage(format!(
                "resource mapping not found for name: {:?} namespace: {:?} from {source:?}: no matches for kind \
                 {kind:?} in version {api_version:?}",
                object::name(&object),
                object::namespace(&object)
            )));
        };
        let own = object::namespace(&object).to_owned();
        let namespace = if own.is_empty() { self.namespace.clone() } else { own };
        let mut object = object;
        if found.namespaced {
            object::metadata_mut(&mut object).insert("namespace".to_owned(), namespace.clone().into());
        }
        Ok(Item { kind: found, namespace, object })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_lists_and_faults() {
        let text = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n---\n---\napiVersion: v1\nkind: List\nitems:\n- \
                    apiVersion: v1\n  kind: Secret\n  metadata:\n    name: b\n";
        let objects = parse(text, "x").unwrap();
        let names: Vec<&str> = objects.iter().map(object::name).collect();
        assert_eq!(names, ["a", "b"]);
        assert!(parse("kind: X\n", "x").unwrap_err().to_string().contains("'apiVersion' is missing"));
        assert!(parse("a: [", "x").is_err());
    }
}

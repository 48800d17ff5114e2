//! Expands the table of built-in resources, once, into the rows the generic server works on.

use std::borrow::Cow;
use std::sync::LazyLock;

use super::rows::{ROWS, Row};
use super::{Resource, SelectableField, Storage, Subresource, Text};

static BUILTIN: LazyLock<Vec<Resource>> = LazyLock::new(|| ROWS.iter().map(expand).collect());

/// Every built-in resource, grouped in discovery's order of groups.
pub fn builtin() -> &'static [Resource] {
    &BUILTIN
}

/// The built-in resource served at this path.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    builtin().iter().find(|r| r.plural == plural && r.group == group && r.version == version)
}

/// The built-in resource of this kind.
pub fn find_kind(group: &str, version: &str, kind: &str) -> Option<&'static Resource> {
    builtin().iter().find(|r| r.kind == kind && r.group == group && r.version == version)
}

fn words(list: &'static str) -> Cow<'static, [Text]> {
    list.split_whitespace().map(Cow::Borrowed).collect::<Vec<_>>().into()
}

fn expand(row: &Row) -> Resource {
    Resource {
        group: row.group.into(),
        version: row.version.into(),
        plural: row.plural.into(),
        singular: row.kind.to_lowercase().into(),
        kind: row.kind.into(),
        namespaced: row.namespaced,
        verbs: words(row.verbs),
        short_names: words(row.short_names),
        categories: words(row.categories),
        subresources: row.subresources.split_whitespace().map(|s| subresource(row, s)).collect(),
        storage: storage(row),
        selectable_fields: row.fields.split_whitespace().map(selectable_field).collect(),
    }
}

fn storage(row: &Row) -> Option<Storage> {
    if row.prefix.is_empty() {
        return None;
    }
    let api_version = match (row.stored_at, row.group) {
        ("", "") => row.version.to_owned(),
        ("", group) => format!("{group}/{}", row.version),
        (other, _) => other.to_owned(),
    };
    Some(Storage {
        prefix: row.prefix.into(),
        api_version: api_version.into(),
        kind: row.kind.into(),
        version_hash: row.hash.into(),
    })
}

fn subresource(row: &Row, text: &'static str) -> Subresource {
    let get_patch_update = words("get patch update");
    let made = |group, version, kind, verbs| Subresource {
        name: text.split('=').next().unwrap_or_default().into(),
        group: Cow::Borrowed(group),
        version: Cow::Borrowed(version),
        kind: Cow::Borrowed(kind),
        verbs,
    };
    let Some((name, rest)) = text.split_once('=') else {
        return match text {
            "scale" => made("autoscaling", "v1", "Scale", get_patch_update),
            _ => made("", "", row.kind, get_patch_update),
        };
    };
    debug_assert!(!name.is_empty());
    let (kind, verbs) = rest.split_once(':').unwrap_or((rest, ""));
    let verbs = verbs.split(',').map(Cow::Borrowed).collect::<Vec<_>>().into();
    let mut parts = kind.rsplitn(3, '/');
    let kind = parts.next().filter(|k| !k.is_empty()).unwrap_or(row.kind);
    let version = parts.next().unwrap_or("");
    let group = parts.next().unwrap_or("");
    made(group, version, kind, verbs)
}

fn selectable_field(text: &'static str) -> SelectableField {
    let (path, absent) = text.split_once('~').unwrap_or((text, ""));
    let (label, pointer) = match path.split_once('=') {
        Some((label, pointer)) => (label, Cow::Borrowed(pointer)),
        None => (path, Cow::Owned(format!("/{}", path.replace('.', "/")))),
    };
    SelectableField { label: label.into(), pointer, absent: absent.into() }
}

#[cfg(test)]
mod tests {
    use super::super::groups;
    use super::*;

    #[test]
    fn every_row_belongs_to_a_served_version_and_every_version_has_rows() {
        for resource in builtin() {
            let group = groups().iter().find(|g| g.name == resource.group).expect("group listed");
            assert!(group.versions.iter().any(|v| v.version == resource.version), "{}", resource.qualified());
            assert_eq!(resource.storage.is_some(), resource.has_verb("delete"), "{}", resource.qualified());
        }
        for group in groups() {
            for version in group.versions {
                assert!(builtin().iter().any(|r| r.group == group.name && r.version == version.version));
            }
        }
        assert_eq!(builtin().len(), 67);
    }

    #[test]
    fn rows_expand() {
        let pods = find("", "v1", "pods").expect("pods");
        assert_eq!(pods.subresource("eviction").map(|s| s.group.as_ref()), Some("policy"));
        assert_eq!(pods.subresource("log").map(|s| s.kind.as_ref()), Some("Pod"));
        assert_eq!(pods.subresource("exec").map(|s| s.verbs.len()), Some(2));
        let field = pods.selectable_fields.iter().find(|f| f.label == "spec.hostNetwork").expect("field");
        assert_eq!((field.pointer.as_ref(), field.absent.as_ref()), ("/spec/hostNetwork", "false"));
        let hpa = find("autoscaling", "v1", "horizontalpodautoscalers").and_then(|r| r.storage.as_ref());
        assert_eq!(hpa.map(|s| s.api_version.as_ref()), Some("autoscaling/v2"));
        assert!(find("", "v1", "bindings").is_some_and(|r| r.storage.is_none()));
    }
}

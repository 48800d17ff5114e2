//! Schema facts by kind and by type: JSON names, protobuf tags, list and merge semantics. The
//! tables are generated; `overlay` holds by hand what their sources lack.

mod facts;
mod generated;
mod node;
mod overlay;

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;

pub use facts::{Field, ListKind, Message, Scalar, Shape, Special, Strategy};
pub use node::{Node, NodeKind};

type KindKey = (&'static str, &'static str, &'static str);

static BY_KIND: LazyLock<HashMap<KindKey, &'static Message>> = LazyLock::new(|| {
    let kinds = messages().iter().filter(|m| !m.kind.is_empty());
    kinds.map(|m| ((m.group, m.version, m.kind), m)).collect()
});

static BY_NAME: LazyLock<HashMap<&'static str, &'static Message>> =
    LazyLock::new(|| messages().iter().map(|m| (m.name, m)).collect());

/// Every known type.
pub fn messages() -> &'static [Message] {
    generated::MESSAGES
}

/// The type of a kind. Kinds of the meta group (`DeleteOptions`, `Status`) are found under every
/// group and version, as clients send them.
pub fn kind(group: &str, version: &str, kind: &str) -> Option<&'static Message> {
    let found = BY_KIND.get(&(group, version, kind)).copied();
    found.or_else(|| {
        let generic = kind.ends_with("Options")
            || matches!(kind, "Status" | "APIVersions" | "APIGroup" | "APIGroupList" | "APIResourceList");
        if generic { BY_KIND.get(&("meta.k8s.io", "v1", kind)).copied() } else { None }
    })
}

/// The type of an `apiVersion` and `kind` as objects carry them.
pub fn of(api_version: &str, kind_name: &str) -> Option<&'static Message> {
    let (group, version) = split_api_version(api_version);
    kind(group, version, kind_name)
}

/// A type by its OpenAPI definition name.
pub fn by_name(name: &str) -> Option<&'static Message> {
    BY_NAME.get(name).copied()
}

/// `apps/v1` gives `("apps", "v1")`, `v1` gives `("", "v1")`.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// `metav1.ObjectMeta`, which every object has.
pub fn object_meta() -> &'static Message {
    static FOUND: LazyLock<Option<&'static Message>> =
        LazyLock::new(|| by_name("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"));
    // The generated table always holds it; a test says so.
    FOUND.unwrap_or(&generated::MESSAGES[0])
}

impl Message {
    /// The Go name of the type: `PodSpec`.
    pub fn short_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }

    /// `apps/v1`, or `v1` for the core group.
    pub fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// The type as Go prints it: `v1.PodSpec`.
    pub fn go_name(&self) -> String {
        let mut parts = self.name.rsplit('.');
        let name = parts.next().unwrap_or_default();
        format!("{}.{name}", parts.next().unwrap_or_default())
    }

    /// A field by its JSON name; embedded structs are looked through.
    pub fn field(&'static self, json: &str) -> Option<&'static Field> {
        self.fields.iter().find_map(|f| match f.inline {
            false => (f.name == json).then_some(f),
            true => f.message().and_then(|m| m.field(json)),
        })
    }

    /// All fields as JSON sees them, those of embedded structs among them.
    pub fn json_fields(&'static self) -> Vec<&'static Field> {
        let mut all = Vec::with_capacity(self.fields.len());
        for field in self.fields {
            match field.message() {
                Some(embedded) if field.inline => all.extend(embedded.json_fields()),
                _ => all.push(field),
            }
        }
        all
    }

    /// Whether a zero in the field says something else than its absence.
    pub fn zero_matters(&self, field: &Field) -> bool {
        field.required || overlay::held_by_pointer(self.name, field.name)
    }

    /// Carries apiVersion and kind besides its fields.
    pub fn is_root(&self) -> bool {
        !self.kind.is_empty()
    }
}

impl Field {
    /// The type of the field (of its items or values, for lists and maps), where it is no scalar.
    pub fn message(&self) -> Option<&'static Message> {
        match self.scalar {
            Scalar::Msg(index) => generated::MESSAGES.get(usize::from(index)),
            _ => None,
        }
    }

    /// Zero of a plain type: false, 0, the empty text.
    pub fn is_zero(&self, value: &Value) -> bool {
        self.shape == Shape::Single
            && match (self.scalar, value) {
                (Scalar::Msg(_), _) => false,
                (_, Value::Bool(b)) => !b,
                (_, Value::Number(n)) => n.as_f64() == Some(0.0),
                (_, Value::String(s)) => s.is_empty(),
                _ => false,
            }
    }

    /// Whether map or struct is owned as one by server-side apply at this place.
    pub fn is_atomic(&self) -> bool {
        self.atomic || (!self.granular && self.message().is_some_and(|m| m.atomic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_found() {
        let pod = kind("", "v1", "Pod").expect("pod");
        let spec = pod.field("spec").and_then(Field::message).expect("spec");
        let ports = spec.field("containers").and_then(Field::message).and_then(|c| c.field("ports"));
        let ports = ports.expect("ports");
        assert_eq!((ports.list_kind, ports.list_keys), (ListKind::Map, &["containerPort", "protocol"][..]));
        assert_eq!((ports.strategy, ports.merge_key), (Strategy::Merge, "containerPort"));
        let protocol = ports.message().and_then(|m| m.field("protocol")).expect("protocol");
        assert_eq!(protocol.default, "\"TCP\"");
        let volume = spec.field("volumes").and_then(Field::message).expect("volumes");
        assert!(volume.field("emptyDir").is_some() && volume.field("volumeSource").is_none());
        assert_eq!(spec.field("volumes").map(|f| f.strategy), Some(Strategy::MergeRetainKeys));
        let status = pod.field("status").and_then(Field::message).expect("status");
        assert!(status.field("podIPs").is_some());
        assert_eq!(object_meta().short_name(), "ObjectMeta");
        assert!(kind("apps", "v1", "DeleteOptions").is_some());
    }

    #[test]
    fn pointers_are_plain_fields_that_may_be_absent() {
        for (owner, fields) in overlay::HELD_BY_POINTER {
            for name in *fields {
                let held = |message: &&Message| {
                    let field = message.fields.iter().find(|field| field.name == *name);
                    overlay::held_by_pointer(message.name, name)
                        && field
                            .is_some_and(|f| f.message().is_none() && f.shape == Shape::Single && !f.required)
                };
                assert!(messages().iter().any(|message| held(&message)), "{owner}.{name}");
            }
        }
    }

    #[test]
    fn every_resource_has_facts() {
        let own = crate::scheduling_review::GROUP; // JSON only, so without facts of protobuf
        for resource in crate::resource::builtin().iter().filter(|row| row.group != own) {
            let found = kind(&resource.group, &resource.version, &resource.kind);
            assert!(found.is_some(), "{} {}", resource.api_version(), resource.kind);
            if resource.has_verb("list") {
                let list = format!("{}List", resource.kind);
                assert!(kind(&resource.group, &resource.version, &list).is_some(), "{list}");
            }
        }
    }
}

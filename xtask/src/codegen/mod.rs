//! Makes the schema facts: what `k8s-pb` says about protobuf tags and types and about list, map
//! and patch semantics, joined with the exact JSON names and required fields `k8s-openapi` knows.
//! Facts only; no sentence is carried over.

mod emit;
mod names;
mod proto;

use std::collections::BTreeMap;
use std::path::Path;

use crate::workspace::Workspace;
use names::Names;
use proto::{Message, Scalar};

const OUTPUT: &str = "crates/api/src/schema/generated.rs";

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Write,
    Check,
}

/// The source modules facts are made of, and the API group each stands for.
const MODULES: &[(&str, &str)] = &[
    ("api/admission/v1", "admission.k8s.io"),
    ("api/admissionregistration/v1", "admissionregistration.k8s.io"),
    ("api/apidiscovery/v2", "apidiscovery.k8s.io"),
    ("api/apps/v1", "apps"),
    ("api/authentication/v1", "authentication.k8s.io"),
    ("api/authorization/v1", "authorization.k8s.io"),
    ("api/autoscaling/v1", "autoscaling"),
    ("api/autoscaling/v2", "autoscaling"),
    ("api/batch/v1", "batch"),
    ("api/certificates/v1", "certificates.k8s.io"),
    ("api/coordination/v1", "coordination.k8s.io"),
    ("api/core/v1", ""),
    ("api/discovery/v1", "discovery.k8s.io"),
    ("api/events/v1", "events.k8s.io"),
    ("api/flowcontrol/v1", "flowcontrol.apiserver.k8s.io"),
    ("api/networking/v1", "networking.k8s.io"),
    ("api/node/v1", "node.k8s.io"),
    ("api/policy/v1", "policy"),
    ("api/rbac/v1", "rbac.authorization.k8s.io"),
    ("api/resource/v1", "resource.k8s.io"),
    ("api/scheduling/v1", "scheduling.k8s.io"),
    ("api/storage/v1", "storage.k8s.io"),
    ("apiextensions_apiserver/pkg/apis/apiextensions/v1", "apiextensions.k8s.io"),
    ("apimachinery/pkg/api/resource", "-"),
    ("apimachinery/pkg/apis/meta/v1", "meta.k8s.io"),
    ("apimachinery/pkg/runtime", "-"),
    ("apimachinery/pkg/util/intstr", "-"),
    ("kube_aggregator/pkg/apis/apiregistration/v1", "apiregistration.k8s.io"),
];

pub fn run(mode: Mode) -> Result<(), String> {
    let workspace = Workspace::load()?;
    let text = generate(&workspace.source_of("k8s-pb")?, &workspace.source_of("k8s-openapi")?.join("v1_35"))?;
    let path = workspace.root().join(OUTPUT);
    if mode == Mode::Write {
        return std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()));
    }
    let current = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    if current == text { Ok(()) } else { Err(format!("{OUTPUT} is stale: run cargo xtask codegen")) }
}

fn generate(proto_source: &Path, openapi_source: &Path) -> Result<String, String> {
    let names = Names::load(openapi_source)?;
    let mut messages: Vec<Message> = Vec::new();
    for (module, group) in MODULES {
        let path = proto_source.join(module).join("mod.rs");
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        messages.extend(proto::parse(module, group, &text)?);
    }
    for message in &mut messages {
        names.apply(message);
    }
    mark_inline(&mut messages, &names);
    mark_roots(&mut messages, &names);
    let index: BTreeMap<String, usize> =
        messages.iter().enumerate().map(|(i, m)| (m.path.clone(), i)).collect();
    for message in &messages {
        for field in &message.fields {
            if let Scalar::Message(path) = &field.scalar
                && !index.contains_key(path)
            {
                return Err(format!("{}.{} refers to {path}, which is not read", message.path, field.json));
            }
        }
    }
    Ok(emit::emit(&messages, &index))
}

/// A message field whose own name JSON does not know, while it knows its fields' names, stands for
/// an embedded Go struct: its fields appear in the parent.
fn mark_inline(messages: &mut [Message], names: &Names) {
    let fields_of: BTreeMap<String, Vec<String>> = messages
        .iter()
        .map(|m| (m.path.clone(), m.fields.iter().map(|f| f.json.clone()).collect()))
        .collect();
    for message in messages {
        let Some(known) = names.keys(&message.path) else { continue };
        for field in &mut message.fields {
            let Scalar::Message(path) = &field.scalar else { continue };
            if !known.contains(&field.json) {
                let nested = fields_of.get(path).cloned().unwrap_or_default();
                // Two levels of embedding exist (named rules of admission policies), so one shared
                // name is enough.
                field.inline = nested.is_empty() || nested.iter().any(|n| known.contains(n)) || field.inline;
            }
        }
    }
}

/// Kinds that appear as whole documents though no list of resources names them.
const EXTRA_ROOTS: &[&str] = &[
    "AdmissionReview",
    "APIGroupDiscovery",
    "APIGroupDiscoveryList",
    "ApplyOptions",
    "CreateOptions",
    "DeleteOptions",
    "GetOptions",
    "List",
    "ListOptions",
    "NodeProxyOptions",
    "PartialObjectMetadata",
    "PartialObjectMetadataList",
    "PatchOptions",
    "PodAttachOptions",
    "PodExecOptions",
    "PodLogOptions",
    "PodPortForwardOptions",
    "PodProxyOptions",
    "RangeAllocation",
    "ServiceProxyOptions",
    "TableOptions",
    "UpdateOptions",
];

fn mark_roots(messages: &mut [Message], names: &Names) {
    for message in messages {
        if message.group == "-" {
            continue;
        }
        let own = |name: &str| message.fields.iter().any(|f| f.json == name);
        let typed = names.keys(&message.path).is_some_and(|keys| {
            let has = |name: &str| keys.iter().any(|k| k == name);
            has("apiVersion") && has("kind") && !own("kind") && !own("apiVersion")
        });
        let list = message.name.ends_with("List") && own("items") && own("metadata");
        message.root = typed || list || message.resource || EXTRA_ROOTS.contains(&message.name.as_str());
    }
}

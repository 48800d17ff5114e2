//! ControllerRevisions: the history of a StatefulSet's or DaemonSet's template, one object per
//! distinct template, numbered in the order of use.

use std::sync::Arc;

use amphipod_client::{Api, Client, DeleteParams, Resource, Writable};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};

use crate::{Error, meta};

/// On pods (and a DaemonSet's revisions): which revision they are of.
pub const REVISION_LABEL: &str = "controller-revision-hash";
/// On a StatefulSet's revisions: the hash in their name.
pub const HASH_LABEL: &str = "controller.kubernetes.io/hash";

/// The part of an owner that its history keeps: its template, as a patch that puts it back.
pub fn data(template: &PodTemplateSpec) -> Value {
    let as_pod = Pod {
        metadata: template.metadata.clone().unwrap_or_default(),
        spec: template.spec.clone(),
        status: None,
    };
    // What we encoded ourselves decodes.
    let mut pod: Value = serde_json::from_slice(&as_pod.encode()).unwrap_or_default();
    let mut kept = json!({"$patch": "replace"});
    for part in ["metadata", "spec"] {
        kept[part] = pod[part].take();
    }
    json!({"spec": {"template": kept}})
}

/// The template a revision keeps; None for one that is not ours to read.
pub fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let kept = revision.data.as_ref()?.0.pointer("/spec/template")?;
    let pod = json!({"metadata": kept.get("metadata"), "spec": kept.get("spec")});
    let pod = Pod::decode(pod.to_string().as_bytes()).ok()?;
    Some(PodTemplateSpec { metadata: Some(pod.metadata), spec: pod.spec })
}

fn hash(data: &Value, collisions: Option<i32>) -> String {
    let mut text = data.to_string();
    if let Some(collisions) = collisions.filter(|n| *n != 0) {
        text.push_str(&collisions.to_string());
    }
    let fnv = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    amphipod_api::names::safe_encode(&text.bytes().fold(0x811c_9dc5, fnv).to_string())
}

/// How the owner's template comes to have a revision that is the newest.
#[derive(Debug, PartialEq)]
pub enum Step {
    Use(Arc<ControllerRevision>),
    /// A former template is back: its revision gets the newest number.
    Renumber(Box<ControllerRevision>),
    Create(Box<ControllerRevision>),
}

/// `known` may be in any order.
pub fn resolve<O: Resource>(
    owner: &O,
    template: &PodTemplateSpec,
    known: &[Arc<ControllerRevision>],
    collisions: Option<i32>,
    hash_label: &str,
) -> Step {
    let data = data(template);
    let newest = known.iter().map(|r| r.revision).max().unwrap_or(0);
    let equal = known.iter().filter(|r| r.data.as_ref().is_some_and(|d| d.0 == data));
    if let Some(equal) = equal.max_by_key(|r| r.revision) {
        if equal.revision == newest {
            return Step::Use(equal.clone());
        }
        let mut renumbered = equal.as_ref().clone();
        renumbered.revision = newest.saturating_add(1);
        return Step::Renumber(Box::new(renumbered));
    }
    let hash = hash(&data, collisions);
    let mut labels = template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
    labels.insert(hash_label.to_owned(), hash.clone());
    let mut revision = ControllerRevision {
        revision: newest.saturating_add(1),
        data: Some(RawExtension(data)),
        ..ControllerRevision::default()
    };
    revision.metadata.name = Some(format!("{}-{hash}", owner.name()));
    revision.metadata.namespace = owner.metadata().namespace.clone();
    revision.metadata.labels = Some(labels);
    revision.metadata.annotations = owner.metadata().annotations.clone();
    revision.metadata.owner_references = Some(vec![meta::controller_reference(owner)]);
    Step::Create(Box::new(revision))
}

/// What came of a step.
pub enum Outcome {
    Ready(Arc<ControllerRevision>),
    /// The name is taken by other content: count a collision and try again.
    Collision,
}

pub async fn carry_out<O: Resource>(client: &Client, owner: &O, step: Step) -> Result<Outcome, Error> {
    let api = Api::<ControllerRevision>::namespaced(client.clone(), owner.namespace());
    match step {
        Step::Use(revision) => Ok(Outcome::Ready(revision)),
        Step::Renumber(revision) => Ok(Outcome::Ready(Arc::new(api.update(&revision).await?))),
        Step::Create(revision) => match api.create(&revision).await {
            Ok(created) => Ok(Outcome::Ready(Arc::new(created))),
            Err(error) if error.is_already_exists() => {
                let there = api.get(revision.name()).await?;
                let same = there.data.as_ref().map(|d| &d.0) == revision.data.as_ref().map(|d| &d.0);
                let ours = meta::is_controlled_by(&there.metadata, owner.uid());
                Ok(if same && ours { Outcome::Ready(Arc::new(there)) } else { Outcome::Collision })
            }
            Err(error) => Err(error.into()),
        },
    }
}

/// The oldest revisions beyond the limit that nothing is of any more.
pub fn excess(
    known: &[Arc<ControllerRevision>],
    limit: Option<i32>,
    in_use: impl Fn(&ControllerRevision) -> bool,
) -> Vec<Arc<ControllerRevision>> {
    let mut idle: Vec<_> = known.iter().filter(|r| !in_use(r)).cloned().collect();
    idle.sort_by_key(|r| r.revision);
    let keep = usize::try_from(limit.unwrap_or(10)).unwrap_or(0);
    idle.truncate(idle.len().saturating_sub(keep));
    idle
}

pub async fn delete(client: &Client, revisions: &[Arc<ControllerRevision>]) -> Result<(), Error> {
    for revision in revisions {
        let api = Api::<ControllerRevision>::of(client.clone(), revision.as_ref());
        let params = DeleteParams { uid: Some(revision.uid().to_owned()), ..DeleteParams::default() };
        match api.delete(revision.name(), &params).await {
            Err(error) if error.is_not_found() => {}
            other => other?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::object;
    use k8s_openapi::api::apps::v1::StatefulSet;

    fn owner(image: &str) -> StatefulSet {
        object(json!({"metadata": {"name": "web", "namespace": "ns", "uid": "s"}, "spec": {
            "selector": {}, "serviceName": "web", "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": image}]}}}}))
    }

    #[test]
    fn templates_come_back_with_their_revision() {
        let step = |image: &str, known: &[Arc<ControllerRevision>]| {
            let owner = owner(image);
            let spec = owner.spec.clone().unwrap();
            resolve(&owner, &spec.template, known, None, HASH_LABEL)
        };
        let Step::Create(first) = step("a:1", &[]) else { panic!("creates") };
        assert_eq!(template(&first), Some(owner("a:1").spec.unwrap().template));
        let first = Arc::new(*first);
        assert_eq!(step("a:1", std::slice::from_ref(&first)), Step::Use(first.clone()));
        let Step::Create(second) = step("a:2", std::slice::from_ref(&first)) else { panic!("creates") };
        assert_eq!((first.revision, second.revision), (1, 2));
        let known = [first.clone(), Arc::new(*second)];
        let Step::Renumber(back) = step("a:1", &known) else { panic!("renumbers") };
        assert_eq!((back.name(), back.revision), (first.name(), 3));
        assert_eq!(excess(&known, Some(0), |r| r.revision == 2).len(), 1);
    }
}

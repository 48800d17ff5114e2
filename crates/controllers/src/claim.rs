//! Which dependents belong to an owner: those it controls and selects stay, those it controls but
//! no longer selects are released, orphans it selects are adopted.

use std::sync::Arc;

use amphipod_api::selector::LabelSelector;
use amphipod_client::{Api, Client, Patch, Resource};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::json;

use crate::{Error, meta, selector};

#[derive(Debug)]
pub struct Claim<T> {
    pub owned: Vec<Arc<T>>,
    pub adopt: Vec<Arc<T>>,
    pub release: Vec<Arc<T>>,
}

pub fn claim<T: Resource>(
    owner_uid: &str,
    owner_terminating: bool,
    selector: &LabelSelector,
    candidates: &[Arc<T>],
) -> Claim<T> {
    let mut claim = Claim { owned: Vec::new(), adopt: Vec::new(), release: Vec::new() };
    for candidate in candidates {
        let selected = selector::matches(selector, candidate.metadata().labels.as_ref());
        match meta::controller_of(candidate.metadata()) {
            Some(controller) if controller.uid != owner_uid => {}
            Some(_) if selected => claim.owned.push(candidate.clone()),
            Some(_) if !owner_terminating => claim.release.push(candidate.clone()),
            None if selected && !owner_terminating && !candidate.is_terminating() => {
                claim.adopt.push(candidate.clone());
            }
            _ => {}
        }
    }
    claim
}

/// Writes the adoptions and releases; the owned dependents afterwards. `O` is asked live before an
/// adoption: an owner deleted and made again must not adopt by an old cache's word.
pub async fn carry_out<O: Resource, T: Resource>(
    client: &Client,
    owner: &O,
    claim: Claim<T>,
    finalizer: Option<&str>,
) -> Result<Vec<Arc<T>>, Error> {
    let Claim { mut owned, adopt, release } = claim;
    if !adopt.is_empty() {
        let live = Api::<O>::of(client.clone(), owner).get(owner.name()).await?;
        if live.uid() != owner.uid() || live.is_terminating() {
            return Err(Error::Stale(owner.key()));
        }
    }
    for object in adopt {
        let patch = adoption(&meta::controller_reference(owner), object.uid(), finalizer);
        match Api::<T>::of(client.clone(), object.as_ref()).patch(object.name(), &patch).await {
            Ok(adopted) => owned.push(Arc::new(adopted)),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    for object in release {
        let patch = Patch::Strategic(json!({"metadata": {
            "uid": object.uid(),
            "ownerReferences": [{"$patch": "delete", "uid": owner.uid()}],
        }}));
        match Api::<T>::of(client.clone(), object.as_ref()).patch(object.name(), &patch).await {
            // Gone, or another object by now: nothing left to release.
            Err(error) if error.is_not_found() || error.is_invalid() => {}
            other => drop(other?),
        }
    }
    Ok(owned)
}

fn adoption(owner: &OwnerReference, uid: &str, finalizer: Option<&str>) -> Patch {
    let mut metadata = json!({
        "uid": uid,
        "ownerReferences": [{
            "apiVersion": owner.api_version,
            "kind": owner.kind,
            "name": owner.name,
            "uid": owner.uid,
            "controller": true,
            "blockOwnerDeletion": true,
        }],
    });
    if let Some(finalizer) = finalizer {
        metadata["finalizers"] = json!([finalizer]);
    }
    Patch::Strategic(json!({"metadata": metadata}))
}

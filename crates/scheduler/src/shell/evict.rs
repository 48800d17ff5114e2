//! Making room: victims are told why, then deleted; lesser pods that waited for the same node are
//! sent to look for another.

use amphipod_client::{Api, CachedPod, DeleteParams, Patch, Resource};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use serde_json::json;
use tracing::{info, warn};

use super::{Shell, scheduler_name};
use crate::pod::PodInfo;
use crate::preemption::{PREEMPTED_REASON, Plan};

impl Shell {
    /// Whether all victims are on their way.
    pub(super) async fn evict(&self, preemptor: &CachedPod, node: &str, plan: &Plan) -> bool {
        self.send_away_waiting(preemptor, node).await;
        let mut evicted = true;
        for victim in plan.victims.iter().filter(|victim| !victim.template.terminating) {
            if self.cancel.is_cancelled() {
                return false;
            }
            match self.evict_one(preemptor, victim).await {
                Ok(()) => {
                    info!(pod = preemptor.key(), victim = &*victim.key, node, "preempted");
                    let message = format!("Preempted by pod {} on node {node}", preemptor.uid());
                    self.recorder(preemptor).record(reference(victim), "Normal", "Preempted", message);
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    warn!(pod = preemptor.key(), victim = &*victim.key, %error, "not preempted");
                    evicted = false;
                }
            }
        }
        evicted
    }

    async fn evict_one(&self, preemptor: &CachedPod, victim: &PodInfo) -> Result<(), amphipod_client::Error> {
        let api = Api::<CachedPod>::namespaced(self.client.clone(), victim.namespace());
        let scheduler = scheduler_name(preemptor);
        let now = Timestamp::now().round(jiff::Unit::Second).unwrap_or_default();
        let condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": PREEMPTED_REASON,
            "message": format!("{scheduler}: preempting to accommodate a higher priority pod"),
            "lastTransitionTime": now.to_string(),
        });
        let patch = json!({"metadata": {"uid": &*victim.uid}, "status": {"conditions": [condition]}});
        self.answered(api.patch_status(victim.name(), &Patch::Strategic(patch))).await?;
        let that_one = DeleteParams { uid: Some(victim.uid.to_string()), ..DeleteParams::default() };
        self.answered(api.delete(victim.name(), &that_one)).await
    }

    /// Lesser pods that wait for the node may no longer fit there: they are to look again.
    async fn send_away_waiting(&self, preemptor: &CachedPod, node: &str) {
        let priority = preemptor.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
        let waiting: Vec<_> = {
            let mut state = self.state.lock();
            // By its name: since the decision the node may have gone, or the snapshot been built anew.
            let Some(slot) = state.snapshot.slot(node) else { return };
            let waiting = state.snapshot.node(slot).nominated.iter();
            let lesser: Vec<_> = waiting.filter(|pod| pod.priority() < priority).cloned().collect();
            for pod in &lesser {
                state.snapshot.denominate(&pod.key);
                state.queue.let_go(&pod.key, true, std::time::Instant::now());
            }
            lesser
        };
        for pod in waiting {
            let api = Api::<CachedPod>::namespaced(self.client.clone(), pod.namespace());
            let patch = json!({"metadata": {"uid": &*pod.uid}, "status": {"nominatedNodeName": null}});
            if let Err(error) = self.answered(api.patch_status(pod.name(), &Patch::Merge(patch))).await
                && !error.is_not_found()
            {
                warn!(pod = &*pod.key, %error, "the nomination was not taken back");
            }
        }
    }
}

fn reference(pod: &PodInfo) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: Some(pod.name().to_owned()),
        namespace: Some(pod.namespace().to_owned()),
        uid: Some(pod.uid.to_string()),
        ..ObjectReference::default()
    }
}

//! A decided pod on its way to its node: what its claims are given is settled with the decision, then
//! written and waited for, and only then is the pod bound, by an extender or the API server. What was
//! settled for a pod that is not bound in the end is given back.

use std::sync::Arc;
use std::time::Instant;

use amphipod_client::{Api, CachedPod, Error, Resource};
use serde_json::json;
use tracing::{debug, warn};

use super::storage::Work;
use super::{SCHEDULER_ERROR, Shell, State, scheduler_name, still_waiting};
use crate::framework::{Event, Point};
use crate::metrics::Outcome;
use crate::node::Slot;
use crate::plugins::DEFAULT_BINDER;
use crate::pod::PodInfo;
use crate::queue::Attempt;
use crate::storage::Reservation;

pub(super) struct Binding {
    pub pod: Arc<PodInfo>,
    pub object: Arc<CachedPod>,
    pub node: String,
    /// What comes first.
    pub work: Work,
    pub attempt: Attempt,
}

/// That a pod's claims are seen to.
pub(super) struct Preparation {
    /// The pod's.
    uid: Arc<str>,
    /// What is being written for those that wait for volumes.
    pub volumes: Reservation,
}

impl Preparation {
    pub fn of(pod: &PodInfo, volumes: Reservation) -> Self {
        Preparation { uid: pod.uid.clone(), volumes }
    }
}

/// Why a pod was not bound.
pub(super) struct NotBound {
    pub why: String,
    /// For there is no such pod.
    pub is_gone: bool,
}

impl State {
    /// Settles how the pod's claims get their volumes and devices where it goes.
    pub(super) fn reserve(&mut self, pod: &PodInfo, slot: Slot) -> Work {
        let reservation = match pod.volumes {
            Some(_) => self.snapshot.reserve(pod, slot),
            None => Reservation::default(),
        };
        let claims = match pod.devices {
            Some(_) => self.snapshot.reserve_devices(pod, slot),
            None => Vec::new(),
        };
        if !reservation.is_empty() || !claims.is_empty() {
            self.preparations.insert(pod.key.clone(), Preparation::of(pod, reservation.clone()));
        }
        let profile = self.core.profile_of(&self.snapshot, &pod.template).unwrap_or(0);
        let timeout = self.core.profiles()[profile].arguments.volume_binding.bind_timeout;
        Work { reservation, claims, timeout }
    }
    fn prepared(&mut self, pod: &PodInfo) {
        if self.preparation(&pod.key, &pod.uid).is_some() {
            self.preparations.remove(&pod.key);
        }
    }
    /// The API shows what was settled of the pod's volumes, or nothing comes of the pod's claims.
    fn volumes_settled(&mut self, pod: &CachedPod, work: &Work, bound: bool) {
        // Or a snapshot built anew would take them for granted again.
        if let Some(preparation) = self.preparation(&pod.key(), pod.uid()) {
            preparation.volumes = Reservation::default();
        }
        if bound {
            self.snapshot.release(&work.reservation);
        } else {
            self.give_back_volumes(&work.reservation);
            self.give_back_devices(&work.claims);
        }
    }
    /// None of another pod of the name.
    fn preparation(&mut self, key: &str, uid: &str) -> Option<&mut Preparation> {
        self.preparations.get_mut(key).filter(|preparation| &*preparation.uid == uid)
    }
}

impl Shell {
    /// Does what is to be done about the pod's claims, and undoes what can be undone if it is not bound.
    /// As that may take long, others are told first where the pod is to go; and it has a place among
    /// those on their way only while something of it is written.
    pub(super) async fn prepare_and_bind(&self, mut binding: Binding) {
        binding.object = self.announce(binding.object, &binding.node).await;
        let Binding { pod, object, work, .. } = &binding;
        let prepared = self.timed_point(Point::PreBind, object, self.prepare(object, work)).await;
        let outcome = match prepared {
            Ok(()) => {
                let Some(_permit) = self.place_to_write().await else { return };
                self.bind(&binding).await
            }
            Err(why) => Err(NotBound { why, is_gone: false }),
        };
        self.state.lock().prepared(pod);
        let Err(not_bound) = outcome else { return };
        if self.cancel.is_cancelled() {
            return; // whoever leads next decides anew
        }
        self.disclaim_devices(object, &work.claims).await;
        let Some(_permit) = self.place_to_write().await else { return };
        self.tell_and_take_back(&binding, &not_bound).await;
    }

    /// Says why a pod was not bound, where that is still so, and goes on without it. What was announced
    /// of it is taken back.
    pub(super) async fn tell_and_take_back(&self, binding: &Binding, not_bound: &NotBound) {
        if self.cancel.is_cancelled() {
            return; // whoever leads next decides anew
        }
        if !not_bound.is_gone && still_waiting(&self.sources.pods, &binding.pod).is_some() {
            self.tell(&binding.object, (SCHEDULER_ERROR, &not_bound.why), "").await;
        }
        self.take_back(binding, not_bound);
    }

    pub(super) async fn prepare(&self, object: &CachedPod, work: &Work) -> Result<(), String> {
        let bound = self.bind_volumes(object, work).await;
        self.state.lock().volumes_settled(object, work, bound.is_ok());
        if bound.is_err() {
            self.work.notify_one();
            return bound;
        }
        self.claim_devices(object, &work.claims).await
    }

    pub(super) async fn bind(&self, binding: &Binding) -> Result<(), NotBound> {
        let Binding { pod, object, node, attempt, .. } = binding;
        self.write_binding(object, node).await?;
        debug!(pod = &*pod.key, node, "bound");
        self.metrics.ended(Outcome::Scheduled, scheduler_name(object), attempt);
        let message = format!("Successfully assigned {} to {node}", pod.key);
        self.recorder(object).normal(&**object, "Scheduled", message);
        self.state.lock().queue.remove_instance(pod);
        Ok(())
    }

    async fn write_binding(&self, object: &CachedPod, node: &str) -> Result<(), NotBound> {
        if self.bound_by_extender(object, node).await? {
            return Ok(());
        }
        let api = Api::<CachedPod>::namespaced(self.client.clone(), object.namespace());
        let name = object.name();
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": name, "namespace": object.namespace(), "uid": object.uid()},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let failed = |error: Error| NotBound {
            why: format!("running Bind plugin {DEFAULT_BINDER:?}: {error}"),
            is_gone: error.is_not_found(),
        };
        let call = self.answered(api.create_subresource(name, "binding", &binding));
        let call = self.timed_plugin(DEFAULT_BINDER, Point::Bind, call);
        let bound = self.timed_point(Point::Bind, object, call).await;
        bound.map(drop).map_err(failed)
    }

    /// A pod that could not be bound no longer counts where it was to be, and is looked at again: on
    /// a conflict it may be bound already, which its informer will tell.
    pub(super) fn take_back(&self, binding: &Binding, not_bound: &NotBound) {
        let Binding { pod, object, node, attempt, .. } = binding;
        warn!(pod = &*pod.key, node, why = not_bound.why, "binding failed");
        self.metrics.ended(Outcome::Error, scheduler_name(object), attempt);
        let mut state = self.state.lock();
        // Another pod of the name may have come meanwhile.
        let assumed = state.assumed.get(&pod.key).is_some_and(|assumed| assumed.uid == pod.uid);
        if assumed {
            state.assumed.remove(&pod.key);
            let removed = state.snapshot.remove_pod(&pod.key);
            state.happened(removed.as_deref().map(Event::PodRemoved));
        }
        // What was told of the pod since its decision was not taken in.
        match still_waiting(&self.sources.pods, pod).filter(|_| !not_bound.is_gone) {
            Some(object) => {
                let (now, info) = (Instant::now(), state.snapshot.catalogue.pod(&object));
                state.queue.add(Arc::new(info), now);
                state.queue.failed(&pod.key, now);
            }
            None => state.queue.remove_instance(pod),
        }
        drop(state);
        self.work.notify_one();
    }
}

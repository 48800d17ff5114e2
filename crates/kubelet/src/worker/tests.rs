//! What a worker makes of news, event by event: orders of events that a whole node shows only by
//! chance.

use std::sync::Arc;

use serde_json::json;

use super::inbox::Inbox;
use super::*;
use crate::allocation::{Ledger, read_actuated};
use crate::pod::state::testing::{exited, record, state};
use crate::pod::testing::with_meta;

/// A node with its books.
struct Node {
    context: Arc<Context>,
    ledger: Arc<Ledger>,
    _dir: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let context = crate::testing::context(dir.path());
        Node { ledger: Arc::new(Ledger::new(context.clone())), context, _dir: dir }
    }
    fn cpu_capacity(&self) -> i64 {
        self.context.machine.allocatable["cpu"].milli()
    }
    /// A pod that was let in, and its worker.
    fn worker(&self, pod: &Arc<Pod>) -> Worker {
        assert_eq!(self.ledger.admit(pod, false), None);
        let inbox = Arc::new(Inbox::new(pod.uid(), self.ledger.clone()));
        Worker::new(self.context.clone(), inbox, pod.clone())
    }
    fn has_room_for(&self, cpu: i64) -> bool {
        self.ledger.admit(&pod("visitor", cpu), false).is_none()
    }
}

fn pod(name: &str, cpu: i64) -> Arc<Pod> {
    let container = json!({"name": "a", "image": "x", "resources": {"requests": {"cpu": format!("{cpu}m")}},
        "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]});
    let spec = json!({"restartPolicy": "OnFailure", "containers": [container]});
    Arc::new(with_meta(json!({"name": name, "namespace": "ns", "uid": name}), spec))
}

/// A worker whose wish for 400m waits until the pod `big` goes.
fn waiting(node: &Node) -> Worker {
    assert_eq!(node.ledger.admit(&pod("big", node.cpu_capacity() - 300), false), None);
    let mut worker = node.worker(&pod("p", 100));
    worker.set_desired(pod("p", 400));
    worker.resize(Timestamp::now());
    assert_eq!(worker.resizing.standing.pending.as_ref().unwrap().reason, "Deferred");
    worker
}

#[tokio::test]
async fn a_grant_that_nobody_wants_any_more_is_given_back() {
    let node = Node::new();
    let mut worker = waiting(&node);
    node.ledger.release("big"); // which grants what waits
    worker.set_desired(pod("p", 100));
    worker.resize(Timestamp::now());
    assert_eq!(worker.resizing.standing.pending, None);
    assert!(node.has_room_for(node.cpu_capacity() - 100));
}

#[tokio::test]
async fn a_pod_that_ends_waits_for_nothing() {
    let node = Node::new();
    let mut worker = waiting(&node);
    worker.begin_end();
    node.ledger.release("big");
    assert!(node.has_room_for(node.cpu_capacity() - 100));
}

#[tokio::test]
async fn instances_stopped_for_a_resize_are_known_to_the_next_kubelet() {
    let node = Node::new();
    let mut worker = node.worker(&pod("p", 100));
    worker.state = state(vec![record("a", 0, Run::Running)]);
    worker.resize(Timestamp::now());
    worker.set_desired(pod("p", 50));
    worker.resize(Timestamp::now());
    assert!(worker.resizing.replaced.contains("a-0"));
    // It ends; this kubelet sees it, and is gone before anything is started.
    worker.state = state(vec![exited("a", 0, 0)]);
    worker.resize(Timestamp::now());

    let inbox = Arc::new(Inbox::new("p", node.ledger.clone()));
    let mut next = Worker::new(node.context.clone(), inbox, pod("p", 50));
    next.state = state(vec![exited("a", 0, 0)]);
    next.adopt();
    assert!(next.state.containers[0].replaced && !is_done(&next.pod, &next.state));
    // Once another instance is there, the old one is forgotten.
    next.state = state(vec![record("a", 1, Run::Running), exited("a", 0, 0)]);
    next.resize(Timestamp::now());
    let known = read_actuated(&node.context.config, "p");
    assert_eq!(known.keys().collect::<Vec<_>>(), ["a-1"]);
}

#[tokio::test]
async fn an_instance_that_ended_by_itself_is_not_replaced() {
    let node = Node::new();
    let mut worker = node.worker(&pod("p", 100));
    worker.state = state(vec![record("a", 0, Run::Running)]);
    worker.resize(Timestamp::now());
    let inbox = Arc::new(Inbox::new("p", node.ledger.clone()));
    let mut next = Worker::new(node.context.clone(), inbox, pod("p", 100));
    next.state = state(vec![exited("a", 0, 0)]);
    next.adopt();
    assert!(is_done(&next.pod, &next.state));
}

#[tokio::test]
async fn a_source_that_arrives_during_a_start_is_not_missed() {
    let node = Node::new();
    let now = Timestamp::now();
    let no_volumes = || start::Done { failed: true, ..start::Done::default() };
    let no_variables = || {
        let waiting = Waiting { reason: "CreateContainerConfigError".to_owned(), message: String::new() };
        let outcomes = BTreeMap::from([("a".to_owned(), Some((waiting, now + MAX_SLEEP)))]);
        start::Done { outcomes, ..start::Done::default() }
    };
    for done in [&no_volumes as &dyn Fn() -> start::Done, &no_variables] {
        let mut worker = node.worker(&pod("p", 100));
        // What arrives during one start is not taken for something that arrives during the next.
        for arrives in [false, true, false] {
            worker.starting = Some(CancellationToken::new());
            if arrives {
                worker.sources_changed();
            }
            worker.start_done(done());
            assert_eq!(worker.held("a", now), !arrives);
        }
    }
}

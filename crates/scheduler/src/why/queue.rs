//! What the queue of a scheduler in this process says of a pod, in words. Nobody else's queue is seen:
//! where no scheduler decides here, that is what is told.

use std::sync::Arc;
use std::time::Instant;

use amphipod_api::scheduling_review::{Hope, Queue as Report, QueueState};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

use crate::framework::PluginSet;
use crate::plugins::{
    dynamic_resources, inter_pod_affinity, node_affinity, node_name, node_ports, node_resources_fit,
    node_unschedulable, node_volume_limits, pod_topology_spread, taint_toleration, volume_binding,
    volume_restrictions, volume_zone,
};
use crate::queue::{MAX_COUNTED, Stage, Whereabouts};

const ELSEWHERE: &str = "not seen from here: the scheduler runs in another process";
const NOT_DECIDING: &str =
    "not seen: the scheduler here has not seen the whole cluster yet, or another instance leads";
const UNSEEN: &str = "the scheduler has not seen the pod yet";

/// What events each plugin hopes for that refuses nodes; its hint says it of single ones.
const HOPES: [(&str, &str); 13] = [
    (node_unschedulable::NAME, "a schedulable node comes, or one is uncordoned"),
    (node_name::NAME, "the node it names comes"),
    (taint_toleration::NAME, "a node comes whose taints it tolerates, or one loses those it does not"),
    (node_affinity::NAME, "a node comes with the labels it asks for, or one gets them"),
    (node_ports::NAME, "a pod with its host port goes, or a node comes"),
    (node_resources_fit::NAME, "a pod goes or shrinks, a node that is large enough comes, or one grows"),
    (volume_restrictions::NAME, "a pod with its volume goes, one of its claims changes, or a node comes"),
    (
        node_volume_limits::NAME,
        "a pod with volumes goes, a volume is detached, a limit or one of its claims changes, or a node comes",
    ),
    (
        volume_binding::NAME,
        "one of its claims, a volume, a storage class, a driver's limits or its room change, or a node comes or is \
         labelled otherwise",
    ),
    (
        volume_zone::NAME,
        "one of its claims, a volume or a storage class changes, or a node comes or is labelled otherwise",
    ),
    (
        pod_topology_spread::NAME,
        "a pod it is spread from comes, goes or is labelled otherwise, or a node of a domain does",
    ),
    (
        inter_pod_affinity::NAME,
        "a pod it wants to be with comes, one it keeps apart from goes, or nodes or namespaces are labelled otherwise",
    ),
    (
        dynamic_resources::NAME,
        "a claim, slice or class of devices changes, or a node comes or is labelled otherwise",
    ),
];
const ANYTHING: &str = "anything happens: there were no nodes";

/// Where a pod is on its way to a node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Seen {
    Queued(Whereabouts),
    /// `prepares`: volumes or devices of the pod come first.
    Binding {
        node: String,
        prepares: bool,
    },
    /// Not known to the queue.
    Nowhere,
}

type Look = Box<dyn Fn(&str, &str) -> Option<Seen> + Send + Sync>;

/// Through which a scheduler that decides in this process shows its queue. Cheap to clone.
#[derive(Clone, Default)]
pub struct QueueView(Arc<Mutex<Option<Look>>>);

impl QueueView {
    /// Whom to ask, by a pod's key and uid; `None` once it decides no more.
    pub(crate) fn look_at(&self, look: impl Fn(&str, &str) -> Option<Seen> + Send + Sync + 'static) {
        *self.0.lock() = Some(Box::new(look));
    }

    fn seen(&self, key: &str, uid: &str) -> Option<Seen> {
        self.0.lock().as_ref()?(key, uid)
    }
}

/// What is told of a pod that waits for this scheduler.
pub fn report(view: Option<&QueueView>, key: &str, uid: &str) -> Report {
    let (now, clock) = (Timestamp::now(), Instant::now());
    match view.map(|view| view.seen(key, uid)) {
        None => plain(QueueState::Unknown, ELSEWHERE),
        Some(None) => plain(QueueState::Unknown, NOT_DECIDING),
        Some(Some(seen)) => told(&seen, &|at| time_of(at, clock, now)),
    }
}

fn plain(state: QueueState, message: impl Into<String>) -> Report {
    Report { state, message: message.into(), ..Report::default() }
}

/// The time of day of a moment, in whole seconds.
fn time_of(at: Instant, clock: Instant, now: Timestamp) -> String {
    let signed = |duration| SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
    let ahead = signed(at.saturating_duration_since(clock)) - signed(clock.saturating_duration_since(at));
    let time = now.checked_add(ahead).ok().and_then(|time| time.round(jiff::Unit::Second).ok());
    time.unwrap_or(now).to_string()
}

fn told(seen: &Seen, time: &dyn Fn(Instant) -> String) -> Report {
    let whereabouts = match seen {
        Seen::Nowhere => return plain(QueueState::Unseen, UNSEEN),
        Seen::Binding { node, prepares: false } => {
            return plain(QueueState::Binding, format!("being bound to {node}"));
        }
        Seen::Binding { node, prepares: true } => {
            let first = "its volumes and devices come first";
            return plain(QueueState::Binding, format!("going to {node}; {first}"));
        }
        Seen::Queued(whereabouts) => whereabouts,
    };
    let mut report = staged(whereabouts.stage, time);
    report.attempts = whereabouts.attempts as usize;
    report.last_attempt = whereabouts.last_attempt.map(time);
    if let Some(last) = &report.last_attempt {
        let times =
            if report.attempts == 1 { "once".to_owned() } else { format!("{} times", report.attempts) };
        report.message += &format!("; tried {times}, last at {last}");
    }
    report
}

fn staged(stage: Stage, time: &dyn Fn(Instant) -> String) -> Report {
    match stage {
        Stage::Ready { before: None } => {
            plain(QueueState::Ready, format!("ready, behind more than {MAX_COUNTED} others"))
        }
        Stage::Ready { before: Some(before) } => {
            let message = match before {
                0 => "ready, the next to be decided about".to_owned(),
                1 => "ready, behind one other".to_owned(),
                _ => format!("ready, behind {before} others"),
            };
            Report { position: Some(before + 1), ..plain(QueueState::Ready, message) }
        }
        Stage::BackOff { until, early } => {
            let until = time(until);
            let early = if early { ", or until no other pod is ready" } else { "" };
            let message = format!("in back-off until {until}{early}");
            Report { until: Some(until), ..plain(QueueState::BackOff, message) }
        }
        Stage::Parked { until, by } => parked(time(until), by),
        Stage::Gated => plain(QueueState::Gated, "kept out by its scheduling gates"),
        Stage::InProgress => {
            plain(QueueState::InProgress, "being decided about, or what was decided is being told")
        }
    }
}

fn parked(until: String, by: PluginSet) -> Report {
    let hope = |plugin: &'static str| {
        let hope = HOPES.iter().find(|(name, _)| *name == plugin)?;
        Some(Hope { plugin: plugin.to_owned(), events: hope.1.to_owned() })
    };
    let refused_by: Vec<Hope> = by.names().filter_map(hope).collect();
    let until_then = match refused_by.as_slice() {
        [] => ANYTHING.to_owned(),
        hopes => {
            let texts: Vec<String> = hopes.iter().map(|h| format!("{} ({})", h.events, h.plugin)).collect();
            texts.join("; ")
        }
    };
    let message = format!("parked until {until_then}; tried again at {until} in any case");
    Report { until: Some(until), refused_by, ..plain(QueueState::Parked, message) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::plugins::TABLE;

    #[test]
    fn every_plugin_with_hopes_says_what_for() {
        let hoping: Vec<&str> = TABLE.iter().filter(|row| row.hint.is_some()).map(|row| row.name).collect();
        let mut told: Vec<&str> = HOPES.iter().map(|(name, _)| *name).collect();
        told.sort_by_key(|name| hoping.iter().position(|hoping| hoping == name));
        assert_eq!(told, hoping);
    }

    #[test]
    fn what_is_told_of_a_pod() {
        let clock = Instant::now();
        let at = |seconds| clock + Duration::from_secs(seconds);
        let time = |at: Instant| time_of(at, clock, "2026-01-01T00:00:00Z".parse().unwrap());
        let queued = |stage, attempts, last: Option<u64>| {
            Seen::Queued(Whereabouts { stage, attempts, last_attempt: last.map(at) })
        };
        let by = PluginSet::of(["NodeResourcesFit"]);
        let cases = [
            (Seen::Nowhere, UNSEEN),
            (Seen::Binding { node: "n".to_owned(), prepares: false }, "being bound to n"),
            (
                Seen::Binding { node: "n".to_owned(), prepares: true },
                "going to n; its volumes and devices come first",
            ),
            (queued(Stage::Ready { before: Some(0) }, 0, None), "ready, the next to be decided about"),
            (queued(Stage::Ready { before: Some(2) }, 0, None), "ready, behind 2 others"),
            (queued(Stage::Ready { before: None }, 0, None), "ready, behind more than 10000 others"),
            (
                queued(Stage::BackOff { until: at(9), early: true }, 1, Some(5)),
                "in back-off until 2026-01-01T00:00:09Z, or until no other pod is ready; tried once, last at \
                 2026-01-01T00:00:05Z",
            ),
            (
                queued(Stage::BackOff { until: at(9), early: false }, 2, Some(5)),
                "in back-off until 2026-01-01T00:00:09Z; tried 2 times, last at 2026-01-01T00:00:05Z",
            ),
            (
                queued(Stage::Parked { until: at(300), by }, 0, None),
                "parked until a pod goes or shrinks, a node that is large enough comes, or one grows \
                 (NodeResourcesFit); tried again at 2026-01-01T00:05:00Z in any case",
            ),
            (
                queued(Stage::Parked { until: at(300), by: PluginSet::default() }, 0, None),
                "parked until anything happens: there were no nodes; tried again at 2026-01-01T00:05:00Z in any case",
            ),
            (queued(Stage::Gated, 0, None), "kept out by its scheduling gates"),
        ];
        for (seen, expected) in cases {
            assert_eq!(told(&seen, &time).message, expected);
        }
    }

    #[test]
    fn where_nobody_decides_nothing_is_guessed() {
        assert_eq!(report(None, "ns/p", "u").message, ELSEWHERE);
        let view = QueueView::default();
        assert_eq!(report(Some(&view), "ns/p", "u").message, NOT_DECIDING);
        view.look_at(|_, _| None);
        assert_eq!(report(Some(&view), "ns/p", "u").message, NOT_DECIDING);
    }
}

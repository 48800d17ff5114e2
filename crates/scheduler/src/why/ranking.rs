//! Why there: the best nodes with what each plugin gives them, and the pod's own node among them.

use std::cmp::Reverse;

use amphipod_api::scheduling_review::{PluginScore, Scored};

use crate::class::Judgement;
use crate::framework::{Candidate, Choice, Enabled, Score, View};
use crate::node::Slot;
use crate::snapshot::Snapshot;

/// Nodes shown behind the best.
const RUNNERS_UP: usize = 4;

/// All nodes that would do, ranked.
pub struct Ranking {
    /// Score, group and node, the best first.
    nodes: Vec<(i64, usize, Slot)>,
}

impl Ranking {
    pub fn new(snapshot: &Snapshot, judgement: &Judgement) -> Self {
        let groups = judgement.feasible.iter().enumerate();
        let mut nodes: Vec<(i64, usize, Slot)> = groups
            .flat_map(|(index, (group, more))| {
                group.slots().map(move |(slot, score)| (score + more, index, slot))
            })
            .collect();
        nodes.sort_by_cached_key(|(score, _, slot)| (Reverse(*score), snapshot.name(*slot).to_owned()));
        Ranking { nodes }
    }
    pub fn best(&self) -> Option<(Slot, i64)> {
        self.nodes.first().map(|(score, _, slot)| (*slot, *score))
    }
    /// How many have the best score.
    pub fn ties(&self) -> usize {
        self.best().map_or(0, |(_, best)| self.nodes.iter().take_while(|(score, ..)| *score == best).count())
    }
    pub fn score(&self, of: Slot) -> Option<i64> {
        self.nodes.iter().find(|(_, _, slot)| *slot == of).map(|(score, ..)| *score)
    }
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The best, and the pod's own node wherever it is.
    pub fn report(&self, view: &View, judgement: &Judgement, current: Option<Slot>) -> Vec<Scored> {
        let choices = judgement.feasible.iter();
        let choices: Vec<Choice> =
            choices.map(|(group, _)| Choice { features: &group.features, nodes: group.nodes }).collect();
        let scores: Vec<(&Enabled, Marks)> = view
            .profile
            .scores()
            .filter_map(|(enabled, score)| Some((enabled, Marks::new(view, &choices, score)?)))
            .collect();
        let is_current = |slot: Slot| current == Some(slot);
        let shown = self.nodes.iter().enumerate();
        let shown = shown.filter(|(index, (_, _, slot))| *index <= RUNNERS_UP || is_current(*slot));
        let report = |(_, (score, group, slot)): (usize, &(i64, usize, Slot))| Scored {
            rank: self.nodes.partition_point(|(other, ..)| other > score) + 1,
            node_name: view.snapshot.name(*slot).to_owned(),
            score: *score,
            current: is_current(*slot),
            plugins: scores
                .iter()
                .map(|(enabled, marks)| marks.report(view, enabled, *group, *slot))
                .collect(),
        };
        shown.map(report).collect()
    }
}

/// What a plugin gives nodes: each by itself, or by group.
enum Marks {
    Node(fn(&View, &Candidate) -> i64),
    Groups(Vec<i64>),
}

impl Marks {
    fn new(view: &View, choices: &[Choice], score: Score) -> Option<Self> {
        match score {
            Score::None => None,
            Score::Node(score) => Some(Marks::Node(score)),
            Score::Groups(score) => Some(Marks::Groups(score(view, choices))),
        }
    }
    fn report(&self, view: &View, enabled: &Enabled, group: usize, slot: Slot) -> PluginScore {
        let node = view.snapshot.node(slot);
        let score = match (self, &node.shape) {
            (Marks::Groups(marks), _) => marks[group],
            (Marks::Node(score), Some(shape)) => score(view, &Candidate { node, shape, fill: &node.fill }),
            (Marks::Node(_), None) => 0,
        };
        PluginScore { name: enabled.plugin.name.to_owned(), score, weight: enabled.weight }
    }
}

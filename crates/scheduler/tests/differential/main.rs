//! The scheduler against a slow, obviously right one: random clusters that change, random pods, and
//! after each change the same question to both. They must agree on the nodes that will do, on every
//! score, on the reasons, and on the victims of preemption. A failing run says its seed; `SEED=7 cargo
//! test --test differential` replays one run, `RUNS=5000` makes a longer test.

mod oracle;
mod random;
mod storage_objects;
mod volumes;
mod why;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use amphipod_scheduler::decision::{Decision, Scheduler};
use amphipod_scheduler::framework::{InterPodArgs, ScoringStrategy};
use amphipod_scheduler::preemption::Preemption;
use amphipod_scheduler::{Profile, Snapshot};
use k8s_openapi::api::core::v1::Pod;

use oracle::{Oracle, Settings};
use random::Random;
use world::World;

const RUNS: u64 = 60;
const STEPS: usize = 30;
/// One pod of so many is explained as well.
const EXPLAINED: u64 = 6;

#[test]
fn fast_and_slow_agree() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let only = number("SEED");
    let seeds = only.map_or(0..number("RUNS").unwrap_or(RUNS), |seed| seed..seed + 1);
    let mut outcomes = Outcomes::default();
    for seed in seeds {
        let mut run = Run::new(seed);
        for step in 0..STEPS {
            run.change();
            run.decide(&format!("SEED={seed}, step {step}"), &mut outcomes);
        }
        run.check_snapshot(seed);
    }
    // A test in which nothing ever happens proves nothing.
    if only.is_none() {
        let Outcomes { placed, refused, preempting, by_volumes, by_limits, by_room, told } = outcomes;
        let enough = placed > 300 && refused > 300 && preempting > 30 && by_volumes > 50;
        assert!(enough, "{placed} {refused} {preempting} {by_volumes}");
        assert!(by_limits > 50 && by_room > 10, "{by_limits} {by_room}");
        assert!(told.near_misses > 50 && told.evictions > 10, "{} {}", told.near_misses, told.evictions);
    }
}

#[derive(Default)]
struct Outcomes {
    placed: usize,
    refused: usize,
    preempting: usize,
    by_volumes: usize,
    by_limits: usize,
    by_room: usize,
    told: why::Told,
}

struct Run {
    random: Random,
    settings: Settings,
    world: World,
    snapshot: Snapshot,
    scheduler: Scheduler,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let settings = Settings {
            prefers_full_nodes: random.one_in(4),
            hard_weight: random.below(3) as i64 * 5,
            ignores_wishes_of_others: random.one_in(4),
        };
        let mut run = Run {
            random,
            settings,
            world: World::default(),
            snapshot: Snapshot::default(),
            scheduler: Scheduler::new(vec![profile(settings)]),
        };
        run.world.set_up_storage(&mut run.random, &mut run.snapshot);
        for _ in 0..run.random.below(12) + 3 {
            run.world.add_node(&mut run.random, &mut run.snapshot);
        }
        for _ in 0..run.random.below(25) {
            run.world.add_pod(&mut run.random, &mut run.snapshot);
        }
        run
    }

    fn change(&mut self) {
        for _ in 0..self.random.below(3) {
            self.world.change(&mut self.random, &mut self.snapshot);
        }
    }

    fn decide(&mut self, when: &str, outcomes: &mut Outcomes) {
        let pod = self.world.new_pod(&mut self.random);
        if self.random.one_in(EXPLAINED) {
            why::check(when, &self.world, self.settings, &pod, &mut outcomes.told);
        }
        let oracle = Oracle::new(&self.world, self.settings);
        let info = Arc::new(self.snapshot.catalogue.pod(&pod.clone().into()));
        let expected = oracle.scores(&pod);
        let before = oracle.before(&pod);
        let (class, profile) = self.scheduler.class(&self.snapshot, &info);
        let judgement = class.judge(&self.snapshot, profile);
        let name = |slot| self.snapshot.name(slot).to_owned();
        let scores: BTreeMap<String, i64> =
            judgement.scores().map(|(slot, score)| (name(slot), score)).collect();
        let yaml = || serde_json::to_string_pretty(&pod).expect("a pod is JSON");
        assert!(
            before.is_some() || scores == expected,
            "{when}: {scores:?} against {expected:?}, refused for {:?} against {:?}, of {}",
            judgement.refused,
            oracle.reasons(&pod),
            yaml()
        );
        let reasons =
            judgement.refused.iter().flat_map(|(r, _)| r.reasons(&self.snapshot.catalogue.resources));
        for reason in reasons {
            outcomes.by_limits += usize::from(reason == "node(s) exceed max volume count");
            outcomes.by_room += usize::from(reason == "node(s) did not have enough free storage");
        }
        match self.scheduler.decide(&mut self.snapshot, &info, self.random.next()) {
            Decision::Node(slot) => {
                outcomes.placed += 1;
                let best = expected.values().max().expect("a feasible node");
                let node = self.snapshot.name(slot).to_owned();
                assert_eq!(expected.get(&node), Some(best), "{when}: {node} is not the best");
                self.snapshot.place(&info, slot);
                let assumed = self.snapshot.log().position();
                let bound = self.world.bind(pod, &node).clone();
                self.snapshot.set_pod(&bound.into());
                // Seen placed, only its start is news.
                assert!(self.snapshot.log().position() <= assumed + 1, "{when}: placed twice");
            }
            Decision::Unschedulable(unschedulable) => {
                outcomes.refused += 1;
                assert!(expected.is_empty(), "{when}: refused, but {expected:?}");
                outcomes.by_volumes += usize::from(
                    unschedulable.explanation.message().to_lowercase().contains("persistentvolume"),
                );
                assert_eq!(unschedulable.explanation.beforehand.as_deref(), before.as_deref(), "{when}");
                assert_eq!(unschedulable.explanation.reasons, oracle.reasons(&pod), "{when}: {}", yaml());
                let chosen = match &unschedulable.preemption {
                    Some(Preemption::Plan(plan)) => {
                        let victims = plan.victims.iter().map(|pod| pod.key.to_string()).collect();
                        Some((self.snapshot.name(plan.slot).to_owned(), victims))
                    }
                    _ => None,
                };
                check_victims(when, &oracle, &pod, chosen.as_ref());
                outcomes.preempting += usize::from(chosen.is_some());
                self.follow_plan(pod, chosen);
            }
        }
    }

    /// Sometimes the victims go and the pod waits for the node; otherwise nothing comes of it.
    fn follow_plan(&mut self, pod: Pod, chosen: Option<(String, BTreeSet<String>)>) {
        let key = world::key(&pod);
        match chosen {
            Some((node, victims)) if self.random.one_in(2) => {
                for victim in victims {
                    self.snapshot.remove_pod(&victim);
                    self.world.pods.remove(&victim);
                }
                self.world.nominated.insert(key, (pod, node));
            }
            _ => {
                self.snapshot.denominate(&key);
            }
        }
    }

    /// What it has become by difference is what it would be if built now.
    fn check_snapshot(&self, seed: u64) {
        let rebuilt = self.world.snapshot();
        assert_eq!(self.snapshot.differences(&rebuilt), [] as [String; 0], "SEED={seed}");
    }
}

fn profile(settings: Settings) -> Profile {
    let mut profile = Profile::default();
    if settings.prefers_full_nodes {
        profile.arguments.fit.scoring = ScoringStrategy::MostAllocated;
    }
    profile.arguments.inter_pod_affinity = InterPodArgs {
        hard_weight: settings.hard_weight,
        ignore_preferred_terms_of_existing_pods: settings.ignores_wishes_of_others,
    };
    profile
}

fn check_victims(when: &str, oracle: &Oracle, pod: &Pod, chosen: Option<&(String, BTreeSet<String>)>) {
    let expected = oracle.victims(pod);
    let best = expected.values().map(|(rank, _)| rank).min();
    match (chosen, best) {
        (None, None) => {}
        (Some((node, victims)), Some(best)) => {
            let (rank, wanted) = expected.get(node).unwrap_or_else(|| panic!("{when}: {node} does not help"));
            assert_eq!((rank, victims), (best, wanted), "{when}: on {node}, of {expected:?}");
        }
        (chosen, best) => panic!("{when}: chosen {chosen:?}, expected {best:?} of {expected:?}"),
    }
}

//! The scheduler against a slow, obviously right one: random clusters that change, random pods, and
//! after each change the same question to both. They must agree on the nodes that will do, on every
//! score, on the reasons, and on the victims of preemption. A failing run says its seed; `SEED=7 cargo
//! test --test differential` replays one run, `RUNS=5000` makes a longer test.

mod device_changes;
mod device_objects;
mod device_results;
mod device_search;
mod devices;
mod expressions;
mod oracle;
mod random;
mod storage_objects;
mod volumes;
mod why;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use amphipod_scheduler::decision::{Decision, Scheduler, Unschedulable};
use amphipod_scheduler::devices::ClaimWork;
use amphipod_scheduler::framework::{InterPodArgs, ScoringStrategy};
use amphipod_scheduler::node::Slot;
use amphipod_scheduler::plugins::dynamic_resources::Deallocation;
use amphipod_scheduler::pod::PodInfo;
use amphipod_scheduler::preemption::Preemption;
use amphipod_scheduler::{Profile, Snapshot};
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use oracle::{Oracle, Settings};
use random::Random;
use world::World;

const RUNS: u64 = 60;
const STEPS: usize = 30;
/// One pod of so many is explained as well.
const EXPLAINED: u64 = 6;
/// One decision of so many is about a pod that waits for a node.
const WAITING: u64 = 3;

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
        let Outcomes { placed, refused, preempting, by_volumes, by_limits, by_room, told, .. } = outcomes;
        let enough = placed > 300 && refused > 300 && preempting > 30 && by_volumes > 50;
        assert!(enough, "{placed} {refused} {preempting} {by_volumes}");
        let Outcomes { as_expected, still_waiting, .. } = outcomes;
        assert!(as_expected > 2 && still_waiting > 3, "{as_expected} {still_waiting}");
        let Outcomes { by_devices, given, given_back, too_hard, .. } = outcomes;
        assert!(by_devices > 50 && given > 50 && given_back > 5, "{by_devices} {given} {given_back}");
        assert!(too_hard < (placed + refused) / 20, "{too_hard}");
        assert!(by_limits > 50 && by_room > 5, "{by_limits} {by_room}");
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
    /// Where others expected it, though another node is better.
    as_expected: usize,
    still_waiting: usize,
    by_devices: usize,
    given: usize,
    given_back: usize,
    too_hard: usize,
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
        run.world.set_up_devices(&mut run.random, &mut run.snapshot);
        let nodes = if run.random.about_devices { 4 } else { 12 };
        for _ in 0..run.random.below(nodes) + 3 {
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
        let waiting = self.random.one_in(WAITING).then(|| self.world.waiting_pod(&mut self.random)).flatten();
        let (pod, waited_for) = match waiting {
            Some((pod, node)) => (pod, Some(node)),
            None => (self.world.new_pod(&mut self.random, &mut self.snapshot), None),
        };
        if self.world.nodes.values().any(|node| self.world.devices.is_hard(&pod, node)) {
            outcomes.too_hard += 1;
            if let Some(node) = waited_for {
                self.world.nominated.insert(world::key(&pod), (pod, node));
            }
            return;
        }
        self.snapshot.denominate(&world::key(&pod));
        if self.random.one_in(EXPLAINED) && self.world.devices.pending.is_empty() {
            why::check(when, &self.world, self.settings, &pod, &mut outcomes.told);
        }
        let info = Arc::new(self.snapshot.catalogue.pod(&pod.clone().into()));
        self.compare_scores(when, &pod, &info, outcomes);
        if let Some(node) = &waited_for {
            world::nominate(&mut self.snapshot, &pod, node);
        }
        match self.scheduler.decide(&mut self.snapshot, &info, self.random.next()) {
            Decision::Node(slot) => {
                outcomes.placed += 1;
                let node = self.snapshot.name(slot).to_owned();
                let expected = Oracle::new(&self.world, self.settings).scores(&pod);
                outcomes.as_expected += usize::from(check_choice(when, &node, waited_for, &expected));
                let works = self.reserve_devices(when, &pod, &info, slot, outcomes);
                self.snapshot.place(&info, slot);
                let assumed = self.snapshot.log().position();
                let bound = self.world.bind(pod, &node).clone();
                self.snapshot.set_pod(&bound.clone().into());
                // Seen placed, only its start is news.
                assert!(self.snapshot.log().position() <= assumed + 1, "{when}: placed twice");
                self.world.follow_works(&mut self.random, &mut self.snapshot, &bound, works);
            }
            Decision::Unschedulable(refused) => {
                outcomes.refused += 1;
                self.follow_refusal(when, pod, waited_for, &refused, outcomes);
            }
        }
    }

    /// What the pod's claims are given where it goes is what the slow scheduler would give them.
    fn reserve_devices(
        &mut self,
        when: &str,
        pod: &Pod,
        info: &PodInfo,
        slot: Slot,
        outcomes: &mut Outcomes,
    ) -> Vec<ClaimWork> {
        let expected = self.world.devices.expected(pod, &self.world.nodes[self.snapshot.name(slot)]);
        let works = self.snapshot.reserve_devices(info, slot);
        let given: BTreeMap<String, Option<Value>> =
            works.iter().map(|work| (work.claim.clone(), work.allocation.clone())).collect();
        assert_eq!(given, expected, "{when}: {}", text(pod));
        outcomes.given += works.iter().filter(|work| work.allocation.is_some()).count();
        works
    }

    fn compare_scores(&mut self, when: &str, pod: &Pod, info: &PodInfo, outcomes: &mut Outcomes) {
        let oracle = Oracle::new(&self.world, self.settings);
        let expected = oracle.scores(pod);
        let (class, profile) = self.scheduler.class(&self.snapshot, info);
        let judgement = class.judge(&self.snapshot, profile);
        let name = |slot| self.snapshot.name(slot).to_owned();
        let scores: BTreeMap<String, i64> =
            judgement.scores().map(|(slot, score)| (name(slot), score)).collect();
        assert!(
            oracle.before(pod).is_some() || scores == expected,
            "{when}: {scores:?} against {expected:?}, refused for {:?} against {:?}, of {}",
            judgement.refused,
            oracle.reasons(pod),
            text(pod)
        );
        let reasons =
            judgement.refused.iter().flat_map(|(r, _)| r.reasons(&self.snapshot.catalogue.resources));
        for reason in reasons {
            outcomes.by_limits += usize::from(reason == "node(s) exceed max volume count");
            outcomes.by_room += usize::from(reason == "node(s) did not have enough free storage");
        }
    }

    fn follow_refusal(
        &mut self,
        when: &str,
        pod: Pod,
        waited_for: Option<String>,
        refused: &Unschedulable,
        outcomes: &mut Outcomes,
    ) {
        let oracle = Oracle::new(&self.world, self.settings);
        let expected = oracle.scores(&pod);
        assert!(expected.is_empty(), "{when}: refused, but {expected:?}");
        let message = refused.explanation.message().to_lowercase();
        outcomes.by_volumes += usize::from(message.contains("persistentvolume"));
        assert_eq!(refused.explanation.beforehand.as_deref(), oracle.before(&pod).as_deref(), "{when}");
        assert_eq!(refused.explanation.reasons, oracle.reasons(&pod), "{when}: {}", text(&pod));
        check_deallocation(when, &oracle, &pod, refused, outcomes);
        let chosen = match &refused.preemption {
            Some(Preemption::Plan(plan)) => {
                let victims = plan.victims.iter().map(|pod| pod.key.to_string()).collect();
                Some((self.snapshot.name(plan.slot).to_owned(), victims))
            }
            _ => None,
        };
        let kept = waited_for.filter(|node| {
            let still = oracle.makes_room(&pod, node);
            outcomes.still_waiting += usize::from(still);
            !self.world.nodes.is_empty() && (still || oracle::never_preempts(&pod))
        });
        match &kept {
            Some(_) => assert_eq!(chosen, None, "{when}: it waits already"),
            None => check_victims(when, &oracle, &pod, chosen.as_ref()),
        }
        outcomes.preempting += usize::from(chosen.is_some());
        if let Some(Deallocation::Of(claim)) = &refused.deallocation
            && self.random.one_in(2)
        {
            self.world.deallocate(&mut self.snapshot, claim);
        }
        self.follow_plan(when, pod, chosen, kept);
    }

    /// Sometimes the victims go and the pod waits for the node; otherwise nothing comes of it. Where it
    /// waits already, it goes on waiting.
    fn follow_plan(
        &mut self,
        when: &str,
        pod: Pod,
        chosen: Option<(String, BTreeSet<String>)>,
        kept: Option<String>,
    ) {
        let key = world::key(&pod);
        let waits_for = self.snapshot.nominated_slot(&key).map(|slot| self.snapshot.name(slot).to_owned());
        let node = chosen.as_ref().map(|(node, _)| node).or(kept.as_ref());
        assert_eq!(waits_for.as_ref(), node, "{when}");
        if let Some(node) = kept {
            self.world.nominated.insert(key, (pod, node));
            return;
        }
        match chosen {
            Some((node, victims)) if self.random.one_in(2) => {
                let at_once = self.random.one_in(2);
                for victim in victims {
                    self.world.send_away(&victim, at_once, &mut self.snapshot);
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

fn text(pod: &Pod) -> String {
    serde_json::to_string_pretty(pod).expect("a pod is JSON")
}

/// Where a pod waits, if that node will do, or else the best. Whether another was better.
fn check_choice(
    when: &str,
    node: &str,
    waited_for: Option<String>,
    expected: &BTreeMap<String, i64>,
) -> bool {
    let best = expected.values().max().expect("a feasible node");
    match waited_for.filter(|first| expected.contains_key(first)) {
        Some(first) => {
            assert_eq!(node, first, "{when}");
            expected.get(&first) < Some(best)
        }
        None => {
            assert_eq!(expected.get(node), Some(best), "{when}: {node} is not the best");
            false
        }
    }
}

/// A claim that is in the way gives its devices back, if there is one.
fn check_deallocation(
    when: &str,
    oracle: &Oracle,
    pod: &Pod,
    refused: &Unschedulable,
    outcomes: &mut Outcomes,
) {
    let expected = oracle.in_the_way(pod);
    let unasked = refused.explanation.beforehand.is_some() || oracle::spec(pod).resource_claims.is_none();
    match &refused.deallocation {
        None => assert_eq!(refused.explanation.nodes, 0, "{when}"),
        Some(Deallocation::NoClaims) => assert!(unasked, "{when}"),
        Some(Deallocation::NoHelp) => assert_eq!(expected, BTreeSet::new(), "{when}"),
        Some(Deallocation::Of(claim)) => {
            outcomes.given_back += 1;
            assert!(expected.contains(claim), "{when}: {claim}, of {expected:?}");
        }
    }
    let message = refused.explanation.message();
    outcomes.by_devices += usize::from(message.contains("cannot allocate all claims"));
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

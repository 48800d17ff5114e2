//! API Priority and Fairness: which requests are served at once, which wait, which are sent away,
//! by the FlowSchemas and PriorityLevelConfigurations of the cluster (`docs/flow-control.md`).
//!
//! The core is pure: reading the objects (`config`, `matching`), estimating a request (`estimate`),
//! the queues of a level (`fair_queue`), lending seats between levels (`allocation`, `demand`). The
//! shell puts requests through it (`level`), keeps it to the objects (`keeper`) and shows it (`dump`).

mod allocation;
pub mod config;
mod dealer;
mod demand;
pub mod dump;
mod estimate;
mod fair_queue;
pub mod keeper;
mod level;
mod matching;
mod retry_after;
mod schema;
mod seats;
mod watches;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use amphipod_api::resource::Resource;
use amphipod_api::selector::FieldSelector;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tracing::{debug, warn};

use allocation::{Claim, Entitlement, allocate, entitlements};
use config::{Digest, LevelSpec, digest};
use demand::Expectation;
use estimate::Stored;
pub use fair_queue::Refusal;
pub use level::Seat;
use level::{Clock, Level, Load};
use schema::Meters;
pub use schema::{Crowd, Schema};
use seats::Width;
use watches::Watches;
pub use watches::Watching;

use crate::bootstrap;
use crate::cache::Cache;
use crate::http::limits::Kind;
use crate::http::path::Query;
use crate::metrics::{FlowControlFamilies, FlowMeters};
use crate::registry::options;
use crate::seams::Attributes;

/// Of its time limit a request spends at most this share waiting for a seat, and never longer than a
/// minute, as upstream.
const PATIENCE_SHARE: u32 = 4;
const MOST_PATIENCE: Duration = Duration::from_secs(60);
/// Objects of a resource that are looked at for their size when a list of it is estimated.
const SAMPLED_OBJECTS: usize = 16;

tokio::task_local! {
    /// This task serves a request that has a seat.
    static SEATED: ();
}

/// Work that may ask this server in this process, on behalf of a request that has a seat. What it asks needs
/// none: it could wait for the very seats of those that wait for it.
pub async fn seated<F: Future>(work: F) -> F::Output {
    SEATED.scope((), work).await
}

/// A level and what it is entitled to, as figures show it.
#[derive(Clone, Debug)]
pub struct Standing {
    pub name: String,
    pub entitlement: Entitlement,
    pub expected: Expectation,
    pub target: f64,
    /// Seats it has now.
    pub current: u32,
    /// What each of its queues that are in use was given so far.
    pub seat_seconds: f64,
}

#[derive(Debug)]
struct Controlled {
    level: Arc<Level>,
    spec: LevelSpec,
    entitlement: Entitlement,
    expected: Expectation,
    target: f64,
    current: u32,
    /// Its object is gone; it stays until the last of its requests is.
    is_quiescing: bool,
}

#[derive(Debug, Default)]
struct Levels {
    by_name: BTreeMap<String, Controlled>,
    fair_fraction: f64,
}

/// A request, as far as it is estimated.
pub struct Asked<'a> {
    pub attributes: &'a Arc<Attributes>,
    pub query: &'a Query,
    /// `None`: nothing of that name is served here.
    pub resource: Option<&'a Resource>,
}

/// The requests of a level by the names of their schemas, and where their number is shown.
type Crowds<'a> = BTreeMap<&'a str, (&'a FlowMeters, Crowd)>;

pub struct FlowControl {
    /// Seats of all levels together.
    seats: u32,
    clock: Clock,
    load: Arc<Load>,
    watches: Arc<Watches>,
    /// In the order in which they are tried; the last means every request.
    schemas: ArcSwap<Vec<Arc<Schema>>>,
    levels: Mutex<Levels>,
    families: Arc<FlowControlFamilies>,
}

impl FlowControl {
    /// Obeys what is mandatory, until objects are read.
    pub fn new(seats: usize, families: Arc<FlowControlFamilies>) -> Self {
        let flow_control = FlowControl {
            seats: u32::try_from(seats).unwrap_or(u32::MAX).max(1),
            clock: Clock::start(),
            load: Arc::default(),
            watches: Arc::default(),
            schemas: ArcSwap::default(),
            levels: Mutex::default(),
            families,
        };
        flow_control.obey(digest(&[], &[], &bootstrap::flow_control::mandatory()));
        flow_control
    }

    /// The schema that means this request.
    pub fn classify(&self, asked: &Attributes) -> Arc<Schema> {
        let schemas = self.schemas.load();
        let found = schemas.iter().find(|schema| schema.matches(asked));
        // The catch-all means everybody who is authenticated or is not; should somebody be neither, it
        // means them too. There always is one.
        let found = found.or_else(|| schemas.iter().find(|schema| schema.name == config::CATCH_ALL));
        found.cloned().expect("a catch-all is obeyed from the start, and whenever there is no such object")
    }

    /// A seat for a request of this schema, for which it waits as long as its time limit allows. `None`: it
    /// needs none.
    pub async fn enter(
        &self,
        schema: &Arc<Schema>,
        asked: Asked<'_>,
        cache: &Cache,
        limit: Duration,
    ) -> Result<Option<Seat>, Refusal> {
        if SEATED.try_with(|()| ()).is_ok() {
            return Ok(None);
        }
        let width = self.estimate(schema, &asked, cache);
        schema.meters.estimated(width.seats());
        let patience = (limit / PATIENCE_SHARE).min(MOST_PATIENCE);
        schema.level.enter(schema, asked.attributes, width, patience).await.map(Some)
    }

    fn estimate(&self, schema: &Schema, asked: &Asked<'_>, cache: &Cache) -> Width {
        let attributes = asked.attributes;
        let is_list = match attributes.verb.as_str() {
            "list" => true,
            "watch" => options::begins_with_state(asked.query),
            "create" | "update" | "patch" | "delete" if attributes.resource_request => {
                return self.estimate_write(schema, attributes);
            }
            _ => false,
        };
        if !is_list {
            return Width::of(1);
        }
        let list = estimate::List {
            stored: asked.resource.and_then(|resource| stored(cache, resource)),
            limit: asked.query.text("limit").parse().unwrap_or(0),
            is_single: !attributes.name.is_empty(),
        };
        estimate::list(list, schema.level.widest())
    }

    fn estimate_write(&self, schema: &Schema, asked: &Attributes) -> Width {
        // Nothing is written for a token.
        if asked.subresource == "token" && asked.resource == "serviceaccounts" {
            return Width::of(1);
        }
        let watches = self.watches.interested_in(asked);
        schema.meters.concerned(watches);
        estimate::write(watches, schema.level.widest())
    }

    /// Counts a watch that has begun. One that asks for the objects of one node does not count: of such
    /// there is one for each node, and a write concerns one of them.
    pub fn watching(&self, asked: &Asked<'_>) -> Option<Watching> {
        let attributes = asked.attributes;
        let is_watch = attributes.verb == "watch" && attributes.resource_request;
        (is_watch && !is_of_one_node(asked)).then(|| self.watches.register(attributes))
    }

    /// (kind, being served, waiting)
    pub fn load(&self) -> [(Kind, usize, usize); 2] {
        [Kind::ReadOnly, Kind::Mutating].map(|kind| {
            let (served, waiting) = self.load.of(kind);
            (kind, served, waiting)
        })
    }

    /// Goes over to what was read.
    fn obey(&self, digest: Digest) {
        let mut levels = self.levels.lock();
        for controlled in levels.by_name.values_mut() {
            controlled.is_quiescing = true;
        }
        for spec in digest.levels {
            self.control(&mut levels, spec);
        }
        let before = self.schemas.load_full();
        let known: HashMap<_, _> = before.iter().map(|old| (old.key(), &old.meters)).collect();
        let schemas = digest.schemas.into_iter().filter_map(|spec| {
            let controlled = levels.by_name.get(&spec.level)?;
            let meters = known.get(&(&*spec.level, &*spec.name)).map(|meters| Arc::clone(meters));
            let meters = meters
                .unwrap_or_else(|| Arc::new(Meters::new(&spec.level, &spec.name, self.families.clone())));
            Some(Arc::new(Schema::new(spec, &controlled.spec, controlled.level.clone(), meters)))
        });
        let schemas = Arc::new(schemas.collect::<Vec<_>>());
        self.schemas.store(schemas.clone());
        let now: HashSet<_> = schemas.iter().map(|new| new.key()).collect();
        for old in before.iter().filter(|old| !now.contains(&old.key())) {
            old.meters.close();
        }
        debug!(schemas = schemas.len(), levels = levels.by_name.len(), "flow control follows its objects");
        self.reckon(&mut levels);
    }

    fn control(&self, levels: &mut Levels, spec: LevelSpec) {
        match levels.by_name.get_mut(&spec.name) {
            Some(known) => {
                known.is_quiescing = false;
                known.spec = spec;
            }
            None => {
                let level = Level::new(spec.name.clone(), spec.response, self.clock, self.load.clone());
                let new = Controlled {
                    level,
                    entitlement: Entitlement::default(),
                    expected: Expectation::default(),
                    target: 0.0,
                    current: 0,
                    is_quiescing: false,
                    spec,
                };
                levels.by_name.insert(new.spec.name.clone(), new);
            }
        }
    }

    /// Lends seats anew by what was wanted since the last time.
    pub fn adjust(&self) {
        self.reckon(&mut self.levels.lock());
    }

    fn reckon(&self, levels: &mut Levels) {
        levels.by_name.retain(|name, controlled| {
            let stays = !controlled.is_quiescing || !controlled.level.inspect(|requests| requests.is_idle());
            if !stays {
                self.families.forget_level(name);
            }
            stays
        });
        let specs: Vec<&LevelSpec> = levels.by_name.values().map(|controlled| &controlled.spec).collect();
        let entitled = entitlements(self.seats, &specs);
        let mut claims = Vec::with_capacity(entitled.len());
        for (controlled, entitlement) in levels.by_name.values_mut().zip(&entitled) {
            controlled.entitlement = *entitlement;
            if let Some(observed) = controlled.level.take_demand() {
                controlled.expected.update(observed);
            }
            let claim = Claim::new(*entitlement, &controlled.expected);
            controlled.target = claim.target;
            claims.push(claim);
        }
        let seats = entitled.iter().map(|entitlement| entitlement.nominal).sum();
        match allocate(seats, &claims) {
            Some((given, fraction)) => {
                levels.fair_fraction = fraction;
                for (controlled, given) in levels.by_name.values_mut().zip(given) {
                    controlled.current = given;
                }
            }
            None => warn!(seats, ?claims, "seats cannot be shared out; levels keep those they have"),
        }
        for controlled in levels.by_name.values() {
            let Controlled { level, spec, current, entitlement, .. } = controlled;
            level.configure(spec.response, *current, entitlement.widest);
        }
    }

    /// Brings the figures up to this moment.
    pub fn show(&self) {
        let levels = self.levels.lock();
        let schemas = self.schemas.load();
        let mut of_level: BTreeMap<&str, Crowds> = BTreeMap::new();
        for schema in schemas.iter() {
            if let Some(series) = schema.meters.used() {
                let crowds = of_level.entry(&schema.level.name).or_default();
                crowds.insert(&schema.name, (series, Crowd::default()));
            }
        }
        for (name, controlled) in &levels.by_name {
            let mut crowds = of_level.remove(name.as_str()).unwrap_or_default();
            // Requests of the level stand still meanwhile.
            let seat_seconds = controlled.level.inspect(|requests| {
                for request in requests.requests() {
                    // A schema that is gone has no series any more.
                    if let Some((_, crowd)) = crowds.get_mut(request.payload.schema.name.as_str()) {
                        crowd.count(request.started.is_some(), request.width.seats());
                    }
                }
                requests.meter() as f64 / 1e9
            });
            self.families.show_level(&controlled.standing(seat_seconds));
            crowds.values().for_each(|(series, crowd)| series.show(crowd));
        }
        self.families.show_fair_fraction(levels.fair_fraction);
    }
}

impl Controlled {
    fn standing(&self, seat_seconds: f64) -> Standing {
        Standing {
            name: self.spec.name.clone(),
            entitlement: self.entitlement,
            expected: self.expected,
            target: self.target,
            current: self.current,
            seat_seconds,
        }
    }
}

fn is_of_one_node(asked: &Asked<'_>) -> bool {
    let selector = FieldSelector::parse(asked.query.text("fieldSelector"));
    asked.attributes.resource == "pods"
        && selector
            .is_ok_and(|selector| selector.required("spec.nodeName").is_some_and(|node| !node.is_empty()))
}

/// What a list of this resource may read: all there is of it, by the size of a few.
fn stored(cache: &Cache, resource: &Resource) -> Option<Stored> {
    let snapshot = cache.loaded(resource)?.snapshot();
    let sampled = snapshot.values().take(SAMPLED_OBJECTS);
    let (number, bytes) =
        sampled.fold((0, 0), |(number, bytes), entry| (number + 1, bytes + entry.text.len() as u64));
    Some(Stored { objects: snapshot.len() as u64, average_bytes: bytes / u64::max(number, 1) })
}

//! Device classes, slices of devices and claims, as far as decisions look at them.

use std::sync::Arc;

use amphipod_client::Resource;
use k8s_openapi::api::core::v1::NodeSelector;
use k8s_openapi::api::resource::v1::{
    Device, DeviceClass, DeviceConstraint, DeviceRequest, DeviceSelector, ResourceClaim, ResourceSlice,
};
use serde_json::{Value, json};

use super::expression::Expression;
use crate::labels::NodeTerm;
use crate::symbols::{Symbol, Symbols};

/// As many consumers a claim can have.
pub const MAX_CONSUMERS: usize = 256;

#[derive(Clone, Debug, PartialEq)]
pub struct Class {
    pub selectors: Box<[Arc<Expression>]>,
    /// The configurations that go with each of its devices.
    pub config: Vec<Value>,
}

/// Which nodes a slice's devices are for.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    Node(Symbol),
    Everywhere,
    Selected {
        terms: Box<[NodeTerm]>,
        selector: NodeSelector,
    },
    /// In a way this level does not know.
    Nowhere,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    pub driver: Symbol,
    pub pool: Symbol,
    pub generation: i64,
    /// Of how many slices the pool consists.
    pub slices: i64,
    pub place: Place,
    pub devices: Vec<(Symbol, Device)>,
}

/// `driver` and name.
pub type PoolId = (Symbol, Symbol);
/// `driver`, `pool` and name.
pub type DeviceId = (Symbol, Symbol, Symbol);

/// What a claim asks for; claims that say the same are equal.
#[derive(Debug)]
pub struct Wish {
    text: String,
    /// For each request the alternatives, the first that can be had.
    pub requests: Vec<Vec<Request>>,
    pub constraints: Vec<DeviceConstraint>,
    /// With the requests each is for; none for all.
    pub config: Vec<Value>,
}

#[derive(Debug)]
pub struct Request {
    /// `request` or `request/alternative`.
    pub name: String,
    pub class: Symbol,
    pub selectors: Vec<Arc<Expression>>,
    /// `None` for all there are.
    pub count: Option<usize>,
    /// Looks after devices others have.
    pub admin: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    uid: Arc<str>,
    pub wish: Arc<Wish>,
    pub terminating: bool,
    /// The uid of its controller.
    pub owner: Option<Arc<str>>,
    pub allocation: Option<Allocation>,
    /// The uids of its consumers.
    pub consumers: Vec<Arc<str>>,
}

/// What a claim has been given.
#[derive(Clone, Debug, PartialEq)]
pub struct Allocation {
    /// The devices nobody else can have.
    pub devices: Vec<DeviceId>,
    /// The nodes they can be used on; `None` for all.
    pub terms: Option<Arc<[NodeTerm]>>,
}

impl PartialEq for Wish {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}
impl Eq for Wish {}
impl std::hash::Hash for Wish {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

fn terms(symbols: &mut Symbols, selector: &NodeSelector) -> Vec<NodeTerm> {
    selector.node_selector_terms.iter().map(|term| NodeTerm::parse(symbols, term)).collect()
}

fn expressions(selectors: Option<&Vec<DeviceSelector>>) -> Vec<Arc<Expression>> {
    let sources = selectors.into_iter().flatten().map(|selector| {
        // A selector of a kind this level does not know selects nothing.
        selector.cel.as_ref().map_or("false", |cel| cel.expression.as_str())
    });
    sources.map(|source| Arc::new(Expression::compile(source))).collect()
}

impl Class {
    pub fn parse(class: &DeviceClass) -> Self {
        let config = class.spec.config.iter().flatten();
        Class {
            selectors: expressions(class.spec.selectors.as_ref()).into(),
            config: config.map(|config| json!(config)).collect(),
        }
    }
}

impl Place {
    fn parse(
        symbols: &mut Symbols,
        node: Option<&String>,
        everywhere: Option<bool>,
        selector: Option<&NodeSelector>,
    ) -> Self {
        match (node.filter(|node| !node.is_empty()), everywhere, selector) {
            (Some(node), _, _) => Place::Node(symbols.intern(node)),
            (None, Some(true), _) => Place::Everywhere,
            (None, _, Some(selector)) => {
                Place::Selected { terms: terms(symbols, selector).into(), selector: selector.clone() }
            }
            (None, _, None) => Place::Nowhere,
        }
    }
}

impl Slice {
    pub fn parse(symbols: &mut Symbols, slice: &ResourceSlice) -> Self {
        let spec = &slice.spec;
        let place =
            Place::parse(symbols, spec.node_name.as_ref(), spec.all_nodes, spec.node_selector.as_ref());
        let devices = spec.devices.iter().flatten();
        let devices = devices.map(|device| (symbols.intern(&device.name), device.clone()));
        Slice {
            devices: devices.collect(),
            driver: symbols.intern(&spec.driver),
            pool: symbols.intern(&spec.pool.name),
            generation: spec.pool.generation,
            slices: spec.pool.resource_slice_count,
            place,
        }
    }
    pub fn pool_id(&self) -> PoolId {
        (self.driver, self.pool)
    }
}

impl Claim {
    /// `known`: the claim of this name before; as long as it is the same, it asks for the same.
    pub fn parse(symbols: &mut Symbols, claim: &ResourceClaim, known: Option<&Claim>) -> Self {
        let known = known.filter(|known| &*known.uid == claim.uid());
        let owners = claim.metadata.owner_references.iter().flatten();
        let owner = owners.into_iter().find(|owner| owner.controller == Some(true));
        let status = claim.status.as_ref();
        let allocation = status.and_then(|s| s.allocation.as_ref()).map(|allocation| {
            let results = allocation.devices.iter().flat_map(|d| d.results.iter().flatten());
            let own = results.filter(|result| result.admin_access != Some(true));
            Allocation {
                devices: own
                    .map(|r| (symbols.intern(&r.driver), symbols.intern(&r.pool), symbols.intern(&r.device)))
                    .collect(),
                terms: allocation.node_selector.as_ref().map(|selector| terms(symbols, selector).into()),
            }
        });
        let consumers = status.and_then(|s| s.reserved_for.as_ref());
        Claim {
            uid: known.map_or_else(|| claim.uid().into(), |known| known.uid.clone()),
            wish: known.map_or_else(|| Arc::new(Wish::parse(symbols, claim)), |known| known.wish.clone()),
            terminating: claim.is_terminating(),
            owner: owner.map(|owner| owner.uid.as_str().into()),
            allocation,
            consumers: consumers.into_iter().flatten().map(|c| c.uid.as_str().into()).collect(),
        }
    }
}

impl Wish {
    fn parse(symbols: &mut Symbols, claim: &ResourceClaim) -> Self {
        let devices = claim.spec.devices.clone().unwrap_or_default();
        let requests = devices.requests.iter().flatten().map(|request| Request::parse(symbols, request));
        Wish {
            text: json!(devices).to_string(),
            requests: requests.collect(),
            constraints: devices.constraints.unwrap_or_default(),
            config: devices.config.iter().flatten().map(|config| json!(config)).collect(),
        }
    }
}

impl Wish {
    pub fn has_alternatives(&self) -> bool {
        self.alternatives().next().is_some()
    }
    /// The requests one of several is to be met of, each with its place among them.
    pub fn alternatives(&self) -> impl Iterator<Item = (usize, &Request)> {
        self.requests
            .iter()
            .flat_map(|requests| requests.iter().enumerate())
            .filter(|(_, r)| r.is_alternative())
    }
}

impl Request {
    fn parse(symbols: &mut Symbols, request: &DeviceRequest) -> Vec<Self> {
        let counted = |mode: Option<&String>, count: Option<i64>| {
            let all = mode.is_some_and(|mode| mode == "All");
            (!all).then(|| count.and_then(|count| usize::try_from(count).ok()).unwrap_or(1))
        };
        if let Some(exact) = &request.exactly {
            return vec![Request {
                name: request.name.clone(),
                class: symbols.intern(&exact.device_class_name),
                selectors: expressions(exact.selectors.as_ref()),
                count: counted(exact.allocation_mode.as_ref(), exact.count),
                admin: exact.admin_access == Some(true),
            }];
        }
        let alternatives = request.first_available.iter().flatten().map(|sub| Request {
            name: format!("{}/{}", request.name, sub.name),
            class: symbols.intern(&sub.device_class_name),
            selectors: expressions(sub.selectors.as_ref()),
            count: counted(sub.allocation_mode.as_ref(), sub.count),
            admin: false,
        });
        alternatives.collect()
    }
    fn is_alternative(&self) -> bool {
        self.name.contains('/')
    }
    /// The name of the request it is an alternative of, or its own.
    pub fn parent(&self) -> &str {
        self.name.split_once('/').map_or(&*self.name, |(parent, _)| parent)
    }
}

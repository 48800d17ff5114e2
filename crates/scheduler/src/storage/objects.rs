//! Storage objects as far as decisions look at them, in symbols: claims, volumes, storage classes and
//! how much room drivers say there is.

use std::collections::BTreeMap;
use std::sync::Arc;

use amphipod_api::quantity::Quantity;
use amphipod_client::Resource;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, TopologySelectorTerm};
use k8s_openapi::api::storage::v1::{CSIStorageCapacity, StorageClass};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::migration::{self, InTree};
use crate::labels::{Labels, NodeTerm, Requirement, Selector};
use crate::symbols::{Symbol, Symbols};

const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// Where the class of a claim or volume stood before it had a field; it still comes first.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Of classes whose volumes somebody makes by hand.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// Between the zones of a volume that is in several.
const ZONE_DELIMITER: &str = "__";

/// Zones and regions, under the names they have and those they had first.
pub const TOPOLOGY_LABELS: [(&str, &str); 4] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("topology.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "topology.kubernetes.io/region"),
];

/// The nodes that reach a volume; `None` for all.
pub type Reach = Option<Arc<[NodeTerm]>>;

/// Whether nodes with these labels reach a volume. Fields say nothing of them.
pub fn reaches(symbols: &Symbols, reach: &Reach, labels: &Labels) -> bool {
    let matches = |term: &NodeTerm| term.matches(symbols, Symbol::EMPTY, labels);
    reach.as_ref().is_none_or(|terms| terms.iter().any(matches))
}

/// A set of access modes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AccessModes(u8);

impl AccessModes {
    const NAMES: [&str; 4] = ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"];

    fn parse(modes: Option<&Vec<String>>) -> Self {
        let bit = |mode: &String| Self::NAMES.iter().position(|name| name == mode);
        AccessModes(modes.into_iter().flatten().filter_map(bit).fold(0, |set, bit| set | 1 << bit))
    }
    pub fn includes(self, other: AccessModes) -> bool {
        other.0 & !self.0 == 0
    }
    pub fn is_for_one_pod(self) -> bool {
        self.0 & 1 << 3 != 0
    }
}

/// What a claim asks of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Wish {
    pub class: Option<Symbol>,
    /// In bytes.
    pub size: Option<i64>,
    pub modes: AccessModes,
    pub block: bool,
    pub selector: Option<Selector>,
    pub attributes_class: Option<Symbol>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub uid: Arc<str>,
    pub wish: Wish,
    /// The volume it names.
    pub volume: Option<Symbol>,
    /// The volume is bound to it as well.
    pub bound: bool,
    pub lost: bool,
    pub terminating: bool,
    /// The uid of its controller.
    pub owner: Option<Arc<str>>,
    /// Where its volume is to be made.
    pub selected_node: Option<Symbol>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The claim it is kept for, with its uid where that is known.
    pub claim: Option<(Symbol, Option<Arc<str>>)>,
    pub class: Option<Symbol>,
    pub size: i64,
    pub modes: AccessModes,
    pub block: bool,
    pub attributes_class: Option<Symbol>,
    pub labels: Labels,
    /// In phase `Available`, and not on its way out.
    pub available: bool,
    pub terminating: bool,
    pub reach: Reach,
    /// What its labels say of zones and regions.
    pub zones: Box<[(Symbol, Box<[Symbol]>)]>,
    /// The driver and its name for the volume, where the volume's plugin has been given up too.
    pub csi: Option<(Symbol, Symbol)>,
    pub in_tree: Option<InTreeVolume>,
}

/// A volume of a plugin that nodes give up for a driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InTreeVolume {
    pub plugin: InTree,
    /// Where it is for nodes that have.
    pub reach: Reach,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// `None` where nobody makes volumes of the class.
    pub provisioner: Option<Symbol>,
    /// The driver that attaches them, and the plugin it is the driver of.
    pub driver: Option<(Symbol, Option<InTree>)>,
    /// Whether claims wait for their first pod; `None` where the class does not say.
    pub waits: Option<bool>,
    pub topologies: Arc<[Selector]>,
}

/// How large a volume of a class can still be made for some nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    pub class: Symbol,
    pub limit: i64,
    pub topology: Selector,
}

fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}

/// The class; none is an empty one.
fn class(symbols: &mut Symbols, meta: &ObjectMeta, field: Option<&String>) -> Option<Symbol> {
    let name = annotation(meta, CLASS_ANNOTATION).or(field.map(String::as_str));
    named(symbols, name)
}

fn named(symbols: &mut Symbols, name: Option<&str>) -> Option<Symbol> {
    name.filter(|name| !name.is_empty()).map(|name| symbols.intern(name))
}

fn bytes(amount: Option<&WireQuantity>) -> Option<i64> {
    Quantity::parse(&amount?.0).ok().map(|quantity| quantity.units())
}

fn storage(amounts: Option<&BTreeMap<String, WireQuantity>>) -> Option<i64> {
    bytes(amounts?.get("storage"))
}

fn is_block(mode: Option<&String>) -> bool {
    mode.is_some_and(|mode| mode == "Block")
}

impl Claim {
    pub fn parse(symbols: &mut Symbols, claim: &PersistentVolumeClaim) -> Self {
        let meta = &claim.metadata;
        let spec = claim.spec.clone().unwrap_or_default();
        let volume = named(symbols, spec.volume_name.as_deref());
        let owners = meta.owner_references.iter().flatten();
        let owner = owners.into_iter().find(|owner| owner.controller == Some(true));
        Claim {
            uid: claim.uid().into(),
            wish: Wish {
                class: class(symbols, meta, spec.storage_class_name.as_ref()),
                size: storage(spec.resources.as_ref().and_then(|r| r.requests.as_ref())),
                modes: AccessModes::parse(spec.access_modes.as_ref()),
                block: is_block(spec.volume_mode.as_ref()),
                selector: spec.selector.as_ref().map(|selector| Selector::parse(symbols, Some(selector))),
                attributes_class: named(symbols, spec.volume_attributes_class_name.as_deref()),
            },
            bound: volume.is_some() && annotation(meta, BIND_COMPLETED).is_some(),
            volume,
            lost: claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Lost"),
            terminating: claim.is_terminating(),
            owner: owner.map(|owner| owner.uid.as_str().into()),
            selected_node: annotation(meta, SELECTED_NODE).map(|node| symbols.intern(node)),
        }
    }
}

impl Volume {
    pub fn parse(symbols: &mut Symbols, volume: &PersistentVolume) -> Self {
        let meta = &volume.metadata;
        let spec = volume.spec.clone().unwrap_or_default();
        let claim = spec.claim_ref.as_ref().map(|claim| {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let key = format!("{}/{}", text(&claim.namespace), text(&claim.name));
            let uid = claim.uid.as_deref().filter(|uid| !uid.is_empty());
            (symbols.intern(&key), uid.map(Arc::from))
        });
        let required = spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref());
        let terms = |symbols: &mut Symbols, terms: &[_]| -> Arc<[NodeTerm]> {
            terms.iter().map(|term| NodeTerm::parse(symbols, term)).collect()
        };
        let migration = migration::of_volume(volume);
        let in_tree = migration.as_ref().map(|(plugin, _)| InTreeVolume {
            plugin: *plugin,
            reach: migration::reach(*plugin, volume).map(|r| terms(symbols, &r.node_selector_terms)),
        });
        let phase = volume.status.as_ref().and_then(|s| s.phase.as_deref());
        Volume {
            claim,
            class: class(symbols, meta, spec.storage_class_name.as_ref()),
            size: storage(spec.capacity.as_ref()).unwrap_or(0),
            modes: AccessModes::parse(spec.access_modes.as_ref()),
            block: is_block(spec.volume_mode.as_ref()),
            attributes_class: named(symbols, spec.volume_attributes_class_name.as_deref()),
            labels: Labels::parse(symbols, meta.labels.as_ref()),
            available: phase == Some("Available") && !volume.is_terminating(),
            terminating: volume.is_terminating(),
            reach: required.map(|required| terms(symbols, &required.node_selector_terms)),
            zones: zones(symbols, meta.labels.as_ref()),
            csi: match (spec.csi, migration) {
                (Some(csi), _) => Some((symbols.intern(&csi.driver), symbols.intern(&csi.volume_handle))),
                (None, Some((plugin, handle))) => {
                    Some((symbols.intern(plugin.driver()), symbols.intern(&handle)))
                }
                (None, None) => None,
            },
            in_tree,
        }
    }
    /// Whether it is as asked, wherever it is.
    pub fn fulfils(&self, symbols: &Symbols, wish: &Wish) -> bool {
        self.could_be_kept_for(wish)
            && wish.selector.as_ref().is_none_or(|selector| selector.matches(symbols, &self.labels))
            && self.modes.includes(wish.modes)
    }
    /// The same of a volume that was chosen for the claim by hand: less is asked of it.
    pub fn could_be_kept_for(&self, wish: &Wish) -> bool {
        self.class == wish.class
            && self.size >= wish.size.unwrap_or(0)
            && self.block == wish.block
            && self.attributes_class == wish.attributes_class
            && !self.terminating
    }
}

fn zones(symbols: &mut Symbols, labels: Option<&BTreeMap<String, String>>) -> Box<[(Symbol, Box<[Symbol]>)]> {
    let mut found = Vec::new();
    for (key, _) in TOPOLOGY_LABELS {
        let Some(value) = labels.and_then(|labels| labels.get(key)) else { continue };
        let values: Vec<&str> = value.split(ZONE_DELIMITER).map(str::trim).collect();
        // What is no list of zones says nothing.
        if values.iter().all(|value| !value.is_empty()) {
            let values = values.into_iter().map(|value| symbols.intern(value)).collect();
            found.push((symbols.intern(key), values));
        }
    }
    found.into()
}

impl Class {
    pub fn parse(symbols: &mut Symbols, class: &StorageClass) -> Self {
        let made = !class.provisioner.is_empty() && class.provisioner != NO_PROVISIONER;
        let topologies = class.allowed_topologies.iter().flatten();
        let plugin = InTree::named(&class.provisioner);
        let driver = plugin.map_or(class.provisioner.as_str(), |plugin| plugin.driver());
        Class {
            provisioner: made.then(|| symbols.intern(&class.provisioner)),
            driver: made.then(|| (symbols.intern(driver), plugin)),
            waits: class.volume_binding_mode.as_ref().map(|mode| mode == "WaitForFirstConsumer"),
            topologies: topologies.map(|term| topology(symbols, term)).collect(),
        }
    }
    pub fn allows(&self, symbols: &Symbols, labels: &Labels) -> bool {
        self.topologies.is_empty() || self.topologies.iter().any(|t| t.matches(symbols, labels))
    }
}

/// A term that asks for nothing allows nothing.
fn topology(symbols: &mut Symbols, term: &TopologySelectorTerm) -> Selector {
    let mut selector = Selector::default();
    for expression in term.match_label_expressions.iter().flatten() {
        let values: Box<[Symbol]> = expression.values.iter().map(|value| symbols.intern(value)).collect();
        selector.require(Requirement::In(symbols.intern(&expression.key), values));
    }
    if selector.is_everything() {
        selector.require(Requirement::Never);
    }
    selector
}

impl Capacity {
    /// `None` for room that no node can have any of.
    pub fn parse(symbols: &mut Symbols, capacity: &CSIStorageCapacity) -> Option<Self> {
        // The largest volume is the more exact of the two.
        let limit = capacity.maximum_volume_size.as_ref().or(capacity.capacity.as_ref());
        Some(Capacity {
            class: symbols.intern(&capacity.storage_class_name),
            limit: bytes(limit)?,
            topology: Selector::parse(symbols, Some(capacity.node_topology.as_ref()?)),
        })
    }
}

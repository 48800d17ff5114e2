//! Why a node will not do: in kube-scheduler's words for events, in numbers for whoever asks further.

use crate::amounts::{ResourceId, Resources};

pub type Verdict = Result<(), Refusal>;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Refusal {
    pub plugin: &'static str,
    pub cause: Cause,
    /// Whether fewer pods on the node could change it.
    pub resolvable: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    Text(&'static str),
    Texts(Vec<&'static str>),
    /// What there is too little of, in the order it was looked at.
    Short(Vec<Shortage>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shortage {
    /// `None` for places for pods.
    pub resource: Option<ResourceId>,
    pub wanted: i64,
    pub used: i64,
    pub capacity: i64,
}

impl Refusal {
    /// The node as it is filled now will not do.
    pub fn for_now(plugin: &'static str, text: &'static str) -> Self {
        Refusal { plugin, cause: Cause::Text(text), resolvable: true }
    }
    /// The node will not do, whatever runs on it.
    pub fn for_good(plugin: &'static str, text: &'static str) -> Self {
        Refusal { plugin, cause: Cause::Text(text), resolvable: false }
    }
    /// Without the numbers, so that refusals for the same reason are equal.
    pub fn kind(mut self) -> Self {
        if let Cause::Short(shortages) = &mut self.cause {
            for shortage in shortages {
                (shortage.wanted, shortage.used, shortage.capacity) = (0, 0, 0);
            }
        }
        self
    }
    /// As events tell it.
    pub fn reasons(&self, resources: &Resources) -> Vec<String> {
        match &self.cause {
            Cause::Text(text) => vec![(*text).to_owned()],
            Cause::Texts(texts) => texts.iter().map(|text| (*text).to_owned()).collect(),
            Cause::Short(shortages) => shortages.iter().map(|s| s.reason(resources)).collect(),
        }
    }
}

impl Shortage {
    /// How much more would have to be free.
    pub fn missing(&self) -> i64 {
        self.wanted - (self.capacity - self.used)
    }
    fn reason(&self, resources: &Resources) -> String {
        match self.resource {
            None => "Too many pods".to_owned(),
            Some(id) => format!("Insufficient {}", resources.name(id)),
        }
    }
}

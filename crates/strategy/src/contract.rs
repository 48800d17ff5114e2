//! The strategy contract: one implementation per kind (or family of kinds), all with defaults that
//! fit a plain object.

use std::ops::Deref;

use amphipod_api::field::Faults;
use amphipod_api::resource::Resource;
use serde_json::Value;

/// Facts of the request a strategy may depend on.
#[derive(Clone, Debug)]
pub struct Context<'a> {
    pub resource: &'a Resource,
    /// `""`, `status`, `scale`, `ephemeralcontainers`, `resize`, `approval`, `finalize`, ...
    pub subresource: &'a str,
    /// RFC 3339, seconds, UTC: the server's time of this request.
    pub now: &'a str,
}

/// What a delete means for this object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Graceful {
    /// Delete at once (finalizers still hold the object).
    No,
    /// Set deletionTimestamp now + seconds and deletionGracePeriodSeconds; someone else finishes.
    Seconds(i64),
}

/// Warnings kept for one object: many times what a server tells of them.
const WARNING_BYTES_MAX: usize = 64 << 10;

/// What is said of an accepted object, as much of it as could be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Warnings {
    texts: Vec<String>,
    bytes: usize,
    full: bool,
}

impl Warnings {
    pub fn new() -> Self {
        Self::default()
    }
    pub fn push(&mut self, text: String) {
        self.full |= self.bytes + text.len() > WARNING_BYTES_MAX;
        if !self.full {
            self.bytes += text.len();
            self.texts.push(text);
        }
    }
    /// Nothing more will be kept.
    pub fn is_full(&self) -> bool {
        self.full
    }
}

impl Deref for Warnings {
    type Target = [String];
    fn deref(&self) -> &[String] {
        &self.texts
    }
}

impl From<String> for Warnings {
    fn from(text: String) -> Self {
        Self::from_iter([text])
    }
}

impl Extend<String> for Warnings {
    fn extend<I: IntoIterator<Item = String>>(&mut self, texts: I) {
        texts.into_iter().for_each(|text| self.push(text));
    }
}

impl FromIterator<String> for Warnings {
    fn from_iter<I: IntoIterator<Item = String>>(texts: I) -> Self {
        let mut all = Warnings::new();
        all.extend(texts);
        all
    }
}

impl IntoIterator for Warnings {
    type Item = String;
    type IntoIter = std::vec::IntoIter<String>;
    fn into_iter(self) -> Self::IntoIter {
        self.texts.into_iter()
    }
}

pub trait Strategy: Send + Sync {
    /// Fills defaults in place. Runs after decoding, after each patch and after admission, and on
    /// the status part too; must be idempotent.
    fn default(&self, _object: &mut Value) {}
    /// Clears what clients may not set at creation (status) and sets generation where kept.
    fn prepare_create(&self, _context: &Context, _object: &mut Value) {}
    /// Carries over what this write may not touch (a spec write keeps the old status, a status
    /// write the old spec and most metadata) and raises the generation where the spec changed.
    fn prepare_update(&self, _context: &Context, _object: &mut Value, _old: &Value) {}
    fn validate(&self, _context: &Context, _object: &Value) -> Faults {
        Faults::new()
    }
    fn validate_update(&self, _context: &Context, _object: &Value, _old: &Value) -> Faults {
        Faults::new()
    }
    /// Texts for `Warning: 299` headers. `old` is None at creation.
    fn warnings(&self, _context: &Context, _object: &Value, _old: Option<&Value>) -> Warnings {
        Warnings::new()
    }
    /// PUT on a missing object creates it.
    fn allow_create_on_update(&self) -> bool {
        false
    }
    /// PUT without resourceVersion overwrites.
    fn allow_unconditional_update(&self) -> bool {
        true
    }
    /// `requested` is DeleteOptions.gracePeriodSeconds.
    fn graceful(&self, _object: &Value, _requested: Option<i64>) -> Graceful {
        Graceful::No
    }
    /// Finalizers a delete adds by default: `orphan` for kinds whose default propagation is orphan.
    fn default_propagation(&self) -> &'static str {
        "Background"
    }
}

//! The strategy contract: one implementation per kind (or family of kinds), all with defaults that
//! fit a plain object.

use amphipod_api::field;
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

pub trait Strategy: Send + Sync {
    /// Fills defaults in place. Runs after decoding, after each patch and after admission, and on
    /// the status part too; must be idempotent.
    fn default(&self, _object: &mut Value) {}
    /// Clears what clients may not set at creation (status) and sets generation where kept.
    fn prepare_create(&self, _context: &Context, _object: &mut Value) {}
    /// Carries over what this write may not touch (a spec write keeps the old status, a status
    /// write the old spec and most metadata) and raises the generation where the spec changed.
    fn prepare_update(&self, _context: &Context, _object: &mut Value, _old: &Value) {}
    fn validate(&self, _context: &Context, _object: &Value) -> Vec<field::Error> {
        Vec::new()
    }
    fn validate_update(&self, _context: &Context, _object: &Value, _old: &Value) -> Vec<field::Error> {
        Vec::new()
    }
    /// Texts for `Warning: 299` headers. `old` is None at creation.
    fn warnings(&self, _context: &Context, _object: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
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

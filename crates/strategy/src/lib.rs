//! What each kind demands of its objects: defaults, validation, what an update or a status write
//! may touch, when the generation rises. Pure functions on parsed JSON values; the generic
//! registry calls them, nothing here knows of HTTP or storage.

pub mod contract;

pub use contract::*;

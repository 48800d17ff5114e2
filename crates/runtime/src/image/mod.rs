//! Images: names, content, and how they get here.

pub mod archive;
pub mod builtin;
pub mod export;
pub mod oci;
pub mod pull;
pub mod reference;
pub mod store;
pub mod unpack;

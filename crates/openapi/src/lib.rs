//! The API's own description: OpenAPI v3 per group and version, and v2 for the whole, as JSON and
//! in the protobuf form kubectl asks for. Made from the schema facts and the descriptions that
//! `k8s-openapi` carries, anew at each request: clients keep what they got by its hash, and the
//! parsed form (tens of megabytes) must not stay in memory.
//!
//! A crate of its own because the descriptions take a minute to compile.

mod definitions;
mod gnostic;
mod own;
mod paths;
mod roots;
mod v2;
mod v3;

pub use definitions::list_definition;
pub use paths::{Operation, operations};
pub use v2::{v2, v2_protobuf};
pub use v3::{custom_v3, v3, v3_index};

/// The media type kubectl asks v2 in.
pub const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// The Content-Type of the answer; Go cannot read the other as a media type.
pub const V2_PROTOBUF_ANSWER: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// What a document depends on besides the built-in kinds.
#[derive(Clone, Copy, Debug)]
pub struct Info<'a> {
    /// As `/version` says it: `v1.35.0`.
    pub server_version: &'a str,
}

/// A document's hash, known without making it: documents change with the server only. `part` is the
/// group version, or `v2`.
pub fn hash(info: Info<'_>, part: &str) -> String {
    // FNV-1a, twice with different seeds: no secret, only a name for a version.
    let fnv = |seed: u64| {
        let bytes = info.server_version.bytes().chain([0]).chain(part.bytes());
        bytes.fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    };
    format!("{:016X}{:016X}", fnv(0xcbf2_9ce4_8422_2325), fnv(0x8422_2325_cbf2_9ce4))
}

/// `api/v1` or `apis/apps/v1`: where a group version lives, and its key in the index of v3.
pub fn group_version_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

#[cfg(test)]
mod tests;

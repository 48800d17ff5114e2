//! Ingresses, their classes, network policies, and the records of service addresses.

mod address;
mod class;
mod ingress;
mod policy;

pub use address::{IP_ADDRESS, SERVICE_CIDR};
pub use class::INGRESS_CLASS;
pub use ingress::INGRESS;
pub use policy::NETWORK_POLICY;

use amphipod_api::field::{Error, Path};
use amphipod_api::names::path_segment_name;
use serde_json::Value;

use crate::check::{self, Faults, invalid_each};
use crate::json::{set, text};

/// A reference to an object of any kind: `apiGroup`, `kind`, `name`.
fn typed_reference(faults: &mut Faults, path: &Path, reference: &Value) {
    if set(&reference["apiGroup"]) {
        let group = text(&reference["apiGroup"]);
        invalid_each(faults, &path.child("apiGroup"), group, check::dns1123_subdomain(group));
    }
    for (key, missing) in [("kind", "kind is required"), ("name", "name is required")] {
        match text(&reference[key]) {
            "" => faults.push(Error::required(&path.child(key), missing)),
            value => invalid_each(faults, &path.child(key), value, path_segment_name(value)),
        }
    }
}

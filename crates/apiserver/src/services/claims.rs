//! The objects that say an address or a node port is a service's: IPAddress, which clients see, and
//! the claim of a node port, which only this server reads.

use std::net::IpAddr;
use std::sync::LazyLock;

use amphipod_api::apply::{self, OneVersion, Tracked, Writer};
use amphipod_api::object;
use amphipod_api::resource::{Resource, Storage};
use amphipod_api::schema::Node;
use amphipod_strategy::json::text;
use serde_json::{Value, json};
use uuid::Uuid;

use super::addresses;

pub const GROUP: &str = "networking.k8s.io";
const API_VERSION: &str = "networking.k8s.io/v1";
const FAMILY_LABEL: &str = "ipaddress.kubernetes.io/ip-family";
const MANAGED_BY_LABEL: &str = "ipaddress.kubernetes.io/managed-by";
const MANAGED_BY: &str = "ipallocator.k8s.io";
/// Who owns the fields of an IPAddress made here: upstream's server makes it under its own name.
const FIELD_MANAGER: &str = "kube-apiserver";

/// Claims of node ports, one key each. No row of the catalog: they are stored and cached as objects
/// are, but not served.
pub static NODE_PORTS: LazyLock<Resource> = LazyLock::new(|| Resource {
    group: "".into(),
    version: "v1".into(),
    plural: "servicenodeports".into(),
    singular: "servicenodeport".into(),
    kind: "ServiceNodePort".into(),
    namespaced: false,
    verbs: [].as_slice().into(),
    short_names: [].as_slice().into(),
    categories: [].as_slice().into(),
    subresources: [].as_slice().into(),
    storage: Some(Storage {
        // Beside the bitmap that kube-apiserver keeps at this key without a further segment.
        prefix: "ranges/servicenodeports".into(),
        api_version: "v1".into(),
        kind: "ServiceNodePort".into(),
        version_hash: "".into(),
    }),
    selectable_fields: [].as_slice().into(),
});

/// The service a claim is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
}

impl<'a> Owner<'a> {
    pub fn of(service: &'a Value) -> Self {
        Owner { namespace: object::namespace(service), name: object::name(service) }
    }

    /// Of an IPAddress; `None` where it refers to something else.
    pub fn of_address(address: &'a Value) -> Option<Self> {
        let parent = &address["spec"]["parentRef"];
        let refers = text(&parent["group"]).is_empty() && text(&parent["resource"]) == "services";
        refers.then(|| Owner { namespace: text(&parent["namespace"]), name: text(&parent["name"]) })
    }

    pub fn of_port(claim: &'a Value) -> Self {
        let service = &claim["service"];
        Owner { namespace: text(&service["namespace"]), name: text(&service["name"]) }
    }
}

/// `now` is RFC 3339 in whole seconds.
pub fn ip_address(address: IpAddr, owner: Owner<'_>, now: &str) -> Value {
    let mut object = json!({
        "kind": "IPAddress", "apiVersion": API_VERSION,
        "metadata": {
            "name": address.to_string(), "uid": Uuid::new_v4().to_string(), "creationTimestamp": now,
            "labels": {FAMILY_LABEL: addresses::family(address), MANAGED_BY_LABEL: MANAGED_BY},
        },
        "spec": {"parentRef": {"resource": "services", "namespace": owner.namespace, "name": owner.name}},
    });
    let writer = Writer {
        manager: FIELD_MANAGER,
        api_version: API_VERSION,
        subresource: "",
        now,
        schema: Node::of_kind(GROUP, "v1", "IPAddress"),
        tracked: Tracked::AllBut(&[]),
        versions: &OneVersion,
    };
    apply::update_managers(None, &mut object, &writer);
    object
}

pub fn is_ours(address: &Value) -> bool {
    text(&address["metadata"]["labels"][MANAGED_BY_LABEL]) == MANAGED_BY
}

pub fn is_labelled(object: &Value, address: IpAddr) -> bool {
    is_ours(object) && text(&object["metadata"]["labels"][FAMILY_LABEL]) == addresses::family(address)
}

pub fn node_port(port: u16, owner: Owner<'_>, now: &str) -> Value {
    json!({
        "kind": "ServiceNodePort", "apiVersion": "v1",
        "metadata": {"name": port.to_string(), "creationTimestamp": now},
        "service": {"namespace": owner.namespace, "name": owner.name},
    })
}

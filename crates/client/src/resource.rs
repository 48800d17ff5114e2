//! The typed kinds components use, with all serde code for them instantiated here, in one leaf,
//! behind plain functions: each further crate that did so itself would cost a minute of build.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta};
use serde::Deserialize;

use crate::Error;

/// A kind that can be fetched and watched.
pub trait Resource:
    k8s_openapi::Resource + k8s_openapi::Metadata<Ty = ObjectMeta> + Clone + Send + Sync + 'static
{
    const NAMESPACED: bool;

    fn decode(json: &[u8]) -> Result<Self, Error>;
    fn decode_list(json: &[u8]) -> Result<(ListMeta, Vec<Self>), Error>;

    fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or("")
    }
    fn namespace(&self) -> &str {
        self.metadata().namespace.as_deref().unwrap_or("")
    }
    fn uid(&self) -> &str {
        self.metadata().uid.as_deref().unwrap_or("")
    }
    fn resource_version(&self) -> &str {
        self.metadata().resource_version.as_deref().unwrap_or("")
    }
    /// `namespace/name`, or `name` for cluster-wide kinds.
    fn key(&self) -> String {
        if self.namespace().is_empty() {
            self.name().to_owned()
        } else {
            format!("{}/{}", self.namespace(), self.name())
        }
    }
    fn is_terminating(&self) -> bool {
        self.metadata().deletion_timestamp.is_some()
    }
}

/// A resource whose objects are held whole, and so may be written.
pub trait Writable: Resource {
    /// The object as JSON with `apiVersion` and `kind`.
    fn encode(&self) -> Vec<u8>;
}

#[derive(Deserialize)]
struct List<T> {
    #[serde(default)]
    metadata: ListMeta,
    items: Vec<T>,
}

macro_rules! kinds {
    ($($scope:ident $($path:ident)::+;)+) => {$(
        impl Resource for k8s_openapi::api::$($path)::+ {
            const NAMESPACED: bool = kinds!(@ $scope);
            fn decode(json: &[u8]) -> Result<Self, Error> {
                serde_json::from_slice(json)
                    .map_err(|source| Error::Decode { what: <Self as k8s_openapi::Resource>::KIND, source })
            }
            fn decode_list(json: &[u8]) -> Result<(ListMeta, Vec<Self>), Error> {
                serde_json::from_slice::<List<Self>>(json)
                    .map(|list| (list.metadata, list.items))
                    .map_err(|source| Error::Decode { what: <Self as k8s_openapi::Resource>::KIND, source })
            }
        }
        impl Writable for k8s_openapi::api::$($path)::+ {
            fn encode(&self) -> Vec<u8> {
                // API structs hold only strings, numbers, maps with string keys: always encodable.
                serde_json::to_vec(self).unwrap_or_default()
            }
        }
    )+};
    (@ namespaced) => { true };
    (@ cluster) => { false };
}

kinds! {
    namespaced core::v1::Pod;
    namespaced core::v1::Service;
    namespaced core::v1::Endpoints;
    namespaced core::v1::ConfigMap;
    namespaced core::v1::Secret;
    namespaced core::v1::ServiceAccount;
    namespaced core::v1::Event;
    namespaced core::v1::ReplicationController;
    namespaced core::v1::PersistentVolumeClaim;
    namespaced core::v1::ResourceQuota;
    cluster core::v1::PersistentVolume;
    cluster core::v1::Namespace;
    cluster core::v1::Node;
    namespaced apps::v1::Deployment;
    namespaced apps::v1::ReplicaSet;
    namespaced apps::v1::StatefulSet;
    namespaced apps::v1::DaemonSet;
    namespaced apps::v1::ControllerRevision;
    namespaced batch::v1::Job;
    namespaced batch::v1::CronJob;
    namespaced coordination::v1::Lease;
    namespaced discovery::v1::EndpointSlice;
    cluster networking::v1::IPAddress;
    cluster networking::v1::ServiceCIDR;
    namespaced policy::v1::PodDisruptionBudget;
    cluster storage::v1::StorageClass;
    cluster scheduling::v1::PriorityClass;
    cluster storage::v1::CSINode;
    cluster storage::v1::CSIDriver;
    namespaced storage::v1::CSIStorageCapacity;
    namespaced resource::v1::ResourceClaim;
    cluster resource::v1::ResourceSlice;
    cluster resource::v1::DeviceClass;
    cluster storage::v1::VolumeAttachment;
    cluster node::v1::RuntimeClass;
    cluster rbac::v1::ClusterRole;
    cluster rbac::v1::ClusterRoleBinding;
    namespaced rbac::v1::Role;
    namespaced rbac::v1::RoleBinding;
}

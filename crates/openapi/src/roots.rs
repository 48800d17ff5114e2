//! The kinds whose descriptions are taken from `k8s-openapi`, by group version; what they contain
//! follows by itself.

use k8s_openapi::api;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1 as apiregistration;
use schemars::SchemaGenerator;

/// Adds a group version's kinds to the generator.
pub(crate) type Register = fn(&mut SchemaGenerator);

macro_rules! roots {
    ($($path:literal => $module:path { $($kind:ident),+ };)+) => {
        &[$(($path, |generator: &mut SchemaGenerator| {
            use $module as kinds;
            $(generator.subschema_for::<kinds::$kind>();)+
        })),+]
    };
}

pub(crate) const ROOTS: &[(&str, Register)] = roots! {
    "api/v1" => api::core::v1 {
        Binding, ComponentStatus, ConfigMap, Endpoints, Event, LimitRange, Namespace, Node, PersistentVolume,
        PersistentVolumeClaim, Pod, PodTemplate, ReplicationController, ResourceQuota, Secret, Service, ServiceAccount
    };
    "apis/apps/v1" => api::apps::v1 { ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet };
    "apis/events.k8s.io/v1" => api::events::v1 { Event };
    "apis/authentication.k8s.io/v1" => api::authentication::v1 { SelfSubjectReview, TokenRequest, TokenReview };
    "apis/authorization.k8s.io/v1" => api::authorization::v1 {
        LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview
    };
    "apis/autoscaling/v1" => api::autoscaling::v1 { HorizontalPodAutoscaler, Scale };
    "apis/autoscaling/v2" => api::autoscaling::v2 { HorizontalPodAutoscaler };
    "apis/batch/v1" => api::batch::v1 { CronJob, Job };
    "apis/certificates.k8s.io/v1" => api::certificates::v1 { CertificateSigningRequest };
    "apis/networking.k8s.io/v1" => api::networking::v1 {
        Ingress, IngressClass, IPAddress, NetworkPolicy, ServiceCIDR
    };
    "apis/policy/v1" => api::policy::v1 { Eviction, PodDisruptionBudget };
    "apis/rbac.authorization.k8s.io/v1" => api::rbac::v1 { ClusterRole, ClusterRoleBinding, Role, RoleBinding };
    "apis/storage.k8s.io/v1" => api::storage::v1 {
        CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment, VolumeAttributesClass
    };
    "apis/admissionregistration.k8s.io/v1" => api::admissionregistration::v1 {
        MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
        ValidatingWebhookConfiguration
    };
    "apis/apiextensions.k8s.io/v1" => apiextensions { CustomResourceDefinition };
    "apis/apiregistration.k8s.io/v1" => apiregistration { APIService };
    "apis/scheduling.k8s.io/v1" => api::scheduling::v1 { PriorityClass };
    "apis/coordination.k8s.io/v1" => api::coordination::v1 { Lease };
    "apis/node.k8s.io/v1" => api::node::v1 { RuntimeClass };
    "apis/discovery.k8s.io/v1" => api::discovery::v1 { EndpointSlice };
    "apis/flowcontrol.apiserver.k8s.io/v1" => api::flowcontrol::v1 { FlowSchema, PriorityLevelConfiguration };
    "apis/resource.k8s.io/v1" => api::resource::v1 {
        DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice
    };
};

/// What a group version's subresources need from others: scales, evictions, tokens.
pub(crate) fn register_borrowed(path: &str, generator: &mut SchemaGenerator) {
    match path {
        "api/v1" => {
            generator.subschema_for::<api::autoscaling::v1::Scale>();
            generator.subschema_for::<api::policy::v1::Eviction>();
            generator.subschema_for::<api::authentication::v1::TokenRequest>();
        }
        "apis/apps/v1" => {
            generator.subschema_for::<api::autoscaling::v1::Scale>();
        }
        crate::own::PATH => {
            generator.subschema_for::<api::core::v1::Pod>();
            generator.subschema_for::<api::core::v1::Node>();
        }
        _ => {}
    }
}

/// What every document needs, those of custom resources too.
pub(crate) fn register_meta(generator: &mut SchemaGenerator) {
    generator.subschema_for::<meta::DeleteOptions>();
    generator.subschema_for::<meta::ListMeta>();
    generator.subschema_for::<meta::ObjectMeta>();
    generator.subschema_for::<meta::Patch>();
    generator.subschema_for::<meta::Status>();
}

/// The generator, which writes references as `#/definitions/<name>`.
pub(crate) fn generator() -> SchemaGenerator {
    schemars::generate::SchemaSettings::draft07().into_generator()
}

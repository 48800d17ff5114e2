//! What each kind demands of its objects: defaults, validation, what an update or a status write
//! may touch, when the generation rises. Pure functions on parsed JSON values; the generic
//! registry calls them, nothing here knows of HTTP or storage.
//!
//! A kind is a [`kind::Kind`] row naming the functions it needs; [`for_resource`] finds it. Only
//! pods, whose subresources each allow another change, have a strategy written out.

pub mod addresses;
mod admission;
mod api_service;
mod autoscaler;
mod autoscaler_v1;
mod check;
mod conditions;
mod config;
pub mod contract;
mod crd;
mod cron_job;
mod daemon_set;
mod devices;
mod domains;
mod endpoints;
mod event;
mod flow;
mod job;
mod job_policy;
mod job_status;
pub mod json;
pub mod kind;
mod metadata;
mod namespace;
mod network;
mod node;
pub mod pod;
mod policy;
mod quota;
mod rbac;
pub mod service;
pub mod signing;
mod stateful_set;
mod storage;
#[cfg(test)]
mod testing;
mod workload;

use serde_json::Value;

pub use contract::*;
pub use metadata::NameRule;

static PLAIN: kind::Kind = kind::PLAIN;
static POD: pod::Pod = pod::Pod;

/// The strategy of a built-in resource; what needs nothing special gets the plain one.
pub fn for_resource(group: &str, plural: &str) -> &'static dyn Strategy {
    match group {
        "" => core(plural),
        "apps" => match plural {
            "deployments" => &workload::DEPLOYMENT,
            "replicasets" => &workload::REPLICA_SET,
            "daemonsets" => &daemon_set::DAEMON_SET,
            "statefulsets" => &stateful_set::STATEFUL_SET,
            "controllerrevisions" => &workload::CONTROLLER_REVISION,
            _ => &PLAIN,
        },
        "batch" => match plural {
            "jobs" => &job::JOB,
            "cronjobs" => &cron_job::CRON_JOB,
            _ => &PLAIN,
        },
        "events.k8s.io" => &event::EVENT,
        "autoscaling" => &autoscaler::AUTOSCALER,
        "rbac.authorization.k8s.io" => match plural {
            "roles" => &rbac::ROLE,
            "clusterroles" => &rbac::CLUSTER_ROLE,
            "rolebindings" => &rbac::ROLE_BINDING,
            _ => &rbac::CLUSTER_ROLE_BINDING,
        },
        _ => extension(group, plural),
    }
}

fn core(plural: &str) -> &'static dyn Strategy {
    match plural {
        "pods" => &POD,
        "services" => &service::SERVICE,
        "endpoints" => &endpoints::ENDPOINTS,
        "events" => &event::CORE_EVENT,
        "namespaces" => &namespace::NAMESPACE,
        "nodes" => &node::NODE,
        "serviceaccounts" => &namespace::SERVICE_ACCOUNT,
        "configmaps" => &config::CONFIG_MAP,
        "secrets" => &config::SECRET,
        "replicationcontrollers" => &workload::REPLICATION_CONTROLLER,
        "podtemplates" => &workload::POD_TEMPLATE,
        "limitranges" => &quota::LIMIT_RANGE,
        "resourcequotas" => &quota::RESOURCE_QUOTA,
        "persistentvolumeclaims" => &storage::CLAIM,
        "persistentvolumes" => &storage::VOLUME,
        _ => &PLAIN,
    }
}

fn extension(group: &str, plural: &str) -> &'static dyn Strategy {
    match (group, plural) {
        ("coordination.k8s.io", "leases") => &node::LEASE,
        ("discovery.k8s.io", "endpointslices") => &endpoints::ENDPOINT_SLICE,
        ("scheduling.k8s.io", "priorityclasses") => &policy::PRIORITY_CLASS,
        ("policy", "poddisruptionbudgets") => &policy::POD_DISRUPTION_BUDGET,
        ("networking.k8s.io", "ingresses") => &network::INGRESS,
        ("networking.k8s.io", "ingressclasses") => &network::INGRESS_CLASS,
        ("networking.k8s.io", "networkpolicies") => &network::NETWORK_POLICY,
        ("networking.k8s.io", "ipaddresses") => &network::IP_ADDRESS,
        ("networking.k8s.io", "servicecidrs") => &network::SERVICE_CIDR,
        ("storage.k8s.io", "storageclasses") => &storage::CLASS,
        ("storage.k8s.io", "csidrivers") => &storage::CSI_DRIVER,
        ("storage.k8s.io", "csinodes") => &storage::CSI_NODE,
        ("storage.k8s.io", "csistoragecapacities") => &storage::CSI_CAPACITY,
        ("storage.k8s.io", "volumeattributesclasses") => &storage::ATTRIBUTES_CLASS,
        ("storage.k8s.io", "volumeattachments") => &storage::VOLUME_ATTACHMENT,
        (
            "admissionregistration.k8s.io",
            "mutatingwebhookconfigurations" | "validatingwebhookconfigurations",
        ) => &admission::WEBHOOKS,
        ("admissionregistration.k8s.io", "validatingadmissionpolicies" | "mutatingadmissionpolicies") => {
            &admission::ADMISSION_POLICY
        }
        ("admissionregistration.k8s.io", _) => &admission::ADMISSION_BINDING,
        ("apiextensions.k8s.io", _) => &crd::CUSTOM_RESOURCE_DEFINITION,
        ("apiregistration.k8s.io", _) => &api_service::API_SERVICE,
        ("flowcontrol.apiserver.k8s.io", "flowschemas") => &flow::FLOW_SCHEMA,
        ("flowcontrol.apiserver.k8s.io", _) => &flow::PRIORITY_LEVEL,
        ("certificates.k8s.io", "certificatesigningrequests") => &signing::SIGNING_REQUEST,
        ("node.k8s.io", "runtimeclasses") => &policy::RUNTIME_CLASS,
        ("resource.k8s.io", "resourceclaims") => &devices::RESOURCE_CLAIM,
        ("resource.k8s.io", "resourceclaimtemplates") => &devices::RESOURCE_CLAIM_TEMPLATE,
        ("resource.k8s.io", "resourceslices") => &devices::RESOURCE_SLICE,
        ("resource.k8s.io", "deviceclasses") => &devices::DEVICE_CLASS,
        _ => &PLAIN,
    }
}

/// Turns an object of `group`/`version` into its stored form (`to_storage`) or the stored form
/// into that version. Only events and autoscalers are served in two forms; anything else passes.
pub fn convert(group: &str, version: &str, plural: &str, value: &mut Value, to_storage: bool) {
    match (group, version, plural) {
        ("events.k8s.io", "v1", "events") => event::convert(value, to_storage),
        ("autoscaling", "v1", "horizontalpodautoscalers") => autoscaler_v1::convert(value, to_storage),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_row_can_be_defaulted_and_validated() {
        for row in amphipod_api::resource::builtin().iter().filter(|row| row.storage.is_some()) {
            let strategy = for_resource(&row.group, &row.plural);
            let context = Context { resource: row, subresource: "", now: "2026-01-01T00:00:00Z" };
            let mut object = json!({"apiVersion": row.api_version(), "kind": row.kind, "metadata": {"name": "a", "uid": "u"}});
            strategy.default(&mut object);
            strategy.prepare_create(&context, &mut object);
            let first = object.clone();
            strategy.default(&mut object);
            assert_eq!(object, first, "defaulting {} twice changes it", row.plural);
            strategy.validate(&context, &object);
            let mut next = object.clone();
            strategy.prepare_update(&context, &mut next, &object);
            assert_eq!(
                next["metadata"]["generation"], object["metadata"]["generation"],
                "{}: an update without a change raised the generation",
                row.plural
            );
            strategy.validate_update(&context, &next, &object);
        }
    }

    /// As Kubernetes 1.35 has them.
    #[test]
    fn what_a_put_may_do() {
        let creating = [
            "clusterrolebindings",
            "clusterroles",
            "endpoints",
            "events",
            "leases",
            "limitranges",
            "rolebindings",
            "roles",
            "runtimeclasses",
            "services",
        ];
        let conditional = [
            "apiservices",
            "csidrivers",
            "csinodes",
            "csistoragecapacities",
            "customresourcedefinitions",
            "leases",
            "mutatingadmissionpolicies",
            "mutatingadmissionpolicybindings",
            "mutatingwebhookconfigurations",
            "poddisruptionbudgets",
            "runtimeclasses",
            "validatingadmissionpolicies",
            "validatingadmissionpolicybindings",
            "validatingwebhookconfigurations",
            "volumeattachments",
        ];
        for row in amphipod_api::resource::builtin().iter().filter(|row| row.storage.is_some()) {
            let (strategy, plural) = (for_resource(&row.group, &row.plural), row.plural.as_ref());
            assert_eq!(strategy.allow_create_on_update(), creating.contains(&plural), "{plural}");
            assert_eq!(!strategy.allow_unconditional_update(), conditional.contains(&plural), "{plural}");
        }
    }

    #[test]
    fn status_writers_of_some_kinds_keep_the_metadata() {
        let keeping = [
            "apiservices",
            "flowschemas",
            "prioritylevelconfigurations",
            "resourceclaims",
            "servicecidrs",
            "validatingadmissionpolicies",
            "volumeattachments",
        ];
        let old = json!({"labels": {"a": "1"}, "annotations": {"a": "1"}});
        let new = json!({"labels": {"a": "2"}, "finalizers": ["example.com/f"], "ownerReferences": [{"name": "o"}]});
        for row in amphipod_api::resource::builtin().iter().filter(|row| row.subresource("status").is_some())
        {
            let context = Context { resource: row, subresource: "status", now: "2026-01-01T00:00:00Z" };
            let mut object = json!({"metadata": new});
            for_resource(&row.group, &row.plural).prepare_update(
                &context,
                &mut object,
                &json!({"metadata": old}),
            );
            let kept = ["labels", "annotations", "finalizers", "ownerReferences"]
                .iter()
                .all(|key| object["metadata"][key] == old[key]);
            assert_eq!(kept, keeping.contains(&row.plural.as_ref()), "{}: {object}", row.plural);
        }
    }

    #[test]
    fn finalizers_of_some_kinds_need_no_domain() {
        let object = json!({"metadata": {"name": "a", "finalizers": ["mine"]}});
        let short: std::collections::BTreeSet<&str> = amphipod_api::resource::builtin()
            .iter()
            .filter(|row| {
                let context = Context { resource: row, subresource: "", now: "2026-01-01T00:00:00Z" };
                let faults =
                    for_resource(&row.group, &row.plural).validate_update(&context, &object, &object);
                !faults.iter().any(|fault| fault.to_string().contains("neither a standard finalizer name"))
            })
            .map(|row| row.plural.as_ref())
            .collect();
        let outside = [
            "apiservices",
            "customresourcedefinitions",
            "events",
            "leases",
            "mutatingwebhookconfigurations",
            "poddisruptionbudgets",
            "validatingadmissionpolicies",
            "validatingadmissionpolicybindings",
            "validatingwebhookconfigurations",
        ];
        assert_eq!(short.into_iter().collect::<Vec<_>>(), outside);
    }

    /// The smallest object that the documentation of each kind shows.
    fn minimal_examples() -> Vec<(testing::Resource, Value)> {
        let meta = |object: Value| {
            testing::merged(
                &json!({"metadata": {"name": "example", "namespace": "default", "uid": "u"}}),
                &object,
            )
        };
        let pod = json!({"containers": [{"name": "nginx", "image": "nginx:1.14.2", "ports": [{"containerPort": 80}]}]});
        let labels = json!({"metadata": {"labels": {"app": "nginx"}}, "spec": pod});
        let selected = json!({"selector": {"matchLabels": {"app": "nginx"}}, "template": labels});
        let runs =
            json!({"template": {"spec": testing::merged(&pod, &json!({"restartPolicy": "OnFailure"}))}});
        let set = testing::merged(&selected, &json!({"serviceName": "nginx"}));
        let cluster = json!({"metadata": {"namespace": null}});
        vec![
            (("", "v1", "pods"), meta(json!({"spec": pod}))),
            (("", "v1", "podtemplates"), meta(json!({"template": labels}))),
            (
                ("", "v1", "replicationcontrollers"),
                meta(json!({"spec": {"replicas": 3, "template": labels}})),
            ),
            (("apps", "v1", "deployments"), meta(json!({"spec": selected}))),
            (("apps", "v1", "replicasets"), meta(json!({"spec": selected}))),
            (("apps", "v1", "daemonsets"), meta(json!({"spec": selected}))),
            (("apps", "v1", "statefulsets"), meta(json!({"spec": set}))),
            (("apps", "v1", "controllerrevisions"), meta(json!({"revision": 1, "data": {"spec": {}}}))),
            (("batch", "v1", "jobs"), meta(json!({"spec": runs}))),
            (
                ("batch", "v1", "cronjobs"),
                meta(json!({"spec": {"schedule": "* * * * *", "jobTemplate": {"spec": runs}}})),
            ),
            (
                ("autoscaling", "v2", "horizontalpodautoscalers"),
                meta(json!({"apiVersion": "autoscaling/v2", "spec": {"maxReplicas": 10,
                    "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "php-apache"}}})),
            ),
            (
                ("policy", "v1", "poddisruptionbudgets"),
                meta(json!({"spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "zk"}}}})),
            ),
            (
                ("scheduling.k8s.io", "v1", "priorityclasses"),
                testing::merged(&meta(json!({"value": 1_000_000})), &cluster),
            ),
            (
                ("", "v1", "limitranges"),
                meta(
                    json!({"spec": {"limits": [{"type": "Container", "default": {"cpu": "500m"}, "max": {"cpu": "1"}, "min": {"cpu": "100m"}}]}}),
                ),
            ),
            (
                ("", "v1", "resourcequotas"),
                meta(json!({"spec": {"hard": {"cpu": "1000", "memory": "200Gi", "pods": "10"}}})),
            ),
            (
                ("node.k8s.io", "v1", "runtimeclasses"),
                testing::merged(&meta(json!({"handler": "myconfiguration"})), &cluster),
            ),
        ]
    }

    #[test]
    fn minimal_examples_are_accepted_and_stay_as_they_are() {
        for (resource, example) in minimal_examples() {
            let object = testing::stored(resource, &example);
            let has_status = object.get("status").is_some();
            for subresource in ["", "status"].into_iter().filter(|name| name.is_empty() || has_status) {
                let (again, faults) = testing::updated(resource, subresource, &object, &object);
                assert_eq!(faults, Vec::<String>::new(), "{resource:?} {subresource}");
                assert_eq!(again, object, "{resource:?} {subresource}");
            }
            assert_eq!(testing::warnings(resource, &example), Vec::<String>::new(), "{resource:?}");
        }
    }
}

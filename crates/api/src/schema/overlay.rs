//! Facts neither source carries, by definition name and JSON field name.

/// Defaults of list keys: items are told apart by these keys even where a client leaves them out.
const KEY_DEFAULTS: &[(&str, &str, &str)] = &[
    ("io.k8s.api.core.v1.ContainerPort", "protocol", "\"TCP\""),
    ("io.k8s.api.core.v1.ServicePort", "protocol", "\"TCP\""),
];

pub(super) fn key_default(message: &str, field: &str) -> Option<&'static str> {
    KEY_DEFAULTS.iter().find(|(m, f, _)| *m == message && *f == field).map(|(_, _, d)| *d)
}

/// Structs Go holds by value, by the short name of their owner and by field: they are there in the
/// smallest object, so nobody comes to own them by writing below them. `*` stands for every root.
const HELD_BY_VALUE: &[(&str, &str)] = &[
    ("*", "metadata"),
    ("*", "spec"),
    ("*", "status"),
    ("PodTemplateSpec", "metadata"),
    ("PodTemplateSpec", "spec"),
    ("JobTemplateSpec", "metadata"),
    ("JobTemplateSpec", "spec"),
    ("ResourceClaimTemplateSpec", "metadata"),
    ("ResourceClaimTemplateSpec", "spec"),
    ("DeploymentSpec", "template"),
    ("DeploymentSpec", "strategy"),
    ("StatefulSetSpec", "template"),
    ("StatefulSetSpec", "updateStrategy"),
    ("DaemonSetSpec", "template"),
    ("DaemonSetSpec", "updateStrategy"),
    ("ReplicaSetSpec", "template"),
    ("JobSpec", "template"),
    ("CronJobSpec", "jobTemplate"),
    ("PodTemplate", "template"),
    ("PersistentVolumeClaimSpec", "resources"),
    ("ServiceStatus", "loadBalancer"),
    ("IngressStatus", "loadBalancer"),
    ("NodeStatus", "nodeInfo"),
    ("NodeStatus", "daemonEndpoints"),
    ("NodeDaemonEndpoints", "kubeletEndpoint"),
    ("Event", "involvedObject"),
    ("Event", "source"),
    ("Event", "regarding"),
    ("Event", "deprecatedSource"),
    ("RoleBinding", "roleRef"),
    ("ClusterRoleBinding", "roleRef"),
    ("NetworkPolicySpec", "podSelector"),
    ("HorizontalPodAutoscalerSpec", "scaleTargetRef"),
    ("VolumeAttachmentSpec", "source"),
    ("FlowSchemaSpec", "priorityLevelConfiguration"),
    ("CustomResourceDefinitionSpec", "names"),
    ("CustomResourceDefinitionStatus", "acceptedNames"),
    ("ResourceClaimSpec", "devices"),
    ("ResourceSliceSpec", "pool"),
];

pub(super) fn held_by_value(owner: &str, is_root: bool, field: &str) -> bool {
    HELD_BY_VALUE.iter().any(|(o, f)| *f == field && (*o == owner || (*o == "*" && is_root)))
}

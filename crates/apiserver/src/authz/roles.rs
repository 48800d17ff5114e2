//! The default roles as data. One line is one rule: `verbs | groups | resources [| names]`, or
//! `verbs | paths` for paths outside the API. `-` is the core group; `READ`, `WRITE` and `ALL` stand
//! for the usual verbs, `EVENTS` for the rule everybody who records events needs.

pub struct RoleData {
    pub name: &'static str,
    /// Which of `admin`, `edit` and `view` this role is gathered into.
    pub aggregates_to: &'static str,
    /// Whose label this role gathers; such a role has no rules of its own.
    pub aggregates: &'static str,
    pub rules: &'static [&'static str],
}

const fn role(name: &'static str, rules: &'static [&'static str]) -> RoleData {
    RoleData { name, aggregates_to: "", aggregates: "", rules }
}

const NODE_RULES: &[&str] = &[
    "create | authentication.k8s.io | tokenreviews",
    "create | authorization.k8s.io | localsubjectaccessreviews subjectaccessreviews",
    "READ | - | services",
    "create get list watch | - | nodes",
    "patch update | - | nodes/status",
    "patch update | - | nodes",
    "EVENTS",
    "READ | - | pods",
    "create delete | - | pods",
    "patch update | - | pods/status",
    "create | - | pods/eviction",
    "READ | - | configmaps secrets",
    "get | - | persistentvolumeclaims persistentvolumes",
    "get | - | endpoints",
    "create get list watch | certificates.k8s.io | certificatesigningrequests",
    "create delete get patch update | coordination.k8s.io | leases",
    "get | storage.k8s.io | volumeattachments",
    "get patch update | - | persistentvolumeclaims/status",
    "create | - | serviceaccounts/token",
    "READ | storage.k8s.io | csidrivers",
    "create delete get patch update | storage.k8s.io | csinodes",
    "READ | node.k8s.io | runtimeclasses",
    "get | resource.k8s.io | resourceclaims",
    "deletecollection | resource.k8s.io | resourceslices",
    "create delete get list patch update watch | resource.k8s.io | resourceslices",
];

const DISCOVERY_PATHS: &str =
    "get | /api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/";

pub const CLUSTER_ROLES: &[RoleData] = &[
    role("cluster-admin", &["* | * | *", "* | *"]),
    role("system:discovery", &[DISCOVERY_PATHS]),
    role(
        "system:monitoring",
        &["get | /healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/*"],
    ),
    role(
        "system:basic-user",
        &[
            "create | authorization.k8s.io | selfsubjectaccessreviews selfsubjectrulesreviews",
            "create | authentication.k8s.io | selfsubjectreviews",
        ],
    ),
    role("system:public-info-viewer", &["get | /healthz /livez /readyz /version /version/"]),
    RoleData { name: "admin", aggregates_to: "", aggregates: "admin", rules: &[] },
    RoleData { name: "edit", aggregates_to: "admin", aggregates: "edit", rules: &[] },
    RoleData { name: "view", aggregates_to: "edit", aggregates: "view", rules: &[] },
    RoleData {
        name: "system:aggregate-to-admin",
        aggregates_to: "admin",
        aggregates: "",
        rules: &[
            "create | authorization.k8s.io | localsubjectaccessreviews",
            "ALL | rbac.authorization.k8s.io | rolebindings roles",
        ],
    },
    RoleData {
        name: "system:aggregate-to-edit",
        aggregates_to: "edit",
        aggregates: "",
        rules: &[
            "READ | - | pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy",
            "impersonate | - | serviceaccounts",
            "WRITE | - | pods pods/attach pods/exec pods/portforward pods/proxy",
            "create | - | pods/eviction",
            "WRITE | - | configmaps events persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets serviceaccounts services services/proxy",
            "create | - | serviceaccounts/token",
            "WRITE | apps | daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets statefulsets/scale",
            "WRITE | autoscaling | horizontalpodautoscalers",
            "WRITE | batch | cronjobs jobs",
            "WRITE | extensions | daemonsets deployments deployments/rollback deployments/scale ingresses networkpolicies replicasets replicasets/scale replicationcontrollers/scale",
            "WRITE | policy | poddisruptionbudgets",
            "WRITE | networking.k8s.io | ingresses networkpolicies",
            "ALL | coordination.k8s.io | leases",
            "WRITE | resource.k8s.io | resourceclaims resourceclaimtemplates",
        ],
    },
    RoleData {
        name: "system:aggregate-to-view",
        aggregates_to: "view",
        aggregates: "",
        rules: &[
            "READ | - | configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods replicationcontrollers replicationcontrollers/scale serviceaccounts services services/status",
            "READ | - | bindings events limitranges namespaces/status pods/log pods/status replicationcontrollers/status resourcequotas resourcequotas/status",
            "READ | - | namespaces",
            "READ | discovery.k8s.io | endpointslices",
            "READ | apps | controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status replicasets replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status",
            "READ | autoscaling | horizontalpodautoscalers horizontalpodautoscalers/status",
            "READ | batch | cronjobs cronjobs/status jobs jobs/status",
            "READ | extensions | daemonsets daemonsets/status deployments deployments/scale deployments/status ingresses ingresses/status networkpolicies replicasets replicasets/scale replicasets/status replicationcontrollers/scale",
            "READ | policy | poddisruptionbudgets poddisruptionbudgets/status",
            "READ | networking.k8s.io | ingresses ingresses/status networkpolicies",
            "READ | resource.k8s.io | resourceclaims resourceclaims/status resourceclaimtemplates",
        ],
    },
    role("system:heapster", &["READ | - | events namespaces nodes pods", "READ | extensions | deployments"]),
    role("system:node", NODE_RULES),
    role("system:node-problem-detector", &["get | - | nodes", "patch | - | nodes/status", "EVENTS"]),
    role(
        "system:kubelet-api-admin",
        &[
            "READ | - | nodes",
            "proxy | - | nodes",
            "* | - | nodes/checkpoint nodes/configz nodes/healthz nodes/log nodes/metrics nodes/pods nodes/proxy nodes/stats",
        ],
    ),
    role(
        "system:node-bootstrapper",
        &["create get list watch | certificates.k8s.io | certificatesigningrequests"],
    ),
    role(
        "system:auth-delegator",
        &[
            "create | authentication.k8s.io | tokenreviews",
            "create | authorization.k8s.io | subjectaccessreviews",
        ],
    ),
    role("system:kube-aggregator", &["READ | - | endpoints services"]),
    role(
        "system:kube-controller-manager",
        &[
            "EVENTS",
            "create | coordination.k8s.io | leases",
            "get update | coordination.k8s.io | leases | kube-controller-manager",
            "create | - | secrets serviceaccounts",
            "delete | - | secrets",
            "get | - | configmaps namespaces secrets serviceaccounts",
            "update | - | secrets serviceaccounts",
            "create | authentication.k8s.io | tokenreviews",
            "create | authorization.k8s.io | subjectaccessreviews",
            "list watch | * | *",
            "create | - | serviceaccounts/token",
        ],
    ),
    role(
        "system:kube-dns",
        &["list watch | - | endpoints services", "list watch | discovery.k8s.io | endpointslices"],
    ),
    role(
        "system:persistent-volume-provisioner",
        &[
            "create delete get list watch | - | persistentvolumes",
            "get list update watch | - | persistentvolumeclaims",
            "READ | storage.k8s.io | storageclasses",
            "watch | - | events",
            "EVENTS",
        ],
    ),
    role(
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        &["create | certificates.k8s.io | certificatesigningrequests/nodeclient"],
    ),
    role(
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        &["create | certificates.k8s.io | certificatesigningrequests/selfnodeclient"],
    ),
    role(
        "system:volume-scheduler",
        &[
            "get list patch update watch | - | persistentvolumes",
            "READ | storage.k8s.io | storageclasses",
            "get list patch update watch | - | persistentvolumeclaims",
        ],
    ),
    role(
        "system:certificates.k8s.io:legacy-unknown-approver",
        &["approve | certificates.k8s.io | signers | kubernetes.io/legacy-unknown"],
    ),
    role(
        "system:certificates.k8s.io:kubelet-serving-approver",
        &["approve | certificates.k8s.io | signers | kubernetes.io/kubelet-serving"],
    ),
    role(
        "system:certificates.k8s.io:kube-apiserver-client-approver",
        &["approve | certificates.k8s.io | signers | kubernetes.io/kube-apiserver-client"],
    ),
    role(
        "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        &["approve | certificates.k8s.io | signers | kubernetes.io/kube-apiserver-client-kubelet"],
    ),
    role(
        "system:service-account-issuer-discovery",
        &[
            "get | /.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/",
        ],
    ),
    role(
        "system:node-proxier",
        &[
            "list watch | - | endpoints services",
            "READ | - | nodes",
            "EVENTS",
            "list watch | discovery.k8s.io | endpointslices",
            "list watch | networking.k8s.io | servicecidrs",
        ],
    ),
    role(
        "system:kube-scheduler",
        &[
            "EVENTS",
            "create | coordination.k8s.io | leases",
            "get list update watch | coordination.k8s.io | leases | kube-scheduler",
            "READ | - | nodes",
            "delete get list watch | - | pods",
            "create | - | bindings pods/binding",
            "patch update | - | pods/status",
            "READ | - | replicationcontrollers services",
            "READ | apps extensions | replicasets",
            "READ | apps | statefulsets",
            "READ | policy | poddisruptionbudgets",
            "READ | - | persistentvolumeclaims persistentvolumes",
            "create | authentication.k8s.io | tokenreviews",
            "create | authorization.k8s.io | subjectaccessreviews",
            "READ | storage.k8s.io | csinodes",
            "READ | - | namespaces",
            "READ | storage.k8s.io | csidrivers",
            "READ | storage.k8s.io | csistoragecapacities",
            "READ | storage.k8s.io | volumeattachments",
            "READ | resource.k8s.io | deviceclasses",
            "get list patch update watch | resource.k8s.io | resourceclaims",
            "patch update | resource.k8s.io | resourceclaims/status",
            "READ | resource.k8s.io | resourceslices",
            "READ | scheduling.k8s.io | priorityclasses",
        ],
    ),
];

/// `system:controller:<name>`, each bound to the service account of that name in kube-system.
pub const CONTROLLER_ROLES: &[(&str, &[&str])] = &[
    (
        "attachdetach-controller",
        &[
            "list watch | - | persistentvolumeclaims persistentvolumes",
            "READ | - | nodes",
            "patch update | - | nodes/status",
            "list watch | - | pods",
            "EVENTS",
            "create delete get list watch | storage.k8s.io | volumeattachments",
            "READ | storage.k8s.io | csidrivers",
            "READ | storage.k8s.io | csinodes",
        ],
    ),
    (
        "clusterrole-aggregation-controller",
        &["escalate get list patch update watch | rbac.authorization.k8s.io | clusterroles"],
    ),
    (
        "cronjob-controller",
        &[
            "get list update watch | batch | cronjobs",
            "create delete get list patch update watch | batch | jobs",
            "update | batch | cronjobs/status",
            "update | batch | cronjobs/finalizers",
            "delete list watch | - | pods",
            "EVENTS",
        ],
    ),
    (
        "daemon-set-controller",
        &[
            "READ | apps extensions | daemonsets",
            "update | apps extensions | daemonsets/status",
            "update | apps extensions | daemonsets/finalizers",
            "list watch | - | nodes",
            "create delete list patch watch | - | pods",
            "create | - | pods/binding",
            "create delete get list patch update watch | apps | controllerrevisions",
            "EVENTS",
        ],
    ),
    (
        "deployment-controller",
        &[
            "get list update watch | apps extensions | deployments",
            "update | apps extensions | deployments/status",
            "update | apps extensions | deployments/finalizers",
            "create delete get list patch update watch | apps extensions | replicasets",
            "get list update watch | - | pods",
            "EVENTS",
        ],
    ),
    (
        "disruption-controller",
        &[
            "READ | apps extensions | deployments",
            "READ | apps extensions | replicasets",
            "READ | - | replicationcontrollers",
            "READ | policy | poddisruptionbudgets",
            "READ | apps | statefulsets",
            "update | policy | poddisruptionbudgets/status",
            "patch update | - | pods/status",
            "get | * | */scale",
            "EVENTS",
        ],
    ),
    (
        "endpoint-controller",
        &[
            "READ | - | pods services",
            "create delete get list update watch | - | endpoints",
            "create | - | endpoints/restricted",
            "EVENTS",
        ],
    ),
    (
        "endpointslice-controller",
        &[
            "READ | - | nodes pods services",
            "update | - | services/finalizers",
            "create delete get list update watch | discovery.k8s.io | endpointslices",
            "EVENTS",
        ],
    ),
    (
        "endpointslicemirroring-controller",
        &[
            "READ | - | endpoints services",
            "update | - | services/finalizers",
            "update | - | endpoints/finalizers",
            "create delete get list update watch | discovery.k8s.io | endpointslices",
            "EVENTS",
        ],
    ),
    (
        "expand-controller",
        &[
            "get list patch update watch | - | persistentvolumes",
            "patch update | - | persistentvolumeclaims/status",
            "READ | - | persistentvolumeclaims",
            "EVENTS",
            "get | - | services",
        ],
    ),
    (
        "ephemeral-volume-controller",
        &[
            "READ | - | pods",
            "update | - | pods/finalizers",
            "create get list watch | - | persistentvolumeclaims",
            "EVENTS",
        ],
    ),
    (
        "resource-claim-controller",
        &[
            "READ | - | pods",
            "update | - | pods/finalizers",
            "create delete get list watch | resource.k8s.io | resourceclaims",
            "patch update | resource.k8s.io | resourceclaims resourceclaims/status",
            "patch update | - | pods/status",
            "EVENTS",
        ],
    ),
    ("generic-garbage-collector", &["delete get list patch update watch | * | *", "EVENTS"]),
    (
        "horizontal-pod-autoscaler",
        &[
            "READ | autoscaling | horizontalpodautoscalers",
            "update | autoscaling | horizontalpodautoscalers/status",
            "get update | * | */scale",
            "list watch | - | pods",
            "list watch | metrics.k8s.io | pods",
            "READ | custom.metrics.k8s.io | *",
            "READ | external.metrics.k8s.io | *",
            "EVENTS",
        ],
    ),
    (
        "job-controller",
        &[
            "get list patch update watch | batch | jobs",
            "update | batch | jobs/status",
            "update | batch | jobs/finalizers",
            "create delete list patch watch | - | pods",
            "EVENTS",
        ],
    ),
    (
        "namespace-controller",
        &[
            "delete get list watch | - | namespaces",
            "update | - | namespaces/finalize namespaces/status",
            "delete deletecollection get list watch | * | *",
        ],
    ),
    (
        "node-controller",
        &[
            "delete get list patch update watch | - | nodes",
            "patch update | - | nodes/status",
            "patch update | - | pods/status",
            "delete get list watch | - | pods",
            "EVENTS",
        ],
    ),
    (
        "persistent-volume-binder",
        &[
            "create delete get list update watch | - | persistentvolumes",
            "update | - | persistentvolumes/status",
            "get list update watch | - | persistentvolumeclaims",
            "update | - | persistentvolumeclaims/status",
            "create delete get list watch | - | pods",
            "READ | storage.k8s.io | storageclasses",
            "list watch | - | nodes",
            "EVENTS",
            "watch | - | events",
            "get | - | services",
        ],
    ),
    (
        "pod-garbage-collector",
        &["delete list watch | - | pods", "READ | - | nodes", "patch | - | pods/status"],
    ),
    (
        "replicaset-controller",
        &[
            "get list update watch | apps extensions | replicasets",
            "update | apps extensions | replicasets/status",
            "update | apps extensions | replicasets/finalizers",
            "create delete list patch watch | - | pods",
            "EVENTS",
        ],
    ),
    (
        "replication-controller",
        &[
            "get list update watch | - | replicationcontrollers",
            "update | - | replicationcontrollers/status",
            "update | - | replicationcontrollers/finalizers",
            "create delete list patch watch | - | pods",
            "EVENTS",
        ],
    ),
    ("resourcequota-controller", &["list watch | * | *", "update | - | resourcequotas/status", "EVENTS"]),
    ("route-controller", &["list watch | - | nodes", "patch | - | nodes/status", "EVENTS"]),
    ("service-account-controller", &["create | - | serviceaccounts", "EVENTS"]),
    (
        "service-controller",
        &["READ | - | services", "patch update | - | services/status", "list watch | - | nodes", "EVENTS"],
    ),
    (
        "service-cidrs-controller",
        &[
            "get list patch update watch | networking.k8s.io | servicecidrs",
            "patch update | networking.k8s.io | servicecidrs/finalizers",
            "patch update | networking.k8s.io | servicecidrs/status",
            "READ | networking.k8s.io | ipaddresses",
            "EVENTS",
        ],
    ),
    (
        "statefulset-controller",
        &[
            "list watch | - | pods",
            "READ | apps | statefulsets",
            "update | apps | statefulsets/status",
            "update | apps | statefulsets/finalizers",
            "create delete get patch update | - | pods",
            "create delete get list patch update watch | apps | controllerrevisions",
            "create get list watch | - | persistentvolumeclaims",
            "delete update | - | persistentvolumeclaims",
            "update | - | pods/finalizers",
            "EVENTS",
        ],
    ),
    ("ttl-controller", &["list patch update watch | - | nodes", "EVENTS"]),
    (
        "certificate-controller",
        &[
            "delete get list watch | certificates.k8s.io | certificatesigningrequests",
            "update | certificates.k8s.io | certificatesigningrequests/approval certificatesigningrequests/status",
            "approve | certificates.k8s.io | signers | kubernetes.io/kube-apiserver-client-kubelet",
            "sign | certificates.k8s.io | signers | kubernetes.io/kube-apiserver-client kubernetes.io/kube-apiserver-client-kubelet kubernetes.io/kubelet-serving kubernetes.io/legacy-unknown",
            "create | authorization.k8s.io | subjectaccessreviews",
            "EVENTS",
        ],
    ),
    (
        "pvc-protection-controller",
        &["get list update watch | - | persistentvolumeclaims", "READ | - | pods", "EVENTS"],
    ),
    ("pv-protection-controller", &["get list update watch | - | persistentvolumes", "EVENTS"]),
    (
        "volumeattributesclass-protection-controller",
        &[
            "READ | - | persistentvolumeclaims",
            "READ | - | persistentvolumes",
            "get list update watch | storage.k8s.io | volumeattributesclasses",
            "EVENTS",
        ],
    ),
    ("ttl-after-finished-controller", &["delete get list watch | batch | jobs", "EVENTS"]),
    ("root-ca-cert-publisher", &["create update | - | configmaps", "EVENTS"]),
    (
        "validatingadmissionpolicy-status-controller",
        &[
            "READ | admissionregistration.k8s.io | validatingadmissionpolicies",
            "get patch update | admissionregistration.k8s.io | validatingadmissionpolicies/status",
            "EVENTS",
        ],
    ),
    (
        "legacy-service-account-token-cleaner",
        &[
            "get | - | configmaps | kube-apiserver-legacy-service-account-token-tracking",
            "delete patch | - | secrets",
        ],
    ),
    (
        "selinux-warning-controller",
        &[
            "EVENTS",
            "READ | - | persistentvolumes",
            "READ | - | persistentvolumeclaims",
            "READ | - | pods",
            "READ | storage.k8s.io | csidrivers",
        ],
    ),
];

/// Cluster role, then `g:` groups, `u:` users and `s:namespace/name` service accounts.
pub const CLUSTER_BINDINGS: &[(&str, &[&str])] = &[
    ("cluster-admin", &["g:system:masters"]),
    ("system:monitoring", &["g:system:monitoring"]),
    ("system:discovery", &["g:system:authenticated"]),
    ("system:basic-user", &["g:system:authenticated"]),
    ("system:public-info-viewer", &["g:system:authenticated", "g:system:unauthenticated"]),
    ("system:node-proxier", &["u:system:kube-proxy"]),
    ("system:kube-controller-manager", &["u:system:kube-controller-manager"]),
    ("system:kube-dns", &["s:kube-system/kube-dns"]),
    ("system:kube-scheduler", &["u:system:kube-scheduler"]),
    ("system:volume-scheduler", &["u:system:kube-scheduler"]),
    // Kubelets have the node authorizer; the binding stays, without subjects, as upstream keeps it.
    ("system:node", &[]),
    ("system:service-account-issuer-discovery", &["g:system:serviceaccounts"]),
];

/// Namespace, role, rules.
pub const ROLES: &[(&str, &str, &[&str])] = &[
    (
        "kube-system",
        "extension-apiserver-authentication-reader",
        &["READ | - | configmaps | extension-apiserver-authentication"],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-controller-manager",
        &["watch | - | configmaps", "get update | - | configmaps | kube-controller-manager"],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-scheduler",
        &["watch | - | configmaps", "get update | - | configmaps | kube-scheduler"],
    ),
    ("kube-system", "system:controller:bootstrap-signer", &["READ | - | secrets"]),
    ("kube-system", "system:controller:cloud-provider", &["create get list watch | - | configmaps"]),
    ("kube-system", "system:controller:token-cleaner", &["delete get list watch | - | secrets", "EVENTS"]),
    (
        "kube-public",
        "system:controller:bootstrap-signer",
        &["READ | - | configmaps", "update | - | configmaps | cluster-info", "EVENTS"],
    ),
];

/// Namespace, binding, role, subjects.
pub const ROLE_BINDINGS: &[(&str, &str, &str, &[&str])] = &[
    (
        "kube-system",
        "system::extension-apiserver-authentication-reader",
        "extension-apiserver-authentication-reader",
        &["u:system:kube-controller-manager", "u:system:kube-scheduler"],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-controller-manager",
        "system::leader-locking-kube-controller-manager",
        &["u:system:kube-controller-manager", "s:kube-system/kube-controller-manager"],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-scheduler",
        "system::leader-locking-kube-scheduler",
        &["u:system:kube-scheduler", "s:kube-system/kube-scheduler"],
    ),
    (
        "kube-system",
        "system:controller:bootstrap-signer",
        "system:controller:bootstrap-signer",
        &["s:kube-system/bootstrap-signer"],
    ),
    (
        "kube-system",
        "system:controller:cloud-provider",
        "system:controller:cloud-provider",
        &["s:kube-system/cloud-provider"],
    ),
    (
        "kube-system",
        "system:controller:token-cleaner",
        "system:controller:token-cleaner",
        &["s:kube-system/token-cleaner"],
    ),
    (
        "kube-public",
        "system:controller:bootstrap-signer",
        "system:controller:bootstrap-signer",
        &["s:kube-system/bootstrap-signer"],
    ),
];

//! The built-in resources as one table, in the order of discovery's groups. A row is a short chain
//! of words; `builtin` expands them once.

/// One line of the table. Lists are words separated by blanks.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub group: &'static str,
    pub version: &'static str,
    pub plural: &'static str,
    pub kind: &'static str,
    pub namespaced: bool,
    pub verbs: &'static str,
    pub short_names: &'static str,
    pub categories: &'static str,
    /// `name`, or `name=Kind:verb,verb` (Kind empty: the parent's), or
    /// `name=group/version/Kind:verb,verb`.
    pub subresources: &'static str,
    pub prefix: &'static str,
    /// Where it is stored at another version than served: `group/version`.
    pub stored_at: &'static str,
    pub hash: &'static str,
    /// `label`, `label~absent` or `label=pointer~absent`; the pointer defaults to the label's path.
    pub fields: &'static str,
}

const ALL: &str = "create delete deletecollection get list patch update watch";

const fn row(
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    kind: &'static str,
    hash: &'static str,
) -> Row {
    Row {
        group,
        version,
        plural,
        kind,
        namespaced: true,
        verbs: ALL,
        short_names: "",
        categories: "",
        subresources: "",
        prefix: plural,
        stored_at: "",
        hash,
        fields: "",
    }
}

impl Row {
    const fn cluster(mut self) -> Self {
        self.namespaced = false;
        self
    }
    const fn verbs(mut self, verbs: &'static str) -> Self {
        self.verbs = verbs;
        self
    }
    const fn short(mut self, names: &'static str) -> Self {
        self.short_names = names;
        self
    }
    const fn categories(mut self, names: &'static str) -> Self {
        self.categories = names;
        self
    }
    const fn subs(mut self, subresources: &'static str) -> Self {
        self.subresources = subresources;
        self
    }
    const fn prefix(mut self, prefix: &'static str) -> Self {
        self.prefix = prefix;
        self
    }
    const fn stored_at(mut self, group_version: &'static str) -> Self {
        self.stored_at = group_version;
        self
    }
    const fn fields(mut self, fields: &'static str) -> Self {
        self.fields = fields;
        self
    }
}

/// A resource that only answers: no storage.
const fn review(group: &'static str, version: &'static str, plural: &'static str, kind: &'static str) -> Row {
    row(group, version, plural, kind, "").cluster().verbs("create").prefix("")
}

const CORE: &str = "";
const ADMISSION: &str = "admissionregistration.k8s.io";
const NETWORKING: &str = "networking.k8s.io";
const RBAC: &str = "rbac.authorization.k8s.io";
const STORAGE: &str = "storage.k8s.io";
const FLOW: &str = "flowcontrol.apiserver.k8s.io";
const RESOURCE: &str = "resource.k8s.io";
const OWN: &str = crate::scheduling_review::GROUP;
const EXTENSION: &str = "api-extensions";
const SCALE_STATUS: &str = "scale status";

const POD_SUBRESOURCES: &str = "attach=PodAttachOptions:create,get binding=Binding:create \
    ephemeralcontainers=:get,patch,update eviction=policy/v1/Eviction:create \
    exec=PodExecOptions:create,get log=:get portforward=PodPortForwardOptions:create,get \
    proxy=PodProxyOptions:create,delete,get,patch,update resize=:get,patch,update status";

const POD_FIELDS: &str = "spec.nodeName spec.host=/spec/nodeName spec.restartPolicy spec.schedulerName \
    spec.serviceAccountName spec.hostNetwork~false status.phase status.podIP \
    status.podIPs=/status/podIPs/0/ip status.nominatedNodeName";

const EVENT_FIELDS: &str = "involvedObject.kind involvedObject.namespace involvedObject.name \
    involvedObject.uid involvedObject.apiVersion involvedObject.resourceVersion involvedObject.fieldPath \
    reason reportingComponent source=/source/component~/reportingComponent type";

const NEW_EVENT_FIELDS: &str = "involvedObject.kind involvedObject.namespace involvedObject.name \
    involvedObject.uid involvedObject.apiVersion involvedObject.resourceVersion involvedObject.fieldPath \
    reason reportingComponent source=/source/component~/reportingComponent type \
    regarding.kind=/involvedObject/kind regarding.namespace=/involvedObject/namespace \
    regarding.name=/involvedObject/name regarding.uid=/involvedObject/uid \
    regarding.apiVersion=/involvedObject/apiVersion regarding.resourceVersion=/involvedObject/resourceVersion \
    regarding.fieldPath=/involvedObject/fieldPath reportingController=/reportingComponent";

pub(super) const ROWS: &[Row] = &[
    row("apiregistration.k8s.io", "v1", "apiservices", "APIService", "InPBPD7+PqM=")
        .cluster()
        .categories(EXTENSION)
        .subs("status")
        .prefix("apiregistration.k8s.io/apiservices"),
    row(CORE, "v1", "bindings", "Binding", "").verbs("create").prefix(""),
    row(CORE, "v1", "componentstatuses", "ComponentStatus", "")
        .cluster()
        .verbs("get list")
        .short("cs")
        .prefix(""),
    row(CORE, "v1", "configmaps", "ConfigMap", "qFsyl6wFWjQ=").short("cm"),
    row(CORE, "v1", "endpoints", "Endpoints", "fWeeMqaN/OA=").short("ep").prefix("services/endpoints"),
    row(CORE, "v1", "events", "Event", "r2yiGXH7wu8=").short("ev").fields(EVENT_FIELDS),
    row(CORE, "v1", "limitranges", "LimitRange", "EBKMFVe6cwo=").short("limits"),
    row(CORE, "v1", "namespaces", "Namespace", "Q3oi5N2YM8M=")
        .cluster()
        .verbs("create delete get list patch update watch")
        .short("ns")
        .subs("finalize=:update status")
        .fields("status.phase"),
    row(CORE, "v1", "nodes", "Node", "XwShjMxG9Fs=")
        .cluster()
        .short("no")
        .subs("proxy=NodeProxyOptions:create,delete,get,patch,update status")
        .prefix("minions")
        .fields("spec.unschedulable~false"),
    row(CORE, "v1", "persistentvolumeclaims", "PersistentVolumeClaim", "QWTyNDq0dC4=")
        .short("pvc")
        .subs("status"),
    row(CORE, "v1", "persistentvolumes", "PersistentVolume", "HN/zwEC+JgM=")
        .cluster()
        .short("pv")
        .subs("status"),
    row(CORE, "v1", "pods", "Pod", "xPOwRZ+Yhw8=")
        .short("po")
        .categories("all")
        .subs(POD_SUBRESOURCES)
        .fields(POD_FIELDS),
    row(CORE, "v1", "podtemplates", "PodTemplate", "LIXB2x4IFpk="),
    row(CORE, "v1", "replicationcontrollers", "ReplicationController", "Jond2If31h0=")
        .short("rc")
        .categories("all")
        .subs(SCALE_STATUS)
        .prefix("controllers")
        .fields("status.replicas~0"),
    row(CORE, "v1", "resourcequotas", "ResourceQuota", "8uhSgffRX6w=").short("quota").subs("status"),
    row(CORE, "v1", "secrets", "Secret", "S6u1pOWzb84=").fields("type"),
    row(CORE, "v1", "serviceaccounts", "ServiceAccount", "pbx9ZvyFpBE=")
        .short("sa")
        .subs("token=authentication.k8s.io/v1/TokenRequest:create"),
    row(CORE, "v1", "services", "Service", "0/CO1lhkEBI=")
        .short("svc")
        .categories("all")
        .subs("proxy=ServiceProxyOptions:create,delete,get,patch,update status")
        .prefix("services/specs")
        .fields("spec.clusterIP spec.type"),
    row("apps", "v1", "controllerrevisions", "ControllerRevision", "85nkx63pcBU="),
    row("apps", "v1", "daemonsets", "DaemonSet", "dd7pWHUlMKQ=").short("ds").categories("all").subs("status"),
    row("apps", "v1", "deployments", "Deployment", "8aSe+NMegvE=")
        .short("deploy")
        .categories("all")
        .subs(SCALE_STATUS),
    row("apps", "v1", "replicasets", "ReplicaSet", "P1RzHs8/mWQ=")
        .short("rs")
        .categories("all")
        .subs(SCALE_STATUS)
        .fields("status.replicas~0"),
    row("apps", "v1", "statefulsets", "StatefulSet", "H+vl74LkKdo=")
        .short("sts")
        .categories("all")
        .subs(SCALE_STATUS),
    row("events.k8s.io", "v1", "events", "Event", "r2yiGXH7wu8=")
        .short("ev")
        .stored_at("v1")
        .fields(NEW_EVENT_FIELDS),
    review("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview"),
    review("authentication.k8s.io", "v1", "tokenreviews", "TokenReview"),
    row("authorization.k8s.io", "v1", "localsubjectaccessreviews", "LocalSubjectAccessReview", "")
        .verbs("create")
        .prefix(""),
    review("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
    review("authorization.k8s.io", "v1", "selfsubjectrulesreviews", "SelfSubjectRulesReview"),
    review("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview"),
    row("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", "qwQve8ut294=")
        .short("hpa")
        .categories("all")
        .subs("status"),
    row("autoscaling", "v1", "horizontalpodautoscalers", "HorizontalPodAutoscaler", "qwQve8ut294=")
        .short("hpa")
        .categories("all")
        .subs("status")
        .stored_at("autoscaling/v2"),
    row("batch", "v1", "cronjobs", "CronJob", "sd5LIXh4Fjs=").short("cj").categories("all").subs("status"),
    row("batch", "v1", "jobs", "Job", "mudhfqk/qZY=")
        .categories("all")
        .subs("status")
        .fields("status.successful=/status/succeeded~0"),
    row(
        "certificates.k8s.io",
        "v1",
        "certificatesigningrequests",
        "CertificateSigningRequest",
        "95fRKMXA+00=",
    )
    .cluster()
    .short("csr")
    .subs("approval=:get,patch,update status")
    .fields("spec.signerName"),
    row(NETWORKING, "v1", "ingressclasses", "IngressClass", "l/iqIbDgFyQ=").cluster(),
    row(NETWORKING, "v1", "ingresses", "Ingress", "39NQlfNR+bo=")
        .short("ing")
        .subs("status")
        .prefix("ingress"),
    row(NETWORKING, "v1", "ipaddresses", "IPAddress", "3f/plJFChNE=").cluster().short("ip"),
    row(NETWORKING, "v1", "networkpolicies", "NetworkPolicy", "YpfwF18m1G8=").short("netpol"),
    row(NETWORKING, "v1", "servicecidrs", "ServiceCIDR", "gNLvruQhW2g=").cluster().subs("status"),
    row("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", "EVWiDmWqyJw=")
        .short("pdb")
        .subs("status"),
    row(RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", "48tpQ8gZHFc=").cluster(),
    row(RBAC, "v1", "clusterroles", "ClusterRole", "bYE5ZWDrJ44=").cluster(),
    row(RBAC, "v1", "rolebindings", "RoleBinding", "eGsCzGH6b1g="),
    row(RBAC, "v1", "roles", "Role", "7FuwZcIIItM="),
    row(STORAGE, "v1", "csidrivers", "CSIDriver", "hL6j/rwBV5w=").cluster(),
    row(STORAGE, "v1", "csinodes", "CSINode", "Pe62DkZtjuo=").cluster(),
    row(STORAGE, "v1", "csistoragecapacities", "CSIStorageCapacity", "xeVl+2Ly1kE="),
    row(STORAGE, "v1", "storageclasses", "StorageClass", "K+m6uJwbjGY=").cluster().short("sc"),
    row(STORAGE, "v1", "volumeattachments", "VolumeAttachment", "tJx/ezt6UDU=").cluster().subs("status"),
    row(STORAGE, "v1", "volumeattributesclasses", "VolumeAttributesClass", "tIjydgKBC5w=")
        .cluster()
        .short("vac"),
    row(ADMISSION, "v1", "mutatingwebhookconfigurations", "MutatingWebhookConfiguration", "Sqi0GUgDaX0=")
        .cluster()
        .categories(EXTENSION),
    row(ADMISSION, "v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy", "6OxvlMmQ6is=")
        .cluster()
        .categories(EXTENSION)
        .subs("status"),
    row(
        ADMISSION,
        "v1",
        "validatingadmissionpolicybindings",
        "ValidatingAdmissionPolicyBinding",
        "v9715VZqakg=",
    )
    .cluster()
    .categories(EXTENSION),
    row(ADMISSION, "v1", "validatingwebhookconfigurations", "ValidatingWebhookConfiguration", "B0wHjQmsGNk=")
        .cluster()
        .categories(EXTENSION),
    row(
        "apiextensions.k8s.io",
        "v1",
        "customresourcedefinitions",
        "CustomResourceDefinition",
        "M5uH+AlWATY=",
    )
    .cluster()
    .short("crd crds")
    .categories(EXTENSION)
    .subs("status")
    .prefix("apiextensions.k8s.io/customresourcedefinitions"),
    row("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", "1QwjyaZjj3Y=").cluster().short("pc"),
    row("coordination.k8s.io", "v1", "leases", "Lease", "gqkMMb/YqFM="),
    row("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", "WQTu1GL3T2Q=").cluster(),
    row("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", "qgS0xkrxYAI="),
    row(FLOW, "v1", "flowschemas", "FlowSchema", "GJVAJZSZBIw=").cluster().subs("status"),
    row(FLOW, "v1", "prioritylevelconfigurations", "PriorityLevelConfiguration", "Kir5PVfvNeI=")
        .cluster()
        .subs("status"),
    row(RESOURCE, "v1", "deviceclasses", "DeviceClass", "Yk2PTc1Ybxk=").cluster(),
    row(RESOURCE, "v1", "resourceclaims", "ResourceClaim", "wgAZaHcZxUg=").subs("status"),
    row(RESOURCE, "v1", "resourceclaimtemplates", "ResourceClaimTemplate", "TuzjC49aUfM="),
    row(RESOURCE, "v1", "resourceslices", "ResourceSlice", "KsC072WgaEY=")
        .cluster()
        .fields("spec.nodeName spec.driver"),
    row(
        OWN,
        crate::scheduling_review::VERSION,
        crate::scheduling_review::PLURAL,
        crate::scheduling_review::KIND,
        "",
    )
    .verbs("create")
    .prefix(""),
];

"""The Python client's typed API: every verb on every common kind, watches, pages, patches."""

import sys
import threading

from kubernetes import client, config, watch
from kubernetes.client.rest import ApiException

config.load_kube_config(sys.argv[1])
NAMESPACE = "python-typed"
core, apps, batch = client.CoreV1Api(), client.AppsV1Api(), client.BatchV1Api()
core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))


def meta(name, **more):
    return client.V1ObjectMeta(name=name, **more)


def pod_template(app="app"):
    container = client.V1Container(name="c", image="nginx", resources=client.V1ResourceRequirements(requests={"cpu": "10m"}))
    return client.V1PodTemplateSpec(metadata=client.V1ObjectMeta(labels={"app": app}), spec=client.V1PodSpec(containers=[container]))


def job_template():
    template = pod_template()
    template.spec.restart_policy = "Never"
    return template


def selector(app="app"):
    return client.V1LabelSelector(match_labels={"app": app})


def refused(code, call, *args, **more):
    try:
        call(*args, **more)
    except ApiException as error:
        assert error.status == code, (code, error.status, error.body)
        return error
    raise AssertionError(f"{call.__name__} was not refused")


# (api, the method's noun, namespaced, body)
KINDS = [
    (core, "config_map", True, client.V1ConfigMap(metadata=meta("a"), data={"k": "v"}, binary_data={"b": "AAEC"})),
    (core, "secret", True, client.V1Secret(metadata=meta("a"), string_data={"k": "v"})),
    (core, "service_account", True, client.V1ServiceAccount(metadata=meta("a"))),
    (core, "service", True, client.V1Service(metadata=meta("a"), spec=client.V1ServiceSpec(ports=[client.V1ServicePort(port=80)], selector={"app": "app"}))),
    (core, "pod", True, client.V1Pod(metadata=meta("a"), spec=pod_template().spec)),
    (core, "replication_controller", True, client.V1ReplicationController(metadata=meta("a"), spec=client.V1ReplicationControllerSpec(replicas=1, selector={"app": "rc"}, template=pod_template("rc")))),
    (core, "persistent_volume_claim", True, client.V1PersistentVolumeClaim(metadata=meta("a"), spec=client.V1PersistentVolumeClaimSpec(access_modes=["ReadWriteOnce"], storage_class_name="none", resources=client.V1VolumeResourceRequirements(requests={"storage": "1Gi"})))),
    (core, "limit_range", True, client.V1LimitRange(metadata=meta("a"), spec=client.V1LimitRangeSpec(limits=[client.V1LimitRangeItem(type="Container", max={"cpu": "4"})]))),
    (core, "resource_quota", True, client.V1ResourceQuota(metadata=meta("a"), spec=client.V1ResourceQuotaSpec(hard={"pods": "100"}))),
    (core, "pod_template", True, client.V1PodTemplate(metadata=meta("a"), template=pod_template())),
    (core, "persistent_volume", False, client.V1PersistentVolume(metadata=meta("python-a"), spec=client.V1PersistentVolumeSpec(capacity={"storage": "1Gi"}, access_modes=["ReadWriteOnce"], host_path=client.V1HostPathVolumeSource(path="/srv/a")))),
    (apps, "deployment", True, client.V1Deployment(metadata=meta("a"), spec=client.V1DeploymentSpec(selector=selector("d"), template=pod_template("d")))),
    (apps, "replica_set", True, client.V1ReplicaSet(metadata=meta("a"), spec=client.V1ReplicaSetSpec(selector=selector("r"), template=pod_template("r")))),
    (apps, "stateful_set", True, client.V1StatefulSet(metadata=meta("a"), spec=client.V1StatefulSetSpec(service_name="a", selector=selector("s"), template=pod_template("s")))),
    (apps, "daemon_set", True, client.V1DaemonSet(metadata=meta("a"), spec=client.V1DaemonSetSpec(selector=selector("e"), template=pod_template("e")))),
    (apps, "controller_revision", True, client.V1ControllerRevision(metadata=meta("a"), revision=1, data={"x": 1})),
    (batch, "job", True, client.V1Job(metadata=meta("a"), spec=client.V1JobSpec(template=job_template()))),
    (batch, "cron_job", True, client.V1CronJob(metadata=meta("a"), spec=client.V1CronJobSpec(schedule="0 0 * * *", job_template=client.V1JobTemplateSpec(spec=client.V1JobSpec(template=job_template()))))),
    (client.AutoscalingV2Api(), "horizontal_pod_autoscaler", True, client.V2HorizontalPodAutoscaler(metadata=meta("a"), spec=client.V2HorizontalPodAutoscalerSpec(max_replicas=3, scale_target_ref=client.V2CrossVersionObjectReference(api_version="apps/v1", kind="Deployment", name="a")))),
    (client.AutoscalingV1Api(), "horizontal_pod_autoscaler", True, client.V1HorizontalPodAutoscaler(metadata=meta("b"), spec=client.V1HorizontalPodAutoscalerSpec(max_replicas=3, target_cpu_utilization_percentage=50, scale_target_ref=client.V1CrossVersionObjectReference(api_version="apps/v1", kind="Deployment", name="a")))),
    (client.PolicyV1Api(), "pod_disruption_budget", True, client.V1PodDisruptionBudget(metadata=meta("a"), spec=client.V1PodDisruptionBudgetSpec(min_available="50%", selector=selector()))),
    (client.NetworkingV1Api(), "ingress", True, client.V1Ingress(metadata=meta("a"), spec=client.V1IngressSpec(default_backend=client.V1IngressBackend(service=client.V1IngressServiceBackend(name="a", port=client.V1ServiceBackendPort(number=80)))))),
    (client.NetworkingV1Api(), "network_policy", True, client.V1NetworkPolicy(metadata=meta("a"), spec=client.V1NetworkPolicySpec(pod_selector=client.V1LabelSelector()))),
    (client.NetworkingV1Api(), "ingress_class", False, client.V1IngressClass(metadata=meta("python-a"), spec=client.V1IngressClassSpec(controller="example.com/a"))),
    (client.RbacAuthorizationV1Api(), "role", True, client.V1Role(metadata=meta("a"), rules=[client.V1PolicyRule(api_groups=[""], resources=["pods"], verbs=["get"])])),
    (client.RbacAuthorizationV1Api(), "role_binding", True, client.V1RoleBinding(metadata=meta("a"), role_ref=client.V1RoleRef(api_group="rbac.authorization.k8s.io", kind="Role", name="a"), subjects=[client.RbacV1Subject(kind="User", name="jane", api_group="rbac.authorization.k8s.io")])),
    (client.RbacAuthorizationV1Api(), "cluster_role", False, client.V1ClusterRole(metadata=meta("python-a"), rules=[client.V1PolicyRule(non_resource_ur_ls=["/healthz"], verbs=["get"])])),
    (client.CoordinationV1Api(), "lease", True, client.V1Lease(metadata=meta("a"), spec=client.V1LeaseSpec(holder_identity="me", lease_duration_seconds=15))),
    (client.DiscoveryV1Api(), "endpoint_slice", True, client.V1EndpointSlice(metadata=meta("a"), address_type="IPv4", endpoints=[client.V1Endpoint(addresses=["192.0.2.1"])], ports=[client.DiscoveryV1EndpointPort(port=80)])),
    (client.SchedulingV1Api(), "priority_class", False, client.V1PriorityClass(metadata=meta("python-a"), value=5)),
    (client.StorageV1Api(), "storage_class", False, client.V1StorageClass(metadata=meta("python-a"), provisioner="example.com/a")),
    (client.StorageV1Api(), "csi_driver", False, client.V1CSIDriver(metadata=meta("python-a"), spec=client.V1CSIDriverSpec())),
    (client.NodeV1Api(), "runtime_class", False, client.V1RuntimeClass(metadata=meta("python-a"), handler="a")),
]


def crud(api, noun, namespaced, body):
    scope = "namespaced_" if namespaced else ""
    where = {"namespace": NAMESPACE} if namespaced else {}
    call = lambda verb: getattr(api, f"{verb}_{scope}{noun}")
    name = body.metadata.name

    created = call("create")(body=body, **where)
    assert created.metadata.uid and created.metadata.creation_timestamp, noun
    refused(409, call("create"), body=body, **where)
    read = call("read")(name=name, **where)
    assert read.metadata.uid == created.metadata.uid, noun

    patched = call("patch")(name=name, body={"metadata": {"labels": {"patched": "yes"}}}, **where)
    assert patched.metadata.labels["patched"] == "yes", noun
    listed = call("list")(label_selector="patched=yes", **where)
    assert [item.metadata.name for item in listed.items] == [name], noun

    # The latest version, since controllers write too; retried as every client has to.
    for _ in range(10):
        current = call("read")(name=name, **where)
        current.metadata.annotations = {**(current.metadata.annotations or {}), "replaced": "yes"}
        try:
            replaced = call("replace")(name=name, body=current, **where)
            break
        except ApiException as error:
            assert error.status == 409, error
    assert replaced.metadata.annotations["replaced"] == "yes", noun
    current.metadata.resource_version = "1"
    refused(409, call("replace"), name=name, body=current, **where)

    options = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid="0d6b3b3c-0000-0000-0000-000000000000"))
    refused(409, call("delete"), name=name, body=options, **where)
    call("delete")(name=name, propagation_policy="Background", grace_period_seconds=0, dry_run="All", **where)
    call("read")(name=name, **where)
    call("delete")(name=name, propagation_policy="Background", grace_period_seconds=0, **where)
    refused(404, call("delete"), name="never-there", **where)


def patches():
    core.create_namespaced_config_map(NAMESPACE, client.V1ConfigMap(metadata=meta("patched"), data={"a": "1"}))
    api = client.ApiClient()

    def patch(body, content_type, **query):
        return api.call_api(
            f"/api/v1/namespaces/{NAMESPACE}/configmaps/patched", "PATCH",
            header_params={"Content-Type": content_type, "Accept": "application/json"},
            query_params=list(query.items()), body=body, response_type="V1ConfigMap",
            auth_settings=["BearerToken"], _return_http_data_only=True)

    assert patch([{"op": "add", "path": "/data/b", "value": "2"}], "application/json-patch+json").data == {"a": "1", "b": "2"}
    assert patch({"data": {"a": None}}, "application/merge-patch+json").data == {"b": "2"}
    assert patch({"data": {"c": "3"}}, "application/strategic-merge-patch+json").data == {"b": "2", "c": "3"}
    applied = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "patched"}, "data": {"d": "4"}}
    got = patch(applied, "application/apply-patch+yaml", fieldManager="python", force="false")
    assert got.data == {"b": "2", "c": "3", "d": "4"}
    assert any(m.manager == "python" and m.operation == "Apply" for m in got.metadata.managed_fields)
    applied["data"] = {"c": "9"}
    conflict = refused(409, patch, applied, "application/apply-patch+yaml", fieldManager="python")
    assert "conflict with" in conflict.body, conflict.body
    assert patch(applied, "application/apply-patch+yaml", fieldManager="python", force="true").data == {"b": "2", "c": "9"}
    assert refused(415, patch, {}, "application/nonsense+json")
    assert refused(422, core.patch_namespaced_config_map, "patched", NAMESPACE, {"metadata": {"labels": {"bad key": "x"}}})


def pages():
    for index in range(7):
        core.create_namespaced_config_map(NAMESPACE, client.V1ConfigMap(metadata=meta(f"page-{index}", labels={"page": "yes"})))
    names, token, versions = [], None, set()
    while True:
        page = core.list_namespaced_config_map(NAMESPACE, limit=3, _continue=token)
        names += [item.metadata.name for item in page.items]
        versions.add(page.metadata.resource_version)
        token = page.metadata._continue
        if not token:
            break
        assert page.metadata.remaining_item_count > 0
    whole = core.list_namespaced_config_map(NAMESPACE)
    assert names == [item.metadata.name for item in whole.items], names
    assert len(versions) == 1, versions
    assert refused(400, core.list_namespaced_config_map, NAMESPACE, limit=1, _continue="nonsense")
    core.delete_collection_namespaced_config_map(NAMESPACE, label_selector="page=yes")
    assert not core.list_namespaced_config_map(NAMESPACE, label_selector="page=yes").items


def watches():
    start = core.list_namespaced_secret(NAMESPACE).metadata.resource_version

    def change():
        core.create_namespaced_secret(NAMESPACE, client.V1Secret(metadata=meta("seen")))
        core.patch_namespaced_secret("seen", NAMESPACE, {"stringData": {"a": "1"}})
        core.delete_namespaced_secret("seen", NAMESPACE)

    changer = threading.Thread(target=change)
    changer.start()
    events, versions = [], []
    watcher = watch.Watch()
    for event in watcher.stream(core.list_namespaced_secret, NAMESPACE, resource_version=start, timeout_seconds=60):
        events.append((event["type"], event["object"].metadata.name))
        versions.append(event["object"].metadata.resource_version)
        if event["type"] == "DELETED":
            watcher.stop()
    changer.join()
    assert events == [("ADDED", "seen"), ("MODIFIED", "seen"), ("DELETED", "seen")], events

    # Resumed in the middle: exactly what came after it.
    resumed, watcher = [], watch.Watch()
    for event in watcher.stream(core.list_namespaced_secret, NAMESPACE, resource_version=versions[0], timeout_seconds=60):
        resumed.append(event["type"])
        if event["type"] == "DELETED":
            watcher.stop()
    assert resumed == ["MODIFIED", "DELETED"], resumed

    # A watch ends by itself when its time is over.
    assert list(watch.Watch().stream(core.list_namespaced_secret, NAMESPACE, resource_version=versions[2], timeout_seconds=1)) == []
    # A version this server never had.
    gone = refused(504, core.list_namespaced_secret, NAMESPACE, resource_version="999999999", timeout_seconds=5)
    assert "Too large resource version" in gone.body, gone.body


def subresources():
    apps.create_namespaced_deployment(NAMESPACE, client.V1Deployment(metadata=meta("scaled"), spec=client.V1DeploymentSpec(replicas=1, selector=selector("scaled"), template=pod_template("scaled"))))
    scale = apps.read_namespaced_deployment_scale("scaled", NAMESPACE)
    assert scale.spec.replicas == 1
    apps.patch_namespaced_deployment_scale("scaled", NAMESPACE, {"spec": {"replicas": 2}})
    watcher = watch.Watch()
    for event in watcher.stream(apps.list_namespaced_deployment, NAMESPACE, field_selector="metadata.name=scaled", timeout_seconds=60):
        if event["object"].status.ready_replicas == 2:
            watcher.stop()
            break
    else:
        raise AssertionError("the scaled deployment did not get ready")
    pod = core.list_namespaced_pod(NAMESPACE, label_selector="app=scaled").items[0]
    core.create_namespaced_pod_eviction(pod.metadata.name, NAMESPACE, client.V1Eviction(metadata=meta(pod.metadata.name)))
    token = core.create_namespaced_service_account_token("default", NAMESPACE, client.AuthenticationV1TokenRequest(spec=client.V1TokenRequestSpec(audiences=[], expiration_seconds=600)))
    review = client.AuthenticationV1Api().create_token_review(client.V1TokenReview(spec=client.V1TokenReviewSpec(token=token.status.token)))
    assert review.status.authenticated and review.status.user.username == f"system:serviceaccount:{NAMESPACE}:default", review
    access = client.AuthorizationV1Api().create_self_subject_access_review(client.V1SelfSubjectAccessReview(spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=client.V1ResourceAttributes(verb="get", resource="pods"))))
    assert access.status.allowed
    core.patch_node_status("hollow-0", {"status": {"capacity": {"example.com/dongle": "3"}}})
    assert core.read_node("hollow-0").status.capacity["example.com/dongle"] == "3"


def discovery():
    assert client.VersionApi().get_code().major == "1"
    assert "v1" in client.CoreApi().get_api_versions().versions
    groups = {group.name for group in client.ApisApi().get_api_versions().groups}
    assert {"apps", "batch", "events.k8s.io", "resource.k8s.io"} <= groups, groups
    names = {resource.name for resource in core.get_api_resources().resources}
    assert {"pods", "pods/exec", "pods/resize", "serviceaccounts/token"} <= names, names


for kind in KINDS:
    crud(*kind)
for part in (patches, pages, watches, subresources, discovery):
    part()
core.delete_namespace(NAMESPACE)
print(f"{len(KINDS)} kinds, patches, pages, watches, subresources, discovery: ok")

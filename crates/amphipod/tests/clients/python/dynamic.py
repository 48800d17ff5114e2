"""The Python client's dynamic API: kinds found through discovery, never compiled in."""

import sys

from kubernetes import config, dynamic, utils
from kubernetes.client import api_client
from kubernetes.dynamic.exceptions import ConflictError, NotFoundError, ResourceNotFoundError

NAMESPACE = "python-dynamic"
client = dynamic.DynamicClient(api_client.ApiClient(configuration=config.load_kube_config(sys.argv[1])))
namespaces = client.resources.get(api_version="v1", kind="Namespace")
namespaces.create(body={"metadata": {"name": NAMESPACE}})


def refused(error, call, *args, **more):
    try:
        call(*args, **more)
    except error as found:
        return found
    raise AssertionError(f"not refused with {error.__name__}")


def crud(api_version, kind, more):
    resource = client.resources.get(api_version=api_version, kind=kind)
    body = {"apiVersion": api_version, "kind": kind, "metadata": {"name": "a"}, **more}
    created = resource.create(body=body, namespace=NAMESPACE)
    refused(ConflictError, resource.create, body=body, namespace=NAMESPACE)
    assert resource.get(name="a", namespace=NAMESPACE).metadata.uid == created.metadata.uid
    for content_type in ("application/strategic-merge-patch+json", "application/merge-patch+json"):
        labels = {"metadata": {"labels": {"by": content_type.split("/")[1].split("+")[0]}}}
        resource.patch(body=labels, name="a", namespace=NAMESPACE, content_type=content_type)
    resource.patch(body=[{"op": "add", "path": "/metadata/labels/json", "value": "yes"}], name="a", namespace=NAMESPACE, content_type="application/json-patch+json")
    applied = resource.server_side_apply(body={**body, "metadata": {"name": "a", "labels": {"applied": "yes"}}}, name="a", namespace=NAMESPACE, field_manager="dynamic", force_conflicts=True)
    assert applied.metadata.labels.to_dict() == {"by": "merge-patch", "json": "yes", "applied": "yes"}, applied.metadata.labels
    assert [o.metadata.name for o in resource.get(namespace=NAMESPACE, label_selector="applied=yes").items] == ["a"]
    # Resumed from the version of the list, a watch tells what is deleted afterwards and ends.
    version = resource.get(namespace=NAMESPACE).metadata.resourceVersion
    resource.delete(name="a", namespace=NAMESPACE, body={"propagationPolicy": "Background", "gracePeriodSeconds": 0})
    watcher = dynamic.watch.Watch() if hasattr(dynamic, "watch") else None
    for event in resource.watch(namespace=NAMESPACE, resource_version=version, timeout=60, watcher=watcher):
        if event["type"] == "DELETED" and event["object"].metadata.name == "a":
            break
    else:
        raise AssertionError(f"{kind}: its deletion was not seen")
    refused(NotFoundError, resource.get, name="a", namespace=NAMESPACE)


POD = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}}
crud("v1", "ConfigMap", {"data": {"a": "1"}})
crud("v1", "Secret", {"stringData": {"a": "1"}})
crud("v1", "Pod", {"spec": POD["spec"]})
crud("apps/v1", "Deployment", {"spec": {"selector": {"matchLabels": {"app": "x"}}, "template": POD}})
crud("networking.k8s.io/v1", "NetworkPolicy", {"spec": {"podSelector": {}}})
crud("coordination.k8s.io/v1", "Lease", {"spec": {"holderIdentity": "me"}})
crud("resource.k8s.io/v1", "ResourceClaimTemplate", {"spec": {"spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "d"}}]}}}})

refused(ResourceNotFoundError, client.resources.get, api_version="example.com/v1", kind="Thing")
assert client.resources.search(kind="Deployment", group="apps")
assert client.version["kubernetes"]["major"] == "1"
# Whole manifests, several documents at once.
utils.create_from_yaml(api_client.ApiClient(), sys.argv[2], namespace=NAMESPACE)
assert client.resources.get(api_version="apps/v1", kind="Deployment").get(name="web", namespace=NAMESPACE).spec.replicas == 2
namespaces.delete(name=NAMESPACE)
print("dynamic: ok")

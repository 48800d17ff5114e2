//! One object of each kind and the cells it makes.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;

fn now() -> Timestamp {
    "2024-01-01T00:01:00Z".parse().expect("time")
}

/// The cells without name and age, which are tested once for all kinds.
fn cells(group: &str, plural: &str, mut object: Value) -> Value {
    object["metadata"]["name"] = "n".into();
    let all = row(group, plural, &object, now());
    let columns = columns(group, plural);
    assert_eq!(all.len(), columns.len(), "{plural}");
    let keep = |name: &str| !matches!(name, "Name" | "Age");
    all.into_iter().zip(columns).filter(|(_, c)| keep(c.name)).map(|(cell, _)| cell).collect()
}

fn names(group: &str, plural: &str, wide: bool) -> Vec<&'static str> {
    columns(group, plural).iter().filter(|c| wide || c.priority == 0).map(|c| c.name).collect()
}

#[test]
fn rows_fit_their_columns_even_for_empty_objects() {
    for kind in kinds().chain([&DEFAULT]) {
        for object in [json!({}), json!({"spec": {}, "status": {}, "metadata": {}})] {
            let cells = row(kind.group, kind.plural, &object, Timestamp::UNIX_EPOCH);
            assert_eq!(cells.len(), kind.columns.len(), "{}", kind.plural);
        }
        let served =
            crate::resource::builtin().iter().any(|r| r.plural == kind.plural && r.group == kind.group);
        assert!(served || kind.plural.is_empty(), "{}", kind.plural);
    }
}

#[test]
fn every_stored_kind_has_columns_of_its_own() {
    for row in crate::resource::builtin().iter().filter(|row| row.storage.is_some()) {
        assert!(kinds().any(|k| k.plural == row.plural && k.group == row.group), "{}", row.plural);
    }
}

#[test]
fn ages_are_unknown_without_a_time() {
    let object = json!({"metadata": {"creationTimestamp": "2024-01-01T00:00:30Z"}});
    assert_eq!(row("", "configmaps", &object, now())[2], "30s");
    assert_eq!(row("", "configmaps", &json!({}), now())[2], "<unknown>");
}

#[test]
fn columns_carry_their_facts() {
    assert_eq!(names("", "pods", false), ["Name", "Ready", "Status", "Restarts", "Age"]);
    assert_eq!(names("", "pods", true)[5..], ["IP", "Node", "Nominated Node", "Readiness Gates"]);
    assert_eq!(names("networking.k8s.io", "ipaddresses", true), ["Name", "ParentRef"]);
    assert_eq!(
        names("", "events", false),
        ["Last Seen", "Type", "Reason", "Object", "Message"],
        "the name of an event is shown wide"
    );
    let name = columns("", "pods")[0].to_json();
    assert_eq!(
        (&name["type"], &name["format"], &name["priority"]),
        (&json!("string"), &json!("name"), &json!(0))
    );
    assert!(
        name["description"]
            .as_str()
            .is_some_and(|d| d.starts_with("Name must be unique within a namespace."))
    );
    let created = columns("rbac.authorization.k8s.io", "roles")[1];
    assert_eq!((created.name, created.type_), ("Created At", "date"));
    assert_eq!(columns("example.com", "widgets")[1].type_, "date");
}

#[test]
fn pods_that_are_over_are_marked() {
    let marks = |phase: &str| json!(row_conditions("", "pods", &json!({"status": {"phase": phase}})));
    assert_eq!(
        marks("Succeeded"),
        json!([{"type": "Completed", "status": "True", "reason": "Succeeded",
            "message": "The pod has completed successfully."}])
    );
    assert_eq!(marks("Failed")[0]["message"], "The pod failed.");
    assert_eq!(marks("Running"), json!([]));
    assert!(row_conditions("batch", "jobs", &json!({"status": {"phase": "Failed"}})).is_empty());
}

const TEMPLATE_CONTAINERS: &str = r#"[{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]"#;

fn template(mut object: Value) -> Value {
    let containers: Value = serde_json::from_str(TEMPLATE_CONTAINERS).expect("json");
    object["spec"]["template"] = json!({"spec": {"containers": containers}});
    object
}

#[test]
fn workloads() {
    let selector = json!({"matchLabels": {"k": "v"}});
    let cases = [
        (
            "",
            "replicationcontrollers",
            json!({"spec": {"replicas": 3, "selector": {"k": "v"}}, "status": {"replicas": 2, "readyReplicas": 1}}),
            json!([3, 2, 1, "a,b", "x,y", "k=v"]),
        ),
        (
            "apps",
            "replicasets",
            json!({"spec": {"replicas": 3, "selector": {}}, "status": {"replicas": 2}}),
            json!([3, 2, 0, "a,b", "x,y", "<none>"]),
        ),
        (
            "apps",
            "deployments",
            json!({"spec": {"replicas": 3, "selector": selector},
                "status": {"readyReplicas": 1, "updatedReplicas": 2, "availableReplicas": 1}}),
            json!(["1/3", 2, 1, "a,b", "x,y", "k=v"]),
        ),
        (
            "apps",
            "deployments",
            json!({"spec": {"selector": {"matchExpressions": [{"key": "a", "operator": "Huh"}]}}}),
            json!(["0/0", 0, 0, "a,b", "x,y", "<invalid>"]),
        ),
        ("apps", "statefulsets", json!({"spec": {"replicas": 2}}), json!(["0/2", "a,b", "x,y"])),
        (
            "apps",
            "daemonsets",
            json!({"spec": {"selector": selector}, "status": {"desiredNumberScheduled": 5, "numberReady": 4}}),
            json!([5, 0, 4, 0, 0, "<none>", "a,b", "x,y", "k=v"]),
        ),
    ];
    for (group, plural, object, expected) in cases {
        assert_eq!(cells(group, plural, template(object)), expected, "{plural}");
    }
    let revision = json!({"revision": 4, "metadata": {"ownerReferences": [
        {"controller": true, "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d"}]}});
    assert_eq!(cells("apps", "controllerrevisions", revision), json!(["daemonset.apps/d", 4]));
    let budget = json!({"spec": {"minAvailable": "50%"}, "status": {"disruptionsAllowed": 1}});
    assert_eq!(cells("policy", "poddisruptionbudgets", budget), json!(["50%", "N/A", 1]));
    let pod_template = json!({"template": {"metadata": {"labels": {"b": "2", "a": "1"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}});
    assert_eq!(cells("", "podtemplates", pod_template), json!(["c", "i", "a=1,b=2"]));
}

#[test]
fn jobs() {
    let status = |conditions: Value| json!({"conditions": conditions, "succeeded": 1, "startTime": "2024-01-01T00:00:00Z"});
    let is = |kind: &str| json!([{"type": kind, "status": "True"}]);
    let cases = [
        (json!({"completions": 2}), status(is("Complete")), json!(["Complete", "1/2", "60s"])),
        (json!({"parallelism": 3}), status(is("Failed")), json!(["Failed", "1/1 of 3", "60s"])),
        (json!({"parallelism": 1}), status(is("Suspended")), json!(["Suspended", "1/1", "60s"])),
        (json!({}), status(is("FailureTarget")), json!(["FailureTarget", "1/1", "60s"])),
        (json!({}), json!({}), json!(["Running", "0/1", ""])),
        (
            json!({}),
            json!({"startTime": "2024-01-01T00:00:00Z", "completionTime": "2024-01-01T00:00:07Z"}),
            json!(["Running", "0/1", "7s"]),
        ),
    ];
    for (spec, status, expected) in cases {
        let shown = cells("batch", "jobs", json!({"spec": spec, "status": status}));
        assert_eq!(
            shown.as_array().expect("cells")[..3],
            expected.as_array().expect("cells")[..],
            "{status}"
        );
    }
    let deleted = json!({"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z"}});
    assert_eq!(cells("batch", "jobs", deleted)[0], "Terminating");
    let cron = json!({"spec": {"schedule": "* * * * *", "suspend": false},
        "status": {"active": [{}], "lastScheduleTime": "2024-01-01T00:00:00Z"}});
    assert_eq!(
        cells("batch", "cronjobs", cron),
        json!(["* * * * *", "<none>", "False", 1, "60s", "", "", "<none>"])
    );
}

#[test]
fn autoscaler_targets() {
    let resource = |target: Value| json!({"type": "Resource", "resource": {"name": "cpu", "target": target}});
    let now = |field: &str, current: Value| json!([{"type": "x", field: {"current": current}}]);
    let cases = [
        (json!([]), json!([]), "<none>"),
        (json!([resource(json!({"averageUtilization": 50}))]), json!([]), "cpu: <unknown>/50%"),
        (
            json!([resource(json!({"averageUtilization": 50}))]),
            now("resource", json!({"averageUtilization": 7, "averageValue": "1"})),
            "cpu: 7%/50%",
        ),
        (json!([resource(json!({}))]), json!([]), "cpu: <unknown>/<auto>"),
        (
            json!([resource(json!({"averageValue": "100m"}))]),
            now("resource", json!({"averageValue": "20m"})),
            "cpu: 20m/100m",
        ),
        (
            json!([{"type": "ContainerResource", "containerResource": {"name": "memory", "container": "c",
                "target": {"averageUtilization": 10}}}]),
            json!([]),
            "memory: <unknown>/10%",
        ),
        (
            json!([{"type": "Pods", "pods": {"target": {"averageValue": "5"}}}]),
            now("pods", json!({"averageValue": "3"})),
            "3/5",
        ),
        (
            json!([{"type": "Object", "object": {"target": {"value": "5"}}}]),
            now("object", json!({"value": "3"})),
            "3/5",
        ),
        (
            json!([{"type": "External", "external": {"target": {"averageValue": "5"}}}]),
            json!([]),
            "<unknown>/5 (avg)",
        ),
        (
            json!([{"type": "Huh"}, {"type": "Huh"}, {"type": "Huh"}]),
            json!([]),
            "<unknown type>, <unknown type> + 1 more...",
        ),
    ];
    for (metrics, current, expected) in cases {
        let object = json!({"spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d"}, "maxReplicas": 4, "metrics": metrics},
            "status": {"currentMetrics": current, "currentReplicas": 2}});
        assert_eq!(
            cells("autoscaling", "horizontalpodautoscalers", object),
            json!(["Deployment/d", expected, "<unset>", 4, 2])
        );
    }
}

#[test]
fn services() {
    let cases = [
        (
            json!({"type": "NodePort", "clusterIPs": ["10.0.0.1"], "selector": {"a": "b"},
                "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}),
            json!([]),
            json!(["NodePort", "10.0.0.1", "<none>", "80:30080/TCP,53/UDP", "a=b"]),
        ),
        (
            json!({"type": "ExternalName", "externalName": "x.org"}),
            json!([]),
            json!(["ExternalName", "<none>", "x.org", "<none>", "<none>"]),
        ),
        (
            json!({"type": "LoadBalancer", "clusterIPs": ["c"]}),
            json!([]),
            json!(["LoadBalancer", "c", "<pending>", "<none>", "<none>"]),
        ),
        (
            json!({"type": "LoadBalancer", "externalIPs": ["9.9.9.9"]}),
            json!([{"hostname": "z"}, {"ip": "1.1.1.1"}, {"ip": "1.1.1.1"}]),
            json!(["LoadBalancer", "<none>", "1.1.1.1,z,9.9.9.9", "<none>", "<none>"]),
        ),
        (json!({}), json!([]), json!(["", "<none>", "<unknown>", "<none>", "<none>"])),
    ];
    for (spec, ingress, expected) in cases {
        let object = json!({"spec": spec, "status": {"loadBalancer": {"ingress": ingress}}});
        assert_eq!(cells("", "services", object), expected);
    }
}

#[test]
fn endpoints_and_slices() {
    let addresses = json!([{"ip": "1"}, {"ip": "fd::2"}]);
    let cases = [
        (json!([]), "<none>"),
        (json!([{"notReadyAddresses": [{"ip": "1"}]}]), ""),
        (json!([{"addresses": addresses}]), "1,fd::2"),
        (
            json!([{"addresses": addresses, "ports": [{"port": 80}, {"port": 81}]}]),
            "1:80,[fd::2]:80,1:81 + 1 more...",
        ),
    ];
    for (subsets, expected) in cases {
        assert_eq!(cells("", "endpoints", json!({"subsets": subsets})), json!([expected]));
    }
    let slice = json!({"addressType": "IPv4", "ports": [{"port": 8080}, {"name": "x"}, {}],
        "endpoints": [{"addresses": ["1"]}, {"addresses": ["2"]}, {"addresses": ["3", "4"]}]});
    assert_eq!(
        cells("discovery.k8s.io", "endpointslices", slice),
        json!(["IPv4", "8080,x,*", "1,2,3 + 1 more..."])
    );
    let empty = json!({"addressType": "IPv4", "ports": [{"name": ""}]});
    assert_eq!(cells("discovery.k8s.io", "endpointslices", empty), json!(["IPv4", "<unset>", "<unset>"]));
}

#[test]
fn networking() {
    const GROUP: &str = "networking.k8s.io";
    let hosts = |hosts: &[&str]| -> Value { hosts.iter().map(|h| json!({"host": h})).collect() };
    for (rules, expected) in [
        (hosts(&[]), "*"),
        (hosts(&["a", "", "b"]), "a,b"),
        (hosts(&["a", "b", "c"]), "a,b,c"),
        (hosts(&["a", "b", "", "c", "d", ""]), "a,b,c + 3 more..."),
    ] {
        let object = json!({"spec": {"rules": rules, "tls": [{}]}, "status": {"loadBalancer": {"ingress": [{"ip": "1"}]}}});
        assert_eq!(cells(GROUP, "ingresses", object), json!(["<none>", expected, "1", "80, 443"]));
    }
    let class =
        json!({"spec": {"controller": "c", "parameters": {"apiGroup": "g", "kind": "K", "name": "p"}}});
    assert_eq!(cells(GROUP, "ingressclasses", class), json!(["c", "K.g/p"]));
    let policy = json!({"spec": {"podSelector": {"matchExpressions": [{"key": "k", "operator": "Exists"}]}}});
    assert_eq!(cells(GROUP, "networkpolicies", policy), json!(["k"]));
    let address = json!({"spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "kubernetes"}}});
    assert_eq!(cells(GROUP, "ipaddresses", address), json!(["services/default/kubernetes"]));
    let gateway = json!({"spec": {"parentRef": {"group": "g.io", "resource": "Gateways", "name": "x"}}});
    assert_eq!(cells(GROUP, "ipaddresses", gateway), json!(["gateways.g.io/x"]));
    assert_eq!(cells(GROUP, "servicecidrs", json!({"spec": {"cidrs": ["a", "b"]}})), json!(["a,b"]));
}

#[test]
fn storage() {
    const GROUP: &str = "storage.k8s.io";
    let volume = json!({"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadOnlyMany", "ReadWriteOnce"],
        "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "s", "volumeMode": "Filesystem",
        "claimRef": {"namespace": "d", "name": "c"}}, "status": {"phase": "Bound", "reason": "r"}});
    assert_eq!(
        cells("", "persistentvolumes", volume),
        json!(["1Gi", "RWO,ROX", "Retain", "Bound", "d/c", "s", "<unset>", "r", "Filesystem"])
    );
    let claim = json!({"metadata": {"deletionTimestamp": "t", "annotations": {"volume.beta.kubernetes.io/storage-class": "old"}},
        "spec": {"volumeName": "v", "volumeAttributesClassName": "fast"}, "status": {"phase": "Bound", "accessModes": ["ReadWriteOncePod"]}});
    assert_eq!(
        cells("", "persistentvolumeclaims", claim),
        json!(["Terminating", "v", "0", "RWOP", "old", "fast", "<unset>"])
    );
    let class = json!({"provisioner": "p", "metadata": {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}});
    assert_eq!(cells(GROUP, "storageclasses", class.clone()), json!(["p", "Delete", "Immediate", false]));
    let mut named = class;
    named["metadata"]["name"] = "n".into();
    assert_eq!(row(GROUP, "storageclasses", &named, now())[0], "n (default)");
    let attachment = json!({"spec": {"attacher": "a", "nodeName": "n", "source": {"persistentVolumeName": "v"}}, "status": {"attached": true}});
    assert_eq!(cells(GROUP, "volumeattachments", attachment), json!(["a", "v", "n", true]));
    let driver =
        json!({"spec": {"attachRequired": false, "tokenRequests": [{"audience": "a"}, {"audience": "b"}]}});
    assert_eq!(cells(GROUP, "csidrivers", driver), json!([false, false, false, "a,b", false, "<none>"]));
    assert_eq!(cells(GROUP, "csinodes", json!({"spec": {"drivers": [{}, {}]}})), json!([2]));
    assert_eq!(
        cells(GROUP, "csistoragecapacities", json!({"storageClassName": "s"})),
        json!(["s", "<unset>"])
    );
    assert_eq!(cells(GROUP, "volumeattributesclasses", json!({"driverName": "d"})), json!(["d"]));
}

#[test]
fn configuration_and_nodes() {
    assert_eq!(cells("", "namespaces", json!({"status": {"phase": "Active"}})), json!(["Active"]));
    assert_eq!(cells("", "configmaps", json!({"data": {"a": ""}, "binaryData": {"b": ""}})), json!([2]));
    assert_eq!(cells("", "secrets", json!({"type": "Opaque", "data": {"a": ""}})), json!(["Opaque", 1]));
    assert_eq!(cells("", "serviceaccounts", json!({"secrets": [{}]})), json!([1]));
    let broken =
        json!({"conditions": [{"type": "Healthy", "status": "Unknown", "message": "m", "error": "e"}]});
    assert_eq!(cells("", "componentstatuses", broken), json!(["Unhealthy", "m", "e"]));
    let quota =
        json!({"status": {"hard": {"pods": "2", "limits.cpu": "4", "cpu": "1"}, "used": {"pods": "1"}}});
    assert_eq!(cells("", "resourcequotas", quota), json!(["cpu: 0/1, pods: 1/2", "limits.cpu: 0/4"]));
    let node = json!({"metadata": {"labels": {"node-role.kubernetes.io/b": "", "kubernetes.io/role": "a", "node-role.kubernetes.io/": ""}},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}], "nodeInfo": {"kubeletVersion": "v1", "osImage": "o"},
        "conditions": [{"type": "Ready", "status": "Unknown"}]}});
    assert_eq!(
        cells("", "nodes", node),
        json!(["NotReady", "a,b", "v1", "10.0.0.1", "<none>", "o", "<unknown>", "<unknown>"])
    );
    assert_eq!(
        cells("coordination.k8s.io", "leases", json!({"spec": {"holderIdentity": "h"}})),
        json!(["h"])
    );
    assert_eq!(cells("node.k8s.io", "runtimeclasses", json!({"handler": "h"})), json!(["h"]));
    let class = json!({"value": 5, "preemptionPolicy": "Never"});
    assert_eq!(cells("scheduling.k8s.io", "priorityclasses", class), json!([5, false, "Never"]));
}

#[test]
fn events_in_both_forms() {
    let series = json!({"type": "Normal", "reason": "R", "note": " m\n", "regarding": {"kind": "Pod"},
        "reportingController": "c", "reportingInstance": "i", "eventTime": "2024-01-01T00:00:00.000000Z",
        "series": {"count": 7, "lastObservedTime": "2024-01-01T00:00:50.000000Z"}});
    assert_eq!(
        cells("events.k8s.io", "events", series),
        json!(["10s", "Normal", "R", "pod", "", "c, i", "m", "60s", 7])
    );
    let plain = json!({"involvedObject": {"kind": "Node", "name": "x"}, "source": {"component": "k"},
        "reportingInstance": "i"});
    assert_eq!(
        cells("", "events", plain),
        json!(["<unknown>", "", "", "node/x", "", "k, i", "", "<unknown>", 1])
    );
}

#[test]
fn access_and_certificates() {
    const RBAC: &str = "rbac.authorization.k8s.io";
    let binding = json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u"},
        {"kind": "Group", "name": "g"}, {"kind": "ServiceAccount", "namespace": "d", "name": "s"}, {"kind": "User", "name": "v"}]});
    for plural in ["rolebindings", "clusterrolebindings"] {
        assert_eq!(cells(RBAC, plural, binding.clone()), json!(["Role/r", "u, v", "g", "d/s"]));
    }
    let created = json!({"metadata": {"creationTimestamp": "2024-01-01T00:00:00Z"}});
    for (group, plural) in [
        (RBAC, "roles"),
        (RBAC, "clusterroles"),
        ("", "limitranges"),
        ("apiextensions.k8s.io", "customresourcedefinitions"),
    ] {
        assert_eq!(cells(group, plural, created.clone()), json!(["2024-01-01T00:00:00Z"]));
    }
    let request = |conditions: &[&str], certificate: &str| {
        let conditions: Vec<Value> = conditions.iter().map(|c| json!({"type": c})).collect();
        json!({"spec": {"signerName": "s", "username": "u", "expirationSeconds": 3600},
            "status": {"conditions": conditions, "certificate": certificate}})
    };
    for (object, expected) in [
        (request(&[], ""), "Pending"),
        (request(&["Approved"], "eA=="), "Approved,Issued"),
        (request(&["Approved", "Denied", "Failed"], ""), "Denied,Failed"),
    ] {
        assert_eq!(
            cells("certificates.k8s.io", "certificatesigningrequests", object),
            json!(["s", "u", "60m", expected])
        );
    }
}

#[test]
fn extensions() {
    const ADMISSION: &str = "admissionregistration.k8s.io";
    for plural in ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"] {
        assert_eq!(cells(ADMISSION, plural, json!({"webhooks": [{}, {}]})), json!([2]));
    }
    let policy =
        json!({"spec": {"validations": [{}], "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}}});
    assert_eq!(cells(ADMISSION, "validatingadmissionpolicies", policy), json!([1, "v1/ConfigMap"]));
    for (reference, expected) in [
        (Value::Null, "<unset>"),
        (json!({"name": "p"}), "*/p"),
        (json!({"name": "p", "namespace": "d"}), "d/p"),
        (
            json!({"selector": {"matchLabels": {"a": "b"}}}),
            "&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{},}",
        ),
    ] {
        let binding = json!({"spec": {"policyName": "x", "paramRef": reference}});
        assert_eq!(cells(ADMISSION, "validatingadmissionpolicybindings", binding), json!(["x", expected]));
    }
    for (conditions, expected) in [
        (json!([]), "Unknown"),
        (json!([{"type": "Available", "status": "True", "reason": "Passed"}]), "True"),
        (json!([{"type": "Available", "status": "False", "reason": "NoPods"}]), "False (NoPods)"),
    ] {
        let object = json!({"spec": {"service": {"namespace": "d", "name": "s"}}, "status": {"conditions": conditions}});
        assert_eq!(cells("apiregistration.k8s.io", "apiservices", object), json!(["d/s", expected]));
    }
    assert_eq!(cells("apiregistration.k8s.io", "apiservices", json!({})), json!(["Local", "Unknown"]));
}

#[test]
fn flow_control_and_devices() {
    const FLOW: &str = "flowcontrol.apiserver.k8s.io";
    let schema = json!({"spec": {"priorityLevelConfiguration": {"name": "p"}, "matchingPrecedence": 9},
        "status": {"conditions": [{"type": "Dangling", "status": "False"}]}});
    assert_eq!(cells(FLOW, "flowschemas", schema), json!(["p", 9, "<none>", "False"]));
    let limited = json!({"spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 30,
        "limitResponse": {"queuing": {"queues": 64, "handSize": 6, "queueLengthLimit": 50}}}}});
    assert_eq!(cells(FLOW, "prioritylevelconfigurations", limited), json!(["Limited", 30, 64, 6, 50]));
    let exempt = json!({"spec": {"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0}}});
    assert_eq!(
        cells(FLOW, "prioritylevelconfigurations", exempt),
        json!(["Exempt", "<none>", "<none>", "<none>", "<none>"])
    );
    for (deleted, status, expected) in [
        (false, json!({}), "pending"),
        (true, json!({}), "deleted"),
        (true, json!({"allocation": {}}), "deleted,allocated"),
        (false, json!({"allocation": {}, "reservedFor": [{}]}), "allocated,reserved"),
    ] {
        let mut object = json!({"metadata": {}, "status": status});
        if deleted {
            object["metadata"]["deletionTimestamp"] = "t".into();
        }
        assert_eq!(cells("resource.k8s.io", "resourceclaims", object), json!([expected]));
    }
    let slice = json!({"spec": {"nodeName": "n", "driver": "d", "pool": {"name": "p"}}});
    assert_eq!(cells("resource.k8s.io", "resourceslices", slice), json!(["n", "d", "p"]));
    for plural in ["deviceclasses", "resourceclaimtemplates"] {
        assert_eq!(cells("resource.k8s.io", plural, json!({})), json!([]));
    }
}

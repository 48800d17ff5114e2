//! sig-api-machinery: discovery, field validation, pages, watches, tables, policies, quotas.

use serde_json::{Value, json};

use crate::client::{
    Cluster, NAMESPACE, Patch, eventually, forgetful, items, name, named, over_both_wires, refused, version,
};
use crate::operations::Walk;

/// A resource of every group that conformant clusters serve.
const EXPECTED: [(&str, &str); 19] = [
    ("v1", "namespaces"),
    ("admissionregistration.k8s.io/v1", "validatingwebhookconfigurations"),
    ("apiextensions.k8s.io/v1", "customresourcedefinitions"),
    ("apiregistration.k8s.io/v1", "apiservices"),
    ("apps/v1", "deployments"),
    ("authentication.k8s.io/v1", "tokenreviews"),
    ("authorization.k8s.io/v1", "selfsubjectaccessreviews"),
    ("autoscaling/v1", "horizontalpodautoscalers"),
    ("autoscaling/v2", "horizontalpodautoscalers"),
    ("batch/v1", "jobs"),
    ("certificates.k8s.io/v1", "certificatesigningrequests"),
    ("coordination.k8s.io/v1", "leases"),
    ("discovery.k8s.io/v1", "endpointslices"),
    ("events.k8s.io/v1", "events"),
    ("networking.k8s.io/v1", "ingresses"),
    ("node.k8s.io/v1", "runtimeclasses"),
    ("policy/v1", "poddisruptionbudgets"),
    ("scheduling.k8s.io/v1", "priorityclasses"),
    ("storage.k8s.io/v1", "csinodes"),
];

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

fn array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// [sig-api-machinery] Discovery should locate the groupVersion and a resource within each APIGroup [Conformance]
#[tokio::test]
async fn resources_of_each_group() {
    over_both_wires(async |cluster: Cluster| {
        for (group_version, plural) in EXPECTED {
            let root = if group_version.contains('/') { "/apis" } else { "/api" };
            let list = cluster.get(&format!("{root}/{group_version}")).await;
            assert_eq!(list["groupVersion"], group_version);
            assert!(array(&list["resources"]).iter().any(|r| r["name"] == plural), "{plural} in {list}");
        }
    })
    .await;
}

/// [sig-api-machinery] Discovery should validate PreferredVersion for each APIGroup [Conformance]
#[tokio::test]
async fn preferred_versions() {
    over_both_wires(async |cluster: Cluster| {
        let groups = cluster.get("/apis/").await;
        assert!(!array(&groups["groups"]).is_empty());
        for group in array(&groups["groups"]) {
            let one = cluster.get(&format!("/apis/{}/", group["name"].as_str().unwrap())).await;
            let preferred = &one["preferredVersion"]["groupVersion"];
            assert!(array(&one["versions"]).iter().any(|v| &v["groupVersion"] == preferred), "{one}");
        }
    })
    .await;
}

async fn aggregated(cluster: &Cluster, path: &str, accept: &str) -> Value {
    let (code, value) = cluster.json("GET", path, accept, "").await;
    assert_eq!((code, &value["kind"]), (200, &json!("APIGroupDiscoveryList")));
    value
}

fn serves(list: &Value, group_version: &str, plural: &str) -> bool {
    let (group, version) = group_version.split_once('/').unwrap_or(("", group_version));
    array(&list["items"])
        .iter()
        .filter(|g| g["metadata"]["name"].as_str().unwrap_or("") == group)
        .flat_map(|g| array(&g["versions"]))
        .filter(|v| v["version"] == version)
        .flat_map(|v| array(&v["resources"]))
        .any(|r| r["resource"] == plural)
}

/// [sig-api-machinery] AggregatedDiscovery should support raw aggregated discovery endpoint Accept headers [Conformance]
#[tokio::test]
async fn aggregated_discovery() {
    over_both_wires(async |cluster: Cluster| {
        let groups = aggregated(&cluster, "/apis", AGGREGATED).await;
        for (group_version, plural) in &EXPECTED[1..] {
            assert!(serves(&groups, group_version, plural), "{group_version} {plural}");
        }
        let legacy = aggregated(&cluster, "/api", AGGREGATED).await;
        assert!(serves(&legacy, "v1", "namespaces"));
    })
    .await;
}

/// [sig-api-machinery] AggregatedDiscovery should support aggregated discovery interface [Conformance]
#[tokio::test]
async fn aggregated_discovery_as_clients_ask() {
    // Clients name both versions of the format and fall back to what is unaggregated.
    let accept = format!(
        "{AGGREGATED},application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"
    );
    over_both_wires(async |cluster: Cluster| {
        let groups = aggregated(&cluster, "/apis", &accept).await;
        let legacy = aggregated(&cluster, "/api", &accept).await;
        for (group_version, plural) in EXPECTED {
            let list = if group_version.contains('/') { &groups } else { &legacy };
            assert!(serves(list, group_version, plural), "{group_version} {plural}");
        }
    })
    .await;
}

/// What is strict about a deployment with these additions.
async fn strictly(cluster: &Cluster, metadata: &str, spec: &str) -> String {
    let body = format!(
        r#"{{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {{"name": "my-dep", {metadata} "labels": {{"app": "nginx"}}}},
        "spec": {{ {spec} "selector": {{"matchLabels": {{"app": "nginx"}}}}, "template": {{
            "metadata": {{"labels": {{"app": "nginx"}}}},
            "spec": {{"containers": [{{"name": "nginx", "image": "nginx:latest"}}]}}}}}}}}"#
    );
    let path = format!(
        "/apis/apps/v1/namespaces/{NAMESPACE}/deployments?fieldManager=field_validation_mgr&fieldValidation=Strict"
    );
    let (code, status) = cluster.json("POST", &path, "application/json", &body).await;
    assert_eq!(code, 400, "{status}");
    status["message"].as_str().unwrap().to_owned()
}

/// [sig-api-machinery] FieldValidation should detect unknown and duplicate fields of a typed object [Conformance]
#[tokio::test]
async fn unknown_and_duplicate_fields() {
    over_both_wires(async |cluster: Cluster| {
        let why = strictly(&cluster, "", r#""unknownField": "foo", "replicas": 2, "replicas": 3,"#).await;
        let wanted =
            r#"strict decoding error: unknown field "spec.unknownField", duplicate field "spec.replicas""#;
        assert!(why.contains(wanted), "{why}");
    })
    .await;
}

/// [sig-api-machinery] FieldValidation should detect unknown metadata fields of a typed object [Conformance]
#[tokio::test]
async fn unknown_fields_in_metadata() {
    over_both_wires(async |cluster: Cluster| {
        let why = strictly(&cluster, r#""unknownMeta": "foo","#, "").await;
        assert!(why.contains(r#"strict decoding error: unknown field "metadata.unknownMeta""#), "{why}");
    })
    .await;
}

/// As many as the pages below cut up.
const TEMPLATES: usize = 400;

async fn many_templates(cluster: &Cluster) {
    let templates = cluster.of("v1", "podtemplates", NAMESPACE);
    for number in 0..TEMPLATES {
        let mut template = named(&format!("template-{number:04}"));
        template["template"] = json!({"spec": {"containers": [{"name": "test", "image": "test2"}]}});
        templates.create(&template).await.unwrap();
    }
}

/// Follows a list from `token` to its end; what was `found` before counts.
async fn follow(cluster: &Cluster, mut token: String, limits: &[usize], mut found: usize) {
    let templates = cluster.of("v1", "podtemplates", NAMESPACE);
    let mut revision = Value::Null;
    for limit in limits.iter().cycle() {
        let page = templates.list_whole(&format!("limit={limit}&continue={token}")).await.unwrap();
        let (metadata, these) = (&page["metadata"], items(&page));
        assert!(these.len() <= *limit);
        if revision.is_null() {
            revision = metadata["resourceVersion"].clone();
        }
        assert_eq!(metadata["resourceVersion"], revision);
        for item in &these {
            assert_eq!(name(item), format!("template-{found:04}"));
            found += 1;
        }
        token = metadata["continue"].as_str().unwrap_or("").to_owned();
        if token.is_empty() {
            assert!(metadata["remainingItemCount"].is_null());
            break;
        }
        assert_eq!(metadata["remainingItemCount"], TEMPLATES - found);
    }
    assert_eq!(found, TEMPLATES);
}

/// [sig-api-machinery] Servers with support for API chunking should return chunks of results for list calls [Conformance]
#[tokio::test]
async fn lists_come_in_chunks() {
    over_both_wires(async |cluster: Cluster| {
        many_templates(&cluster).await;
        for limits in [[40, 1, 7], [13, 29, 3], [31, 17, 40]] {
            follow(&cluster, String::new(), &limits, 0).await;
        }
        let templates = cluster.of("v1", "podtemplates", NAMESPACE);
        assert_eq!(templates.list(&format!("limit={}", TEMPLATES + 1)).await.len(), TEMPLATES);
    })
    .await;
}

/// [sig-api-machinery] Servers with support for API chunking should support continue listing from the last key if the original version has been compacted away, though the list is inconsistent [Conformance] [Slow]
#[tokio::test]
async fn lists_go_on_after_compaction() {
    let cluster = forgetful().await;
    many_templates(&cluster).await;
    let templates = cluster.of("v1", "podtemplates", NAMESPACE);
    let first = templates.list_whole("limit=40").await.unwrap();
    assert_eq!((items(&first).len(), &first["metadata"]["remainingItemCount"]), (40, &json!(TEMPLATES - 40)));
    let token = first["metadata"]["continue"].as_str().unwrap();
    let expired = eventually("the token expires", async || {
        // Compaction follows changes.
        let maps = cluster.of("v1", "configmaps", NAMESPACE);
        maps.create(&json!({"metadata": {"generateName": "change-"}})).await.unwrap();
        templates.list_whole(&format!("limit=40&continue={token}")).await.err()
    })
    .await;
    assert_eq!((&expired["code"], &expired["reason"]), (&json!(410), &json!("Expired")));
    let token = expired["metadata"]["continue"].as_str().expect("another token");
    let second = templates.list_whole(&format!("limit=40&continue={token}")).await.unwrap();
    assert_ne!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert_eq!((items(&second).len(), name(&items(&second)[0])), (40, "template-0040".to_owned()));
    assert_eq!(second["metadata"]["remainingItemCount"], TEMPLATES - 80);
}

/// [sig-api-machinery] Servers with support for Table transformation should return a 406 for a backend which does not implement metadata [Conformance]
#[tokio::test]
async fn reviews_are_no_tables() {
    over_both_wires(async |cluster: Cluster| {
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}});
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
        let (code, status) = cluster.json("POST", path, accept, &review.to_string()).await;
        assert_eq!((code, &status["code"], &status["reason"]), (406, &json!(406), &json!("NotAcceptable")));
    })
    .await;
}

const LABEL: &str = "watch-this-configmap";

fn labelled(name: &str, value: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {LABEL: value}}})
}
fn mutate(to: &str) -> impl Fn(&mut Value) {
    move |map| map["data"] = json!({"mutation": to})
}

/// [sig-api-machinery] Watchers should observe add, update, and delete watch notifications on configmaps [Conformance]
#[tokio::test]
async fn watches_select() {
    over_both_wires(async |cluster: Cluster| {
        let maps = cluster.of("v1", "configmaps", NAMESPACE);
        let mut a = maps.watch(&format!("labelSelector={LABEL}=A")).await;
        let mut b = maps.watch(&format!("labelSelector={LABEL}=B")).await;
        let mut both = maps.watch(&format!("labelSelector={LABEL} in (A,B)")).await;
        let mut expected = Vec::new();
        expected.push(("ADDED", maps.create(&labelled("a", "A")).await.unwrap()));
        expected.push(("MODIFIED", maps.change("a", mutate("1")).await.unwrap()));
        expected.push(("MODIFIED", maps.change("a", mutate("2")).await.unwrap()));
        maps.delete("a").await.unwrap();
        for watch in [&mut a, &mut both] {
            for (kind, object) in &expected {
                assert_eq!(watch.next().await, ((*kind).to_owned(), object.clone()));
            }
            assert_eq!(watch.next().await.0, "DELETED");
        }
        let made = maps.create(&labelled("b", "B")).await.unwrap();
        maps.delete("b").await.unwrap();
        // That B's watch begins with b, and A's has nothing more, shows that neither saw the other.
        for watch in [&mut b, &mut both] {
            assert_eq!(watch.next().await, ("ADDED".to_owned(), made.clone()));
            assert_eq!(watch.next().await.0, "DELETED");
        }
        let last = maps.create(&labelled("c", "A")).await.unwrap();
        assert_eq!(a.next().await, ("ADDED".to_owned(), last));
    })
    .await;
}

/// [sig-api-machinery] Watchers should be able to start watching from a specific resource version [Conformance]
#[tokio::test]
async fn watches_start_in_the_past() {
    over_both_wires(async |cluster: Cluster| {
        let maps = cluster.of("v1", "configmaps", NAMESPACE);
        maps.create(&labelled("m", "from")).await.unwrap();
        let first = maps.change("m", mutate("1")).await.unwrap();
        let second = maps.change("m", mutate("2")).await.unwrap();
        maps.delete("m").await.unwrap();
        let since = version(&first);
        let mut watch = maps.watch(&format!("resourceVersion={since}&labelSelector={LABEL}=from")).await;
        assert_eq!(watch.next().await, ("MODIFIED".to_owned(), second));
        assert_eq!(watch.next().await.0, "DELETED");
    })
    .await;
}

/// [sig-api-machinery] Watchers should be able to restart watching from the last resource version observed by the previous watch [Conformance]
#[tokio::test]
async fn watches_go_on_where_they_ended() {
    over_both_wires(async |cluster: Cluster| {
        let maps = cluster.of("v1", "configmaps", NAMESPACE);
        let selection = format!("labelSelector={LABEL}=restarted");
        let mut broken = maps.watch(&selection).await;
        let made = maps.create(&labelled("m", "restarted")).await.unwrap();
        maps.change("m", mutate("1")).await.unwrap();
        assert_eq!(broken.next().await, ("ADDED".to_owned(), made));
        let (_, last) = broken.next().await;
        drop(broken);
        let second = maps.change("m", mutate("2")).await.unwrap();
        let mut watch = maps.watch(&format!("resourceVersion={}&{selection}", version(&last))).await;
        maps.delete("m").await.unwrap();
        assert_eq!(watch.next().await, ("MODIFIED".to_owned(), second));
        assert_eq!(watch.next().await.0, "DELETED");
    })
    .await;
}

/// [sig-api-machinery] Watchers should observe an object deletion if it stops meeting the requirements of the selector [Conformance]
#[tokio::test]
async fn leaving_a_selection_is_deletion() {
    over_both_wires(async |cluster: Cluster| {
        let maps = cluster.of("v1", "configmaps", NAMESPACE);
        let mut watch = maps.watch(&format!("labelSelector={LABEL}=right")).await;
        let relabel = |to: &'static str| move |m: &mut Value| m["metadata"]["labels"][LABEL] = to.into();
        let made = maps.create(&labelled("m", "right")).await.unwrap();
        let first = maps.change("m", mutate("1")).await.unwrap();
        maps.change("m", relabel("wrong")).await.unwrap();
        assert_eq!(watch.next().await, ("ADDED".to_owned(), made));
        assert_eq!(watch.next().await, ("MODIFIED".to_owned(), first));
        assert_eq!(watch.next().await.0, "DELETED");
        maps.change("m", mutate("2")).await.unwrap();
        let restored = maps.change("m", relabel("right")).await.unwrap();
        let third = maps.change("m", mutate("3")).await.unwrap();
        maps.delete("m").await.unwrap();
        assert_eq!(watch.next().await, ("ADDED".to_owned(), restored));
        assert_eq!(watch.next().await, ("MODIFIED".to_owned(), third));
        assert_eq!(watch.next().await.0, "DELETED");
    })
    .await;
}

/// [sig-api-machinery] Watchers should receive events on concurrent watches in same order [Conformance]
#[tokio::test]
async fn watches_agree_on_the_order() {
    const ROUNDS: usize = 25;
    over_both_wires(async |cluster: Cluster| {
        let maps = cluster.of("v1", "configmaps", NAMESPACE);
        let mut first = maps.watch("resourceVersion=0").await;
        let produce = async {
            for round in 0..ROUNDS {
                let name = format!("cm-{}", round % 5);
                if round < 5 || round % 3 == 0 {
                    let _ = maps.create(&named(&name)).await;
                } else if round % 3 == 1 {
                    let _ = maps.change(&name, mutate(&round.to_string())).await;
                } else {
                    let _ = maps.delete(&name).await;
                }
            }
            maps.create(&named("last")).await.unwrap();
        };
        let consume = async {
            let mut others = Vec::new();
            loop {
                let (kind, object) = first.next().await;
                for other in &mut others {
                    let other: &mut crate::client::Watch = other;
                    assert_eq!(other.next().await, (kind.clone(), object.clone()));
                }
                if name(&object) == "last" {
                    break;
                }
                others.push(maps.watch(&format!("resourceVersion={}", version(&object))).await);
            }
            assert!(others.len() >= 5);
        };
        tokio::join!(produce, consume);
    })
    .await;
}

/// [sig-api-machinery] server version should find the server version [Conformance]
#[tokio::test]
async fn server_version() {
    over_both_wires(async |cluster: Cluster| {
        let found = cluster.get("/version").await;
        assert_eq!(found["major"], "1");
        let minor: String = found["minor"].as_str().unwrap().chars().filter(char::is_ascii_digit).collect();
        assert_eq!(minor, "35");
    })
    .await;
}

/// [sig-api-machinery] API priority and fairness should support FlowSchema API operations [Conformance]
#[tokio::test]
async fn flow_schemas() {
    let walk = Walk {
        api_version: "flowcontrol.apiserver.k8s.io/v1",
        plural: "flowschemas",
        namespaced: false,
        template: json!({"metadata": {"name": "e2e-fs-", "labels": {"e2e-fs": "walk"}}, "spec": {
            "matchingPrecedence": 10000, "priorityLevelConfiguration": {"name": "global-default"},
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [{"subjects": [{"kind": "User", "user": {"name": "example-e2e-non-existent-user"}}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]}}),
        selection: "labelSelector=e2e-fs=walk",
        status: Some(json!({"conditions": [{"type": "PatchStatusFailed", "status": "False",
            "reason": "Failed", "message": "patch status", "lastTransitionTime": "2026-01-01T00:00:00Z"}]})),
    };
    over_both_wires(async |cluster| walk.run(cluster).await).await;
}

/// [sig-api-machinery] API priority and fairness should support PriorityLevelConfiguration API operations [Conformance]
#[tokio::test]
async fn priority_levels() {
    let walk = Walk {
        api_version: "flowcontrol.apiserver.k8s.io/v1",
        plural: "prioritylevelconfigurations",
        namespaced: false,
        template: json!({"metadata": {"name": "e2e-pl-", "labels": {"e2e-pl": "walk"}}, "spec": {
            "type": "Limited", "limited": {"nominalConcurrencyShares": 2, "limitResponse": {"type": "Reject"}}}}),
        selection: "labelSelector=e2e-pl=walk",
        status: Some(json!({"conditions": [{"type": "PatchStatusFailed", "status": "False",
            "reason": "Failed", "message": "patch status", "lastTransitionTime": "2026-01-01T00:00:00Z"}]})),
    };
    over_both_wires(async |cluster| walk.run(cluster).await).await;
}

/// [sig-api-machinery] ValidatingAdmissionPolicy [Privileged:ClusterAdmin] should support ValidatingAdmissionPolicy API operations [Conformance]
#[tokio::test]
async fn validating_policies() {
    let walk = Walk {
        api_version: "admissionregistration.k8s.io/v1",
        plural: "validatingadmissionpolicies",
        namespaced: false,
        template: json!({"metadata": {"generateName": "e2e-validating-admission-policy-", "labels": {"example-e2e-vap-label": "walk"}},
            "spec": {"failurePolicy": "Ignore",
                "matchConstraints": {"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"],
                    "operations": ["CREATE", "UPDATE"], "resources": ["deployments"]}]},
                "validations": [{"expression": "object.spec.replicas <= 100"}]}}),
        selection: "labelSelector=example-e2e-vap-label=walk",
        status: Some(json!({"conditions": [{"type": "PatchStatusFailed", "status": "False",
            "reason": "Failed", "message": "patch status", "lastTransitionTime": "2026-01-01T00:00:00Z"}]})),
    };
    over_both_wires(async |cluster| walk.run(cluster).await).await;
}

/// [sig-api-machinery] ValidatingAdmissionPolicy [Privileged:ClusterAdmin] should support ValidatingAdmissionPolicyBinding API operations [Conformance]
#[tokio::test]
async fn bindings_of_validating_policies() {
    let walk = Walk {
        api_version: "admissionregistration.k8s.io/v1",
        plural: "validatingadmissionpolicybindings",
        namespaced: false,
        template: json!({"metadata": {"generateName": "e2e-vapb-", "labels": {"example-e2e-vapb-label": "walk"}},
            "spec": {"policyName": "replicalimit-policy.example.com", "validationActions": ["Deny"]}}),
        selection: "labelSelector=example-e2e-vapb-label=walk",
        status: None,
    };
    over_both_wires(async |cluster| walk.run(cluster).await).await;
}

/// [sig-api-machinery] Namespaces should patch a Namespace [Conformance] [Serial]
#[tokio::test]
async fn namespaces_are_patched() {
    over_both_wires(async |cluster: Cluster| {
        let namespaces = cluster.all("v1", "namespaces");
        namespaces.create(&named("nspatchtest")).await.unwrap();
        let patch = Patch::Strategic(json!({"metadata": {"labels": {"testLabel": "testValue"}}}));
        namespaces.patch("nspatchtest", &patch).await.unwrap();
        let got = namespaces.get("nspatchtest").await.unwrap();
        assert_eq!(got["metadata"]["labels"]["testLabel"], "testValue");
    })
    .await;
}

/// [sig-api-machinery] Namespaces should apply an update to a Namespace [Conformance] [Serial]
#[tokio::test]
async fn namespaces_are_updated() {
    over_both_wires(async |cluster: Cluster| {
        let namespaces = cluster.all("v1", "namespaces");
        let label = |n: &mut Value| n["metadata"]["labels"][NAMESPACE] = "updated".into();
        let updated = namespaces.change(NAMESPACE, label).await.unwrap();
        assert_eq!(updated["metadata"]["labels"][NAMESPACE], "updated");
    })
    .await;
}

/// [sig-api-machinery] Namespaces should apply changes to a namespace status [Conformance] [Serial]
#[tokio::test]
async fn status_of_namespaces() {
    over_both_wires(async |cluster: Cluster| {
        let namespaces = cluster.all("v1", "namespaces");
        let read = namespaces.get_sub(NAMESPACE, "status").await.unwrap();
        assert_eq!(read["status"]["phase"], "Active");
        let patch = json!({"metadata": {"annotations": {"e2e-patched-ns-status": NAMESPACE}},
            "status": {"conditions": [{"type": "StatusPatch", "status": "True", "reason": "E2E", "message": "Patched by an e2e test",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        let patched = namespaces.patch_sub(NAMESPACE, "status", &Patch::Merge(patch)).await.unwrap();
        assert_eq!(patched["metadata"]["annotations"]["e2e-patched-ns-status"], NAMESPACE);
        assert_eq!(patched["status"]["conditions"][0]["reason"], "E2E");
        let update = |n: &mut Value| {
            n["status"]["conditions"].as_array_mut().unwrap().push(json!({"type": "StatusUpdate",
                "status": "True", "reason": "E2E", "message": "Updated by an e2e test"}));
        };
        let updated = namespaces.change_sub(NAMESPACE, "status", update).await.unwrap();
        assert_eq!(array(&updated["status"]["conditions"]).len(), 2);
        assert_eq!(updated["status"]["conditions"][1]["type"], "StatusUpdate");
    })
    .await;
}

/// [sig-api-machinery] Namespaces should apply a finalizer to a Namespace [Conformance] [Serial]
#[tokio::test]
async fn finalizers_of_namespaces() {
    over_both_wires(async |cluster: Cluster| {
        const FINALIZER: &str = "e2e.example.com/fakeFinalizer";
        let namespaces = cluster.all("v1", "namespaces");
        namespaces.create(&named("e2e-ns")).await.unwrap();
        let mut namespace = namespaces.get("e2e-ns").await.unwrap();
        namespace["spec"]["finalizers"].as_array_mut().unwrap().push(FINALIZER.into());
        let with = namespaces.update_sub("finalize", &namespace).await.unwrap();
        assert!(array(&with["spec"]["finalizers"]).contains(&json!(FINALIZER)), "{with}");
        let drop = |n: &mut Value| n["spec"]["finalizers"] = json!(["kubernetes"]);
        let without = namespaces.change_sub("e2e-ns", "finalize", drop).await.unwrap();
        assert_eq!(without["spec"]["finalizers"], json!(["kubernetes"]));
    })
    .await;
}

/// [sig-api-machinery] ResourceQuota should be able to update and delete ResourceQuota. [Conformance]
#[tokio::test]
async fn quotas_are_updated_and_deleted() {
    over_both_wires(async |cluster: Cluster| {
        let quotas = cluster.of("v1", "resourcequotas", NAMESPACE);
        let mut quota = named("test-quota");
        quota["spec"] = json!({"hard": {"cpu": "1", "memory": "500Mi"}});
        assert_eq!(quotas.create(&quota).await.unwrap()["spec"]["hard"], quota["spec"]["hard"]);
        let grow = |q: &mut Value| q["spec"]["hard"] = json!({"cpu": "2", "memory": "1Gi"});
        let grown = quotas.change("test-quota", grow).await.unwrap();
        assert_eq!(grown["spec"]["hard"], json!({"cpu": "2", "memory": "1Gi"}));
        assert_eq!(quotas.get("test-quota").await.unwrap()["spec"]["hard"], grown["spec"]["hard"]);
        quotas.delete("test-quota").await.unwrap();
        refused(quotas.get("test-quota").await, 404);
    })
    .await;
}

/// [sig-api-machinery] ResourceQuota should manage the lifecycle of a ResourceQuota [Conformance]
#[tokio::test]
async fn quotas() {
    over_both_wires(async |cluster: Cluster| {
        let quotas = cluster.of("v1", "resourcequotas", NAMESPACE);
        let mut quota = named("e2e-quota");
        quota["metadata"]["labels"] = json!({"e2e-quota": "created"});
        quota["spec"] = json!({"hard": {"cpu": "1", "memory": "500Mi"}});
        quotas.create(&quota).await.unwrap();
        quotas.get("e2e-quota").await.unwrap();
        let everywhere = cluster.all("v1", "resourcequotas");
        assert_eq!(everywhere.list("labelSelector=e2e-quota=created").await.len(), 1);
        let patch =
            json!({"metadata": {"labels": {"e2e-quota": "patched"}}, "spec": {"hard": {"memory": "750Mi"}}});
        let patched = quotas.patch("e2e-quota", &Patch::Strategic(patch)).await.unwrap();
        assert_eq!(patched["metadata"]["labels"]["e2e-quota"], "patched");
        assert_eq!(patched["spec"]["hard"], json!({"cpu": "1", "memory": "750Mi"}));
        quotas.delete_collection("labelSelector=e2e-quota=patched").await.unwrap();
        assert_eq!(quotas.list("labelSelector=e2e-quota=patched").await.len(), 0);
    })
    .await;
}

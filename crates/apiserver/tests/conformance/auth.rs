//! sig-auth: certificates, service accounts and reviews.

use amphipod_api::object;
use base64::Engine;
use serde_json::{Value, json};

use crate::client::{
    Cluster, NAMESPACE, Objects, Outcome, Patch, items, named, over_both_wires, pod, refused,
};

fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// A certificate and a request for one, both as clients send them.
fn certificate_and_request() -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["e2e.example.com".to_owned()]).unwrap();
    let request = params.serialize_request(&key).unwrap().pem().unwrap();
    (base64(params.self_signed(&key).unwrap().pem().as_bytes()), base64(request.as_bytes()))
}

async fn approval_is_served(requests: &Objects, subject: &str) {
    let whole = requests.get(subject).await.unwrap();
    let read = requests.get_sub(subject, "approval").await.unwrap();
    assert_eq!((&read["kind"], &read["metadata"]["uid"]), (&whole["kind"], &whole["metadata"]["uid"]));
    let patch = json!({"metadata": {"annotations": {"patchedapproval": "true"}},
        "status": {"conditions": [{"type": "ApprovalPatch", "status": "True", "reason": "e2e"}]}});
    let patched = requests.patch_sub(subject, "approval", &Patch::Merge(patch)).await.unwrap();
    assert_eq!(patched["status"]["conditions"][0]["type"], "ApprovalPatch");
    assert_eq!(patched["metadata"]["annotations"]["patchedapproval"], "true");
    let approve = |r: &mut Value| {
        r["status"]["conditions"].as_array_mut().unwrap().push(json!({"type": "Approved",
            "status": "True", "reason": "E2E", "message": "Set from an e2e test"}));
    };
    let approved = requests.change_sub(subject, "approval", approve).await.unwrap();
    assert_eq!(approved["status"]["conditions"].as_array().unwrap().len(), 2, "{approved}");
    assert_eq!(approved["status"]["conditions"][1]["type"], "Approved");
}

async fn certificate_is_issued(requests: &Objects, subject: &str, certificate: &str) {
    let patch = json!({"metadata": {"annotations": {"patchedstatus": "true"}}, "status": {"certificate": certificate}});
    let patched = requests.patch_sub(subject, "status", &Patch::Merge(patch)).await.unwrap();
    assert_eq!(patched["status"]["certificate"], certificate);
    assert_eq!(patched["metadata"]["annotations"]["patchedstatus"], "true");
    let update = |r: &mut Value| {
        r["status"]["conditions"].as_array_mut().unwrap().push(json!({"type": "StatusUpdate",
            "status": "True", "reason": "E2E", "message": "Set from an e2e test"}));
    };
    let updated = requests.change_sub(subject, "status", update).await.unwrap();
    assert_eq!(updated["status"]["conditions"][2]["type"], "StatusUpdate");
}

/// [sig-auth] Certificates API [Privileged:ClusterAdmin] should support CSR API operations [Conformance]
#[tokio::test]
async fn certificate_signing_requests() {
    over_both_wires(async |cluster: Cluster| {
        let resources = cluster.get("/apis/certificates.k8s.io/v1").await;
        for wanted in ["", "/approval", "/status"] {
            let wanted = format!("certificatesigningrequests{wanted}");
            assert!(resources["resources"].as_array().unwrap().iter().any(|r| r["name"] == wanted));
        }
        let requests = cluster.all("certificates.k8s.io/v1", "certificatesigningrequests");
        let (certificate, request) = certificate_and_request();
        let template = json!({"metadata": {"generateName": "e2e-example-csr-"}, "spec": {
            "request": request, "signerName": "example.com/e2e", "expirationSeconds": 3600,
            "usages": ["digital signature", "key encipherment", "server auth"]}});
        let mut subject = String::new();
        for _ in 0..3 {
            subject = crate::client::name(&requests.create(&template).await.unwrap());
        }
        let selection = "fieldSelector=spec.signerName=example.com/e2e";
        assert_eq!(requests.get(&subject).await.unwrap()["spec"]["expirationSeconds"], 3600);
        let list = requests.list_whole(selection).await.unwrap();
        assert_eq!(items(&list).len(), 3);
        let since = list["metadata"]["resourceVersion"].as_str().unwrap();
        let mut watch =
            requests.watch(&format!("resourceVersion={since}&fieldSelector=metadata.name={subject}")).await;
        let patch = Patch::Merge(json!({"metadata": {"annotations": {"patched": "true"}}}));
        requests.patch(&subject, &patch).await.unwrap();
        let update = |r: &mut Value| r["metadata"]["annotations"]["updated"] = "true".into();
        requests.change(&subject, update).await.unwrap();
        for annotation in ["patched", "updated"] {
            let (kind, seen) = watch.next().await;
            assert_eq!(
                (kind.as_str(), &seen["metadata"]["annotations"][annotation]),
                ("MODIFIED", &json!("true"))
            );
        }
        approval_is_served(&requests, &subject).await;
        certificate_is_issued(&requests, &subject, &certificate).await;
        requests.delete(&subject).await.unwrap();
        refused(requests.get(&subject).await, 404);
        assert_eq!(requests.list(selection).await.len(), 2);
        requests.delete_collection(selection).await.unwrap();
        assert_eq!(requests.list(selection).await.len(), 0);
    })
    .await;
}

/// [sig-auth] SubjectReview should support SubjectReview API operations [Conformance]
#[tokio::test]
async fn subject_reviews() {
    over_both_wires(async |cluster: Cluster| {
        let account = cluster.of("v1", "serviceaccounts", NAMESPACE).create(&named("e2e")).await.unwrap();
        let user = format!("system:serviceaccount:{NAMESPACE}:e2e");
        let own_group = format!("system:serviceaccounts:{NAMESPACE}");
        let groups = ["system:authenticated", "system:serviceaccounts", own_group.as_str()];
        let spec = |user: &str| {
            json!({"user": user, "groups": groups, "uid": object::uid(&account), "resourceAttributes": {
                "verb": "list", "resource": "configmaps", "namespace": NAMESPACE, "version": "v1"}})
        };
        let reviews = cluster.all("authorization.k8s.io/v1", "subjectaccessreviews");
        let local = cluster.of("authorization.k8s.io/v1", "localsubjectaccessreviews", NAMESPACE);
        let account_lists = || async {
            let maps = cluster.impersonating(&user, &groups).of("v1", "configmaps", NAMESPACE);
            maps.list_whole("").await
        };
        let allowed = |outcome: Outcome| outcome.unwrap()["status"]["allowed"].as_bool().unwrap_or(false);
        assert!(!allowed(reviews.create(&json!({"spec": spec(&user)})).await));
        let review = json!({"metadata": {"namespace": NAMESPACE}, "spec": spec(&user)});
        assert!(!allowed(local.create(&review).await));
        refused(account_lists().await, 403);
        // A test that only ever saw refusals would not notice if nothing was allowed.
        let mut role = named("lister");
        role["rules"] = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}]);
        cluster.of("rbac.authorization.k8s.io/v1", "roles", NAMESPACE).create(&role).await.unwrap();
        let mut binding = named("lister");
        binding["roleRef"] =
            json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "lister"});
        binding["subjects"] = json!([{"kind": "ServiceAccount", "name": "e2e", "namespace": NAMESPACE}]);
        cluster.of("rbac.authorization.k8s.io/v1", "rolebindings", NAMESPACE).create(&binding).await.unwrap();
        crate::client::eventually("the binding counts", async || account_lists().await.ok()).await;
        assert!(allowed(reviews.create(&json!({"spec": spec(&user)})).await));
        assert!(allowed(local.create(&review).await));
    })
    .await;
}

/// [sig-auth] ServiceAccounts should run through the lifecycle of a ServiceAccount [Conformance]
#[tokio::test]
async fn service_accounts() {
    over_both_wires(async |cluster: Cluster| {
        let accounts = cluster.of("v1", "serviceaccounts", NAMESPACE);
        let selection = "labelSelector=test-serviceaccount-static=true";
        let mut watch = accounts.watch(selection).await;
        let mut account = named("testserviceaccount");
        account["metadata"]["labels"] = json!({"test-serviceaccount-static": "true"});
        accounts.create(&account).await.unwrap();
        watch.until("ADDED", |a| a["metadata"]["name"] == "testserviceaccount").await;
        let patch = Patch::Strategic(json!({"automountServiceAccountToken": false}));
        accounts.patch("testserviceaccount", &patch).await.unwrap();
        watch.until("MODIFIED", |a| a["automountServiceAccountToken"] == false).await;
        assert_eq!(cluster.all("v1", "serviceaccounts").list(selection).await.len(), 1);
        accounts.delete_collection(selection).await.unwrap();
        watch.until("DELETED", |a| a["metadata"]["name"] == "testserviceaccount").await;
        assert_eq!(accounts.list(selection).await.len(), 0);
    })
    .await;
}

/// [sig-auth] ServiceAccounts should update a ServiceAccount [Conformance]
#[tokio::test]
async fn service_accounts_are_updated() {
    over_both_wires(async |cluster: Cluster| {
        let accounts = cluster.of("v1", "serviceaccounts", NAMESPACE);
        let mut account = named("e2e-sa");
        account["automountServiceAccountToken"] = true.into();
        assert_eq!(accounts.create(&account).await.unwrap()["automountServiceAccountToken"], true);
        let off = |a: &mut Value| a["automountServiceAccountToken"] = false.into();
        assert_eq!(accounts.change("e2e-sa", off).await.unwrap()["automountServiceAccountToken"], false);
    })
    .await;
}

/// [sig-auth] ServiceAccounts should allow opting out of API token automount [Conformance]
#[tokio::test]
async fn tokens_are_mounted_or_not() {
    over_both_wires(async |cluster: Cluster| {
        let accounts = cluster.of("v1", "serviceaccounts", NAMESPACE);
        let pods = cluster.of("v1", "pods", NAMESPACE);
        for (account, automount) in
            [("default-sa", Value::Null), ("mount", true.into()), ("nomount", false.into())]
        {
            let mut object = named(account);
            object["automountServiceAccountToken"] = automount;
            accounts.create(&object).await.unwrap();
        }
        for (account, by_pod, mounted) in [
            ("default-sa", None, true),
            ("default-sa", Some(true), true),
            ("default-sa", Some(false), false),
            ("mount", None, true),
            ("mount", Some(true), true),
            ("mount", Some(false), false),
            ("nomount", None, false),
            ("nomount", Some(true), true),
            ("nomount", Some(false), false),
        ] {
            let mut object =
                pod(&format!("pod-{account}-{by_pod:?}").to_lowercase().replace(['(', ')'], "-x"));
            object["spec"]["serviceAccountName"] = account.into();
            object["spec"]["automountServiceAccountToken"] = by_pod.map_or(Value::Null, Value::from);
            let made = pods.create(&object).await.unwrap();
            let mounts =
                made["spec"]["containers"][0]["volumeMounts"].as_array().cloned().unwrap_or_default();
            let token = "/var/run/secrets/kubernetes.io/serviceaccount";
            assert_eq!(mounts.iter().any(|m| m["mountPath"] == token), mounted, "{account} {by_pod:?}");
        }
    })
    .await;
}

/// [sig-auth] ServiceAccounts should create a serviceAccountToken and ensure a successful TokenReview [Conformance]
#[tokio::test]
async fn tokens_are_reviewed() {
    over_both_wires(async |cluster: Cluster| {
        let accounts = cluster.of("v1", "serviceaccounts", NAMESPACE);
        let account = accounts.create(&named("e2e-sa")).await.unwrap();
        let types = ("authentication.k8s.io/v1", "TokenRequest");
        let made = accounts
            .create_below("e2e-sa", "token", types, &json!({"spec": {"audiences": null}}))
            .await
            .unwrap();
        let token = made["status"]["token"].as_str().expect("a token");
        let reviews = cluster.all("authentication.k8s.io/v1", "tokenreviews");
        let review = reviews.create(&json!({"spec": {"token": token}})).await.unwrap();
        let (status, user) = (&review["status"], &review["status"]["user"]);
        assert_eq!(status["authenticated"], true, "{review}");
        assert_eq!(status["error"].as_str().unwrap_or(""), "");
        assert_eq!(user["username"], format!("system:serviceaccount:{NAMESPACE}:e2e-sa"));
        assert_eq!(user["uid"], account["metadata"]["uid"]);
        let own = format!("system:serviceaccounts:{NAMESPACE}");
        for group in ["system:authenticated", "system:serviceaccounts", own.as_str()] {
            assert!(user["groups"].as_array().unwrap().contains(&json!(group)), "{user}");
        }
    })
    .await;
}

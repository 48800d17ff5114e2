//! Signing requests: who may write what of their status.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DnType, DnValue, KeyPair};
use serde_json::{Value, json};

use crate::support::server;

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

fn request() -> Value {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["a.b".to_owned()]).expect("names");
    let pem = params.serialize_request(&key).expect("a request").pem().expect("PEM");
    json!({"kind": "CertificateSigningRequest", "apiVersion": "certificates.k8s.io/v1", "metadata": {"name": "r"},
        "spec": {"signerName": "a.b/c", "usages": ["client auth"], "request": STANDARD.encode(pem)}})
}

#[tokio::test]
async fn conditions_are_the_signers_too() {
    let server = server().await;
    server.post(REQUESTS, &request()).await.expect(201);
    let role = json!({"kind": "ClusterRole", "apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "writer"},
        "rules": [{"apiGroups": ["certificates.k8s.io"], "verbs": ["*"],
            "resources": ["certificatesigningrequests/status", "certificatesigningrequests/approval"]}]});
    server.post(&format!("{RBAC}/clusterroles"), &role).await.expect(201);
    let binding = json!({"kind": "ClusterRoleBinding", "apiVersion": "rbac.authorization.k8s.io/v1",
        "metadata": {"name": "writer"}, "subjects": [{"kind": "User", "name": "writer"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "writer"}});
    server.post(&format!("{RBAC}/clusterrolebindings"), &binding).await.expect(201);
    let writer = server.as_user("writer", &["system:authenticated"]);
    let refusal = |verb: &str| {
        format!(
            "certificatesigningrequests.certificates.k8s.io \"r\" is forbidden: user not permitted to {verb} requests with signerName \"a.b/c\""
        )
    };
    let condition = |kind: &str| json!({"type": kind, "status": "True"});
    let cases = [
        ("approval", json!([condition("Approved")]), "approve"),
        ("status", json!([condition("Approved"), condition("Failed")]), "sign"),
    ];
    for (subresource, conditions, verb) in cases {
        let path = format!("{REQUESTS}/r/{subresource}");
        let patch = json!({"status": {"conditions": conditions}});
        assert_eq!(writer.merge(&path, &patch).await.refused(403, "Forbidden"), refusal(verb));
        server.merge(&path, &patch).await.expect(200);
        server.merge(&path, &json!({"status": {"conditions": null}})).await.refused(422, "Invalid");
    }
    // Nothing of the signer's changes.
    let other = json!({"metadata": {"annotations": {"a": "b"}}});
    writer.merge(&format!("{REQUESTS}/r/status"), &other).await.expect(200);
}

#[tokio::test]
async fn nobody_asks_to_be_a_master() {
    let server = server().await;
    let ask = |name: &str, organization: DnValue, around: (&str, &str)| {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("names");
        params.distinguished_name.push(DnType::OrganizationName, organization);
        let pem = params.serialize_request(&key).expect("a request").pem().expect("PEM");
        let mut asked = request();
        asked["metadata"]["name"] = name.into();
        asked["spec"]["signerName"] = "kubernetes.io/kube-apiserver-client".into();
        asked["spec"]["request"] = STANDARD.encode(format!("{}{pem}{}", around.0, around.1)).into();
        asked
    };
    let masters = "system:masters";
    let plain = ask("plain", masters.into(), ("", ""));
    let told = server.post(REQUESTS, &plain).await.refused(403, "Forbidden");
    assert!(told.ends_with("signer with system:masters group is not allowed"), "{told}");
    let hidden = DnValue::TeletexString(masters.try_into().expect("text"));
    let told = server.post(REQUESTS, &ask("hidden", hidden, ("", ""))).await.refused(403, "Forbidden");
    assert!(told.contains("failed to parse CSR: x509: an organization"), "{told}");
    // To some readers of PEM this is nothing, to others a block.
    let damaged = "-----BEGIN CERTIFICATE REQUEST-----\n?\n-----END CERTIFICATE REQUEST-----\n";
    for (name, around) in [("before", (damaged, "")), ("after", ("", damaged))] {
        server.post(REQUESTS, &ask(name, masters.into(), around)).await.refused(422, "Invalid");
    }
    server.post(REQUESTS, &ask("others", "others".into(), ("about it\n", ""))).await.expect(201);
}

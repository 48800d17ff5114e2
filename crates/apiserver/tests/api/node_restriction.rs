//! What a kubelet may not do to its own node.

use serde_json::json;

use crate::support::server;

const NODES: &str = "/api/v1/nodes";

#[tokio::test]
async fn a_kubelet_cannot_give_its_node_a_part_in_the_cluster() {
    let server = server().await;
    let kubelet = server.as_user("system:node:n", &["system:nodes", "system:authenticated"]);
    let node =
        |labels| json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n", "labels": labels}});
    let role = "node-role.kubernetes.io/control-plane";
    let trusted = "a.node-restriction.kubernetes.io/b";
    let refused = kubelet.post(NODES, &node(json!({role: "", trusted: "", "disk": "fast"}))).await;
    assert_eq!(
        refused.refused(403, "Forbidden"),
        format!("nodes \"n\" is forbidden: is not allowed to set the following labels: {trusted}, {role}")
    );
    let made =
        node(json!({"kubernetes.io/hostname": "n", "topology.kubernetes.io/zone": "z", "disk": "fast"}));
    kubelet.post(NODES, &made).await.expect(201);
    let path = format!("{NODES}/n");
    let label = |key: &str, value| json!({"metadata": {"labels": {key: value}}});
    let refused = kubelet.merge(&path, &label(role, json!(""))).await;
    let message = format!("nodes \"n\" is forbidden: is not allowed to modify labels: {role}");
    assert_eq!(refused.refused(403, "Forbidden"), message);
    server.merge(&path, &label(role, json!(""))).await.expect(200);
    // Nor may it take away or change what it was given, but say anything else.
    for value in [json!(null), json!("x")] {
        assert_eq!(kubelet.merge(&path, &label(role, value)).await.refused(403, "Forbidden"), message);
    }
    kubelet.merge(&path, &label("disk", json!("slow"))).await.expect(200);
}

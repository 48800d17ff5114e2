use serde_json::{Value, json};

use super::*;

fn round_trip(value: &Value) {
    let bytes = encode(value).expect("encodes");
    assert!(is_enveloped(&bytes));
    assert_eq!(&decode(&bytes).expect("decodes"), value);
    let kind = crate::object::kind(value);
    let Some(writer) = Writer::new(crate::object::api_version(value), kind) else {
        assert_eq!(kind, "Status", "only kinds that belong to no version cannot be written so");
        return;
    };
    let message = writer.message(value.to_string().as_bytes()).expect("streams");
    assert_eq!(&decode(&writer.enveloped(&message)).expect("decodes"), value);
    assert_eq!(writer.enveloped(&message).len(), bytes.len(), "both write the same fields");
}

#[test]
fn streamed_lists() {
    let pods: Vec<Value> = (0..3)
        .map(|i| json!({"metadata": {"name": format!("p{i}"), "annotations": {"a": "x".repeat(100 * i)}}}))
        .collect();
    let writer = Writer::new("v1", "Pod").expect("known");
    let messages: Vec<Vec<u8>> =
        pods.iter().map(|pod| writer.message(pod.to_string().as_bytes()).expect("streams")).collect();
    let metadata = json!({"resourceVersion": "7", "remainingItemCount": 2});
    let frame = ListFrame::new("v1", "PodList", &metadata, messages.iter().map(Vec::len)).expect("frames");
    let mut bytes = frame.head.clone();
    for message in &messages {
        frame.before_item(message.len(), &mut bytes);
        bytes.extend(message);
    }
    bytes.extend(ListFrame::TAIL);
    let expected = json!({"apiVersion": "v1", "kind": "PodList", "metadata": metadata, "items": pods});
    assert_eq!(decode(&bytes).expect("decodes"), expected);
}

#[test]
fn kinds_round_trip() {
    round_trip(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": ""},
            "creationTimestamp": "2024-01-02T03:04:05Z", "managedFields": [{"fieldsV1": {"f:spec": {}}}]},
        "spec": {"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}], "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "resources": {"limits": {"cpu": "500m"}},
                "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
                "livenessProbe": {"httpGet": {"port": "web"}, "periodSeconds": 3},
                "readinessProbe": {"tcpSocket": {"port": 80}}}]}}));
    round_trip(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {}, "data": {"k": "AAEC"}}));
    round_trip(&json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {},
        "spec": {"renewTime": "2024-01-02T03:04:05.000006Z", "leaseTransitions": 0}}));
    round_trip(&json!({"apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "5"},
        "items": [{"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}]}));
    round_trip(&json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": {},
        "data": {"spec": [1, null]}, "revision": 3546343826724305832i64}));
    round_trip(
        &json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {},
        "spec": {"group": "g", "scope": "Namespaced", "names": {"plural": "p", "kind": "K"}, "versions": [
            {"name": "v1", "served": true, "storage": false, "schema": {"openAPIV3Schema": {"type": "object",
                "x-kubernetes-preserve-unknown-fields": true, "additionalProperties": {"type": "string"},
                "properties": {"a": {"type": "array", "items": {"type": "integer", "default": 1}, "maximum": 1.5},
                    "b": {"additionalProperties": false}}}}}]}}),
    );
    round_trip(
        &json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure", "code": 404}),
    );
}

/// Both writers write `given`, and what they wrote is `expected`.
fn both_write(given: &Value, expected: &Value) {
    let writer = Writer::new(crate::object::api_version(given), crate::object::kind(given)).expect("known");
    let streamed = writer.message(given.to_string().as_bytes()).expect("streams");
    assert_eq!(&decode(&writer.enveloped(&streamed)).expect("decodes"), expected);
    assert_eq!(&decode(&encode(given).expect("encodes")).expect("decodes"), expected);
    assert_eq!(writer.enveloped(&streamed).len(), encode(given).expect("encodes").len());
}

#[test]
fn nulls() {
    let schema = |properties: Value| {
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {},
            "spec": {"group": "g", "scope": "Namespaced", "names": {"plural": "p", "kind": "K"}, "versions": [
                {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                    "properties": properties}}}]}})
    };
    // JSON among JSON stays; as a field, and where a struct is expected, it is the zero value.
    let both = schema(json!({"a": {"enum": ["x", null, 1]}}));
    both_write(&both, &both);
    let given = schema(json!({"a": {"default": null, "type": "string"}, "b": null}));
    both_write(&given, &schema(json!({"a": {"type": "string"}, "b": {}})));
    let pod = |items: Value, args: Value, labels: Value| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": labels},
            "spec": {"containers": items, "hostAliases": [{"ip": "1.2.3.4", "hostnames": args}]}})
    };
    both_write(
        &pod(json!([{"name": "c"}, null]), json!([null, "h"]), json!({"a": null})),
        &pod(json!([{"name": "c"}, {}]), json!(["", "h"]), json!({"a": ""})),
    );
    // A struct in a struct, both embedded: nothing in it leaves nothing of it.
    let policy = |rule: Value| {
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": {}, "spec": {"matchConstraints": {"resourceRules": [rule]}}})
    };
    both_write(&policy(json!({"apiGroups": null, "scope": null})), &policy(json!({})));
}

#[test]
fn known_bytes() {
    // Written by the original: an envelope around Namespace{metadata{name: "a"}, spec{}, status{}}.
    let mut bytes = b"k8s\0\n\x0f\n\x02v1\x12\tNamespace\x12\x09\n\x03\n\x01a\x12\0\x1a\0".to_vec();
    bytes.extend(b"\x1a\0\"\0");
    let expected =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}, "spec": {}, "status": {}});
    assert_eq!(decode(&bytes).expect("decodes"), expected);
    assert_eq!(encode(&expected).expect("encodes"), bytes);
}

#[test]
fn damage_is_an_error() {
    assert_eq!(decode(b"{}"), Err(Error::NoMagic));
    let good =
        encode(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}})).expect("encodes");
    for cut in 5..good.len() {
        // Cutting may land on a field's end, where less is read; it must never panic.
        let _ = decode(&good[..cut]);
    }
    assert!(matches!(encode(&json!({"apiVersion": "x/v1", "kind": "Y"})), Err(Error::UnknownKind { .. })));
    assert_eq!(encode(&json!({})), Err(Error::Untyped));
}

#[test]
fn watch_frames() {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}});
    let frame = encode_watch_event("ADDED", &pod).expect("encodes");
    let length = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
    assert_eq!(length, frame.len() - 4);
    assert_eq!(&frame[4..11], b"\n\x05ADDED");
}

#[test]
fn what_kubectl_sends() {
    use base64::Engine as _;
    // `kubectl create deployment x --image=y` and `kubectl create quota q --hard=cpu=1,memory=1024Mi`, v1.32.
    let cases = [
        (
            "azhzAAoVCgdhcHBzL3YxEgpEZXBsb3ltZW50EpsBChsKAXgSABoAIgAqADIAOABCAFoICgNhcHASAXgSbggBEgoKCAoDYXBwEgF4\
             GlYKGgoAEgAaACIAKgAyADgAQgBaCAoDYXBwEgF4EjgSGgoBeRIBeSoAQgBqAHIAgAEAiAEAkAEAogEAGgAyAEIASgBSAFgAYABo\
             AIIBAIoBAJoBAMIBACICCgAoADgAGgwIABAAGAAgACgAOAAaACIA",
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x", "labels": {"app": "x"}},
                "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "x"}}, "strategy": {},
                    "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [
                        {"name": "y", "image": "y", "resources": {}}]}}},
                "status": {}}),
        ),
        (
            "azhzAAoTCgJ2MRINUmVzb3VyY2VRdW90YRI0ChEKAXESABoAIgAqADIAOABCABIdCgoKA2NwdRIDCgExCg8KBm1lbW9yeRIFCgMxR2ka\
             ABoAIgA=",
            json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"},
                "spec": {"hard": {"cpu": "1", "memory": "1Gi"}}, "status": {}}),
        ),
    ];
    for (text, expected) in cases {
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).expect("base64");
        assert_eq!(decode(&bytes).expect("decodes"), expected);
    }
}

//! Values that this server did not write: what kube-apiserver stores (protobuf in an envelope, or JSON
//! without a resourceVersion), some of it in versions that are served no longer. They are read as if
//! written here, and rewritten by the next update.

use amphipod_api::{object, protobuf, schema};
use amphipod_store::{Error as StoreError, KeyValue, Text};
use serde_json::{Value, json};

use crate::registry::encode;

/// How kube-apiserver marks what a provider encrypted: `k8s:enc:<provider>:v<n>:<key>:`.
const ENCRYPTED: &[u8] = b"k8s:enc:";
/// Longest mark shown.
const MARK_BYTES: usize = 64;

/// Budgets of this version differ in what an empty selector means.
const OLD_BUDGETS: &str = "policy/v1beta1";
/// The key, kept for this, of an expression that says in one version what an empty selector says in the
/// other.
const EMPTY_SELECTOR_KEY: &str = "pdb.kubernetes.io/deprecated-v1beta1-empty-selector-match";

/// Versions, by plural, whose objects have the shape of the stored version's.
const SAME_SHAPE: &[(&str, &[&str])] = &[
    (
        "admissionregistration.k8s.io/v1beta1",
        &[
            "mutatingwebhookconfigurations",
            "validatingwebhookconfigurations",
            "validatingadmissionpolicies",
            "validatingadmissionpolicybindings",
        ],
    ),
    ("apps/v1beta2", &["controllerrevisions", "daemonsets", "deployments", "replicasets", "statefulsets"]),
    ("autoscaling/v2beta2", &["horizontalpodautoscalers"]),
    ("batch/v1beta1", &["cronjobs"]),
    ("certificates.k8s.io/v1beta1", &["certificatesigningrequests"]),
    ("coordination.k8s.io/v1beta1", &["leases"]),
    ("flowcontrol.apiserver.k8s.io/v1beta3", &["flowschemas", "prioritylevelconfigurations"]),
    ("networking.k8s.io/v1beta1", &["ingressclasses", "ipaddresses", "servicecidrs"]),
    ("node.k8s.io/v1beta1", &["runtimeclasses"]),
    (OLD_BUDGETS, &["poddisruptionbudgets"]),
    ("rbac.authorization.k8s.io/v1beta1", &["clusterrolebindings", "clusterroles", "rolebindings", "roles"]),
    (
        "resource.k8s.io/v1beta2",
        &["deviceclasses", "resourceclaims", "resourceclaimtemplates", "resourceslices"],
    ),
    ("scheduling.k8s.io/v1beta1", &["priorityclasses"]),
    (
        "storage.k8s.io/v1beta1",
        &[
            "csidrivers",
            "csinodes",
            "csistoragecapacities",
            "storageclasses",
            "volumeattachments",
            "volumeattributesclasses",
        ],
    ),
];

/// What a collection's objects are stored as; custom resources have no such rule here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    pub plural: String,
    pub api_version: String,
}

/// Whether the value is closed to us altogether; serving the rest as if it were all would be wrong.
pub fn refuse_encrypted(item: &KeyValue) -> Result<(), StoreError> {
    if !item.value.starts_with(ENCRYPTED) {
        return Ok(());
    }
    let shown: Vec<u8> = item.value.chunks_in(0..MARK_BYTES).collect::<Vec<_>>().concat();
    let end =
        shown.iter().enumerate().filter(|(_, byte)| **byte == b':').nth(4).map_or(shown.len(), |(at, _)| at);
    Err(StoreError::Unreadable {
        key: item.key.to_string(),
        why: format!(
            "it is encrypted ({}), and Amphipod has no keys to it; let kube-apiserver rewrite all objects \
             with the identity provider first",
            String::from_utf8_lossy(&shown[..end])
        ),
    })
}

/// The value as this server would have stored it.
pub fn rewritten(kind: Option<&Kind>, item: &KeyValue) -> Result<Text, StoreError> {
    refuse_encrypted(item)?;
    let unreadable = |why: String| StoreError::Unreadable { key: item.key.to_string(), why };
    let stored = item.value.contiguous();
    let mut value: Value = if protobuf::is_enveloped(&stored) {
        let read_as =
            |version: &str| kind.filter(|kind| same_shape(kind, version)).map(|k| k.api_version.as_str());
        protobuf::decode_as(&stored, read_as).map_err(|e| unreadable(e.to_string()))?
    } else {
        serde_json::from_slice(&stored).map_err(|e| unreadable(e.to_string()))?
    };
    if !value.is_object() {
        return Err(unreadable("it is no JSON object".to_owned()));
    }
    if let Some(kind) = kind {
        to_stored_version(kind, &mut value).map_err(unreadable)?;
    }
    let encoded = encode::object(&value).map_err(|status| unreadable(status.message))?;
    let digits = item.mod_revision.to_string();
    let (before, after) = encoded.bytes.split_at(encoded.stamp);
    Ok(Text::new(&[before, digits.as_bytes(), after]))
}

fn to_stored_version(kind: &Kind, value: &mut Value) -> Result<(), String> {
    let stored = object::api_version(value).to_owned();
    if stored == kind.api_version {
        return Ok(());
    }
    if same_shape(kind, &stored) {
        if stored == OLD_BUDGETS
            && let Some(selector) = value.pointer_mut("/spec/selector")
        {
            selector_of_old_budget(selector);
        }
        value["apiVersion"] = kind.api_version.clone().into();
        return Ok(());
    }
    let (group, version) = schema::split_api_version(&stored);
    amphipod_strategy::convert(group, version, &kind.plural, value, true);
    if object::api_version(value) == kind.api_version {
        return Ok(());
    }
    Err(format!("it is stored as {stored}, which cannot be converted to {}", kind.api_version))
}

/// An empty selector was for no pod and is for every pod now. Beside others the kept key says nothing.
fn selector_of_old_budget(selector: &mut Value) {
    let Some(selector) = selector.as_object_mut() else { return };
    let mut expressions = match selector.remove("matchExpressions") {
        Some(Value::Array(expressions)) => expressions,
        _ => Vec::new(),
    };
    let labelled =
        selector.get("matchLabels").and_then(Value::as_object).is_some_and(|labels| !labels.is_empty());
    if expressions.is_empty() && !labelled {
        expressions.push(json!({"key": EMPTY_SELECTOR_KEY, "operator": "Exists"}));
    } else {
        expressions.retain(|expression| expression["key"] != EMPTY_SELECTOR_KEY);
    }
    if !expressions.is_empty() {
        selector.insert("matchExpressions".to_owned(), expressions.into());
    }
}

fn same_shape(kind: &Kind, stored: &str) -> bool {
    SAME_SHAPE.iter().any(|(version, plurals)| *version == stored && plurals.contains(&kind.plural.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(value: impl Into<Text>) -> KeyValue {
        KeyValue {
            key: "/registry/x/a".into(),
            value: value.into(),
            create_revision: 1,
            mod_revision: 42,
            version: 1,
            lease: None,
        }
    }

    fn kind(plural: &str, api_version: &str) -> Kind {
        Kind { plural: plural.into(), api_version: api_version.into() }
    }

    fn read(kind: &Kind, value: &Value) -> Result<Value, String> {
        let text = rewritten(Some(kind), &item(value.to_string())).map_err(|e| e.to_string())?;
        Ok(serde_json::from_slice(&text.contiguous()).expect("JSON"))
    }

    #[test]
    fn json_gets_its_revision_and_the_stored_version() {
        let budgets = kind("poddisruptionbudgets", "policy/v1");
        let old =
            json!({"apiVersion": "policy/v1beta1", "kind": "PodDisruptionBudget", "metadata": {"name": "a"}});
        let new = read(&budgets, &old).expect("readable");
        assert_eq!(
            (&new["apiVersion"], &new["metadata"]["resourceVersion"]),
            (&json!("policy/v1"), &json!("42"))
        );
        let scalers = kind("horizontalpodautoscalers", "autoscaling/v2");
        let old = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
            "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 70}});
        let new = read(&scalers, &old).expect("readable");
        assert_eq!(new["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 70);
        let ingresses = kind("ingresses", "networking.k8s.io/v1");
        let old = json!({"apiVersion": "extensions/v1beta1", "kind": "Ingress", "metadata": {"name": "a"}});
        let why = read(&ingresses, &old).expect_err("another shape");
        assert!(why.contains("/registry/x/a") && why.contains("stored as extensions/v1beta1"), "{why}");
    }

    #[test]
    fn an_old_budget_keeps_its_pods() {
        let kept = |operator: &str| json!({"key": EMPTY_SELECTOR_KEY, "operator": operator});
        let app = json!({"key": "app", "operator": "Exists"});
        for (old, new) in [
            (Value::Null, Value::Null),
            (json!({}), json!({"matchExpressions": [kept("Exists")]})),
            (
                json!({"matchLabels": {}, "matchExpressions": []}),
                json!({"matchLabels": {}, "matchExpressions": [kept("Exists")]}),
            ),
            (json!({"matchExpressions": [kept("DoesNotExist")]}), json!({})),
            (json!({"matchLabels": {"a": "b"}}), json!({"matchLabels": {"a": "b"}})),
            (json!({"matchExpressions": [app, kept("Exists")]}), json!({"matchExpressions": [app]})),
        ] {
            let budgets = kind("poddisruptionbudgets", "policy/v1");
            let stored = json!({"apiVersion": "policy/v1beta1", "kind": "PodDisruptionBudget", "metadata": {"name": "a"},
                "spec": {"minAvailable": 1, "selector": old}});
            assert_eq!(read(&budgets, &stored).expect("readable")["spec"]["selector"], new, "{old}");
        }
    }

    #[test]
    fn protobuf_of_an_older_version_of_the_same_shape_is_read() {
        let cron = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "a"}, "spec": {"schedule": "* * * * *"}});
        let bytes = protobuf::encode(&cron).expect("encodes");
        // The length of the envelope's type changes with the version's name.
        let at = bytes.windows(8).position(|w| w == b"batch/v1").expect("the version");
        let mut old = bytes;
        old.splice(at..at + 8, *b"batch/v1beta1");
        old[at - 1] += 5;
        old[at - 3] += 5;
        let read = rewritten(Some(&kind("cronjobs", "batch/v1")), &item(old.clone())).expect("readable");
        let read: Value = serde_json::from_slice(&read.contiguous()).expect("JSON");
        assert_eq!(
            (&read["apiVersion"], &read["spec"]["schedule"]),
            (&json!("batch/v1"), &json!("* * * * *"))
        );
        assert!(rewritten(Some(&kind("jobs", "batch/v1")), &item(old)).is_err(), "known for cron jobs only");
    }

    #[test]
    fn what_is_encrypted_is_refused_by_name() {
        let error = refuse_encrypted(&item(&b"k8s:enc:aescbc:v1:key1:\x00\xff\x01"[..])).expect_err("closed");
        let text = error.to_string();
        assert!(text.contains("/registry/x/a") && text.contains("(k8s:enc:aescbc:v1:key1)"), "{text}");
    }
}

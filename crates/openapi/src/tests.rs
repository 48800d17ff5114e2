use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::*;

const INFO: Info<'static> = Info { server_version: "v1.35.0" };

fn parsed(path: &str) -> Value {
    serde_json::from_slice(&v3(INFO, path).expect(path)).expect("JSON")
}

/// Every reference in a document must lead somewhere.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                found.insert(reference.rsplit('/').next().unwrap_or_default().to_owned());
            }
            map.values().for_each(|v| references(v, found));
        }
        Value::Array(list) => list.iter().for_each(|v| references(v, found)),
        _ => {}
    }
}

fn check_references(document: &Value, definitions: &Value) {
    let mut found = BTreeSet::new();
    references(document, &mut found);
    let missing: Vec<&String> =
        found.iter().filter(|name| definitions.get(name.as_str()).is_none()).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_group_version_has_a_sound_document() {
    let index = v3_index(INFO, &[]);
    let paths = index["paths"].as_object().expect("paths");
    assert_eq!(paths.len(), 23);
    for path in paths.keys() {
        let document = parsed(path);
        check_references(&document, &document["components"]["schemas"]);
    }
    assert!(v3(INFO, "apis/none/v1").is_none());
}

#[test]
fn v3_carries_what_kubectl_reads() {
    let document = parsed("apis/apps/v1");
    let schemas = &document["components"]["schemas"];
    let deployment = &schemas["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(deployment["x-kubernetes-group-version-kind"][0]["kind"], "Deployment");
    assert_eq!(
        deployment["properties"]["spec"]["allOf"][0]["$ref"],
        "#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec"
    );
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-list-map-keys"][0], "name");
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(patch["x-kubernetes-action"], "patch");
    assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Deployment");
    let parameters = patch["parameters"].as_array().expect("parameters");
    for name in ["fieldValidation", "dryRun", "force"] {
        assert!(parameters.iter().any(|p| p["name"] == name), "{name}");
    }
    let core = parsed("api/v1");
    let pod = &core["components"]["schemas"]["io.k8s.api.core.v1.Pod"];
    assert!(pod["description"].as_str().is_some_and(|d| d.contains("Pod is a collection")));
    assert!(core["paths"]["/api/v1/namespaces/{namespace}/pods/{name}/exec"]["get"].is_object());
}

#[test]
fn v2_is_sound_in_both_forms() {
    let json = v2(INFO, &Map::new());
    let document: Value = serde_json::from_slice(&json).expect("JSON");
    check_references(&document, &document["definitions"]);
    let spec = &document["definitions"]["io.k8s.api.core.v1.PodSpec"];
    assert_eq!(spec["properties"]["volumes"]["x-kubernetes-patch-strategy"], "merge,retainKeys");
    let reference = &spec["properties"]["securityContext"];
    assert_eq!(reference["$ref"], "#/definitions/io.k8s.api.core.v1.PodSecurityContext");
    let port = &document["definitions"]["io.k8s.apimachinery.pkg.util.intstr.IntOrString"];
    assert_eq!((&port["type"], &port["format"]), (&"string".into(), &"int-or-string".into()));

    let binary = v2_protobuf(INFO, &Map::new());
    assert!(binary.starts_with(b"\x0a\x032.0\x12"));
    let name = b"io.k8s.api.core.v1.PodSpec";
    assert!(binary.windows(name.len()).any(|w| w == name));
    assert!(json.len() > 500_000 && binary.len() > 300_000, "{} {}", json.len(), binary.len());
}

#[test]
fn hashes_name_versions() {
    let other = Info { server_version: "v1.35.1" };
    assert_eq!(hash(INFO, "api/v1"), hash(INFO, "api/v1"));
    assert_ne!(hash(INFO, "api/v1"), hash(other, "api/v1"));
    assert_ne!(hash(INFO, "api/v1"), hash(INFO, "apis/apps/v1"));
}

#[test]
fn custom_documents_stand_alone() {
    let resource = amphipod_api::resource::find("apps", "v1", "controllerrevisions").expect("any resource");
    let mut schemas = Map::new();
    schemas.insert("com.example.v1.Thing".into(), serde_json::json!({"type": "object"}));
    schemas.insert("com.example.v1.ThingList".into(), list_definition("com.example.v1.Thing", "Thing", true));
    let document: Value =
        serde_json::from_slice(&custom_v3(INFO, &[(resource, "com.example.v1.Thing")], schemas))
            .expect("JSON");
    check_references(&document, &document["components"]["schemas"]);
}

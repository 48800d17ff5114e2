use serde_json::{Value, json};

use super::*;

fn writer<'a>(manager: &'a str, now: &'a str) -> Writer<'a> {
    Writer {
        manager,
        api_version: "apps/v1",
        subresource: "",
        now,
        schema: Node::of_kind("apps", "v1", "Deployment"),
        tracked: Tracked::AllBut(&[&["status"]]),
        versions: &OneVersion,
    }
}

fn config(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "d"}, "spec": spec})
}

fn entry<'a>(object: &'a Value, manager: &str) -> &'a Value {
    let entries = object["metadata"]["managedFields"].as_array().expect("entries");
    entries.iter().find(|e| e["manager"] == manager).expect(manager)
}

#[test]
fn an_update_owns_what_it_sets_and_loses_what_others_change() {
    let mut object = config(json!({"replicas": 1, "paused": true}));
    object["metadata"]["labels"] = json!({"x": "1"});
    update_managers(None, &mut object, &writer("create", "t1"));
    let expected = json!({"f:metadata": {"f:labels": {".": {}, "f:x": {}}}, "f:spec": {"f:replicas": {}, "f:paused": {}}});
    assert_eq!(entry(&object, "create")["fieldsV1"], expected);

    let mut scaled = object.clone();
    scaled["spec"]["replicas"] = json!(2);
    scaled["status"] = json!({"replicas": 2});
    update_managers(Some(&object), &mut scaled, &writer("scaler", "t2"));
    assert_eq!(entry(&scaled, "scaler")["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(entry(&scaled, "create")["fieldsV1"]["f:spec"], json!({"f:paused": {}}));
    assert_eq!(entry(&scaled, "create")["time"], "t1");

    let mut same = scaled.clone();
    same["metadata"].as_object_mut().expect("metadata").remove("managedFields");
    update_managers(Some(&scaled), &mut same, &writer("scaler", "t3"));
    assert_eq!(same, scaled);
}

#[test]
fn apply_creates_merges_and_removes() {
    let first = config(json!({"replicas": 1, "template": {"spec": {"containers": [
        {"name": "a", "image": "x", "env": [{"name": "E", "value": "1"}]}]}}}));
    let live = apply(None, &first, false, &writer("me", "t1")).expect("creates");
    let owned = json!({"f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers": {
        "k:{\"name\":\"a\"}": {".": {}, "f:name": {}, "f:image": {},
            "f:env": {"k:{\"name\":\"E\"}": {".": {}, "f:name": {}, "f:value": {}}}}}}}}});
    assert_eq!(entry(&live, "me")["fieldsV1"], owned);
    assert_eq!(entry(&live, "me")["operation"], "Apply");

    let mut defaulted = live.clone();
    defaulted["spec"]["progressDeadlineSeconds"] = json!(600);
    let again = apply(Some(&defaulted), &first, false, &writer("me", "t2")).expect("same");
    assert_eq!(again, defaulted);

    let second = config(json!({"template": {"spec": {"containers": [
        {"name": "b", "image": "y"}, {"name": "a", "image": "x"}]}}}));
    let live = apply(Some(&again), &second, false, &writer("me", "t3")).expect("applies");
    assert_eq!(
        live["spec"],
        json!({"progressDeadlineSeconds": 600, "template": {"spec": {"containers": [
            {"name": "b", "image": "y"}, {"name": "a", "image": "x"}]}}})
    );
    assert_eq!(entry(&live, "me")["time"], "t3");
}

#[test]
fn conflicts_name_the_manager_and_force_takes_over() {
    let mut live = config(json!({"replicas": 1}));
    update_managers(None, &mut live, &writer("kubectl-client-side-apply", "t1"));
    let wanted = config(json!({"replicas": 3}));
    let status = apply(Some(&live), &wanted, false, &writer("me", "t2")).expect_err("conflict");
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    assert_eq!(
        status.message,
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.replicas"
    );
    let causes = status.details.expect("details").causes;
    assert_eq!(
        (causes[0].reason.as_str(), causes[0].field.as_str()),
        ("FieldManagerConflict", ".spec.replicas")
    );

    let taken = apply(Some(&live), &wanted, true, &writer("me", "t2")).expect("forced");
    assert_eq!(taken["metadata"]["managedFields"].as_array().map(Vec::len), Some(1));
    assert_eq!(taken["spec"]["replicas"], 3);
}

#[test]
fn equal_values_are_shared_and_survive_one_owner_leaving() {
    let one = config(json!({"replicas": 3, "paused": true}));
    let live = apply(None, &one, false, &writer("one", "t1")).expect("creates");
    let live =
        apply(Some(&live), &config(json!({"replicas": 3})), false, &writer("two", "t2")).expect("shares");
    let live = apply(Some(&live), &config(json!({})), false, &writer("one", "t3")).expect("leaves");
    assert_eq!(live["spec"], json!({"replicas": 3}));
    let managers = live["metadata"]["managedFields"].as_array().expect("entries");
    assert!(managers.iter().any(|m| m["manager"] == "two"));
}

#[test]
fn untracked_objects_conflict_as_before_first_apply() {
    let live = config(json!({"replicas": 1}));
    let status =
        apply(Some(&live), &config(json!({"replicas": 2})), false, &writer("me", "t")).expect_err("conflict");
    assert!(
        status.message.contains("\"before-first-apply\" using apps/v1: .spec.replicas"),
        "{}",
        status.message
    );
}

#[test]
fn bad_configurations() {
    let fault =
        |spec: Value| apply(None, &config(spec), false, &writer("me", "t")).expect_err("refused").message;
    assert_eq!(
        fault(json!({"foo": 1})),
        "failed to create typed patch object (d/a; apps/v1, Kind=Deployment): .spec.foo: field not declared in schema"
    );
    let twice = json!({"template": {"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}});
    assert!(fault(twice).contains("duplicate entries for key [name=\"a\"]"));
    let keyless = json!({"template": {"spec": {"containers": [{"image": "a"}]}}});
    assert!(fault(keyless).contains("omits key field \"name\""));
    let mut managed = config(json!({}));
    managed["metadata"]["managedFields"] = json!([{}]);
    let status = apply(None, &managed, false, &writer("me", "t")).expect_err("refused");
    assert_eq!(status.message, "metadata.managedFields must be nil");
}

#[test]
fn list_keys_take_their_defaults() {
    let schema = Node::of_kind("", "v1", "Service");
    let writer = Writer { api_version: "v1", schema, ..writer("me", "t") };
    let service = |ports: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": ports}});
    let live = apply(None, &service(json!([{"port": 80}])), false, &writer).expect("creates");
    let fields = &entry(&live, "me")["fieldsV1"]["f:spec"]["f:ports"];
    assert!(fields.get("k:{\"port\":80,\"protocol\":\"TCP\"}").is_some(), "{fields}");
    let mut defaulted = live.clone();
    defaulted["spec"]["ports"][0]["protocol"] = json!("TCP");
    let named = service(json!([{"port": 80, "name": "http"}]));
    let merged = apply(Some(&defaulted), &named, false, &writer).expect("merges");
    assert_eq!(merged["spec"]["ports"], json!([{"port": 80, "protocol": "TCP", "name": "http"}]));
}

#[test]
fn custom_resources_without_a_schema() {
    let base = Writer { schema: Node::Deduced, ..writer("me", "t") };
    let live = apply(None, &config(json!({"any": {"a": [1], "b": 2}})), false, &base).expect("creates");
    let live = apply(Some(&live), &config(json!({"any": {"a": [2]}})), false, &base).expect("applies");
    assert_eq!(live["spec"], json!({"any": {"a": [2]}}));
}

#[test]
fn old_updates_are_merged() {
    let mut live = config(json!({"replicas": 0}));
    update_managers(None, &mut live, &writer("m0", "t00"));
    for i in 1..14 {
        let mut next = live.clone();
        next["metadata"]["labels"][format!("l{i}")] = json!("x");
        let (manager, now) = (format!("m{i}"), format!("t{i:02}"));
        update_managers(Some(&live), &mut next, &writer(&manager, &now));
        live = next;
    }
    let entries = live["metadata"]["managedFields"].as_array().expect("entries");
    assert_eq!(entries.len(), 10);
    assert_eq!(entries[0]["manager"], "ancient-changes");
}

fn structural() -> Value {
    json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a", "b"],
            "items": {"type": "object", "properties": {"a": {"type": "string"},
                "b": {"type": "integer", "default": 1}, "v": {"type": "string"}}}},
        "list": {"type": "array", "items": {"type": "string"}},
        "whole": {"type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": {"type": "string"}},
        "parts": {"type": "object", "additionalProperties": {"type": "string"}},
        "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "port": {"x-kubernetes-int-or-string": true}}}}})
}

fn custom<'a>(manager: &'a str, schema: &'a Value) -> Writer<'a> {
    let tracked = Tracked::AllBut(&[]);
    Writer { api_version: "apps/v1", schema: Node::Structural(schema), tracked, ..writer(manager, "t") }
}

#[test]
fn every_kind_of_list_and_map() {
    let schema = structural();
    let one =
        config(json!({"set": ["x", "y"], "map": [{"a": "k", "v": "1"}], "list": ["l"], "whole": {"w": "1"},
        "parts": {"p": "1"}, "open": {"o": {"deep": [1]}}, "port": "http"}));
    let live = apply(None, &one, false, &custom("one", &schema)).expect("creates");
    let owned = json!({"f:spec": {"f:set": {"v:\"x\"": {}, "v:\"y\"": {}}, "f:list": {}, "f:whole": {},
        "f:map": {"k:{\"a\":\"k\",\"b\":1}": {".": {}, "f:a": {}, "f:v": {}}}, "f:parts": {"f:p": {}},
        "f:open": {"f:o": {".": {}, "f:deep": {}}}, "f:port": {}}});
    assert_eq!(entry(&live, "one")["fieldsV1"], owned);

    let two = config(json!({"set": ["z", "x"], "map": [{"a": "k", "b": 2}], "parts": {"q": "1"}}));
    let both = apply(Some(&live), &two, false, &custom("two", &schema)).expect("nothing in common but x");
    assert_eq!(both["spec"]["set"], json!(["z", "x", "y"]));
    assert_eq!(both["spec"]["map"], json!([{"a": "k", "v": "1"}, {"a": "k", "b": 2}]));
    assert_eq!(both["spec"]["parts"], json!({"p": "1", "q": "1"}));
    let gone = apply(Some(&both), &config(json!({})), false, &custom("one", &schema)).expect("leaves");
    assert_eq!(gone["spec"], json!({"set": ["z", "x"], "map": [{"a": "k", "b": 2}], "parts": {"q": "1"}}));

    for field in ["list", "whole"] {
        let other = if field == "list" { json!(["m"]) } else { json!({"other": "1"}) };
        let wanted = config(json!({field: other}));
        let status = apply(Some(&live), &wanted, false, &custom("two", &schema)).expect_err("owned as one");
        assert!(
            status.message.ends_with(&format!("conflict with \"one\": .spec.{field}")),
            "{}",
            status.message
        );
    }
}

#[test]
fn items_that_cannot_be_told_apart_are_one() {
    let schema = structural();
    let mut live = config(json!({"set": ["x", "x"], "map": [{"a": "k", "v": "1"}, {"a": "k", "v": "2"}]}));
    update_managers(None, &mut live, &custom("maker", &schema));
    let owned = &entry(&live, "maker")["fieldsV1"]["f:spec"];
    assert_eq!(owned["f:map"], json!({".": {}, "k:{\"a\":\"k\",\"b\":1}": {}}));
    // What is applied replaces all of them where the first stood; others keep theirs.
    let wanted = config(json!({"map": [{"a": "k", "v": "3"}]}));
    let status = apply(Some(&live), &wanted, false, &custom("me", &schema)).expect_err("owned by the maker");
    assert_eq!(status.code, 409);
    let merged = apply(Some(&live), &wanted, true, &custom("me", &schema)).expect("forced");
    assert_eq!(merged["spec"], json!({"set": ["x", "x"], "map": [{"a": "k", "v": "3"}]}));
    let fault =
        apply(None, &config(json!({"set": ["x", "x"]})), false, &custom("me", &schema)).expect_err("twice");
    assert!(fault.message.ends_with(".spec.set: duplicate entries for key [=\"x\"]"), "{}", fault.message);
}

#[test]
fn faults_name_values_as_go_prints_them() {
    let fault = |spec: Value| {
        let status = apply(None, &config(spec), false, &writer("me", "t")).expect_err("refused");
        status.message.rsplit_once("Kind=Deployment): ").expect("a prefix").1.to_owned()
    };
    let cases = [
        (json!({"replicas": "x"}), ".spec.replicas: expected numeric (int or float), got string"),
        (json!({"paused": "x"}), ".spec.paused: expected boolean, got &{x}"),
        (json!({"template": []}), ".spec.template: expected map, got &{[]}"),
        (
            json!({"selector": {"matchLabels": {"a": 1}}}),
            ".spec.selector.matchLabels.a: expected string, got &value.valueUnstructured{Value:1}",
        ),
        (
            json!({"template": {"spec": {"containers": {"name": "a"}}}}),
            ".spec.template.spec.containers: expected list, got &{map[name:a]}",
        ),
        (
            json!({"template": {"spec": {"containers": [null]}}}),
            ".spec.template.spec.containers: element 0: associative list with keys may not have a null element",
        ),
    ];
    for (spec, text) in cases {
        assert_eq!(fault(spec), text);
    }
}

#[test]
fn an_applied_null_leaves_what_is_there() {
    let live = apply(
        None,
        &config(json!({"replicas": 1, "template": {"metadata": {"labels": {"a": "b"}}}})),
        false,
        &writer("one", "t"),
    );
    let live = live.expect("creates");
    let wanted = config(json!({"template": {"metadata": {"labels": null}}}));
    let merged = apply(Some(&live), &wanted, false, &writer("two", "t")).expect("merges");
    assert_eq!(merged["spec"], live["spec"]);
}

#[test]
fn times_alone_are_no_change() {
    let mut old = config(json!({"replicas": 1}));
    update_managers(None, &mut old, &writer("m", "t1"));
    let mut new = old.clone();
    new["metadata"]["managedFields"][0]["time"] = "t2".into();
    keep_times(&old, &mut new);
    assert_eq!(new, old);
    new["metadata"]["managedFields"][0]["time"] = "t2".into();
    new["spec"]["replicas"] = 2.into();
    keep_times(&old, &mut new);
    assert_eq!(new["metadata"]["managedFields"][0]["time"], "t2");
}

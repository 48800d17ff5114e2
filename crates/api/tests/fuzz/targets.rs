//! What is fuzzed, with what it begins from and what must hold.

use amphipod_api::codec::{self, Expected, FieldValidation};
use amphipod_api::resource::{self, Resource};
use amphipod_api::schema::{self, Node};
use amphipod_api::{object, protobuf as wire, table};
use serde_json::{Value, json};

use crate::objects;
use crate::rng::Rng;

const POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","labels":{"x":"1"},"finalizers":["a.b/c"],"creationTimestamp":"2026-01-02T03:04:05Z"},"spec":{"containers":[{"name":"a","image":"x","ports":[{"containerPort":80}],"resources":{"limits":{"cpu":"500m","memory":"1Gi"}},"livenessProbe":{"httpGet":{"port":"http","path":"/"}}},{"name":"b"}],"volumes":[{"name":"v","emptyDir":{}}],"tolerations":[{"key":"k","tolerationSeconds":3}]},"status":{"phase":"Running","podIPs":[{"ip":"10.0.0.1"}]}}"#;
const CRD: &str = r#"{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"a.b"},"spec":{"group":"b","names":{"plural":"a","kind":"A"},"scope":"Cluster","versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","properties":{"x":{"type":"array","items":{"type":"string"},"default":["a"]}},"additionalProperties":false}}}]}}"#;
const POD_YAML: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: &l {x: \"1\"}}\nspec:\n  containers:\n  - name: a\n    command: [sh, -c, |\n      echo 1\n      ]\n    env:\n    - {name: N, value: 'yes'}\n  nodeSelector: *l\n";

/// No document grows beyond this by being read.
const MAX_TEXT: usize = 8 << 20;

/// What a document may be decoded as: what it says it is, or anything if it says nothing. Pods are
/// asked for in any case, so that documents of other kinds and unreadable ones have to be refused.
fn candidates(input: &[u8], form: &str) -> impl Iterator<Item = &'static Resource> + use<> {
    let document = codec::parse_document(input, form == codec::YAML);
    let stated = document.map(|document| object::kind(&document).to_owned());
    let is_stated = move |kind: &str| stated.as_ref().is_ok_and(|s| s.is_empty() || s == kind);
    resource::builtin().iter().filter(move |resource| resource.kind == "Pod" || is_stated(&resource.kind))
}

/// Decodes; what comes out decodes to itself in both text forms.
fn read(input: &[u8], form: &str) {
    for resource in candidates(input, form) {
        let expected = Expected::builtin(&resource.group, &resource.version, &resource.kind);
        let Ok(decoded) = codec::decode(input, form, expected, FieldValidation::Warn) else { continue };
        let text = decoded.value.to_string();
        assert!(text.len() < MAX_TEXT, "{} bytes became {}", input.len(), text.len());
        let again = codec::decode(text.as_bytes(), codec::JSON, expected, FieldValidation::Ignore);
        assert_eq!(again.expect("JSON").value, decoded.value);
        let text = codec::yaml::to_string(&decoded.value);
        let again = codec::decode(text.as_bytes(), codec::YAML, expected, FieldValidation::Ignore);
        assert_eq!(again.unwrap_or_else(|e| panic!("{}: {text}", e.message)).value, decoded.value, "{text}");
    }
}

/// One object of every kind with facts; Amphipod's own are only JSON.
fn of_every_kind<'a, T: Into<Vec<u8>>>(
    write: impl Fn(&Value) -> T + 'a,
) -> impl Iterator<Item = Vec<u8>> + 'a {
    resource::builtin().iter().enumerate().filter_map(move |(number, resource)| {
        let message = schema::kind(&resource.group, &resource.version, &resource.kind)?;
        Some(write(&objects::object(&mut Rng::new(number as u64), message)).into())
    })
}

fn with_kinds(seeds: &[&str], write: fn(&Value) -> String) -> Vec<Vec<u8>> {
    texts(seeds).into_iter().chain(of_every_kind(write)).collect()
}

fn texts(seeds: &[&str]) -> Vec<Vec<u8>> {
    seeds.iter().map(|s| s.as_bytes().to_vec()).collect()
}

macro_rules! target {
    ($name:ident, $seeds:expr, $run:expr) => {
        pub mod $name {
            #[allow(unused_imports)]
            use super::*;
            pub static TARGET: crate::Target =
                crate::Target { name: stringify!($name), seeds: || $seeds, run: $run };
        }
    };
}

target!(json, with_kinds(&[POD, CRD, "{}"], Value::to_string), |input| read(input, codec::JSON));
target!(yaml, with_kinds(&[POD_YAML, POD, "a: &a [x]\nb: [*a, *a]\n"], codec::yaml::to_string), |input| {
    read(input, codec::YAML);
    let _ = codec::yaml::documents(input);
});

// Rows are made of whatever is stored, which may have another shape than the kind's.
target!(rows, with_kinds(&[POD, CRD, "{}"], Value::to_string), |input| {
    let Ok(document) = codec::parse_document(input, false) else { return };
    let now = "2026-01-01T00:00:00Z".parse().expect("a time");
    for Resource { group, plural, .. } in resource::builtin() {
        let cells = table::row(group, plural, &document, now);
        assert_eq!(cells.len(), table::columns(group, plural).len(), "{plural}");
        let _ = table::rank(group, plural).map(|rank| rank(&document));
        table::row_conditions(group, plural, &document);
    }
});

fn enveloped() -> Vec<Vec<u8>> {
    let encode = |text: &str| {
        let value = codec::parse_document(text.as_bytes(), false).expect("JSON");
        wire::encode(&value).expect("protobuf")
    };
    let all = of_every_kind(|object| wire::encode(object).expect("protobuf"));
    [encode(POD), encode(CRD), b"k8s\0".to_vec()].into_iter().chain(all).collect()
}
target!(protobuf, enveloped(), |input| {
    let Ok(value) = wire::decode(input) else { return };
    assert!(value.to_string().len() < MAX_TEXT);
    // An envelope may hold JSON of any shape, which has no protobuf form of its own.
    let Ok(bytes) = wire::encode(&value) else { return };
    let first = wire::decode(&bytes).expect("what was written");
    let again = wire::encode(&first).expect("once more");
    assert_eq!(wire::decode(&again).as_ref(), Ok(&first));
    // The writer of stored text says the same.
    if let Some(writer) = wire::Writer::new(object::api_version(&first), object::kind(&first)) {
        let message = writer.message(first.to_string().as_bytes()).expect("text of the same");
        assert_eq!(wire::decode(&writer.enveloped(&message)), Ok(first));
    }
});

const PATCHES: &[&str] = &[
    r#"[{"op":"add","path":"/metadata/labels/y","value":"2"},{"op":"remove","path":"/spec/containers/-1"},{"op":"test","path":"/kind","value":"Pod"}]"#,
    r#"[{"op":"copy","from":"/spec","path":"/spec/volumes/0/x"},{"op":"move","from":"/status","path":"/metadata/status"},{"op":"replace","path":"","value":{}}]"#,
    r#"{"metadata":{"labels":{"x":null,"y":"2"},"$deleteFromPrimitiveList/finalizers":["a.b/c"]},"spec":{"$setElementOrder/containers":[{"name":"b"},{"name":"a"}],"containers":[{"name":"a","image":"y","$patch":"merge"},{"$patch":"delete","name":"b"}],"volumes":[{"name":"v","$retainKeys":["name"]}]}}"#,
];
target!(patches, texts(PATCHES), |input| {
    use amphipod_api::patch;
    let Ok(document) = codec::parse_document(input, false) else { return };
    let original = codec::parse_document(POD.as_bytes(), false).expect("JSON");
    let schema = Node::of_kind("", "v1", "Pod");
    let outcomes = [
        patch::apply_json_patch(&original, &document, FieldValidation::Warn),
        patch::apply_json_patch(&original, &document, FieldValidation::Ignore),
        patch::apply_merge_patch(&original, &document, FieldValidation::Warn),
        patch::apply_strategic_merge_patch(&original, &document, schema),
    ];
    for mut outcome in outcomes.into_iter().flatten() {
        assert!(outcome.to_string().len() < MAX_TEXT);
        let _ = codec::fit(&mut outcome, schema);
    }
    // Applied twice, a merge patch does what it did.
    if let Ok(once) = patch::apply_merge_patch(&original, &document, FieldValidation::Warn) {
        let twice = patch::apply_merge_patch(&once, &document, FieldValidation::Warn);
        assert_eq!(twice.expect("still a patch"), once);
    }
});

fn writer<'a>(manager: &'a str, now: &'a str) -> amphipod_api::apply::Writer<'a> {
    amphipod_api::apply::Writer {
        manager,
        api_version: "v1",
        subresource: "",
        now,
        schema: Node::of_kind("", "v1", "Pod"),
        tracked: amphipod_api::apply::Tracked::AllBut(&[&["status"]]),
        versions: &amphipod_api::apply::OneVersion,
    }
}
target!(apply, texts(&[POD, POD_YAML]), |input| {
    use amphipod_api::apply::{apply, update_managers};
    let Ok(config) = codec::parse_document(input, true) else { return };
    if !config.is_object() {
        return;
    }
    let mut live: Value = serde_json::from_str(POD).expect("JSON");
    update_managers(None, &mut live, &writer("maker", "t0"));
    let Ok(mut once) = apply(Some(&live), &config, true, &writer("me", "t1")) else { return };
    if codec::fit(&mut once, Node::of_kind("", "v1", "Pod")).is_err() {
        return;
    }
    let twice = apply(Some(&once), &config, false, &writer("me", "t2"));
    let mut twice = twice.unwrap_or_else(|e| panic!("applied once, then: {}", e.message));
    codec::fit(&mut twice, Node::of_kind("", "v1", "Pod")).expect("fits as it did");
    assert_eq!(twice, once);
    let mut taken = live.clone();
    update_managers(Some(&once), &mut taken, &writer("other", "t3"));
});
target!(
    owned,
    texts(&[
        r#"{"f:metadata":{"f:labels":{".":{},"f:x":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"a\"}":{".":{},"f:image":{}}},"f:finalizers":{"v:\"x\"":{}}}}"#
    ]),
    |input| {
        use amphipod_api::apply::{Fields, apply};
        let Ok(json) = serde_json::from_slice::<Value>(input) else { return };
        let mut live: Value = serde_json::from_str(POD).expect("JSON");
        live["metadata"]["managedFields"] = json!([
            {"manager": "me", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": json},
            {"manager": "other", "operation": "Update", "apiVersion": "v2", "fieldsType": "FieldsV1", "fieldsV1": json},
        ]);
        let config: Value = serde_json::from_str(POD).expect("JSON");
        let _ = apply(Some(&live), &config, true, &writer("me", "t"));
        if let Some(fields) = Fields::from_json(&json) {
            let written = fields.into_json();
            let again = Fields::from_json(&written).expect("what was written");
            assert_eq!(again.into_json(), written);
        }
    }
);

target!(
    selectors,
    texts(&[
        "a=b,c in (d, e),!f,g notin (h),i!=j,k>1,l<2,m==",
        "metadata.name=x,spec.nodeName!=a\\,b\\=c",
        "x.y/z"
    ]),
    |input| {
        use amphipod_api::selector::{FieldSelector, LabelSelector};
        let text = String::from_utf8_lossy(input);
        if let Ok(selector) = LabelSelector::parse(&text) {
            assert_eq!(LabelSelector::parse(&selector.to_string()), Ok(selector), "{text}");
        }
        if let Ok(selector) = FieldSelector::parse(&text) {
            assert_eq!(FieldSelector::parse(&selector.to_string()), Ok(selector), "{text}");
        }
        if let Ok(object) = serde_json::from_slice::<Value>(input) {
            let _ = LabelSelector::from_object(&object);
        }
    }
);

target!(
    quantities,
    texts(&["1", "-1.5Gi", "100m", "1e3", "12E", "0.000000001", "9223372036854775807"]),
    |input| {
        use amphipod_api::quantity::{self, Quantity};
        let text = String::from_utf8_lossy(input);
        let Ok(parsed) = Quantity::parse(&text) else { return };
        let shown = parsed.to_string();
        assert_eq!(Quantity::parse(&shown), Ok(parsed), "{text} is shown as {shown}");
        assert_eq!(Quantity::parse(&shown).map(|q| q.to_string()).as_deref(), Ok(shown.as_str()), "{text}");
        let canonical = quantity::canonical(&text).expect("it parses");
        assert_eq!(quantity::canonical(&canonical).as_deref(), Ok(canonical.as_str()), "{text}");
        let doubled = parsed.plus(parsed);
        assert!(doubled.minus(parsed) == parsed || doubled.plus(parsed) == doubled, "{text}");
        let _ = (parsed.units(), parsed.milli(), parsed.as_f64());
    }
);

target!(
    times,
    texts(&["2026-01-02T03:04:05Z", "2026-01-02T03:04:05.123456+01:00", "1h2m3.5s", "-5us"]),
    |input| {
        let text = String::from_utf8_lossy(input);
        for canonical in [codec::canonical_time, codec::canonical_micro_time] {
            if let Ok(time) = canonical(&text) {
                assert_eq!(canonical(&time).as_deref(), Ok(time.as_str()), "{text}");
            }
        }
        if let Some(nanoseconds) = codec::parse_go_duration(&text) {
            let shown = codec::go_duration(nanoseconds);
            assert_eq!(codec::parse_go_duration(&shown), Some(nanoseconds), "{text} is shown as {shown}");
        }
    }
);

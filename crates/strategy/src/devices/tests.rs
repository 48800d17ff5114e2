use serde_json::{Value, json};

use crate::testing::named::{created, merge, patched, stored, updated};

const GROUP: &str = "resource.k8s.io";
const REFERENCE: &str =
    "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

fn claim(devices: Value) -> Value {
    json!({"spec": {"devices": devices}})
}

#[test]
fn claims() {
    let exact = json!({"name": "r", "exactly": {"deviceClassName": "c"}});
    for (devices, expected) in [
        (json!({"requests": [exact]}), vec![]),
        (
            json!({"requests": [{"name": "r"}, {"name": "r", "exactly": {}, "firstAvailable": [{}]}]}),
            vec![
                "requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required".to_owned(),
                "requests[1]: Invalid value: \"null\": exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set".to_owned(),
                "requests[1]: Duplicate value: \"r\"".to_owned(),
            ],
        ),
        (
            json!({"requests": [{"name": "r", "exactly": {"allocationMode": "All", "count": 2, "selectors": [{}]}}]}),
            vec![
                "requests[0].exactly.deviceClassName: Required value".to_owned(),
                "requests[0].exactly.selectors[0].cel: Required value".to_owned(),
                "requests[0].exactly.count: Invalid value: 2: must not be specified when allocationMode is 'All'".to_owned(),
            ],
        ),
        (
            json!({"requests": [exact], "constraints": [{"requests": ["x"], "matchAttribute": "a"}], "config": [{"requests": ["r/s"], "opaque": {"parameters": []}}]}),
            vec![
                format!("constraints[0].requests[0]: Invalid value: \"x\": {REFERENCE}"),
                "constraints[0].matchAttribute: Invalid value: \"a\": a fully qualified name must be a domain and a name separated by a slash".to_owned(),
                format!("config[0].requests[0]: Invalid value: \"r/s\": {REFERENCE}"),
                "config[0].opaque.driver: Required value".to_owned(),
                "config[0].opaque.parameters: Invalid value: \"<value omitted>\": must be a valid JSON object".to_owned(),
            ],
        ),
    ] {
        let at = |prefix: &str| -> Vec<String> { expected.iter().map(|text| format!("{prefix}.{text}")).collect() };
        assert_eq!(created(GROUP, "resourceclaims", claim(devices.clone())), at("spec.devices"), "{devices}");
        let template = json!({"spec": claim(devices)});
        assert_eq!(created(GROUP, "resourceclaimtemplates", template), at("spec.spec.devices"));
    }
    let tolerant = json!({"name": "r", "exactly": {"deviceClassName": "c", "tolerations": [{}]}});
    let object = stored(GROUP, "resourceclaims", claim(json!({"requests": [tolerant]})));
    assert_eq!(
        object["spec"]["devices"]["requests"][0]["exactly"],
        json!({"deviceClassName": "c", "allocationMode": "ExactCount", "count": 1})
    );
    let change =
        updated(GROUP, "resourceclaims", claim(json!({"requests": [exact]})), claim(json!({"requests": []})));
    assert_eq!(change, ["spec: Invalid value: {\"devices\":{\"requests\":[]}}: field is immutable"]);
}

#[test]
fn reports() {
    let old = stored(
        GROUP,
        "resourceclaims",
        claim(json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "c"}}]})),
    );
    let result = json!({"request": "r", "driver": "d", "pool": "p", "device": "x"});
    let allocation = json!({"allocation": {"devices": {"results": [result]}}});
    let report = |status: Value| json!({"status": status});
    for (status, expected) in [
        (allocation.clone(), vec![]),
        (
            json!({"reservedFor": [{"uid": "u"}]}),
            vec![
                "status.reservedFor[0].resource: Required value".to_owned(),
                "status.reservedFor[0].name: Required value".to_owned(),
                "status.reservedFor: Forbidden: may not be specified when `allocated` is not set".to_owned(),
            ],
        ),
        (
            json!({"allocation": {"devices": {"results": [{"request": "z", "driver": "d", "pool": "p", "device": "x"}], "config": [{"source": "X", "opaque": {"driver": "d", "parameters": {}}}]}}}),
            vec![
                format!("status.allocation.devices.results[0].request: Invalid value: \"z\": {REFERENCE}"),
                "status.allocation.devices.config[0].source: Unsupported value: \"X\": supported values: \"FromClaim\", \"FromClass\"".to_owned(),
            ],
        ),
        (
            merge(allocation.clone(), json!({"devices": [{"driver": "d", "pool": "p", "device": "y", "conditions": [{"type": "Ready", "status": "X", "reason": "R", "lastTransitionTime": "2026-01-01T00:00:00Z"}], "networkData": {"ips": ["1.2.3.4"]}}]})),
            vec![
                "status.devices[0]: Invalid value: \"d/p/y\": must be an allocated device in the claim".to_owned(),
                "status.devices[0].conditions[0].status: Unsupported value: \"X\": supported values: \"False\", \"True\", \"Unknown\"".to_owned(),
                "status.devices[0].networkData.ips[0]: Invalid value: \"1.2.3.4\": must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)".to_owned(),
            ],
        ),
    ] {
        assert_eq!(patched(GROUP, "resourceclaims", "status", &old, report(status.clone())).1, expected, "{status}");
    }
    let (allocated, _) = patched(GROUP, "resourceclaims", "status", &old, report(allocation));
    let moved = report(json!({"allocation": {"devices": {"results": []}}}));
    let faults = patched(GROUP, "resourceclaims", "status", &allocated, moved).1;
    assert_eq!(
        faults,
        ["status.allocation: Invalid value: {\"devices\":{\"results\":[]}}: field is immutable"]
    );
}

#[test]
fn slices() {
    let slice = |patch: Value| {
        let base =
            json!({"spec": {"driver": "d", "nodeName": "n", "pool": {"name": "p", "resourceSliceCount": 1}}});
        merge(base, json!({"spec": patch}))
    };
    let one = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    for (patch, expected) in [
        (json!({"devices": [{"name": "a", "attributes": {"v": {"version": "1.2.3-rc.1+b"}}, "capacity": {"g.io/mem": {"value": "1Gi"}}}]}), vec![]),
        (
            json!({"driver": "", "pool": {"name": "", "resourceSliceCount": 0, "generation": -1}, "nodeName": null}),
            vec![
                "spec.driver: Required value".to_owned(),
                "spec.pool.name: Required value".to_owned(),
                "spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero".to_owned(),
                "spec.pool.generation: Invalid value: -1: must be greater than or equal to zero".to_owned(),
                format!("spec: Required value: {one}"),
            ],
        ),
        (
            json!({"allNodes": true, "devices": [{"name": "a"}, {"name": "a", "attributes": {"1x": {}, "v": {"version": "1.2", "int": 1}}}]}),
            vec![
                format!("spec: Invalid value: \"{{`nodeName`, `allNodes`}}\": {one}, but multiple fields are set"),
                format!("spec.devices[1].attributes[1x]: Invalid value: \"1x\": {}", super::IDENTIFIER),
                "spec.devices[1].attributes[1x]: Invalid value: \"\": exactly one value must be specified".to_owned(),
                "spec.devices[1].attributes[v].version: Invalid value: \"1.2\": must be a string compatible with semver.org spec 2.0.0".to_owned(),
                "spec.devices[1].attributes[v]: Invalid value: {\"IntValue\":1,\"BoolValue\":null,\"StringValue\":null,\"VersionValue\":\"1.2\"}: exactly one value must be specified".to_owned(),
                "spec.devices[1]: Duplicate value: \"a\"".to_owned(),
            ],
        ),
    ] {
        assert_eq!(created(GROUP, "resourceslices", slice(patch.clone())), expected, "{patch}");
    }
    let change = json!({"spec": {"driver": "e", "nodeName": "m", "pool": {"name": "q"}}});
    assert_eq!(
        updated(GROUP, "resourceslices", slice(json!({})), change),
        [
            "spec.pool.name: Invalid value: \"q\": field is immutable",
            "spec.driver: Invalid value: \"e\": field is immutable",
            "spec.nodeName: Invalid value: \"m\": field is immutable",
        ]
    );
    let gone = json!({"spec": {"driver": null, "nodeName": null}});
    assert_eq!(
        updated(GROUP, "resourceslices", slice(json!({})), gone),
        [
            "spec.driver: Required value".to_owned(),
            "spec.driver: Invalid value: \"\": field is immutable".to_owned(),
            "spec.nodeName: Invalid value: \"null\": field is immutable".to_owned(),
            format!("spec: Required value: {one}"),
        ]
    );
}

#[test]
fn classes() {
    let class =
        json!({"spec": {"selectors": [{"cel": {"expression": "true"}}], "extendedResourceName": "a/b"}});
    assert_eq!(created(GROUP, "deviceclasses", class.clone()), [""; 0]);
    assert!(stored(GROUP, "deviceclasses", class)["spec"]["extendedResourceName"].is_null());
    let bad = json!({"spec": {"selectors": [{}], "config": [{}]}});
    assert_eq!(
        created(GROUP, "deviceclasses", bad),
        ["spec.selectors[0].cel: Required value", "spec.config[0].opaque: Required value"]
    );
}

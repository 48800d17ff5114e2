use serde_json::json;

use super::{container, pod, spec};
use crate::testing::{PODS, creates, stored};

#[test]
fn names_images_and_ports() {
    let sub = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
    creates(
        PODS,
        &pod(),
        &[
            (spec(json!({"containers": []})), &["spec.containers: Required value"]),
            (
                container(json!({"name": "A", "image": null})),
                &[
                    &format!("spec.containers[0].name: Invalid value: \"A\": {sub}"),
                    "spec.containers[0].image: Required value",
                ],
            ),
            (
                container(json!({"image": " i"})),
                &[
                    "spec.containers[0].image: Invalid value: \" i\": must not have leading or trailing whitespace",
                ],
            ),
            (
                container(json!({"imagePullPolicy": "Now", "terminationMessagePolicy": "Shout"})),
                &[
                    "spec.containers[0].terminationMessagePolicy: Unsupported value: \"Shout\": supported values: \"File\", \"FallbackToLogsOnError\"",
                    "spec.containers[0].imagePullPolicy: Unsupported value: \"Now\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
                ],
            ),
            (
                container(json!({"ports": [{"name": "a", "containerPort": 80, "hostPort": 1},
                    {"name": "a", "containerPort": 70000, "protocol": "X"}, {"hostPort": 1}]})),
                &[
                    "spec.containers[0].ports[1].name: Duplicate value: \"a\"",
                    "spec.containers[0].ports[1].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
                    "spec.containers[0].ports[1].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
                    "spec.containers[0].ports[2].containerPort: Required value",
                    "spec.containers[0].ports[2].hostPort: Duplicate value: \"TCP//1\"",
                ],
            ),
            (
                merged_host_network(json!([{"containerPort": 80, "hostPort": 81}])),
                &[
                    "spec.containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true",
                ],
            ),
            (merged_host_network(json!([{"containerPort": 80}])), &[]),
        ],
    );
}

fn merged_host_network(ports: serde_json::Value) -> serde_json::Value {
    let mut patch = container(json!({"ports": ports}));
    patch["spec"]["hostNetwork"] = true.into();
    patch
}

#[test]
fn environment() {
    creates(
        PODS,
        &pod(),
        &[
            (container(json!({"env": [{"name": "a.b-c", "value": "x"}]})), &[]),
            (
                container(json!({"env": [{"name": "a=b"}, {"name": ""}]})),
                &[
                    "spec.containers[0].env[0].name: Invalid value: \"a=b\": a valid environment variable name must consist only of printable ASCII characters other than '='",
                    "spec.containers[0].env[1].name: Required value",
                ],
            ),
            (
                container(json!({"env": [{"name": "a", "valueFrom": {}},
                    {"name": "b", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]})),
                &[
                    "spec.containers[0].env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
                    "spec.containers[0].env[1].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
                ],
            ),
            (
                container(json!({"env": [
                    {"name": "a", "valueFrom": {"fieldRef": {"fieldPath": "status.phase"}}},
                    {"name": "b", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}},
                    {"name": "c", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['-']"}}},
                    {"name": "d", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName['x']"}}},
                    {"name": "e", "valueFrom": {"resourceFieldRef": {"resource": "limits.gpu", "divisor": "1"}}},
                    {"name": "f", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "2"}}}]})),
                &[
                    "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"status.phase\": supported values: \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
                    "spec.containers[0].env[1].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.x\": error converting fieldPath: field label not supported: spec.x",
                    "spec.containers[0].env[2].valueFrom.fieldRef: Invalid value: \"-\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                    "spec.containers[0].env[3].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.nodeName['x']\": error converting fieldPath: field label does not support subscript: spec.nodeName['x']",
                    "spec.containers[0].env[4].valueFrom.resourceFieldRef.resource: Unsupported value: \"limits.gpu\": supported values: \"limits.cpu\", \"limits.ephemeral-storage\", \"limits.memory\", \"requests.cpu\", \"requests.ephemeral-storage\", \"requests.memory\"",
                    "spec.containers[0].env[5].valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only divisor's values 1m and 1 are supported with the cpu resource",
                ],
            ),
            (
                container(
                    json!({"env": [{"name": "a", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": "../x", "key": "k"}}}]}),
                ),
                &[
                    "spec.containers[0].env[0].valueFrom.fileKeyRef.path: Invalid value: \"../x\": must not contain '..'",
                    "spec.containers[0].env[0].valueFrom.fileKeyRef.volumeName: Not found: \"v\"",
                ],
            ),
            (
                container(json!({"envFrom": [{"prefix": "=", "configMapRef": {"name": ""}}, {}]})),
                &[
                    "spec.containers[0].envFrom[0].prefix: Invalid value: \"=\": a valid environment variable name must consist only of printable ASCII characters other than '='",
                    "spec.containers[0].envFrom[0].configMapRef.name: Required value",
                    "spec.containers[0].envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
                ],
            ),
        ],
    );
}

#[test]
fn probes_and_hooks() {
    creates(
        PODS,
        &pod(),
        &[
            (container(json!({"livenessProbe": {"exec": {"command": ["x"]}}})), &[]),
            (
                container(
                    json!({"livenessProbe": {"successThreshold": 2, "exec": {}, "httpGet": {"port": 80}}}),
                ),
                &[
                    "spec.containers[0].livenessProbe.exec.command: Required value",
                    "spec.containers[0].livenessProbe.httpGet: Forbidden: may not specify more than 1 handler type",
                    "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
                ],
            ),
            (
                container(
                    json!({"readinessProbe": {"terminationGracePeriodSeconds": 0, "periodSeconds": -1}}),
                ),
                &[
                    "spec.containers[0].readinessProbe: Required value: must specify a handler type",
                    "spec.containers[0].readinessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
                    "spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0",
                    "spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 0: must not be set for readinessProbes",
                ],
            ),
            (
                container(
                    json!({"startupProbe": {"httpGet": {"port": "no port", "scheme": "FTP", "httpHeaders": [{"name": "a b"}]}}}),
                ),
                &[
                    "spec.containers[0].startupProbe.httpGet.port: Invalid value: \"no port\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
                    "spec.containers[0].startupProbe.httpGet.scheme: Unsupported value: \"FTP\": supported values: \"HTTP\", \"HTTPS\"",
                    "spec.containers[0].startupProbe.httpGet.httpHeaders: Invalid value: \"a b\": a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')",
                ],
            ),
            (
                container(
                    json!({"lifecycle": {"preStop": {"sleep": {"seconds": 31}}, "postStart": {"sleep": {"seconds": 0}}}}),
                ),
                &[
                    "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)",
                ],
            ),
        ],
    );
}

#[test]
fn restart_rules_of_containers() {
    let rule = |action: &str| json!({"action": action, "exitCodes": {"operator": "In", "values": [1]}});
    creates(
        PODS,
        &pod(),
        &[
            (container(json!({"restartPolicy": "Never", "restartPolicyRules": [rule("Restart")]})), &[]),
            (
                container(
                    json!({"restartPolicyRules": [rule("RestartAllContainers"), {"action": "Restart"}]}),
                ),
                &[
                    "spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used",
                    "spec.containers[0].restartPolicyRules[0].action: Unsupported value: \"RestartAllContainers\": supported values: \"Restart\"",
                    "spec.containers[0].restartPolicyRules[1].exitCodes: Required value: must be specified",
                ],
            ),
            (
                container(json!({"restartPolicy": "Maybe"})),
                &[
                    "spec.containers[0].restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"Never\", \"OnFailure\"",
                ],
            ),
            (
                container(json!({"restartPolicy": "Never", "restartPolicyRules": vec![rule("Restart"); 21]})),
                &["spec.containers[0].restartPolicyRules: Too long: may not be more than 20 bytes"],
            ),
            (
                spec(json!({"initContainers": [
                    {"name": "s", "image": "i", "restartPolicy": "Always", "restartPolicyRules": [rule("Restart")]},
                    {"name": "t", "image": "i", "restartPolicyRules": [{"action": "X"}]}]})),
                &[
                    "spec.initContainers[0].restartPolicyRules: Forbidden: restartPolicyRules are not allowed for init containers with restart policy Always",
                    "spec.initContainers[1].restartPolicy: Required value: must specify restartPolicy when restart rules are used",
                ],
            ),
        ],
    );
}

#[test]
fn names_that_are_missing_twice() {
    creates(
        PODS,
        &pod(),
        &[(
            spec(json!({"containers": [{"image": "i"}, {"image": "i"}]})),
            &[
                "spec.containers[0].name: Required value",
                "spec.containers[1].name: Required value",
                "spec.containers[1].name: Duplicate value: \"\"",
            ],
        )],
    );
}

#[test]
fn static_pods_have_no_claims() {
    let claims = json!([{"name": "a"}, {"name": "b"}]);
    let refused = ": Forbidden: static pods do not support resource claims";
    creates(
        PODS,
        &pod(),
        &[(
            json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}},
                "spec": {"nodeName": "n", "resourceClaims": claims}}),
            &[refused, refused],
        )],
    );
}

#[test]
fn init_and_ephemeral_containers() {
    let probe = json!({"exec": {"command": ["x"]}});
    creates(
        PODS,
        &pod(),
        &[
            (
                spec(
                    json!({"initContainers": [{"name": "s", "image": "i", "restartPolicy": "Always", "startupProbe": probe},
                    {"name": "c", "image": "i", "readinessProbe": probe, "lifecycle": {}}]}),
                ),
                &[
                    "spec.initContainers[1].name: Duplicate value: \"c\"",
                    "spec.initContainers[1].lifecycle: Forbidden: may not be set for init containers without restartPolicy=Always",
                    "spec.initContainers[1].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
                ],
            ),
            (
                spec(
                    json!({"ephemeralContainers": [{"name": "c", "image": "i", "targetContainerName": "z", "ports": [{"containerPort": 1}],
                    "livenessProbe": {}, "resources": {"limits": {"cpu": "1"}}}]}),
                ),
                &[
                    "spec.ephemeralContainers[0].name: Duplicate value: \"c\"",
                    "spec.ephemeralContainers[0].targetContainerName: Not found: \"z\"",
                    "spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container",
                    "spec.ephemeralContainers[0].resources: Forbidden: cannot be set for an Ephemeral Container",
                    "spec.ephemeralContainers[0].livenessProbe: Forbidden: cannot be set for an Ephemeral Container",
                    "spec.ephemeralContainers: Forbidden: cannot be set on create",
                ],
            ),
        ],
    );
}

#[test]
fn amounts() {
    creates(
        PODS,
        &pod(),
        &[
            (
                container(
                    json!({"resources": {"requests": {"hugepages-2Mi": "3Mi", "example.com/gpu": "500m"}}}),
                ),
                &[
                    "spec.containers[0].resources.requests[example.com/gpu]: Invalid value: \"500m\": must be an integer",
                    "spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources",
                    "spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources",
                    "spec.containers[0].resources.requests[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer multiple of hugepages-2Mi",
                    "spec.containers[0].resources: Forbidden: HugePages require cpu or memory",
                ],
            ),
            (
                container(json!({"resources": {"claims": [{"name": "a"}, {"name": "a", "request": "r"}]}})),
                &[
                    "spec.containers[0].resources.claims[0]: Not found: \"a\": must be one of the names in pod.spec.resourceClaims which is empty",
                    "spec.containers[0].resources.claims[1]: Duplicate value: \"a\"",
                    "spec.containers[0].resources.claims[1]: Not found: \"a\": must be one of the names in pod.spec.resourceClaims which is empty",
                ],
            ),
            (
                spec(json!({"resourceClaims": [{"name": "a"}, {"name": "a", "resourceClaimName": "X"}]})),
                &[
                    "spec.resourceClaims[0]: Invalid value: {\"name\":\"a\"}: must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
                    "spec.resourceClaims[1].name: Duplicate value: \"a\"",
                    "spec.resourceClaims[1].resourceClaimName: Invalid value: \"X\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                ],
            ),
            (
                json!({"spec": {"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1", "pods": "1"}},
                    "containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "2"}}}]}}),
                &[
                    "spec.resources.requests[pods]: Unsupported value: \"pods\": supported values: \"cpu\", \"hugepages-\", \"memory\"",
                    "spec.resources.requests[cpu]: Invalid value: \"1\": must be greater than or equal to aggregate container requests of 2",
                    "spec.resources.containers[0][cpu].limits: Invalid value: \"2\": must be less than or equal to pod limits of 1",
                ],
            ),
            (
                container(
                    json!({"resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"}, {"resourceName": "cpu", "restartPolicy": "No"}]}),
                ),
                &[
                    "spec.containers[0].resizePolicy[1]: Duplicate value: \"cpu\"",
                    "spec.containers[0].resizePolicy: Unsupported value: \"No\": supported values: \"NotRequired\", \"RestartContainer\"",
                ],
            ),
        ],
    );
}

#[test]
fn pod_level_amounts_are_filled() {
    let with = |spec: serde_json::Value| stored(PODS, &crate::testing::merged(&pod(), &super::spec(spec)));
    let object = with(json!({"resources": {"limits": {"cpu": "2", "memory": "1Gi"}},
        "initContainers": [{"name": "i", "image": "i", "resources": {"requests": {"cpu": "1500m"}}}],
        "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "0.0001"}}}]}));
    assert_eq!(object["spec"]["resources"]["requests"], json!({"cpu": "1500m", "memory": "1Gi"}));
    assert_eq!(object["spec"]["containers"][0]["resources"]["requests"]["cpu"], "1m");
    assert_eq!(object["status"]["qosClass"], "Burstable");
}

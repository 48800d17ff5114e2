use serde_json::{Value, json};

use super::{container, pod, spec};
use crate::testing::{PODS, merged, warnings};

fn check(cases: Vec<(Value, Vec<&str>)>) {
    for (patch, expected) in cases {
        assert_eq!(warnings(PODS, &merged(&pod(), &patch)), expected, "{patch}");
    }
}

#[test]
fn deprecated_and_doubled() {
    check(vec![
        (
            spec(json!({"nodeSelector": {"beta.kubernetes.io/os": "linux"}})),
            vec![
                "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
            ],
        ),
        (
            spec(
                json!({"topologySpreadConstraints": [{"maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule", "topologyKey": "failure-domain.beta.kubernetes.io/zone"}]}),
            ),
            vec![
                "spec.topologySpreadConstraints[0].topologyKey: failure-domain.beta.kubernetes.io/zone is deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
                "spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
            ],
        ),
        (
            json!({"metadata": {"annotations": {"scheduler.alpha.kubernetes.io/critical-pod": ""}}}),
            vec![
                "metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: non-functional in v1.16+; use the \"priorityClassName\" field instead",
            ],
        ),
        (
            spec(
                json!({"nodeSelector": {"app.kubernetes.io/created-by": "x", "scheduler.alpha.kubernetes.io/preferAvoidPods": "x"},
                "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference":
                    {"matchExpressions": [{"key": "k", "operator": "In", "values": ["-"]}]}}]}}}),
            ),
            vec![
                "spec.nodeSelector[app.kubernetes.io/created-by]: deprecated since v1.9",
                "spec.nodeSelector[scheduler.alpha.kubernetes.io/preferAvoidPods]: deprecated since v1.22; use Taints and Tolerations instead",
                "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].values[0]: - is invalid, a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
            ],
        ),
        (
            spec(
                json!({"volumes": [{"name": "v", "gitRepo": {"repository": "r"}}], "imagePullSecrets": [{"name": "a"}, {"name": "a"}, {}]}),
            ),
            vec![
                "spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+",
                "spec.imagePullSecrets[1].name: duplicate name \"a\"",
                "spec.imagePullSecrets[2].name: invalid empty name \"\"",
            ],
        ),
    ]);
}

#[test]
fn hidden_and_odd() {
    check(vec![
        (
            container(
                json!({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "$(A)2"}, {"name": "A", "value": "3"}], "resources": {"limits": {"memory": "100m"}}}),
            ),
            vec![
                "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
                "spec.containers[0].resources.requests[memory]: fractional byte value \"100m\" is invalid, must be an integer",
                "spec.containers[0].env[2]: hides previous definition of \"A\", which may be dropped when using apply",
            ],
        ),
        (
            container(
                json!({"resources": {"limits": {"memory": "1500m"}, "requests": {"memory": "1", "ephemeral-storage": "100m"}}}),
            ),
            vec![
                "spec.containers[0].resources.limits[memory]: fractional byte value \"1500m\" is invalid, must be an integer",
                "spec.containers[0].resources.requests[ephemeral-storage]: fractional byte value \"100m\" is invalid, must be an integer",
            ],
        ),
        (
            container(
                json!({"ports": [{"containerPort": 80}, {"containerPort": 80}, {"containerPort": 80, "hostPort": 1}, {"containerPort": 81, "hostIP": "1.1.1.1"}]}),
            ),
            vec![
                "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
                "spec.containers[0].ports[2]: overlapping port definition with spec.containers[0].ports[0]",
                "spec.containers[0].ports[2]: overlapping port definition with spec.containers[0].ports[1]",
                "spec.containers[0].ports[3]: hostIP set without hostPort: {Name: HostPort:0 ContainerPort:81 Protocol:TCP HostIP:1.1.1.1}",
            ],
        ),
        (
            spec(
                json!({"terminationGracePeriodSeconds": -1, "hostAliases": [{"ip": "::ffff:1.1.1.1"}, {"ip": "FD00::1"}, {"ip": "010.0.0.1"}]}),
            ),
            vec![
                "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
                "spec.hostAliases[0].ip: non-standard IP address \"::ffff:1.1.1.1\" will be considered invalid in a future Kubernetes release: use \"1.1.1.1\"",
                "spec.hostAliases[1].ip: IPv6 address \"FD00::1\" should be in RFC 5952 canonical format (\"fd00::1\")",
                "spec.hostAliases[2].ip: non-standard IP address \"010.0.0.1\" will be considered invalid in a future Kubernetes release: use \"10.0.0.1\"",
            ],
        ),
        (
            json!({"metadata": {"name": "a.b"}}),
            vec![
                "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]",
            ],
        ),
    ]);
}

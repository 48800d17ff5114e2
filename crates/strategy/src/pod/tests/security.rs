use serde_json::json;

use super::{container, pod, spec};
use crate::testing::{PODS, creates, merged, stored, warnings};

#[test]
fn contexts() {
    creates(
        PODS,
        &pod(),
        &[
            (
                spec(
                    json!({"securityContext": {"fsGroup": -1, "supplementalGroups": [-1], "fsGroupChangePolicy": "x",
                    "seccompProfile": {"type": "Localhost"}, "appArmorProfile": {"type": "RuntimeDefault", "localhostProfile": "a"},
                    "supplementalGroupsPolicy": "x", "seLinuxChangePolicy": "MountOption"}}),
                ),
                &[
                    "spec.securityContext.fsGroup: Invalid value: -1: must be between 0 and 2147483647, inclusive",
                    "spec.securityContext.supplementalGroups[0]: Invalid value: -1: must be between 0 and 2147483647, inclusive",
                    "spec.securityContext.fsGroupChangePolicy: Unsupported value: \"x\": supported values: \"Always\", \"OnRootMismatch\"",
                    "spec.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
                    "spec.securityContext.appArmorProfile.localhostProfile: Invalid value: \"a\": can only be set when AppArmor type is Localhost",
                    "spec.securityContext.supplementalGroupsPolicy: Unsupported value: \"x\": supported values: \"Merge\", \"Strict\"",
                    "spec.securityContext.seLinuxChangePolicy: Unsupported value: \"MountOption\": supported values: \"Recursive\"",
                ],
            ),
            (
                spec(
                    json!({"securityContext": {"seccompProfile": {"type": "RuntimeDefault", "localhostProfile": "a"}}}),
                ),
                &[
                    "spec.securityContext.seccompProfile.localhostProfile: Invalid value: {\"Type\":\"RuntimeDefault\",\"LocalhostProfile\":\"a\"}: can only be set when seccomp type is Localhost",
                ],
            ),
            (
                spec(json!({"hostNetwork": true, "hostIPC": true, "securityContext": {"sysctls": [
                    {"name": "net.ipv4.a", "value": "1"}, {"name": "kernel.sem", "value": "1"}, {"name": "A", "value": ""}, {"name": "kernel.sema", "value": ""}]}})),
                &[
                    "spec.securityContext.sysctls[0].name: Invalid value: \"net.ipv4.a\": may not be specified when 'hostNetwork' is true",
                    "spec.securityContext.sysctls[1].name: Invalid value: \"kernel.sem\": may not be specified when 'hostIPC' is true",
                    "spec.securityContext.sysctls[2].name: Invalid value: \"A\": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
                ],
            ),
            (
                container(
                    json!({"securityContext": {"runAsUser": -1, "procMount": "Unmasked", "allowPrivilegeEscalation": false, "privileged": true}}),
                ),
                &[
                    "spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
                    "spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`",
                    "spec.containers[0].securityContext: Invalid value: {\"Capabilities\":null,\"Privileged\":true,\"SELinuxOptions\":null,\"WindowsOptions\":null,\"RunAsUser\":-1,\"RunAsGroup\":null,\"RunAsNonRoot\":null,\"ReadOnlyRootFilesystem\":null,\"AllowPrivilegeEscalation\":false,\"ProcMount\":\"Unmasked\",\"SeccompProfile\":null,\"AppArmorProfile\":null}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
                ],
            ),
            (
                spec(
                    json!({"hostUsers": false, "hostNetwork": true, "hostPID": true, "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "x"}}],
                    "containers": [{"name": "c", "image": "i", "volumeDevices": [{"name": "v", "devicePath": "/d"}]}]}),
                ),
                &[
                    "spec.hostNetwork: Forbidden: when `hostUsers` is false",
                    "spec.HostPID: Forbidden: when `hostUsers` is false",
                    "spec.containers[0].volumeDevices: Forbidden: when `hostUsers` is false",
                ],
            ),
        ],
    );
}

#[test]
fn windows() {
    creates(
        PODS,
        &pod(),
        &[
            (spec(json!({"os": {"name": ""}})), &["spec.os.name: Required value"]),
            (
                spec(json!({"os": {"name": "beos"}})),
                &["spec.os: Unsupported value: \"beos\": supported values: \"linux\", \"windows\""],
            ),
            (
                spec(
                    json!({"os": {"name": "linux"}, "securityContext": {"windowsOptions": {"runAsUserName": "a\\b\\c"}}}),
                ),
                &[
                    "spec.securityContext.windowsOptions.runAsUserName: Invalid value: \"a\\\\b\\\\c\": runAsUserName cannot contain more than one backslash",
                    "spec.securityContext.windowsOptions: Forbidden: windows options cannot be set for a linux pod",
                ],
            ),
            (
                spec(
                    json!({"os": {"name": "windows"}, "hostPID": true, "resources": {"limits": {"cpu": "1"}},
                    "securityContext": {"runAsUser": 1, "windowsOptions": {"runAsUserName": "bad|dom\\..", "hostProcess": true}},
                    "containers": [{"name": "c", "image": "i", "securityContext": {"privileged": false, "windowsOptions": {"hostProcess": false}}}]}),
                ),
                &[
                    "spec.resources: Forbidden: may not be set for a windows pod",
                    "spec.securityContext.windowsOptions.runAsUserName: Invalid value: \"bad|dom\\\\..\": runAsUserName's Domain doesn't match the NetBios nor the DNS format",
                    "spec.securityContext.windowsOptions.runAsUserName: Invalid value: \"bad|dom\\\\..\": runAsUserName's User cannot contain only periods or spaces",
                    "spec.containers[0].securityContext.windowsOptions.hostProcess: Invalid value: false: pod hostProcess value must be identical if both are specified, was true",
                    "spec.hostPID: Forbidden: cannot be set for a windows pod",
                    "spec.securityContext.runAsUser: Forbidden: cannot be set for a windows pod",
                    "spec.containers[0].securityContext.privileged: Forbidden: cannot be set for a windows pod",
                ],
            ),
            (
                spec(
                    json!({"os": {"name": "windows"}, "securityContext": {"windowsOptions": {"hostProcess": true}}}),
                ),
                &[
                    "spec.hostNetwork: Invalid value: false: hostNetwork must be true if pod contains any hostProcess containers",
                ],
            ),
        ],
    );
}

#[test]
fn annotations() {
    let with = |annotations: serde_json::Value| json!({"metadata": {"annotations": annotations}});
    creates(
        PODS,
        &pod(),
        &[
            (
                with(
                    json!({"kubernetes.io/config.mirror": "x", "controller.kubernetes.io/pod-deletion-cost": "+1"}),
                ),
                &[
                    "metadata.annotations[kubernetes.io/config.mirror]: Invalid value: \"x\": must set spec.nodeName if mirror pod annotation is set",
                    "metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: \"+1\": must be a 32bit integer",
                ],
            ),
            (
                with(
                    json!({"container.apparmor.security.beta.kubernetes.io/x": "odd", "seccomp.security.alpha.kubernetes.io/pod": "odd"}),
                ),
                &[
                    "metadata.annotations.seccomp.security.alpha.kubernetes.io/pod: Invalid value: \"odd\": must be a valid seccomp profile",
                    "metadata.annotations[container.apparmor.security.beta.kubernetes.io/x]: Invalid value: \"x\": container not found",
                    "metadata.annotations[container.apparmor.security.beta.kubernetes.io/x]: Invalid value: \"odd\": invalid AppArmor profile name: \"odd\"",
                ],
            ),
            (
                json!({"metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/c": "unconfined"}},
                    "spec": {"containers": [{"name": "c", "image": "i", "securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}}]}}),
                &[
                    "spec.containers[0].securityContext.appArmorProfile.type: Forbidden: apparmor type in annotation and field must match",
                ],
            ),
        ],
    );
    let key = "container.apparmor.security.beta.kubernetes.io/c";
    let object = merged(&pod(), &with(json!({key: "localhost/mine"})));
    let profile = json!({"type": "Localhost", "localhostProfile": "mine"});
    assert_eq!(stored(PODS, &object)["spec"]["containers"][0]["securityContext"]["appArmorProfile"], profile);
    assert_eq!(
        warnings(PODS, &object),
        [format!(
            "metadata.annotations[{key}]: deprecated since v1.30; use the \"appArmorProfile\" field instead"
        )]
    );
}

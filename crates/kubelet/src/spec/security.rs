//! Security contexts: the pod's and the container's own, put together for the runtime.

use amphipod_cri::v1::{
    Capability, Int64Value, LinuxContainerSecurityContext, LinuxSandboxSecurityContext, NamespaceMode,
    NamespaceOption, SeLinuxOption, SecurityProfile, SupplementalGroupsPolicy, security_profile::ProfileType,
};
use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, Pod, PodSecurityContext, SELinuxOptions, SeccompProfile, SecurityContext,
};

use crate::Error;
use crate::pod::{Kind, display, find_container, is_host_network, spec};

/// Hidden from unprivileged containers (KEP-3857's default set).
const MASKED_PATHS: [&str; 10] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
];
const MASKED_SYS: [&str; 2] = ["/sys/firmware", "/sys/devices/virtual/powercap"];
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The user of an image, as the image service tells it.
#[derive(Clone, Debug, Default)]
pub struct ImageUser {
    pub uid: Option<i64>,
    pub name: String,
}

pub fn namespaces(pod: &Pod) -> NamespaceOption {
    let spec = spec(pod);
    let mode = |host: Option<bool>, own: NamespaceMode| {
        let chosen = if host == Some(true) { NamespaceMode::Node } else { own };
        chosen as i32
    };
    let pid = if spec.share_process_namespace == Some(true) {
        NamespaceMode::Pod
    } else {
        NamespaceMode::Container
    };
    NamespaceOption {
        network: mode(Some(is_host_network(pod)), NamespaceMode::Pod),
        pid: mode(spec.host_pid, pid),
        ipc: mode(spec.host_ipc, NamespaceMode::Pod),
        ..NamespaceOption::default()
    }
}

fn pod_context(pod: &Pod) -> PodSecurityContext {
    spec(pod).security_context.clone().unwrap_or_default()
}

fn own_context(container: &Container) -> SecurityContext {
    container.security_context.clone().unwrap_or_default()
}

pub fn run_as_user(pod: &Pod, container: &Container) -> Option<i64> {
    own_context(container).run_as_user.or(pod_context(pod).run_as_user)
}

pub fn is_privileged(container: &Container) -> bool {
    own_context(container).privileged == Some(true)
}

/// fsGroup and the pod's supplementary groups.
pub fn groups(pod: &Pod) -> Vec<i64> {
    let context = pod_context(pod);
    let mut groups = context.supplemental_groups.unwrap_or_default();
    groups.extend(context.fs_group.filter(|g| !groups.contains(g)).into_iter().collect::<Vec<_>>());
    groups
}

fn groups_policy(pod: &Pod) -> i32 {
    let strict = pod_context(pod).supplemental_groups_policy.as_deref() == Some("Strict");
    let policy = if strict { SupplementalGroupsPolicy::Strict } else { SupplementalGroupsPolicy::Merge };
    policy as i32
}

fn profile(kind: &str, localhost: Option<&String>) -> SecurityProfile {
    let profile_type = match kind {
        "RuntimeDefault" => ProfileType::RuntimeDefault,
        "Localhost" => ProfileType::Localhost,
        _ => ProfileType::Unconfined,
    };
    SecurityProfile {
        profile_type: profile_type as i32,
        localhost_ref: localhost.cloned().unwrap_or_default(),
    }
}

fn seccomp(own: Option<&SeccompProfile>, pods: Option<&SeccompProfile>) -> SecurityProfile {
    match own.or(pods) {
        Some(p) => profile(&p.type_, p.localhost_profile.as_ref()),
        None => profile("Unconfined", None),
    }
}

fn apparmor(own: Option<&AppArmorProfile>, pods: Option<&AppArmorProfile>) -> Option<SecurityProfile> {
    own.or(pods).map(|p| profile(&p.type_, p.localhost_profile.as_ref()))
}

fn selinux(options: Option<&SELinuxOptions>) -> Option<SeLinuxOption> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    options.map(|o| SeLinuxOption {
        user: text(&o.user),
        role: text(&o.role),
        r#type: text(&o.type_),
        level: text(&o.level),
    })
}

pub fn sandbox_context(pod: &Pod) -> LinuxSandboxSecurityContext {
    let context = pod_context(pod);
    let value = |value: Option<i64>| value.map(|value| Int64Value { value });
    LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod)),
        selinux_options: selinux(context.se_linux_options.as_ref()),
        run_as_user: value(context.run_as_user),
        run_as_group: value(context.run_as_group),
        readonly_rootfs: false,
        supplemental_groups: groups(pod),
        supplemental_groups_policy: groups_policy(pod),
        privileged: spec(pod).containers.iter().any(is_privileged),
        seccomp: Some(profile("RuntimeDefault", None)),
        ..LinuxSandboxSecurityContext::default()
    }
}

/// `target` is the id of the container whose processes an ephemeral container shares.
pub fn container_context(
    pod: &Pod,
    container: &Container,
    image_user: &ImageUser,
    target: Option<&str>,
) -> Result<LinuxContainerSecurityContext, Error> {
    let (own, pods) = (own_context(container), pod_context(pod));
    verify_non_root(pod, container, &own, &pods, image_user)?;
    let user = own.run_as_user.or(pods.run_as_user).or(image_user.uid);
    let mut namespace_options = namespaces(pod);
    if let Some(target) = target {
        namespace_options.pid = NamespaceMode::Target as i32;
        namespace_options.target_id = target.to_owned();
    }
    let privileged = own.privileged == Some(true);
    let unmasked = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let paths =
        |list: &[&str]| if unmasked { Vec::new() } else { list.iter().map(|p| (*p).to_owned()).collect() };
    let mut masked_paths: Vec<String> = paths(&MASKED_PATHS);
    masked_paths.extend(paths(&MASKED_SYS));
    Ok(LinuxContainerSecurityContext {
        capabilities: capabilities(&own),
        privileged,
        namespace_options: Some(namespace_options),
        selinux_options: selinux(own.se_linux_options.as_ref().or(pods.se_linux_options.as_ref())),
        run_as_user: user.map(|value| Int64Value { value }),
        run_as_group: own.run_as_group.or(pods.run_as_group).map(|value| Int64Value { value }),
        run_as_username: if user.is_none() { image_user.name.clone() } else { String::new() },
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: groups(pod),
        supplemental_groups_policy: groups_policy(pod),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths,
        readonly_paths: paths(&READONLY_PATHS),
        seccomp: Some(if privileged {
            profile("Unconfined", None)
        } else {
            seccomp(own.seccomp_profile.as_ref(), pods.seccomp_profile.as_ref())
        }),
        apparmor: apparmor(own.app_armor_profile.as_ref(), pods.app_armor_profile.as_ref()),
        ..LinuxContainerSecurityContext::default()
    })
}

fn capabilities(own: &SecurityContext) -> Option<Capability> {
    let wanted = own.capabilities.clone()?;
    Some(Capability {
        add_capabilities: wanted.add.unwrap_or_default(),
        drop_capabilities: wanted.drop.unwrap_or_default(),
        add_ambient_capabilities: Vec::new(),
    })
}

fn verify_non_root(
    pod: &Pod,
    container: &Container,
    own: &SecurityContext,
    pods: &PodSecurityContext,
    image: &ImageUser,
) -> Result<(), Error> {
    if own.run_as_non_root.or(pods.run_as_non_root) != Some(true) {
        return Ok(());
    }
    let at = format!("(pod: \"{}\", container: {})", display(pod), container.name);
    match own.run_as_user.or(pods.run_as_user) {
        Some(0) => Err(Error::config(format!("container's runAsUser breaks non-root policy {at}"))),
        Some(_) => Ok(()),
        None if image.uid == Some(0) => {
            Err(Error::config(format!("container has runAsNonRoot and image will run as root {at}")))
        }
        None if image.uid.is_none() && !image.name.is_empty() => Err(Error::config(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root {at}",
            image.name
        ))),
        None if image.uid.is_none() => {
            Err(Error::config(format!("container has runAsNonRoot and image will run as root {at}")))
        }
        None => Ok(()),
    }
}

/// The container an ephemeral container wants to share processes with.
pub fn target_container(pod: &Pod, name: &str) -> Option<String> {
    let is_ephemeral = find_container(pod, name).is_some_and(|c| c.kind == Kind::Ephemeral);
    let ephemeral = spec(pod).ephemeral_containers.iter().flatten().find(|c| c.name == name)?;
    ephemeral.target_container_name.clone().filter(|t| is_ephemeral && !t.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::testing::pod;
    use serde_json::json;

    #[test]
    fn the_container_overrides_the_pod() {
        let pod = pod(
            json!({"securityContext": {"runAsUser": 1, "runAsGroup": 2, "fsGroup": 7, "supplementalGroups": [5]},
            "containers": [{"name": "a", "securityContext": {"runAsUser": 3, "allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": true}}]}),
        );
        let context =
            container_context(&pod, &spec(&pod).containers[0], &ImageUser::default(), None).unwrap();
        assert_eq!(context.run_as_user.unwrap().value, 3);
        assert_eq!(context.run_as_group.unwrap().value, 2);
        assert_eq!(context.supplemental_groups, [5, 7]);
        assert!(context.no_new_privs && context.readonly_rootfs && !context.privileged);
        assert!(context.masked_paths.contains(&"/proc/kcore".to_owned()));
    }

    #[test]
    fn non_root_is_verified() {
        let cases = [
            (json!({"runAsNonRoot": true, "runAsUser": 0}), None, "", false),
            (json!({"runAsNonRoot": true, "runAsUser": 5}), Some(0), "", true),
            (json!({"runAsNonRoot": true}), Some(0), "", false),
            (json!({"runAsNonRoot": true}), Some(9), "", true),
            (json!({"runAsNonRoot": true}), None, "nobody", false),
            (json!({}), Some(0), "", true),
        ];
        for (context, uid, name, allowed) in cases {
            let pod = pod(json!({"containers": [{"name": "a", "securityContext": context}]}));
            let user = ImageUser { uid, name: name.to_owned() };
            let result = container_context(&pod, &spec(&pod).containers[0], &user, None);
            assert_eq!(result.is_ok(), allowed, "{context} {user:?}");
        }
    }
}

//! The OCI runtime specification of a container, from what CRI and the image say.
//!
//! A pure function of [`Inputs`]: everything that needs the machine (lookups, capability names, device
//! numbers) is found out by the caller.

use std::path::Path;

use amphipod_cri::v1::{
    ContainerConfig, LinuxContainerResources, LinuxContainerSecurityContext, Mount, MountPropagation,
    NamespaceMode,
};
use serde_json::{Map, Value, json};

use super::user::Identity;
use crate::{cgroup::Layout, image::oci::ProcessDefaults};

/// Version of the OCI runtime specification spoken.
const OCI_VERSION: &str = "1.0.2";
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What a container may do unless told otherwise.
const DEFAULT_CAPABILITIES: &[&str] = &[
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];
/// Rules the device cgroup starts from: nothing is allowed. libcontainer adds the usual devices.
const DENY_ALL_DEVICES: &str = "rwm";

/// A device node found on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNode {
    pub path: String,
    /// `c` or `b`.
    pub kind: char,
    pub major: u32,
    pub minor: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Some of `r`, `w`, `m`.
    pub access: String,
}

/// What this process may do to others; an unprivileged parent (a container, a sandboxed machine) may not
/// raise limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Privileges {
    /// Most open files a container can be given.
    pub max_open_files: u64,
    /// Lowest OOM score adjustment that can be set.
    pub min_oom_score_adj: i64,
}

/// Everything the specification depends on.
#[derive(Debug)]
pub struct Inputs<'a> {
    pub config: &'a ContainerConfig,
    pub image: &'a ProcessDefaults,
    pub identity: &'a Identity,
    pub hostname: &'a str,
    pub cgroup_path: &'a str,
    pub layout: Layout,
    /// Namespaces to join: (OCI type, path); those the container gets for itself have no path.
    pub namespaces: Vec<(&'static str, Option<String>)>,
    /// Sandbox files to mount unless the pod mounts something there: (container path, host path, read-only).
    pub sandbox_files: Vec<(String, String)>,
    /// Host path of the sandbox's shared memory; the node's own for host IPC.
    pub shm: String,
    pub devices: Vec<DeviceNode>,
    /// Capabilities this process can pass on.
    pub known_capabilities: Vec<String>,
    pub privileges: Privileges,
}

/// The container's security context, empty if absent.
pub fn security(config: &ContainerConfig) -> LinuxContainerSecurityContext {
    config.linux.as_ref().and_then(|linux| linux.security_context.clone()).unwrap_or_default()
}

/// Builds `config.json`.
pub fn build(inputs: &Inputs<'_>) -> Value {
    let security = security(inputs.config);
    let mut linux = json!({
        "namespaces": namespaces(inputs),
        "cgroupsPath": inputs.cgroup_path,
        "resources": resources(inputs, &security),
        "devices": inputs.devices.iter().map(device).collect::<Vec<_>>(),
        "rootfsPropagation": root_propagation(&inputs.config.mounts),
    });
    if !security.privileged {
        linux["maskedPaths"] = json!(security.masked_paths);
        linux["readonlyPaths"] = json!(security.readonly_paths);
    }
    json!({
        "ociVersion": OCI_VERSION,
        "root": {"path": "rootfs", "readonly": security.readonly_rootfs},
        "process": process(inputs, &security),
        "mounts": mounts(inputs, &security),
        "linux": linux,
    })
}

/// Command, arguments and environment as the pod and the image say. Empty when neither names a command.
pub fn arguments(config: &ContainerConfig, image: &ProcessDefaults) -> Vec<String> {
    let (command, args) = match (config.command.is_empty(), config.args.is_empty()) {
        (false, _) => (&config.command, &config.args),
        (true, false) => (&image.entrypoint, &config.args),
        (true, true) => (&image.entrypoint, &image.cmd),
    };
    command.iter().chain(args).cloned().collect()
}

/// Directory the process starts in.
pub fn working_directory(config: &ContainerConfig, image: &ProcessDefaults) -> String {
    let asked = [&config.working_dir, &image.working_dir].into_iter().find(|directory| !directory.is_empty());
    let directory = asked.map(String::as_str).unwrap_or("/");
    if directory.starts_with('/') { directory.to_string() } else { format!("/{directory}") }
}

/// Environment: the image's, then the pod's over it, with what every program expects.
pub fn environment(inputs: &Inputs<'_>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut set = |name: &str, value: &str| {
        let entry = format!("{name}={value}");
        let prefix = format!("{name}=");
        match all.iter_mut().find(|known| known.starts_with(&prefix)) {
            Some(known) => *known = entry,
            None => all.push(entry),
        }
    };
    let (path, path_value) = DEFAULT_PATH.split_once('=').unwrap_or_default();
    set(path, path_value);
    if !inputs.hostname.is_empty() {
        set("HOSTNAME", inputs.hostname);
    }
    if inputs.config.tty {
        set("TERM", "xterm");
    }
    for entry in &inputs.image.env {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        set(name, value);
    }
    for variable in &inputs.config.envs {
        set(&variable.key, &variable.value);
    }
    if let Some(home) = &inputs.identity.home
        && !all.iter().any(|entry| entry.starts_with("HOME="))
    {
        all.push(format!("HOME={home}"));
    }
    all
}

fn process(inputs: &Inputs<'_>, security: &LinuxContainerSecurityContext) -> Value {
    let identity = inputs.identity;
    let max_open_files = inputs.privileges.max_open_files;
    let capabilities = capabilities(security, &inputs.known_capabilities);
    let ambient = ambient_capabilities(security, &capabilities);
    let mut process = json!({
        "terminal": inputs.config.tty,
        "user": {"uid": identity.uid, "gid": identity.gid, "additionalGids": identity.groups},
        "args": arguments(inputs.config, inputs.image),
        "env": environment(inputs),
        "cwd": working_directory(inputs.config, inputs.image),
        "capabilities": {
            "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            "inheritable": ambient, "ambient": ambient,
        },
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": max_open_files, "soft": max_open_files}],
    });
    // A written-out `false` is taken for "set" by libcontainer.
    if security.no_new_privs {
        process["noNewPrivileges"] = json!(true);
    }
    if let Some(resources) = resources_of(inputs.config) {
        process["oomScoreAdj"] = json!(resources.oom_score_adj.max(inputs.privileges.min_oom_score_adj));
    }
    process
}

/// Capabilities a container gets: the default set, changed by the pod; all of them when privileged.
pub fn capabilities(security: &LinuxContainerSecurityContext, known: &[String]) -> Vec<String> {
    if security.privileged {
        return known.to_vec();
    }
    let asked = security.capabilities.clone().unwrap_or_default();
    let name = |text: &String| {
        let upper = text.to_ascii_uppercase();
        if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") }
    };
    let add: Vec<String> =
        asked.add_capabilities.iter().chain(&asked.add_ambient_capabilities).map(name).collect();
    let drop: Vec<String> = asked.drop_capabilities.iter().map(name).collect();
    let mut set: Vec<String> = DEFAULT_CAPABILITIES.iter().map(|one| (*one).to_string()).collect();
    if add.iter().any(|one| one == "CAP_ALL") {
        set = known.to_vec();
    }
    if drop.iter().any(|one| one == "CAP_ALL") {
        set.clear();
    }
    set.retain(|one| !drop.contains(one));
    set.extend(add.into_iter().filter(|one| one != "CAP_ALL" && known.contains(one)));
    set.sort();
    set.dedup();
    set
}

fn ambient_capabilities(security: &LinuxContainerSecurityContext, held: &[String]) -> Vec<String> {
    let asked = security.capabilities.clone().unwrap_or_default().add_ambient_capabilities;
    let named = asked.iter().map(|name| name.to_ascii_uppercase());
    let full = named.map(|name| if name.starts_with("CAP_") { name } else { format!("CAP_{name}") });
    full.filter(|name| held.contains(name)).collect()
}

fn namespaces(inputs: &Inputs<'_>) -> Vec<Value> {
    let one = |(kind, path): &(&str, Option<String>)| match path {
        Some(path) => json!({"type": kind, "path": path}),
        None => json!({"type": kind}),
    };
    inputs.namespaces.iter().map(one).collect()
}

fn device(node: &DeviceNode) -> Value {
    json!({
        "path": node.path, "type": node.kind.to_string(), "major": node.major, "minor": node.minor,
        "fileMode": node.mode, "uid": node.uid, "gid": node.gid,
    })
}

fn resources_of(config: &ContainerConfig) -> Option<&LinuxContainerResources> {
    config.linux.as_ref()?.resources.as_ref()
}

fn resources(inputs: &Inputs<'_>, security: &LinuxContainerSecurityContext) -> Value {
    let mut rules = vec![json!({"allow": security.privileged, "access": DENY_ALL_DEVICES})];
    if !security.privileged {
        rules.extend(inputs.devices.iter().map(|node| {
            json!({
                "allow": true, "type": node.kind.to_string(), "major": node.major, "minor": node.minor,
                "access": node.access,
            })
        }));
    }
    let mut all = json!({"devices": rules});
    let Some(asked) = resources_of(inputs.config) else { return all };
    let mut cpu = Map::new();
    let mut put = |name: &str, value: i64| {
        if value != 0 {
            cpu.insert(name.into(), json!(value));
        }
    };
    put("shares", asked.cpu_shares);
    put("quota", asked.cpu_quota);
    put("period", asked.cpu_period);
    for (name, value) in [("cpus", &asked.cpuset_cpus), ("mems", &asked.cpuset_mems)] {
        if !value.is_empty() {
            cpu.insert(name.into(), json!(value));
        }
    }
    if !cpu.is_empty() {
        all["cpu"] = Value::Object(cpu);
    }
    if asked.memory_limit_in_bytes != 0 {
        all["memory"] = json!({"limit": asked.memory_limit_in_bytes});
        if asked.memory_swap_limit_in_bytes != 0 {
            all["memory"]["swap"] = json!(asked.memory_swap_limit_in_bytes);
        }
    }
    if !asked.hugepage_limits.is_empty() {
        let limits = asked.hugepage_limits.iter();
        let limits: Vec<Value> =
            limits.map(|limit| json!({"pageSize": limit.page_size, "limit": limit.limit})).collect();
        all["hugepageLimits"] = json!(limits);
    }
    if inputs.layout == Layout::Unified && !asked.unified.is_empty() {
        all["unified"] = json!(asked.unified);
    }
    all
}

fn mounts(inputs: &Inputs<'_>, security: &LinuxContainerSecurityContext) -> Vec<Value> {
    let writable_kernel = security.privileged;
    let sys_mode = if writable_kernel { "rw" } else { "ro" };
    let entry = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    let mut all = vec![
        entry("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        entry("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        entry(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        entry("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        entry("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", sys_mode]),
        entry("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", sys_mode]),
    ];
    let taken = |path: &str| inputs.config.mounts.iter().any(|mount| same_path(&mount.container_path, path));
    all.retain(|mount| !taken(mount["destination"].as_str().unwrap_or_default()));
    if !taken("/dev/shm") {
        all.push(entry("/dev/shm", "bind", &inputs.shm, &["rbind", "rw", "nosuid", "noexec", "nodev"]));
    }
    let file_mode = if security.readonly_rootfs { "ro" } else { "rw" };
    for (destination, source) in inputs.sandbox_files.iter().filter(|(destination, _)| !taken(destination)) {
        all.push(entry(destination, "bind", source, &["rbind", "rprivate", file_mode]));
    }
    let mut asked: Vec<&Mount> = inputs.config.mounts.iter().collect();
    // A mount below another must come after it.
    asked.sort_by_key(|mount| Path::new(&mount.container_path).components().count());
    all.extend(asked.into_iter().map(pod_mount));
    all
}

fn same_path(left: &str, right: &str) -> bool {
    left.trim_end_matches('/') == right.trim_end_matches('/')
}

fn pod_mount(mount: &Mount) -> Value {
    let propagation = match mount.propagation() {
        MountPropagation::PropagationPrivate => "rprivate",
        MountPropagation::PropagationHostToContainer => "rslave",
        MountPropagation::PropagationBidirectional => "rshared",
    };
    let mode = if mount.readonly { "ro" } else { "rw" };
    let mut options = vec!["rbind", propagation, mode];
    if mount.recursive_read_only {
        options.push("rro");
    }
    json!({
        "destination": mount.container_path, "type": "bind", "source": mount.host_path, "options": options,
    })
}

/// Mounts can only propagate into or out of a container whose root takes part.
fn root_propagation(mounts: &[Mount]) -> &'static str {
    let any = |wanted: MountPropagation| mounts.iter().any(|mount| mount.propagation() == wanted);
    if any(MountPropagation::PropagationBidirectional) {
        "shared"
    } else if any(MountPropagation::PropagationHostToContainer) {
        "slave"
    } else {
        "private"
    }
}

/// Which namespaces a container joins or gets, from the pod's options. `paths` are the sandbox's own.
pub fn wanted_namespaces(
    options: &amphipod_cri::v1::NamespaceOption,
    layout: Layout,
    path_of: &dyn Fn(&'static str) -> Option<String>,
    target_pid_namespace: Option<String>,
) -> Vec<(&'static str, Option<String>)> {
    let mut all: Vec<(&'static str, Option<String>)> = vec![("mount", None)];
    if options.network() != NamespaceMode::Node {
        all.push(("network", path_of("net")));
        all.push(("uts", path_of("uts")));
    }
    if options.ipc() != NamespaceMode::Node {
        all.push(("ipc", path_of("ipc")));
    }
    match options.pid() {
        NamespaceMode::Node => {}
        NamespaceMode::Pod => all.push(("pid", path_of("pid"))),
        NamespaceMode::Container => all.push(("pid", None)),
        NamespaceMode::Target => all.push(("pid", target_pid_namespace)),
    }
    if layout == Layout::Unified {
        all.push(("cgroup", None));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use amphipod_cri::v1::{Capability, KeyValue, LinuxContainerConfig};

    fn text(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_string()).collect()
    }

    fn image() -> ProcessDefaults {
        ProcessDefaults {
            entrypoint: text(&["/entry"]),
            cmd: text(&["image-arg"]),
            env: text(&["PATH=/image/bin", "A=image"]),
            working_dir: "/work".into(),
            ..ProcessDefaults::default()
        }
    }

    fn build_with(config: &ContainerConfig) -> Value {
        let identity = Identity { home: Some("/home/me".into()), ..Identity::default() };
        build(&Inputs {
            config,
            image: &image(),
            identity: &identity,
            hostname: "pod",
            cgroup_path: "/pod/c",
            layout: Layout::PerController,
            namespaces: vec![("mount", None), ("network", Some("/ns/net".into()))],
            sandbox_files: vec![("/etc/hosts".into(), "/sandbox/hosts".into())],
            shm: "/sandbox/shm".into(),
            devices: Vec::new(),
            known_capabilities: text(&["CAP_CHOWN", "CAP_KILL", "CAP_NET_ADMIN", "CAP_SYS_ADMIN"]),
            privileges: Privileges { max_open_files: 1024, min_oom_score_adj: 0 },
        })
    }

    #[test]
    fn command_and_arguments_override_the_image() {
        for (command, args, want) in [
            (&[][..], &[][..], &["/entry", "image-arg"][..]),
            (&[], &["mine"], &["/entry", "mine"]),
            (&["/other"], &[], &["/other"]),
            (&["/other"], &["mine"], &["/other", "mine"]),
        ] {
            let config =
                ContainerConfig { command: text(command), args: text(args), ..ContainerConfig::default() };
            assert_eq!(arguments(&config, &image()), text(want));
        }
    }

    #[test]
    fn the_pod_overrides_the_environment() {
        let envs = vec![KeyValue { key: "A".into(), value: "pod=1".into() }];
        let config = ContainerConfig { envs, ..ContainerConfig::default() };
        let want = ["PATH=/image/bin", "HOSTNAME=pod", "A=pod=1", "HOME=/home/me"];
        assert_eq!(build_with(&config)["process"]["env"], json!(want));
    }

    #[test]
    fn capabilities_start_from_the_default_set() {
        let known = text(&["CAP_CHOWN", "CAP_KILL", "CAP_NET_ADMIN"]);
        let of = |add: &[&str], drop: &[&str]| {
            let changes = Capability {
                add_capabilities: text(add),
                drop_capabilities: text(drop),
                ..Capability::default()
            };
            let security =
                LinuxContainerSecurityContext { capabilities: Some(changes), ..Default::default() };
            capabilities(&security, &known)
        };
        assert_eq!(of(&[], &[]).len(), DEFAULT_CAPABILITIES.len());
        assert_eq!(of(&["net_admin"], &["ALL"]), ["CAP_NET_ADMIN"]);
        assert_eq!(of(&["ALL"], &["KILL"]), ["CAP_CHOWN", "CAP_NET_ADMIN"]);
        assert!(!of(&[], &["CAP_KILL"]).contains(&"CAP_KILL".to_string()));
        assert!(!of(&["NO_SUCH"], &[]).contains(&"CAP_NO_SUCH".to_string()));
    }

    #[test]
    fn mounts_of_the_pod_win_and_come_parents_first() {
        let mount = |path: &str| Mount {
            container_path: path.into(),
            host_path: "/host".into(),
            readonly: true,
            ..Mount::default()
        };
        let mounts = vec![mount("/data/inner"), mount("/data"), mount("/etc/hosts"), mount("/dev/shm")];
        let spec = build_with(&ContainerConfig { mounts, ..ContainerConfig::default() });
        let all: Vec<&str> = spec["mounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["destination"].as_str().unwrap())
            .collect();
        assert_eq!(&all[all.len() - 4..], ["/data", "/data/inner", "/etc/hosts", "/dev/shm"]);
        assert_eq!(all.iter().filter(|path| **path == "/etc/hosts").count(), 1);
        let options = json!(["rbind", "rprivate", "ro"]);
        assert_eq!(spec["mounts"].as_array().unwrap().last().unwrap()["options"], options);
    }

    #[test]
    fn privileged_containers_see_everything() {
        let with = |privileged: bool| {
            let security = LinuxContainerSecurityContext {
                privileged,
                masked_paths: text(&["/proc/kcore"]),
                ..Default::default()
            };
            let linux = LinuxContainerConfig { security_context: Some(security), ..Default::default() };
            build_with(&ContainerConfig { linux: Some(linux), ..Default::default() })
        };
        assert_eq!(with(false)["linux"]["maskedPaths"], json!(["/proc/kcore"]));
        assert_eq!(with(false)["linux"]["resources"]["devices"][0]["allow"], json!(false));
        let spec = with(true);
        assert!(spec["linux"].get("maskedPaths").is_none());
        assert_eq!(spec["linux"]["resources"]["devices"][0]["allow"], json!(true));
        assert_eq!(spec["process"]["capabilities"]["bounding"].as_array().unwrap().len(), 4);
        // "false" must not be written out.
        assert!(spec["process"].get("noNewPrivileges").is_none());
    }
}

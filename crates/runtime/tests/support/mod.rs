//! A runtime in a temporary directory with a CNI plugin that only hands out an address.

pub mod registry;
pub mod websocket;

use std::{
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use amphipod_cri::v1::{
    self as cri, ContainerConfig, ContainerMetadata, ContainerState, ContainerStatus, ContainerStatusRequest,
    CreateContainerRequest, DnsConfig, ExecSyncRequest, ExecSyncResponse, ImageSpec, LinuxContainerConfig,
    LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode,
    NamespaceOption, PodSandboxConfig, PodSandboxMetadata, RemovePodSandboxRequest, RunPodSandboxRequest,
    StartContainerRequest, image_service_client::ImageServiceClient,
    runtime_service_client::RuntimeServiceClient,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

const BUSYBOX: &str = "/bin/busybox";
const IMAGE: &str = "docker.io/library/test:1";
pub const DEADLINE: Duration = Duration::from_secs(60);

/// What this machine lacks for these tests.
pub fn missing() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root");
    }
    if !Path::new(BUSYBOX).exists() {
        return Some("needs a static busybox at /bin/busybox");
    }
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !filesystems.contains("overlay") {
        return Some("needs overlayfs");
    }
    None
}

pub fn shell(script: &str) -> Vec<String> {
    ["sh", "-c", script].iter().map(|word| (*word).to_string()).collect()
}

fn namespaces() -> NamespaceOption {
    let mut options = NamespaceOption::default();
    options.set_pid(NamespaceMode::Container);
    options
}

pub fn security() -> LinuxContainerSecurityContext {
    LinuxContainerSecurityContext { namespace_options: Some(namespaces()), ..Default::default() }
}

/// Polls a condition until a deadline.
pub async fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < DEADLINE, "timed out waiting for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub struct Node {
    /// First, so that it is dropped before the directory goes.
    _leftovers: Leftovers,
    directory: tempfile::TempDir,
    config: amphipod_runtime::Config,
    channel: Channel,
    cancel: CancellationToken,
    server: JoinHandle<()>,
}

impl Node {
    pub async fn start() -> Node {
        Node::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut amphipod_runtime::Config)) -> Node {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let mut config = amphipod_runtime::Config::new(root, std::env::current_exe().unwrap());
        config.cni_bin_dir = root.join("cni/net.d");
        write_cni(&config.cni_conf_dir);
        change(&mut config);
        let (channel, cancel, server) = serve(&config).await;
        let archive = root.join("image.tar");
        write_image(&archive);
        let names = amphipod_runtime::images::import(&config.socket, &archive).await.unwrap();
        assert_eq!(names, [IMAGE]);
        let _leftovers = Leftovers(directory.path().to_path_buf());
        Node { _leftovers, directory, config, channel, cancel, server }
    }

    pub fn dir(&self) -> &Path {
        self.directory.path()
    }

    pub fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone())
    }

    pub fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone())
    }

    pub async fn image(&self, name: &str) -> Option<cri::Image> {
        let image = ImageSpec { image: name.into(), ..Default::default() };
        let request = cri::ImageStatusRequest { image: Some(image), verbose: false };
        self.images().image_status(request).await.unwrap().into_inner().image
    }

    /// Stops serving, lets `meanwhile` happen, and serves again from what is on disk.
    pub async fn restart(&mut self, meanwhile: impl FnOnce(&Path)) {
        self.cancel.cancel();
        (&mut self.server).await.unwrap();
        meanwhile(self.directory.path());
        let (channel, cancel, server) = serve(&self.config).await;
        (self.channel, self.cancel, self.server) = (channel, cancel, server);
    }

    /// Stops, and checks that nothing is left behind.
    pub async fn stop(self) {
        self.cancel.cancel();
        self.server.await.unwrap();
        amphipod_runtime::cleanup(&self.config).await.unwrap();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let root = self.directory.path().display().to_string();
        remove_cgroups(&format!("amphipod-test-{}", std::process::id()));
        assert!(!mounts.contains(&root), "mounts are left: {mounts}");
    }

    pub async fn sandbox(&self, name: &str) -> String {
        self.sandbox_with(name, |_| {}).await
    }

    pub async fn sandbox_with(&self, name: &str, change: impl FnOnce(&mut PodSandboxConfig)) -> String {
        let mut config = self.sandbox_config(name);
        change(&mut config);
        let request = RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
        self.runtime().run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id
    }

    fn sandbox_config(&self, name: &str) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.into(),
                uid: format!("uid-{name}"),
                namespace: "default".into(),
                attempt: 0,
            }),
            hostname: format!("{name}-host"),
            log_directory: self.dir().join("logs").display().to_string(),
            dns_config: Some(DnsConfig { servers: vec!["10.1.2.3".into()], ..Default::default() }),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("/amphipod-test-{}/{name}", std::process::id()),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    pub async fn container(
        &self,
        sandbox: &str,
        name: &str,
        change: impl FnOnce(&mut ContainerConfig),
    ) -> String {
        let mut config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.into(), attempt: 0 }),
            image: Some(ImageSpec { image: IMAGE.into(), ..Default::default() }),
            log_path: format!("{name}/0.log"),
            linux: Some(LinuxContainerConfig { security_context: Some(security()), ..Default::default() }),
            ..Default::default()
        };
        change(&mut config);
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.into(),
            config: Some(config),
            sandbox_config: None,
        };
        self.runtime().create_container(request).await.unwrap().into_inner().container_id
    }

    pub async fn start_container(&self, id: &str) {
        let request = StartContainerRequest { container_id: id.into() };
        if let Err(error) = self.runtime().start_container(request).await {
            let log = self.config.root_dir.join("containers").join(id).join("shim.log");
            panic!("{error}; shim: {}", std::fs::read_to_string(log).unwrap_or_default());
        }
    }

    pub async fn status(&self, id: &str) -> ContainerStatus {
        let request = ContainerStatusRequest { container_id: id.into(), verbose: false };
        self.runtime().container_status(request).await.unwrap().into_inner().status.unwrap()
    }

    pub async fn wait_exit(&self, id: &str) -> ContainerStatus {
        let started = Instant::now();
        loop {
            let status = self.status(id).await;
            if status.state() == ContainerState::ContainerExited {
                return status;
            }
            assert!(started.elapsed() < DEADLINE, "the container does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn log(&self, status: &ContainerStatus) -> String {
        std::fs::read_to_string(&status.log_path).unwrap()
    }

    pub async fn exec(&self, id: &str, command: &[&str]) -> Result<ExecSyncResponse, tonic::Status> {
        let cmd = command.iter().map(|word| (*word).to_string()).collect();
        let request = ExecSyncRequest { container_id: id.into(), cmd, timeout: 10 };
        Ok(self.runtime().exec_sync(request).await?.into_inner())
    }

    /// URL of a shell running `script` (nothing but `true` when empty).
    pub async fn exec_url(&self, id: &str, script: &str, stdin: bool, tty: bool) -> String {
        let cmd = if script.is_empty() { vec!["true".to_string()] } else { shell(script) };
        let request = cri::ExecRequest {
            container_id: id.into(),
            cmd,
            tty,
            stdin,
            stdout: true,
            stderr: !tty,
            ..Default::default()
        };
        self.runtime().exec(request).await.unwrap().into_inner().url
    }

    pub async fn attach_url(&self, id: &str, tty: bool) -> String {
        let request = cri::AttachRequest {
            container_id: id.into(),
            stdin: true,
            tty,
            stdout: true,
            stderr: !tty,
            ..Default::default()
        };
        self.runtime().attach(request).await.unwrap().into_inner().url
    }

    pub async fn remove_everything(&self) {
        let all = self.runtime().list_pod_sandbox(cri::ListPodSandboxRequest::default()).await.unwrap();
        for sandbox in all.into_inner().items {
            let request = RemovePodSandboxRequest { pod_sandbox_id: sandbox.id };
            self.runtime().remove_pod_sandbox(request).await.unwrap();
        }
    }
}

async fn serve(config: &amphipod_runtime::Config) -> (Channel, CancellationToken, JoinHandle<()>) {
    let cancel = CancellationToken::new();
    let (config, stop) = (config.clone(), cancel.clone());
    let socket = config.socket.clone();
    let server = tokio::spawn(async move { amphipod_runtime::serve(config, stop).await.unwrap() });
    wait_until("the socket", || socket.exists()).await;
    (amphipod_cri::connect_lazy(&socket.display().to_string()), cancel, server)
}

/// A failed test must not leave containers and mounts behind either.
struct Leftovers(PathBuf);

impl Drop for Leftovers {
    fn drop(&mut self) {
        let Ok(hierarchies) = std::fs::read_dir("/sys/fs/cgroup") else { return };
        let name = format!("amphipod-test-{}", std::process::id());
        for parent in hierarchies.flatten().map(|hierarchy| hierarchy.path().join(&name)) {
            kill_below(&parent);
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for point in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)) {
            if Path::new(point).starts_with(&self.0) {
                let _ = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH);
            }
        }
    }
}

fn kill_below(cgroup: &Path) {
    let Ok(entries) = std::fs::read_dir(cgroup) else { return };
    for child in entries.flatten().filter(|entry| entry.path().is_dir()) {
        kill_below(&child.path());
    }
    let processes = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    for pid in processes.lines().filter_map(|line| rustix::process::Pid::from_raw(line.parse().ok()?)) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// Pods' cgroups go with them; the test's own parent of them all stays behind.
fn remove_cgroups(name: &str) {
    let Ok(hierarchies) = std::fs::read_dir("/sys/fs/cgroup") else { return };
    for parent in
        hierarchies.flatten().map(|hierarchy| hierarchy.path().join(name)).filter(|path| path.is_dir())
    {
        std::fs::remove_dir(&parent).unwrap_or_else(|error| panic!("{}: {error}", parent.display()));
    }
}

fn write_cni(directory: &Path) {
    std::fs::create_dir_all(directory).unwrap();
    let plugin: PathBuf = directory.join("address");
    std::fs::write(
        &plugin,
        "#!/bin/sh\ncat > /dev/null\n[ $CNI_COMMAND = ADD ] && echo '{\"ips\":[{\"address\":\"10.77.0.2/24\"}]}'\nexit 0\n",
    )
    .unwrap();
    std::fs::set_permissions(&plugin, std::fs::Permissions::from_mode(0o755)).unwrap();
    let list = r#"{"cniVersion":"1.0.0","name":"test","plugins":[{"type":"address"}]}"#;
    std::fs::write(directory.join("10-test.conflist"), list).unwrap();
}

/// A docker archive with busybox and the user database.
fn write_image(path: &Path) {
    use sha2::{Digest, Sha256};
    let layer = layer();
    let hex = |bytes: &[u8]| Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect::<String>();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Env":["PATH=/bin"],"Cmd":["sh"]}},
            "rootfs":{{"type":"layers","diff_ids":["sha256:{}"]}}}}"#,
        hex(&layer)
    );
    let manifest = r#"[{"Config":"config.json","RepoTags":["test:1"],"Layers":["layer.tar"]}]"#;
    let mut archive = tar::Builder::new(std::fs::File::create(path).unwrap());
    for (name, bytes) in [
        ("layer.tar", layer.as_slice()),
        ("config.json", config.as_bytes()),
        ("manifest.json", manifest.as_bytes()),
    ] {
        append(&mut archive, name, bytes, 0o644);
    }
    archive.into_inner().unwrap().flush().unwrap();
}

pub fn append(archive: &mut tar::Builder<impl Write>, name: &str, bytes: &[u8], mode: u32) {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    archive.append_data(&mut header, name, bytes).unwrap();
}

pub fn layer() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    append(&mut archive, "bin/busybox", &std::fs::read(BUSYBOX).unwrap(), 0o755);
    for name in [
        "sh", "sleep", "cat", "echo", "env", "id", "ps", "ls", "hostname", "touch", "printf", "dd",
        "unshare", "true", "pwd", "tty", "stty", "nc",
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        archive.append_link(&mut header, format!("bin/{name}"), "busybox").unwrap();
    }
    append(&mut archive, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n", 0o644);
    append(&mut archive, "etc/group", b"root:x:0:\n", 0o644);
    archive.into_inner().unwrap()
}

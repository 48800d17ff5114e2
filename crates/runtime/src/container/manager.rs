//! Creating, starting, stopping and removing containers.

use std::{
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use amphipod_cri::v1::{
    ContainerEventType, CreateContainerRequest, Device, NamespaceMode, NamespaceOption, SecurityProfile,
    security_profile::ProfileType,
};
use serde_json::{Value, json};
use tokio::net::UnixStream;

use super::{
    record::{Container, ContainerRecord},
    rootfs, seccomp_default,
    spec::{self, DeviceNode, Inputs, Privileges},
    user,
};
use crate::{
    cgroup::{Cgroup, Layout},
    error::Error,
    image::store::ImageRecord,
    mounts,
    sandbox::{
        files::{HOSTNAME, HOSTS, RESOLV_CONF, SHM},
        manager::hostname,
        record::Sandbox,
    },
    shim::{
        client, now_nanos,
        protocol::{
            Confinement, EXIT_FILE, ExecRequest, ExitRecord, Request, SHIM_CONFIG_FILE, ShimConfig,
            StartReport,
        },
        read_json, write_json,
    },
    state::{Runtime, new_id},
};

const SPEC_FILE: &str = "config.json";
const CONFINEMENT_FILE: &str = "confinement.json";
const IMAGE_VOLUMES: &str = "images";
/// What the kubelet knows a failed start by.
const START_ERROR_EXIT_CODE: i32 = 128;
const START_ERROR_REASON: &str = "StartError";
/// Exit code of a container whose end nobody saw.
const UNKNOWN_EXIT_CODE: i32 = 255;
/// Time a killed container has to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

impl Runtime {
    /// Prepares a container: root filesystem and specification. Nothing runs yet.
    pub async fn create_container(
        self: &Arc<Self>,
        request: CreateContainerRequest,
    ) -> Result<String, Error> {
        let sandbox = self.sandbox(&request.pod_sandbox_id)?;
        if !sandbox.state().ready {
            return Err(Error::FailedPrecondition(format!("pod sandbox {} is not running", sandbox.id)));
        }
        let config =
            request.config.ok_or_else(|| Error::InvalidArgument("container config is missing".into()))?;
        let asked = config.image.clone().unwrap_or_default();
        let image = self.images.get(&asked.image)?;
        let id = new_id();
        let log_path = match config.log_path.is_empty() || sandbox.config.log_directory.is_empty() {
            true => String::new(),
            false => Path::new(&sandbox.config.log_directory).join(&config.log_path).display().to_string(),
        };
        let record = ContainerRecord {
            sandbox_id: sandbox.id.clone(),
            image_id: image.id.clone(),
            image_ref: image.image_ref(),
            image_name: image.tags.first().cloned().unwrap_or_else(|| image.image_ref()),
            layers: image.config.rootfs.diff_ids.clone(),
            log_path,
            cgroup_path: format!("{}/{id}", sandbox.cgroup_parent().trim_end_matches('/')),
            image_stop_signal: image.config.config.stop_signal.clone(),
            created_at_nanos: now_nanos(),
            ..ContainerRecord::default()
        };
        let directory = self.paths.container(&id);
        let container =
            Container::new(id.clone(), directory.clone(), self.paths.shim_socket(&id), config, record);
        let runtime = Arc::clone(self);
        let work = move || runtime.prepare(container, &sandbox, &image);
        let prepared =
            tokio::task::spawn_blocking(work).await.map_err(|error| Error::Internal(error.to_string()))?;
        match prepared {
            Ok(container) => {
                let container = self.insert_container(container);
                let sandbox_id = container.record().sandbox_id;
                self.announce(ContainerEventType::ContainerCreatedEvent, &id, &sandbox_id);
                Ok(id)
            }
            Err(error) => {
                remove_files(&directory);
                Err(error)
            }
        }
    }

    /// Everything on disk. Blocking.
    fn prepare(
        &self,
        mut container: Container,
        sandbox: &Sandbox,
        image: &ImageRecord,
    ) -> Result<Container, Error> {
        let directory = container.directory.clone();
        std::fs::create_dir_all(&directory).map_err(Error::io("create", &directory))?;
        rootfs::mount(&directory, &self.images.layer_directories(image))?;
        let defaults = &image.config.config;
        let security = spec::security(&container.config);
        let identity = user::identity(&security, &defaults.user, &rootfs::user_files(&directory)?)?;
        if spec::arguments(&container.config, defaults).is_empty() {
            return Err(Error::InvalidArgument("no command specified".into()));
        }
        let cwd = spec::working_directory(&container.config, defaults);
        rootfs::ensure_directory(&directory, Path::new(&cwd))?;
        self.resolve_mounts(&mut container, &directory)?;
        let host_name = hostname(sandbox);
        let record = container.record();
        let inputs = Inputs {
            config: &container.config,
            image: defaults,
            identity: &identity,
            hostname: &host_name,
            cgroup_path: &record.cgroup_path,
            layout: Layout::detect(),
            namespaces: self.namespaces(&container, sandbox)?,
            sandbox_files: sandbox_files(sandbox),
            shm: shm_path(sandbox),
            devices: devices(&container.config.devices, security.privileged)?,
            known_capabilities: known_capabilities(),
            privileges: privileges(),
        };
        let mut document = spec::build(&inputs);
        let confinement = confinement(&mut document, security.seccomp.as_ref(), security.privileged)?;
        let put = |name: &str, value: &Value| {
            let path = directory.join(name);
            write_json(&path, value).map_err(Error::io("write", path))
        };
        put(SPEC_FILE, &document)?;
        put(CONFINEMENT_FILE, &json!(confinement))?;
        container.update(|record| record.identity = identity)?;
        container.save()?;
        Ok(container)
    }

    /// Follows symbolic links of host paths and mounts images that are used as volumes.
    fn resolve_mounts(&self, container: &mut Container, directory: &Path) -> Result<(), Error> {
        for (index, mount) in container.config.mounts.iter_mut().enumerate() {
            if let Some(image) = mount.image.as_ref().filter(|image| !image.image.is_empty()) {
                let image = self.images.get(&image.image)?;
                let target = directory.join(IMAGE_VOLUMES).join(index.to_string());
                std::fs::create_dir_all(&target).map_err(Error::io("create", &target))?;
                mounts::mount_image(&self.images.layer_directories(&image), &target)?;
                let source = target.join(mount.image_sub_path.trim_start_matches('/'));
                let source = source.canonicalize().map_err(Error::io("open", source))?;
                if !source.starts_with(&target) {
                    return Err(Error::InvalidArgument("the image sub path leaves the image".into()));
                }
                mount.host_path = source.display().to_string();
                mount.readonly = true;
                continue;
            }
            let source = PathBuf::from(&mount.host_path);
            let resolved = source.canonicalize().map_err(Error::io("failed to stat mount source", source))?;
            mount.host_path = resolved.display().to_string();
        }
        Ok(())
    }

    fn namespaces(
        &self,
        container: &Container,
        sandbox: &Sandbox,
    ) -> Result<Vec<(&'static str, Option<String>)>, Error> {
        let options: NamespaceOption =
            spec::security(&container.config).namespace_options.unwrap_or_default();
        let target = match options.pid() {
            NamespaceMode::Target => {
                let target = self.container(&options.target_id)?;
                let pid = target.record().pid;
                if pid == 0 || *target.ended.borrow() {
                    return Err(Error::FailedPrecondition(format!("container {} is not running", target.id)));
                }
                Some(format!("/proc/{pid}/ns/pid"))
            }
            _ => None,
        };
        let path_of = |name: &'static str| sandbox.namespace(name).map(|path| path.display().to_string());
        Ok(spec::wanted_namespaces(&options, Layout::detect(), &path_of, target))
    }

    /// Starts a created container.
    pub async fn start_container(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        let container = self.container(id)?;
        let _one_at_a_time = container.gate.lock().await;
        let record = container.record();
        if record.started_at_nanos != 0 || record.exit.is_some() {
            return Err(Error::FailedPrecondition(format!(
                "container {} is in state {}",
                container.id,
                container.cri_state().as_str_name()
            )));
        }
        let config = ShimConfig {
            socket: container.socket.display().to_string(),
            log_path: record.log_path.clone(),
            tty: container.config.tty,
            stdin: container.config.stdin,
            stdin_once: container.config.stdin_once,
            cgroup_path: record.cgroup_path.clone(),
            confinement: read_json(&container.directory.join(CONFINEMENT_FILE)).unwrap_or_default(),
        };
        let path = container.directory.join(SHIM_CONFIG_FILE);
        write_json(&path, &config).map_err(Error::io("write", path))?;
        let report = client::start(&self.executable, &container.directory)
            .await
            .unwrap_or_else(|error| StartReport::Failed { message: error.to_string() });
        match report {
            StartReport::Started { pid, started_at_nanos } => {
                container.update(|record| {
                    record.pid = pid;
                    record.started_at_nanos = started_at_nanos;
                })?;
                let subscription = client::watch(&container.socket).await.ok();
                self.follow(&container, subscription);
                self.announce(ContainerEventType::ContainerStartedEvent, &container.id, &record.sandbox_id);
                Ok(())
            }
            StartReport::Failed { message } => {
                let exit = ExitRecord {
                    exit_code: START_ERROR_EXIT_CODE,
                    oom_killed: false,
                    finished_at_nanos: now_nanos(),
                };
                container.finish(exit, Some((START_ERROR_REASON, message.clone())));
                self.announce(ContainerEventType::ContainerStoppedEvent, &container.id, &record.sandbox_id);
                Err(Error::Internal(format!("failed to start container {:?}: {message}", container.id)))
            }
        }
    }

    /// Waits in the background for a running container's end.
    fn follow(self: &Arc<Self>, container: &Arc<Container>, subscription: Option<UnixStream>) {
        let (runtime, container) = (Arc::clone(self), Arc::clone(container));
        tokio::spawn(async move {
            let told = match subscription {
                Some(stream) => client::ended(stream).await,
                None => None,
            };
            runtime.ended(&container, told);
        });
    }

    fn ended(&self, container: &Container, told: Option<ExitRecord>) {
        let written = || read_json(&container.directory.join(EXIT_FILE)).ok();
        let record = container.record();
        match told.or_else(written) {
            Some(exit) => container.finish(exit, None),
            None => {
                // The shim is gone without a word: whatever it left running has nobody to look after it.
                let cgroup = Cgroup::find(&record.cgroup_path);
                cgroup.kill_all();
                drop(cgroup.remove());
                let exit = ExitRecord {
                    exit_code: UNKNOWN_EXIT_CODE,
                    oom_killed: false,
                    finished_at_nanos: now_nanos(),
                };
                container
                    .finish(exit, Some(("ContainerStatusUnknown", "the container's shim went away".into())));
            }
        }
        self.announce(ContainerEventType::ContainerStoppedEvent, &container.id, &record.sandbox_id);
    }

    /// Takes up a container found on disk: follows it if it runs, records its end if it does not.
    pub async fn adopt(self: &Arc<Self>, container: Container) {
        let record = container.record();
        let container = self.insert_container(container);
        if record.started_at_nanos == 0 || record.exit.is_some() {
            return;
        }
        match client::watch(&container.socket).await {
            Ok(stream) => {
                tracing::debug!(container = container.id, "adopted");
                self.follow(&container, Some(stream));
            }
            Err(_) => self.ended(&container, None),
        }
    }

    /// Asks a container to end, then makes it. Idempotent.
    pub async fn stop_container(self: &Arc<Self>, id: &str, grace: Duration) -> Result<(), Error> {
        let container = match self.container(id) {
            Ok(container) => container,
            Err(Error::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        // Not under the gate: a second stop with a shorter grace must not wait for the first.
        if container.record().started_at_nanos == 0 || *container.ended.borrow() {
            return Ok(());
        }
        if !grace.is_zero() {
            self.signal(&container, container.stop_signal()).await;
            if wait_ended(&container, grace).await {
                return Ok(());
            }
        }
        self.signal(&container, libc::SIGKILL).await;
        if wait_ended(&container, KILL_TIMEOUT).await {
            return Ok(());
        }
        Cgroup::find(&container.record().cgroup_path).kill_all();
        match wait_ended(&container, KILL_TIMEOUT).await {
            true => Ok(()),
            false => Err(Error::DeadlineExceeded(format!("container {} does not die", container.id))),
        }
    }

    async fn signal(&self, container: &Container, number: i32) {
        if let Err(error) = client::request(&container.socket, &Request::Signal { number }).await {
            tracing::debug!(container = container.id, number, %error, "signal not delivered");
        }
    }

    /// Removes a container, killing it if it runs. Idempotent.
    pub async fn remove_container(self: &Arc<Self>, id: &str) -> Result<(), Error> {
        let container = match self.container(id) {
            Ok(container) => container,
            Err(Error::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        self.stop_container(&container.id, Duration::ZERO).await?;
        let _one_at_a_time = container.gate.lock().await;
        let directory = container.directory.clone();
        drop(std::fs::remove_file(&container.socket));
        tokio::task::spawn_blocking(move || remove_files(&directory))
            .await
            .map_err(|error| Error::Internal(error.to_string()))?;
        let sandbox_id = container.record().sandbox_id;
        self.forget_container(&container.id);
        self.announce(ContainerEventType::ContainerDeletedEvent, &container.id, &sandbox_id);
        Ok(())
    }

    /// The request for one more process in a running container.
    pub fn exec_request(
        &self,
        container: &Container,
        command: &[String],
        tty: bool,
    ) -> Result<ExecRequest, Error> {
        let record = container.record();
        if record.started_at_nanos == 0 || record.exit.is_some() {
            return Err(Error::FailedPrecondition(format!("container {} is not running", container.id)));
        }
        if command.is_empty() {
            return Err(Error::InvalidArgument("a command is required".into()));
        }
        let path = container.directory.join(SPEC_FILE);
        let document: Value = read_json(&path).map_err(Error::io("read", path))?;
        let mut process = document["process"].clone();
        process["args"] = json!(command);
        process["terminal"] = json!(tty);
        if tty
            && let Some(env) = process["env"].as_array_mut()
            && !env.iter().any(|entry| entry.as_str().is_some_and(|entry| entry.starts_with("TERM=")))
        {
            env.push(json!("TERM=xterm"));
        }
        Ok(ExecRequest {
            container_dir: container.directory.display().to_string(),
            process,
            confinement: read_json(&container.directory.join(CONFINEMENT_FILE)).unwrap_or_default(),
        })
    }
}

async fn wait_ended(container: &Container, timeout: Duration) -> bool {
    let mut ended = container.ended.subscribe();
    let outcome = tokio::time::timeout(timeout, ended.wait_for(|ended| *ended)).await;
    matches!(outcome, Ok(Ok(_)))
}

/// Unmounts and removes a container's directory. Blocking.
pub fn remove_files(directory: &Path) {
    for point in mounts::mounted_below(directory) {
        mounts::detach(&point);
    }
    if let Err(error) = std::fs::remove_dir_all(directory)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %directory.display(), %error, "cannot remove a container's files");
    }
}

fn sandbox_files(sandbox: &Sandbox) -> Vec<(String, String)> {
    let file =
        |destination: &str, name: &str| (destination.to_string(), sandbox.file(name).display().to_string());
    vec![file("/etc/hosts", HOSTS), file("/etc/hostname", HOSTNAME), file("/etc/resolv.conf", RESOLV_CONF)]
}

fn shm_path(sandbox: &Sandbox) -> String {
    match sandbox.ipc_mode() {
        NamespaceMode::Node => "/dev/shm".into(),
        _ => sandbox.file(SHM).display().to_string(),
    }
}

/// Names of the capabilities this process could pass on.
fn known_capabilities() -> Vec<String> {
    let mut all: Vec<String> = caps::read(None, caps::CapSet::Bounding)
        .unwrap_or_default()
        .iter()
        .map(ToString::to_string)
        .collect();
    all.sort();
    all
}

fn privileges() -> Privileges {
    /// Open files other runtimes give a container.
    const MAX_OPEN_FILES: u64 = 1 << 20;
    const LOWEST_OOM_SCORE_ADJ: i64 = -1000;
    if caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_SYS_RESOURCE).unwrap_or_default() {
        return Privileges { max_open_files: MAX_OPEN_FILES, min_oom_score_adj: LOWEST_OOM_SCORE_ADJ };
    }
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let own =
        std::fs::read_to_string("/proc/self/oom_score_adj").ok().and_then(|text| text.trim().parse().ok());
    Privileges {
        max_open_files: hard.unwrap_or(MAX_OPEN_FILES).min(MAX_OPEN_FILES),
        min_oom_score_adj: own.unwrap_or_default(),
    }
}

/// Resolves the seccomp profile, and widens the specification's capabilities where loading it needs that.
fn confinement(
    document: &mut Value,
    profile: Option<&SecurityProfile>,
    privileged: bool,
) -> Result<Option<Confinement>, Error> {
    let Some(profile) = profile.filter(|_| !privileged) else { return Ok(None) };
    let held: Vec<String> =
        serde_json::from_value(document["process"]["capabilities"]["bounding"].clone()).unwrap_or_default();
    let seccomp = match profile.profile_type() {
        ProfileType::Unconfined => return Ok(None),
        ProfileType::RuntimeDefault => seccomp_default::profile(&held),
        ProfileType::Localhost => {
            let path = Path::new(&profile.localhost_ref);
            read_json(path).map_err(Error::io("seccomp profile", path))?
        }
    };
    crate::shim::seccomp::Filters::compile(&seccomp).map_err(Error::InvalidArgument)?;
    let unprivileged_load = document["process"]["noNewPrivileges"] == json!(true);
    if unprivileged_load {
        return Ok(Some(Confinement { seccomp, keep_capabilities: None }));
    }
    let mut wide = held.clone();
    for extra in ["CAP_SYS_ADMIN", "CAP_SETPCAP"] {
        if !wide.iter().any(|one| one == extra) {
            wide.push(extra.into());
        }
    }
    for set in ["bounding", "effective", "permitted"] {
        document["process"]["capabilities"][set] = json!(wide);
    }
    Ok(Some(Confinement { seccomp, keep_capabilities: Some(held) }))
}

/// The device nodes a container gets besides the usual ones.
fn devices(asked: &[Device], privileged: bool) -> Result<Vec<DeviceNode>, Error> {
    let mut all = Vec::new();
    for device in asked {
        let path = Path::new(&device.host_path);
        let node = device_node(path, &device.container_path, &device.permissions)
            .ok_or_else(|| Error::InvalidArgument(format!("{} is not a device", path.display())))?;
        all.push(node);
    }
    if privileged {
        let nodes = std::fs::read_dir("/dev").map_err(Error::io("read", "/dev"))?;
        for entry in nodes.flatten() {
            let path = entry.path();
            let text = path.display().to_string();
            let taken = DEVICES_OF_THE_CONTAINER.contains(&text.as_str())
                || all.iter().any(|known: &DeviceNode| known.path == text);
            if !taken && let Some(node) = device_node(&path, &text, "rwm") {
                all.push(node);
            }
        }
    }
    Ok(all)
}

/// Made by the runtime in every container, so not copied from the host.
const DEVICES_OF_THE_CONTAINER: &[&str] = &[
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/ptmx",
    "/dev/console",
];

fn device_node(path: &Path, inside: &str, access: &str) -> Option<DeviceNode> {
    let metadata = path.symlink_metadata().ok()?;
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => 'c',
        kind if kind.is_block_device() => 'b',
        _ => return None,
    };
    Some(DeviceNode {
        path: if inside.is_empty() { path.display().to_string() } else { inside.to_string() },
        kind,
        major: rustix::fs::major(metadata.rdev()),
        minor: rustix::fs::minor(metadata.rdev()),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        access: if access.is_empty() { "rwm".into() } else { access.to_string() },
    })
}

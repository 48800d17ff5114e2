//! A pod's volumes on the host: set up (again and again, to follow their sources) and torn down.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use amphipod_client::{Api, Resource};
use amphipod_cri::v1::{self as cri, MountPropagation};
use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, HostPathVolumeSource, PersistentVolume, PersistentVolumeClaim, Pod,
    ProjectedVolumeSource, Volume,
};

use self::payload::{File, Keyed, Payload};
use crate::Error;
use crate::context::Context;
use crate::error::IoContext;
use crate::pod::{containers, spec};
use crate::spec::downward::Addresses;
use crate::spec::env::Environment;
use crate::spec::expand::expand_strict;
use crate::spec::security;

mod atomic;
pub mod mounts;
mod ownership;
pub mod payload;
pub mod tokens;

const DEFAULT_MODE: i32 = 0o644;
const DEFAULT_TOKEN_SECONDS: i64 = 3600;

/// What stands behind a volume's name.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    Path { path: PathBuf, read_only: bool },
    Image { reference: String },
}

/// By volume name.
pub type Mounted = BTreeMap<String, Source>;

/// The volume that could not be set up, and why.
pub struct Failure {
    pub volume: String,
    pub error: Error,
}

struct Job<'a> {
    context: &'a Context,
    pod: &'a Pod,
    addresses: &'a Addresses,
    has_begun: bool,
}

/// Sets up all volumes; safe to repeat, which makes them follow their sources. `has_begun`: the pod
/// had them all before, and goes on with what a new one may not begin with.
pub async fn set_up(
    context: &Context,
    pod: &Pod,
    addresses: &Addresses,
    has_begun: bool,
) -> Result<Mounted, Failure> {
    let job = Job { context, pod, addresses, has_begun };
    let mut mounted = Mounted::new();
    for volume in spec(pod).volumes.iter().flatten() {
        match job.one(volume).await {
            Ok(source) => {
                mounted.insert(volume.name.clone(), source);
            }
            Err(error) => return Err(Failure { volume: volume.name.clone(), error }),
        }
    }
    Ok(mounted)
}

/// True if a volume follows objects that may change.
pub fn follows_sources(pod: &Pod) -> bool {
    let follows = |v: &Volume| {
        v.config_map.is_some() || v.secret.is_some() || v.projected.is_some() || v.downward_api.is_some()
    };
    spec(pod).volumes.iter().flatten().any(follows)
}

/// Unmounts and deletes everything a pod had on the host.
pub fn tear_down(pod_dir: &Path) -> Result<(), Error> {
    mounts::unmount_below(pod_dir)?;
    match std::fs::remove_dir_all(pod_dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context(|| format!("remove {}", pod_dir.display()))
        }
        _ => Ok(()),
    }
}

impl Job<'_> {
    fn dir(&self, plugin: &str, volume: &str) -> PathBuf {
        self.context
            .config
            .pod_dir(self.pod.uid())
            .join("volumes")
            .join(format!("kubernetes.io~{plugin}"))
            .join(volume)
    }

    fn fs_group(&self) -> Option<u32> {
        let context = spec(self.pod).security_context.as_ref()?;
        context.fs_group.and_then(|g| u32::try_from(g).ok())
    }

    async fn one(&self, volume: &Volume) -> Result<Source, Error> {
        if let Some(source) = &volume.empty_dir {
            return self.empty_dir(&volume.name, source);
        }
        if let Some(source) = &volume.host_path {
            return host_path(source);
        }
        if let Some(image) = &volume.image {
            return Ok(Source::Image { reference: image.reference.clone().unwrap_or_default() });
        }
        if let Some(claim) = &volume.persistent_volume_claim {
            return self.claim(&claim.claim_name, claim.read_only == Some(true)).await;
        }
        let (plugin, payload) = if let Some(source) = &volume.config_map {
            let keyed = keyed(source.items.as_deref(), source.default_mode, source.optional);
            ("configmap", self.config_map(&keyed, &source.name).await?)
        } else if let Some(source) = &volume.secret {
            let keyed = keyed(source.items.as_deref(), source.default_mode, source.optional);
            ("secret", self.secret(&keyed, source.secret_name.as_deref().unwrap_or("")).await?)
        } else if let Some(source) = &volume.downward_api {
            let items = source.items.as_deref().unwrap_or_default();
            ("downward-api", self.downward(items, mode(source.default_mode))?)
        } else if let Some(source) = &volume.projected {
            ("projected", self.projected(source).await?)
        } else {
            return Err(Error::UnsupportedVolume(volume.name.clone()));
        };
        self.write(plugin, &volume.name, payload).await
    }

    async fn write(&self, plugin: &str, name: &str, payload: Payload) -> Result<Source, Error> {
        let path = self.dir(plugin, name);
        let (target, group) = (path.clone(), self.fs_group());
        let stamp = format!("{}.{}", jiff::Zoned::now().strftime("%Y_%m_%d_%H_%M_%S"), rand::random::<u32>());
        let written = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&target).context(|| format!("create {}", target.display()))?;
            std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o777))
                .context(|| format!("chmod {}", target.display()))?;
            atomic::write(&target, &payload, group, &stamp)
        });
        written.await.map_err(|e| Error::config(e.to_string()))??;
        Ok(Source::Path { path, read_only: true })
    }

    fn empty_dir(&self, name: &str, source: &EmptyDirVolumeSource) -> Result<Source, Error> {
        let path = self.dir("empty-dir", name);
        let existed = path.is_dir();
        std::fs::create_dir_all(&path).context(|| format!("create {}", path.display()))?;
        match source.medium.as_deref().unwrap_or("") {
            "" => {}
            "Memory" => mounts::mount_tmpfs(&path, self.memory_limit(source))?,
            other => return Err(Error::config(format!("unknown storage medium {other:?}"))),
        }
        if !existed {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))
                .context(|| format!("chmod {}", path.display()))?;
            if let Some(group) = self.fs_group() {
                ownership::give(&path, group, false)?;
            }
        }
        Ok(Source::Path { path, read_only: false })
    }

    /// The smaller of the volume's own limit and the pod's memory limit.
    fn memory_limit(&self, source: &EmptyDirVolumeSource) -> Option<i64> {
        let own = source.size_limit.as_ref().and_then(|q| amphipod_api::quantity::Quantity::parse(&q.0).ok());
        let own = own.map(|q| q.units()).filter(|size| *size > 0);
        let pods = crate::pod::resources::pod_cgroup(self.pod).memory_limit;
        match (own, pods) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    async fn config_map(&self, keyed: &Keyed<'_>, name: &str) -> Result<Payload, Error> {
        let found = self.context.objects.config_map(self.pod.namespace(), name).await?;
        payload::config_map(keyed, name, found.as_ref())
    }

    async fn secret(&self, keyed: &Keyed<'_>, name: &str) -> Result<Payload, Error> {
        let found = self.context.objects.secret(self.pod.namespace(), name).await?;
        payload::secret(keyed, name, found.as_ref())
    }

    fn downward(
        &self,
        items: &[k8s_openapi::api::core::v1::DownwardAPIVolumeFile],
        default_mode: u32,
    ) -> Result<Payload, Error> {
        payload::downward(self.pod, items, default_mode, self.addresses, &self.context.machine.allocatable)
    }

    async fn projected(&self, source: &ProjectedVolumeSource) -> Result<Payload, Error> {
        let default_mode = mode(source.default_mode);
        let mut all = Payload::new();
        for part in source.sources.iter().flatten() {
            if let Some(map) = &part.config_map {
                let keyed = keyed(map.items.as_deref(), source.default_mode, map.optional);
                all.extend(self.config_map(&keyed, &map.name).await?);
            }
            if let Some(secret) = &part.secret {
                let keyed = keyed(secret.items.as_deref(), source.default_mode, secret.optional);
                all.extend(self.secret(&keyed, &secret.name).await?);
            }
            if let Some(downward) = &part.downward_api {
                all.extend(self.downward(downward.items.as_deref().unwrap_or_default(), default_mode)?);
            }
            if let Some(token) = &part.service_account_token {
                let account = spec(self.pod).service_account_name.as_deref().unwrap_or("default");
                let seconds = token.expiration_seconds.unwrap_or(DEFAULT_TOKEN_SECONDS);
                let audience = token.audience.as_deref().unwrap_or("");
                let text = self.context.tokens.get(self.pod, account, audience, seconds).await?;
                all.insert(token.path.clone(), self.token_file(text, default_mode));
            }
        }
        Ok(all)
    }

    /// Tokens are readable only for those who need them: the fsGroup, or the one user of all containers.
    fn token_file(&self, text: String, default_mode: u32) -> File {
        let mut users = containers(self.pod).map(|c| security::run_as_user(self.pod, &c.container));
        let first = users.next().flatten();
        let uid = first.filter(|_| users.all(|u| u == first)).and_then(|u| u32::try_from(u).ok());
        let private = uid.is_some() || self.fs_group().is_some();
        File { data: text.into_bytes(), mode: if private { 0o600 } else { default_mode }, uid }
    }

    /// A claim bound to a volume that is a path of this node.
    async fn claim(&self, name: &str, read_only: bool) -> Result<Source, Error> {
        let client = &self.context.client;
        let claim =
            Api::<PersistentVolumeClaim>::namespaced(client.clone(), self.pod.namespace()).get(name).await?;
        // Its protection is taken off once no pod is seen to use it: a pod that begins with it now
        // might find it gone.
        if claim.is_terminating() && !self.has_begun {
            let namespace = self.pod.namespace();
            return Err(Error::config(format!(
                "error processing PVC {namespace}/{name}: PVC is being deleted"
            )));
        }
        let bound = claim.spec.and_then(|s| s.volume_name).filter(|v| !v.is_empty());
        let bound =
            bound.ok_or_else(|| Error::config(format!("PersistentVolumeClaim is not bound: {name:?}")))?;
        let volume = Api::<PersistentVolume>::all(client.clone()).get(&bound).await?.spec.unwrap_or_default();
        let source = match (&volume.host_path, &volume.local) {
            (Some(source), _) => host_path(source)?,
            (None, Some(local)) => {
                host_path(&HostPathVolumeSource { path: local.path.clone(), type_: None })?
            }
            (None, None) => return Err(Error::UnsupportedVolume(bound)),
        };
        let Source::Path { path, .. } = source else { return Ok(source) };
        if let (Some(group), false) = (self.fs_group(), volume.host_path.is_some()) {
            let context = spec(self.pod).security_context.as_ref();
            let lazy = context.and_then(|c| c.fs_group_change_policy.as_deref()) == Some("OnRootMismatch");
            ownership::give(&path, group, lazy)?;
        }
        Ok(Source::Path { path, read_only })
    }
}

fn mode(mode: Option<i32>) -> u32 {
    mode.unwrap_or(DEFAULT_MODE).cast_unsigned()
}

fn keyed(
    items: Option<&[k8s_openapi::api::core::v1::KeyToPath]>,
    default_mode: Option<i32>,
    optional: Option<bool>,
) -> Keyed<'_> {
    Keyed { items, default_mode: mode(default_mode), optional: optional == Some(true) }
}

/// Checks (or makes) what the type of a hostPath promises.
fn host_path(source: &HostPathVolumeSource) -> Result<Source, Error> {
    let path = PathBuf::from(&source.path);
    let found = std::fs::metadata(&path).ok();
    let fail =
        |what: &str| Err(Error::config(format!("hostPath type check failed: {} is not {what}", source.path)));
    let kind = source.type_.as_deref().unwrap_or("");
    match (kind, &found) {
        ("DirectoryOrCreate", None) => {
            std::fs::create_dir_all(&path).context(|| format!("create {}", source.path))?;
        }
        ("FileOrCreate", None) => {
            std::fs::File::create(&path).context(|| format!("create {}", source.path))?;
        }
        ("Directory" | "DirectoryOrCreate", Some(m)) if m.is_dir() => {}
        ("File" | "FileOrCreate", Some(m)) if m.is_file() => {}
        ("Socket", Some(m)) if m.file_type().is_socket() => {}
        ("CharDevice", Some(m)) if m.file_type().is_char_device() => {}
        ("BlockDevice", Some(m)) if m.file_type().is_block_device() => {}
        ("", _) => {}
        ("Directory" | "DirectoryOrCreate", _) => return fail("a directory"),
        ("File" | "FileOrCreate", _) => return fail("a file"),
        ("Socket", _) => return fail("a socket file"),
        ("CharDevice", _) => return fail("a character device"),
        ("BlockDevice", _) => return fail("a block device"),
        (other, _) => return Err(Error::config(format!("{other} is an invalid volume type"))),
    }
    Ok(Source::Path { path, read_only: false })
}

/// The volume mounts of one container, as the runtime is asked for them.
pub fn container_mounts(
    pod_dir: &Path,
    container: &Container,
    mounted: &Mounted,
    environment: &Environment,
) -> Result<Vec<cri::Mount>, Error> {
    let mut mounts = Vec::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let source = mounted.get(&mount.name).ok_or_else(|| {
            Error::config(format!(
                "cannot find volume {:?} to mount into container {:?}",
                mount.name, container.name
            ))
        })?;
        let sub_path = sub_path(mount.sub_path.as_deref(), mount.sub_path_expr.as_deref(), environment)?;
        let container_path = if mount.mount_path.starts_with('/') {
            mount.mount_path.clone()
        } else {
            format!("/{}", mount.mount_path)
        };
        let read_only = mount.read_only == Some(true);
        mounts.push(match source {
            Source::Image { reference } => cri::Mount {
                container_path,
                readonly: true,
                image: Some(cri::ImageSpec { image: reference.clone(), ..Default::default() }),
                image_sub_path: sub_path.unwrap_or_default(),
                ..Default::default()
            },
            Source::Path { path, read_only: always } => cri::Mount {
                container_path,
                host_path: match sub_path {
                    Some(sub) => bound_sub_path(pod_dir, path, &sub, &mount.name, &container.name, index)?,
                    None => path.clone(),
                }
                .display()
                .to_string(),
                readonly: read_only || *always,
                propagation: propagation(mount.mount_propagation.as_deref()) as i32,
                ..Default::default()
            },
        });
    }
    Ok(mounts)
}

fn propagation(name: Option<&str>) -> MountPropagation {
    match name {
        Some("HostToContainer") => MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => MountPropagation::PropagationBidirectional,
        _ => MountPropagation::PropagationPrivate,
    }
}

fn sub_path(
    plain: Option<&str>,
    expression: Option<&str>,
    environment: &Environment,
) -> Result<Option<String>, Error> {
    let text = match (plain.filter(|p| !p.is_empty()), expression.filter(|e| !e.is_empty())) {
        (Some(plain), _) => plain.to_owned(),
        (None, Some(expression)) => expand_strict(expression, |name| environment.get(name).cloned())
            .map_err(|missing| Error::config(format!("missing value for {}", missing.join(", "))))?,
        (None, None) => return Ok(None),
    };
    if text.starts_with('/') {
        return Err(Error::config(format!("error SubPath `{text}` must not be an absolute path")));
    }
    if text.split('/').any(|part| part == "..") {
        return Err(Error::config(format!("unable to provision SubPath `{text}`: must not contain '..'")));
    }
    Ok((!text.is_empty()).then_some(text))
}

fn bound_sub_path(
    pod_dir: &Path,
    volume: &Path,
    sub: &str,
    name: &str,
    container: &str,
    index: usize,
) -> Result<PathBuf, Error> {
    let handle = mounts::open_below(volume, sub)?;
    let target = pod_dir.join("volume-subpaths").join(name).join(container).join(index.to_string());
    mounts::bind(&handle, &target)?;
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sub_path_expressions() {
        let environment =
            Environment { variables: vec![("A".into(), "x".into()), ("B".into(), "/abs".into())] };
        let cases = [
            (Some("a"), None, Ok(Some("a"))),
            (None, Some("$(A)/y"), Ok(Some("x/y"))),
            (None, Some("$(C)"), Err("missing value for C")),
            (None, Some("$(B)"), Err("error SubPath `/abs` must not be an absolute path")),
            (None, Some(".."), Err("unable to provision SubPath `..`: must not contain '..'")),
            (None, None, Ok(None)),
        ];
        for (plain, expression, expected) in cases {
            let got = sub_path(plain, expression, &environment).map_err(|e| e.to_string());
            assert_eq!(got, expected.map(|o| o.map(str::to_owned)).map_err(str::to_owned), "{expression:?}");
        }
    }

    #[test]
    fn host_path_types() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str, kind: &str| {
            let path = dir.path().join(name).display().to_string();
            host_path(&HostPathVolumeSource { path, type_: Some(kind.to_owned()) }).is_ok()
        };
        assert!(!at("d", "Directory") && at("d", "DirectoryOrCreate") && at("d", "Directory"));
        assert!(!at("f", "File") && at("f", "FileOrCreate") && at("f", "File") && !at("f", "Directory"));
        assert!(at("nothing", "") && !at("f", "Socket"));
    }
}

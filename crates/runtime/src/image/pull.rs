//! Pulling from registries.

use std::{sync::Arc, time::Duration};

use amphipod_cri::v1::AuthConfig;
use base64::Engine;
use futures::{StreamExt, TryStreamExt};
use oci_client::{
    Client, Reference as RemoteReference,
    client::{ClientConfig, ClientProtocol},
    manifest::OciDescriptor,
    secrets::RegistryAuth,
};

use super::{
    oci::{Descriptor, ImageConfig, Manifest, machine},
    reference::Reference,
    store::{ImageRecord, ImageStore},
    unpack::digest,
};
use crate::{error::Error, shim::now_nanos};

/// Layers fetched at once.
const PARALLEL_LAYERS: usize = 3;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Silence on a download after which it counts as failed.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Configurations are small; a larger one is an attack or a mistake.
const MAX_CONFIG_BYTES: u64 = 8 << 20;
const MANIFEST_TYPES: &[&str] = &[
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// Brings an image here and returns it. Built-in images are here already.
pub async fn pull(
    store: &Arc<ImageStore>,
    name: &str,
    auth: Option<&AuthConfig>,
    insecure_registries: &[String],
) -> Result<ImageRecord, Error> {
    if let Some(image) = store.find(name).filter(|image| image.pinned) {
        return Ok(image);
    }
    let reference = Reference::parse(name)?;
    let key = reference.to_string();
    let gate = store.pulls.lock().await.entry(key.clone()).or_default().clone();
    let _one_at_a_time = gate.lock().await;
    let started = now_nanos();
    let puller = Puller {
        client: client(&reference, insecure_registries),
        auth: credentials(auth),
        remote: remote_reference(&reference),
        reference: &reference,
        store,
    };
    let image = puller.run().await;
    store.pulls.lock().await.remove(&key);
    let image = image?;
    tracing::debug!(image = %key, id = %image.id, nanos = now_nanos() - started, "pulled");
    Ok(image)
}

fn client(reference: &Reference, insecure_registries: &[String]) -> Client {
    let plain = reference.is_loopback() || insecure_registries.contains(&reference.registry);
    Client::new(ClientConfig {
        protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
        connect_timeout: Some(CONNECT_TIMEOUT),
        read_timeout: Some(READ_TIMEOUT),
        user_agent: "amphipod",
        ..ClientConfig::default()
    })
}

/// What a `docker login` or a pull secret left us.
fn credentials(auth: Option<&AuthConfig>) -> RegistryAuth {
    let Some(auth) = auth else { return RegistryAuth::Anonymous };
    if !auth.registry_token.is_empty() {
        return RegistryAuth::Bearer(auth.registry_token.clone());
    }
    if !auth.username.is_empty() {
        return RegistryAuth::Basic(auth.username.clone(), auth.password.clone());
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(auth.auth.trim()).unwrap_or_default();
    match String::from_utf8_lossy(&decoded).trim_end_matches('\0').split_once(':') {
        Some((user, password)) => RegistryAuth::Basic(user.into(), password.into()),
        None => RegistryAuth::Anonymous,
    }
}

fn remote_reference(reference: &Reference) -> RemoteReference {
    let (registry, repository) = (reference.registry.clone(), reference.repository.clone());
    match (&reference.digest, &reference.tag) {
        (Some(digest), _) => RemoteReference::with_digest(registry, repository, digest.clone()),
        (None, tag) => RemoteReference::with_tag(registry, repository, tag.clone().unwrap_or_default()),
    }
}

struct Puller<'a> {
    client: Client,
    auth: RegistryAuth,
    remote: RemoteReference,
    reference: &'a Reference,
    store: &'a Arc<ImageStore>,
}

impl Puller<'_> {
    fn error(&self, what: &str, error: impl std::fmt::Display) -> Error {
        Error::Pull { reference: self.reference.to_string(), message: format!("{what}: {error}") }
    }

    async fn run(&self) -> Result<ImageRecord, Error> {
        let (manifest, top_digest) = self.manifest(&self.remote).await?;
        let manifest = match manifest.manifests.is_empty() {
            true => manifest,
            false => self.choose(&manifest).await?,
        };
        let descriptor =
            manifest.config.as_ref().ok_or_else(|| self.error("manifest", "it names no configuration"))?;
        let bytes = self.config(descriptor).await?;
        if let Some(image) = self.store.find(&descriptor.digest) {
            return self.register(&image.id, image.config.clone(), &top_digest);
        }
        let config: ImageConfig =
            serde_json::from_slice(&bytes).map_err(|error| self.error("configuration", error))?;
        if config.rootfs.diff_ids.len() != manifest.layers.len() {
            return Err(self.error("manifest", "it does not fit its configuration"));
        }
        let mut fetches = Vec::new();
        for (layer, diff_id) in manifest.layers.iter().zip(&config.rootfs.diff_ids) {
            fetches.push(self.layer(layer, diff_id));
        }
        futures::stream::iter(fetches).buffer_unordered(PARALLEL_LAYERS).try_collect::<Vec<()>>().await?;
        self.register(&descriptor.digest, config, &top_digest)
    }

    fn register(&self, id: &str, config: ImageConfig, top_digest: &str) -> Result<ImageRecord, Error> {
        let name_with_digest = self.reference.with_digest(top_digest);
        self.store.add_image(id, config, self.reference.tagged(), Some(name_with_digest), false)
    }

    async fn manifest(&self, remote: &RemoteReference) -> Result<(Manifest, String), Error> {
        let (bytes, _) = self
            .client
            .pull_manifest_raw(remote, &self.auth, MANIFEST_TYPES)
            .await
            .map_err(|error| self.error("failed to resolve reference", error))?;
        let found = digest(&bytes);
        if remote.digest().is_some_and(|wanted| wanted != found) {
            return Err(self.error("manifest", format!("its digest is {found}")));
        }
        let manifest = serde_json::from_slice(&bytes).map_err(|error| self.error("manifest", error))?;
        Ok((manifest, found))
    }

    async fn choose(&self, index: &Manifest) -> Result<Manifest, Error> {
        let descriptor = index
            .for_this_machine()
            .ok_or_else(|| self.error("no match for platform in manifest", format!("linux/{}", machine())))?;
        let remote = RemoteReference::with_digest(
            self.reference.registry.clone(),
            self.reference.repository.clone(),
            descriptor.digest.clone(),
        );
        Ok(self.manifest(&remote).await?.0)
    }

    async fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        if descriptor.size > MAX_CONFIG_BYTES {
            return Err(self.error("configuration", "it is too large"));
        }
        let mut bytes = Vec::new();
        self.client
            .pull_blob(&self.remote, &remote_descriptor(descriptor), &mut bytes)
            .await
            .map_err(|error| self.error("failed to fetch configuration", error))?;
        Ok(bytes)
    }

    /// Downloads to a file, verified, then unpacks on a blocking thread.
    async fn layer(&self, descriptor: &Descriptor, diff_id: &str) -> Result<(), Error> {
        if self.store.has_layer(diff_id) {
            return Ok(());
        }
        let path = self.store.temporary();
        let mut file = tokio::fs::File::create(&path).await.map_err(Error::io("create", &path))?;
        let fetched = self.client.pull_blob(&self.remote, &remote_descriptor(descriptor), &mut file).await;
        drop(file);
        let outcome = match fetched {
            Err(error) => Err(self.error("failed to fetch layer", error)),
            Ok(()) => self.unpack(path.clone(), diff_id.to_string()).await,
        };
        drop(tokio::fs::remove_file(&path).await);
        outcome
    }

    async fn unpack(&self, path: std::path::PathBuf, diff_id: String) -> Result<(), Error> {
        let store = Arc::clone(self.store);
        let work = move || {
            let file = std::fs::File::open(&path).map_err(Error::io("open", &path))?;
            store.add_layer(file, &diff_id)
        };
        tokio::task::spawn_blocking(work).await.map_err(|error| Error::Internal(error.to_string()))?
    }
}

fn remote_descriptor(descriptor: &Descriptor) -> OciDescriptor {
    OciDescriptor {
        digest: descriptor.digest.clone(),
        media_type: descriptor.media_type.clone(),
        size: i64::try_from(descriptor.size).unwrap_or(i64::MAX),
        ..OciDescriptor::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_come_in_three_forms() {
        let auth = |auth: AuthConfig| credentials(Some(&auth));
        assert_eq!(credentials(None), RegistryAuth::Anonymous);
        assert_eq!(auth(AuthConfig::default()), RegistryAuth::Anonymous);
        let basic = RegistryAuth::Basic("u".into(), "p:w".into());
        assert_eq!(
            auth(AuthConfig { username: "u".into(), password: "p:w".into(), ..Default::default() }),
            basic
        );
        assert_eq!(auth(AuthConfig { auth: "dTpwOnc=".into(), ..Default::default() }), basic);
        assert_eq!(
            auth(AuthConfig { registry_token: "t".into(), ..Default::default() }),
            RegistryAuth::Bearer("t".into())
        );
    }
}

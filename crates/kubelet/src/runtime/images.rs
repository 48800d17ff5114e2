//! Having the image of a container: present, pulled, or a reason why not.

use std::sync::Arc;
use std::time::Duration;

use amphipod_cri::v1::{
    AuthConfig, Image, ImageSpec, ImageStatusRequest, ListImagesRequest, PodSandboxConfig, PullImageRequest,
    RemoveImageRequest,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Secret};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{Runtime, credentials, request};
use crate::Error;
use crate::events::{self, Notice};
use crate::pod::backoff::BackOffs;
use crate::pod::status::Waiting;
use crate::spec::security::ImageUser;

/// Pulls under way at once; the rest wait their turn.
const PARALLEL_PULLS: usize = 5;
/// A pull that takes longer has failed.
const PULL_TIMEOUT: Duration = Duration::from_secs(30 * 60);
const STATUS_TIMEOUT: Duration = Duration::from_secs(60);

pub struct Images {
    runtime: Runtime,
    backoffs: Mutex<BackOffs>,
    last_errors: Mutex<std::collections::HashMap<String, String>>,
    slots: Arc<Semaphore>,
}

/// An image that is there.
#[derive(Clone, Debug, Default)]
pub struct Present {
    pub reference: String,
    pub user: ImageUser,
    pub size: u64,
}

/// Gets what is to be told, in order.
pub type Report<'a> = &'a (dyn Fn(Notice) + Send + Sync);

pub struct Failure {
    pub waiting: Waiting,
    /// When another attempt makes sense.
    pub retry: Option<Timestamp>,
}

fn failure(reason: &str, message: impl Into<String>, retry: Option<Timestamp>) -> Failure {
    Failure { waiting: Waiting { reason: reason.to_owned(), message: message.into() }, retry }
}

/// `Always`, `IfNotPresent` or `Never`; a floating tag is pulled always.
fn policy(container: &Container, image: &str) -> String {
    container.image_pull_policy.clone().filter(|p| !p.is_empty()).unwrap_or_else(|| {
        let name = image.rsplit('/').next().unwrap_or(image);
        let floating = !name.contains('@') && (!name.contains(':') || name.ends_with(":latest"));
        if floating { "Always" } else { "IfNotPresent" }.to_owned()
    })
}

pub fn with_default_tag(image: &str) -> String {
    let name = image.rsplit('/').next().unwrap_or(image);
    if name.contains(':') || name.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}

impl Images {
    pub fn new(runtime: Runtime) -> Self {
        Images {
            runtime,
            backoffs: Mutex::default(),
            last_errors: Mutex::default(),
            slots: Arc::new(Semaphore::new(PARALLEL_PULLS)),
        }
    }

    pub async fn status(&self, image: &str) -> Result<Option<Image>, Error> {
        let call = ImageStatusRequest { image: Some(spec(image)), verbose: false };
        Ok(self.runtime.images.clone().image_status(request(call, STATUS_TIMEOUT)).await?.into_inner().image)
    }

    pub async fn list(&self) -> Result<Vec<Image>, Error> {
        let call = request(ListImagesRequest { filter: None }, STATUS_TIMEOUT);
        Ok(self.runtime.images.clone().list_images(call).await?.into_inner().images)
    }

    pub async fn remove(&self, id: &str) -> Result<(), Error> {
        let call = request(RemoveImageRequest { image: Some(spec(id)) }, STATUS_TIMEOUT);
        self.runtime.images.clone().remove_image(call).await?;
        Ok(())
    }

    /// Bytes used by images, and the file system they lie on.
    pub async fn filesystem(&self) -> Result<amphipod_cri::v1::ImageFsInfoResponse, Error> {
        let call = request(amphipod_cri::v1::ImageFsInfoRequest {}, STATUS_TIMEOUT);
        Ok(self.runtime.images.clone().image_fs_info(call).await?.into_inner())
    }

    /// Makes sure the container's image is there, telling what happens as upstream words it.
    pub async fn ensure(
        &self,
        uid: &str,
        container: &Container,
        secrets: &[Secret],
        sandbox: &PodSandboxConfig,
        report: Report<'_>,
    ) -> Result<Present, Failure> {
        let written = container.image.clone().unwrap_or_default();
        if let Some(why) = invalid_name(&written) {
            let notice = events::image_name_invalid(&written, &why);
            report(notice.clone());
            return Err(failure("InvalidImageName", notice.message, None));
        }
        let image = with_default_tag(&written);
        let found = self.status(&image).await.map_err(|error| {
            let notice = events::image_not_inspected(&written, &error);
            report(notice.clone());
            failure("ImageInspectError", notice.message, None)
        })?;
        match (policy(container, &written).as_str(), found) {
            ("IfNotPresent" | "Never", Some(image)) => {
                report(events::image_present(&written));
                Ok(present(&image))
            }
            ("Never", None) => {
                let notice = events::never_pulled(&written);
                report(notice.clone());
                Err(failure("ErrImageNeverPull", notice.message, None))
            }
            _ => self.pull(uid, &written, &image, secrets, sandbox, report).await,
        }
    }

    async fn pull(
        &self,
        uid: &str,
        written: &str,
        image: &str,
        secrets: &[Secret],
        sandbox: &PodSandboxConfig,
        report: Report<'_>,
    ) -> Result<Present, Failure> {
        let key = format!("{uid}_{written}");
        let blocked = self.backoffs.lock().waiting_since_update(&key, Timestamp::now());
        if let Some((_, until)) = blocked {
            let notice = events::pull_backs_off(written);
            report(notice.clone());
            let text = notice.message;
            let last = self.last_errors.lock().get(&key).cloned();
            let message = last.map_or(text.clone(), |error| format!("{text}: ErrImagePull: {error}"));
            return Err(failure("ImagePullBackOff", message, Some(until)));
        }
        report(events::pulling(written));
        let asked = tokio::time::Instant::now();
        // The semaphore lives as long as self and is never closed.
        let _slot = self.slots.clone().acquire_owned().await.ok();
        let began = tokio::time::Instant::now();
        let outcome = self.pull_with_any(image, secrets, sandbox).await;
        match outcome {
            Ok(present) => {
                self.last_errors.lock().remove(&key);
                let mut backoffs = self.backoffs.lock();
                backoffs.forget(&key);
                backoffs.collect(Timestamp::now());
                report(events::pulled(written, began.elapsed(), asked.elapsed(), present.size));
                Ok(present)
            }
            Err(error) => {
                let text = error.with_telling_code();
                report(events::pull_failed(written, &text));
                self.backoffs.lock().next(&key, Timestamp::now());
                self.remember_error(key, text.clone());
                Err(failure("ErrImagePull", text, Some(Timestamp::now() + SignedDuration::from_secs(1))))
            }
        }
    }

    fn remember_error(&self, key: String, text: String) {
        const REMEMBERED: usize = 1024;
        let mut errors = self.last_errors.lock();
        if errors.len() >= REMEMBERED {
            errors.clear();
        }
        errors.insert(key, text);
    }

    /// Tries the matching credentials one after the other; none at all pulls anonymously.
    async fn pull_with_any(
        &self,
        image: &str,
        secrets: &[Secret],
        sandbox: &PodSandboxConfig,
    ) -> Result<Present, Error> {
        let mut candidates: Vec<Option<AuthConfig>> =
            credentials::for_image(image, secrets).into_iter().map(Some).collect();
        if candidates.is_empty() {
            candidates.push(None);
        }
        let mut last = None;
        for auth in candidates {
            let call =
                PullImageRequest { image: Some(spec(image)), auth, sandbox_config: Some(sandbox.clone()) };
            match self.runtime.images.clone().pull_image(request(call, PULL_TIMEOUT)).await {
                Ok(answer) => {
                    let reference = answer.into_inner().image_ref;
                    let found = self.status(&reference).await?;
                    let found = if found.is_none() { self.status(image).await? } else { found };
                    return Ok(found.map_or(Present { reference, ..Present::default() }, |i| present(&i)));
                }
                Err(status) => last = Some(status),
            }
        }
        Err(last.map_or_else(|| Error::config("no credentials"), Error::from))
    }
}

fn spec(image: &str) -> ImageSpec {
    ImageSpec { image: image.to_owned(), user_specified_image: image.to_owned(), ..ImageSpec::default() }
}

fn present(image: &Image) -> Present {
    Present {
        reference: image.id.clone(),
        user: ImageUser { uid: image.uid.as_ref().map(|u| u.value), name: image.username.clone() },
        size: image.size,
    }
}

fn invalid_name(image: &str) -> Option<String> {
    let bad = image.is_empty()
        || image.chars().any(|c| c.is_whitespace() || c.is_control())
        || image.split('@').next().is_some_and(|name| {
            let repository = name.rsplit_once('/').map_or(name, |(_, last)| last);
            repository
                .split(':')
                .next()
                .is_some_and(|r| r.chars().any(|c| c.is_ascii_uppercase()) || r.is_empty())
        });
    bad.then(|| format!("couldn't parse image name {image:?}: invalid reference format"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_defaults() {
        let policies = [
            ("a", "Always"),
            ("a:latest", "Always"),
            ("h:5/a:1", "IfNotPresent"),
            ("a@sha256:0", "IfNotPresent"),
        ];
        for (image, expected) in policies {
            assert_eq!(policy(&Container::default(), image), expected, "{image}");
        }
        assert_eq!(with_default_tag("h:5000/a"), "h:5000/a:latest");
        assert!(invalid_name("Bad").is_some() && invalid_name("localhost:5000/ok/a:Tag").is_none());
    }
}

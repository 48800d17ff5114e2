//! CRI's ImageService.

use std::{collections::HashMap, sync::Arc};

use amphipod_cri::v1::{
    FilesystemIdentifier, FilesystemUsage, Image, ImageFsInfoRequest, ImageFsInfoResponse, ImageSpec,
    ImageStatusRequest, ImageStatusResponse, Int64Value, ListImagesRequest, ListImagesResponse,
    PullImageRequest, PullImageResponse, RemoveImageRequest, RemoveImageResponse, UInt64Value,
    image_service_server::ImageService,
};
use tonic::{Request, Response, Status};

use crate::{
    container::rootfs,
    error::Error,
    image::{pull, store::ImageRecord},
    shim::now_nanos,
    state::Runtime,
};

pub struct ImageApi {
    pub runtime: Arc<Runtime>,
}

#[tonic::async_trait]
impl ImageService for ImageApi {
    async fn list_images(
        &self,
        request: Request<ListImagesRequest>,
    ) -> Result<Response<ListImagesResponse>, Status> {
        let wanted = request.into_inner().filter.and_then(|filter| filter.image).map(|image| image.image);
        let images = match wanted.filter(|name| !name.is_empty()) {
            Some(name) => self.runtime.images.find(&name).into_iter().collect(),
            None => self.runtime.images.list(),
        };
        Ok(Response::new(ListImagesResponse { images: images.iter().map(describe).collect() }))
    }

    async fn image_status(
        &self,
        request: Request<ImageStatusRequest>,
    ) -> Result<Response<ImageStatusResponse>, Status> {
        let request = request.into_inner();
        let found = self.runtime.images.find(&name_of(request.image)?);
        let mut info = HashMap::new();
        if let (true, Some(image)) = (request.verbose, &found) {
            let text = serde_json::json!({"imageSpec": image.config}).to_string();
            info.insert("info".to_string(), text);
        }
        Ok(Response::new(ImageStatusResponse { image: found.as_ref().map(describe), info }))
    }

    async fn pull_image(
        &self,
        request: Request<PullImageRequest>,
    ) -> Result<Response<PullImageResponse>, Status> {
        let request = request.into_inner();
        let name = name_of(request.image)?;
        let runtime = &self.runtime;
        let insecure = &runtime.config.insecure_registries;
        let image = pull::pull(&runtime.images, &name, request.auth.as_ref(), insecure).await?;
        Ok(Response::new(PullImageResponse { image_ref: image.id }))
    }

    async fn remove_image(
        &self,
        request: Request<RemoveImageRequest>,
    ) -> Result<Response<RemoveImageResponse>, Status> {
        let name = name_of(request.into_inner().image)?;
        let runtime = Arc::clone(&self.runtime);
        let work = move || runtime.images.remove(&name, &runtime.layers_in_use());
        tokio::task::spawn_blocking(work).await.map_err(|error| Error::Internal(error.to_string()))??;
        Ok(Response::new(RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        _request: Request<ImageFsInfoRequest>,
    ) -> Result<Response<ImageFsInfoResponse>, Status> {
        let runtime = Arc::clone(&self.runtime);
        let work = move || {
            let (bytes, place) = runtime.images.usage();
            let layers = FilesystemUsage {
                timestamp: now_nanos(),
                fs_id: Some(FilesystemIdentifier { mountpoint: place.display().to_string() }),
                used_bytes: Some(UInt64Value { value: bytes }),
                inodes_used: None,
            };
            let place = runtime.paths.containers();
            let written = runtime.containers().into_iter();
            let used = written.map(|one| rootfs::disk_usage(&rootfs::upper(&one.directory)));
            let (bytes, inodes) = used.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            let containers = FilesystemUsage {
                timestamp: now_nanos(),
                fs_id: Some(FilesystemIdentifier { mountpoint: place.display().to_string() }),
                used_bytes: Some(UInt64Value { value: bytes }),
                inodes_used: Some(UInt64Value { value: inodes }),
            };
            ImageFsInfoResponse { image_filesystems: vec![layers], container_filesystems: vec![containers] }
        };
        let info =
            tokio::task::spawn_blocking(work).await.map_err(|error| Error::Internal(error.to_string()))?;
        Ok(Response::new(info))
    }
}

fn name_of(image: Option<ImageSpec>) -> Result<String, Error> {
    image
        .map(|image| image.image)
        .filter(|name| !name.is_empty())
        .ok_or_else(|| Error::InvalidArgument("an image name is required".into()))
}

fn describe(image: &ImageRecord) -> Image {
    let user = image.config.config.user.split(':').next().unwrap_or_default();
    let uid = user.parse::<i64>().ok().map(|value| Int64Value { value });
    Image {
        id: image.id.clone(),
        repo_tags: image.tags.iter().cloned().collect(),
        repo_digests: image.digests.iter().cloned().collect(),
        // CRI wants more than zero, which an empty image would not have.
        size: image.size_bytes.max(1),
        username: if uid.is_none() { user.to_string() } else { String::new() },
        uid,
        spec: Some(ImageSpec { image: image.id.clone(), ..ImageSpec::default() }),
        pinned: image.pinned,
    }
}

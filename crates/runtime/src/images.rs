//! The image library for command lines, over the runtime's socket.

use std::path::Path;

use amphipod_cri::{
    library::{ImportRequest, image_library_client::ImageLibraryClient},
    v1::{ImageSpec, ListImagesRequest, RemoveImageRequest, image_service_client::ImageServiceClient},
};
use tonic::transport::Channel;

use crate::error::Error;
pub use crate::image::export::export;

/// Registers the images of an OCI or docker archive; returns what they can be called now.
pub async fn import(socket: &Path, archive: &Path) -> Result<Vec<String>, Error> {
    let path = archive.canonicalize().map_err(Error::io("open", archive))?;
    let request = ImportRequest { path: path.display().to_string(), reference: String::new() };
    let response = ImageLibraryClient::new(connect(socket).await?).import(request).await.map_err(refused)?;
    Ok(response.into_inner().references)
}

/// All images: (name, ID, bytes), one entry per name.
pub async fn list(socket: &Path) -> Result<Vec<(String, String, u64)>, Error> {
    let mut client = ImageServiceClient::new(connect(socket).await?);
    let response = client.list_images(ListImagesRequest::default()).await.map_err(refused)?;
    let mut all = Vec::new();
    for image in response.into_inner().images {
        let names = if image.repo_tags.is_empty() { &image.repo_digests } else { &image.repo_tags };
        if names.is_empty() {
            all.push(("<none>".to_string(), image.id.clone(), image.size));
        }
        all.extend(names.iter().map(|name| (name.clone(), image.id.clone(), image.size)));
    }
    all.sort();
    Ok(all)
}

/// Removes an image under all its names.
pub async fn remove(socket: &Path, reference: &str) -> Result<(), Error> {
    let mut client = ImageServiceClient::new(connect(socket).await?);
    let image = ImageSpec { image: reference.into(), ..ImageSpec::default() };
    let status = client
        .image_status(amphipod_cri::v1::ImageStatusRequest { image: Some(image.clone()), verbose: false })
        .await
        .map_err(refused)?;
    if status.into_inner().image.is_none() {
        return Err(Error::NotFound { kind: "image", id: reference.into() });
    }
    client.remove_image(RemoveImageRequest { image: Some(image) }).await.map_err(refused)?;
    Ok(())
}

async fn connect(socket: &Path) -> Result<Channel, Error> {
    let endpoint = socket.display().to_string();
    amphipod_cri::connect(&endpoint).await.map_err(|error| Error::Unavailable(format!("{endpoint}: {error}")))
}

fn refused(status: tonic::Status) -> Error {
    Error::Internal(status.message().to_string())
}

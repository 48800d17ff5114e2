//! Archives, which CRI has no call for.

use std::{path::PathBuf, sync::Arc};

use amphipod_cri::library::{ImportRequest, ImportResponse, image_library_server::ImageLibrary};
use tonic::{Request, Response, Status};

use crate::{error::Error, image::archive, state::Runtime};

pub struct LibraryApi {
    pub runtime: Arc<Runtime>,
}

#[tonic::async_trait]
impl ImageLibrary for LibraryApi {
    async fn import(&self, request: Request<ImportRequest>) -> Result<Response<ImportResponse>, Status> {
        let request = request.into_inner();
        let store = Arc::clone(&self.runtime.images);
        let work = move || {
            let fallback = Some(request.reference.as_str()).filter(|name| !name.is_empty());
            archive::import(&store, &PathBuf::from(&request.path), fallback)
        };
        let references =
            tokio::task::spawn_blocking(work).await.map_err(|error| Error::Internal(error.to_string()))??;
        Ok(Response::new(ImportResponse { references }))
    }
}

//! What can go wrong, and the gRPC code each kind of failure answers with.

use std::path::PathBuf;

/// Failures of the runtime.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    InvalidArgument(String),
    #[error("{kind} {id:?} not found")]
    NotFound { kind: &'static str, id: String },
    #[error("{0}")]
    FailedPrecondition(String),
    #[error("{0}")]
    DeadlineExceeded(String),
    #[error("{0}")]
    Unavailable(String),
    #[error("{what} {path}: {why}", path = path.display(), why = crate::shim::chain(source))]
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("network of pod sandbox: {0}")]
    Cni(String),
    #[error("failed to pull image {reference:?}: {message}")]
    Pull { reference: String, message: String },
    #[error("image archive: {0}")]
    Archive(String),
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// Builds a closure for `map_err` on file operations.
    pub fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { what, path, source }
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> tonic::Status {
        let message = error.to_string();
        match error {
            Error::InvalidArgument(_) => tonic::Status::invalid_argument(message),
            Error::NotFound { .. } => tonic::Status::not_found(message),
            Error::FailedPrecondition(_) => tonic::Status::failed_precondition(message),
            Error::DeadlineExceeded(_) => tonic::Status::deadline_exceeded(message),
            Error::Unavailable(_) => tonic::Status::unavailable(message),
            _ => tonic::Status::unknown(message),
        }
    }
}

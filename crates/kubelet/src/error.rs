//! What can go wrong on a node.

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Api(#[from] amphipod_client::Error),
    /// The container runtime refused a call; the message is its own.
    #[error("{}", .0.message())]
    Runtime(Box<tonic::Status>),
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error("the serving certificate: {0}")]
    Certificate(String),
    /// A pod asks for something that is not there or not allowed (a missing key, a bad path).
    #[error("{0}")]
    Config(String),
    #[error("no volume plugin matched for volume {0:?}")]
    UnsupportedVolume(String),
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        Error::Runtime(Box::new(status))
    }
}

impl Error {
    pub(crate) fn config(message: impl Into<String>) -> Self {
        Error::Config(message.into())
    }
}

/// Names the file or call an I/O error belongs to.
pub(crate) trait IoContext<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> IoContext<T> for std::io::Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::Io { what: what(), source })
    }
}

impl<T> IoContext<T> for rustix::io::Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|errno| Error::Io { what: what(), source: errno.into() })
    }
}

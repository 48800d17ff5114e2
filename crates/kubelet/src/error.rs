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
    #[error(transparent)]
    Serving(#[from] amphipod_serving::Error),
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
    /// The runtime's refusal with its code, as the kubelet's events show it; other errors as they are.
    pub(crate) fn with_code(&self) -> String {
        let Error::Runtime(status) = self else { return self.to_string() };
        let code = match status.code() {
            // The one name that is spelt otherwise.
            tonic::Code::Cancelled => "Canceled".to_owned(),
            code => format!("{code:?}"),
        };
        format!("rpc error: code = {code} desc = {}", status.message())
    }
    /// Like `with_code`, but a code that says nothing is left out: how failed pulls are told.
    pub(crate) fn with_telling_code(&self) -> String {
        match self {
            Error::Runtime(status) if status.code() == tonic::Code::Unknown => self.to_string(),
            _ => self.with_code(),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_told_where_upstream_tells_them() {
        let refused = |code| Error::from(tonic::Status::new(code, "no such thing"));
        for (code, full, pull) in [
            (tonic::Code::Unknown, "rpc error: code = Unknown desc = no such thing", "no such thing"),
            (
                tonic::Code::NotFound,
                "rpc error: code = NotFound desc = no such thing",
                "rpc error: code = NotFound desc = no such thing",
            ),
            (
                tonic::Code::Cancelled,
                "rpc error: code = Canceled desc = no such thing",
                "rpc error: code = Canceled desc = no such thing",
            ),
        ] {
            let error = refused(code);
            assert_eq!(error.with_code(), full);
            assert_eq!(error.with_telling_code(), pull);
            assert_eq!(error.to_string(), "no such thing", "creating and starting tell the words alone");
        }
        assert_eq!(Error::config("a reason").with_code(), "a reason");
    }
}

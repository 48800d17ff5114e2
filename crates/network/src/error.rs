//! What can go wrong between us, the kernel and the state directory.

use std::io;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a netlink request; `what` says what it was for.
    #[error("{what}: {source}")]
    Kernel { what: String, source: io::Error },
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    /// Every address of the pod range is taken.
    #[error("no free address left in {0}")]
    NoAddress(Ipv4Net),
    #[error("{0}")]
    Invalid(String),
    #[error(transparent)]
    Client(#[from] amphipod_client::Error),
}

impl Error {
    pub(crate) fn kernel(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Error::Kernel { what: what.into(), source: source.into() }
    }
    pub(crate) fn file(path: &Path, source: impl Into<io::Error>) -> Self {
        Error::File { path: path.to_owned(), source: source.into() }
    }
    /// The operating system's error number, where one is behind this error.
    pub(crate) fn errno(&self) -> Option<rustix::io::Errno> {
        match self {
            Error::Kernel { source, .. } | Error::File { source, .. } => {
                rustix::io::Errno::from_io_error(source)
            }
            _ => None,
        }
    }
    /// The object named in the request does not exist.
    pub(crate) fn is_absent(&self) -> bool {
        use rustix::io::Errno;
        matches!(self.errno(), Some(Errno::NOENT | Errno::NODEV | Errno::SRCH | Errno::ADDRNOTAVAIL))
    }
}

//! What can go wrong around a cluster, told so that a person knows what to do.

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}")]
    File { path: String, source: std::io::Error },
    #[error("{path} is not usable: {why}. Remove it to have it made anew, or put the right one back")]
    Key { path: String, why: String },
    #[error("a certificate could not be made: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("{0}")]
    Preflight(String),
    #[error(
        "another instance (pid {pid}) uses {path}; stop it with `amphipod down`, or choose another --data-dir"
    )]
    Running { pid: i32, path: String },
}

impl Error {
    pub fn file(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Error + use<> {
        let path = path.display().to_string();
        move |source| Error::File { path, source }
    }
}

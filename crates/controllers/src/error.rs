//! What can go wrong in a controller.

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Client(#[from] amphipod_client::Error),
    #[error("{what}: {why}")]
    Invalid { what: String, why: String },
    /// The cache has not caught up with our own writes; the key comes back soon.
    #[error("{0} is not up to date in the cache")]
    Stale(String),
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Several(Vec<Error>),
}

impl Error {
    /// Nothing to worry about: another writer was faster, and the next look at the cache repairs it.
    pub fn is_race(&self) -> bool {
        match self {
            Error::Client(error) => error.is_conflict() || error.is_not_found(),
            Error::Stale(_) => true,
            Error::Several(errors) => errors.iter().all(Error::is_race),
            Error::Invalid { .. } => false,
        }
    }
    /// The namespace goes away, so creating in it is pointless.
    pub fn is_namespace_terminating(&self) -> bool {
        let Error::Client(error) = self else { return false };
        let details = error.status().and_then(|status| status.details.as_ref());
        details.is_some_and(|d| d.causes.iter().any(|cause| cause.reason == "NamespaceTerminating"))
    }
    /// None for no errors, the error itself for one.
    pub fn combine(mut errors: Vec<Error>) -> Result<(), Error> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.swap_remove(0)),
            _ => Err(Error::Several(errors)),
        }
    }
}

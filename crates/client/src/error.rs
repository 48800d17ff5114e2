//! What can go wrong when talking to the API server.

use amphipod_api::status::Status;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server answered with a `metav1.Status`.
    #[error("{0}")]
    Api(Box<Status>),
    #[error("the API server could not be reached: {0}")]
    Transport(String),
    #[error("{what} could not be decoded: {source}")]
    Decode { what: &'static str, source: serde_json::Error },
    #[error("{path}: {why}")]
    Kubeconfig { path: String, why: String },
    #[error("the request could not be built: {0}")]
    Request(#[from] http::Error),
}

impl Error {
    pub fn status(&self) -> Option<&Status> {
        if let Error::Api(status) = self { Some(status) } else { None }
    }
    pub fn has_reason(&self, reason: &str) -> bool {
        self.status().is_some_and(|s| s.reason == reason)
    }
    pub fn is_not_found(&self) -> bool {
        self.has_reason("NotFound")
    }
    pub fn is_conflict(&self) -> bool {
        self.has_reason("Conflict")
    }
    pub fn is_already_exists(&self) -> bool {
        self.has_reason("AlreadyExists")
    }
    pub fn is_invalid(&self) -> bool {
        self.has_reason("Invalid")
    }
    pub fn is_forbidden(&self) -> bool {
        self.has_reason("Forbidden")
    }
    /// The server could not be asked or had no time: asking again later may help.
    pub fn is_passing(&self) -> bool {
        matches!(self, Error::Transport(_))
            || self.status().is_some_and(|s| matches!(s.code, 429 | 503 | 504))
    }
    pub fn is_expired(&self) -> bool {
        self.status().is_some_and(|s| s.code == 410)
    }
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        Error::Transport(with_causes(&error))
    }
}

/// An error with what caused it: that no connection was made says nothing without why.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let told = cause.to_string();
        if !text.contains(&told) {
            text += &format!(": {told}");
        }
        next = cause.source();
    }
    text
}

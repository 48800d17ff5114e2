//! Why the server could not start or go on serving. What clients are refused with is a `Status`.

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the store cannot be read: {0}")]
    Store(#[from] amphipod_store::Error),
    #[error(transparent)]
    Serve(#[from] crate::serve::Error),
    #[error("no serving certificate is configured; only in-process requests are possible")]
    NoServingCertificate,
    #[error("the credentials for kubelets cannot be used: {0}")]
    KubeletCredentials(#[from] crate::kubelet_proxy::Error),
    #[error("policy cannot be set up: {0}")]
    Policy(String),
    #[error("cannot create {what}: {why}")]
    Bootstrap { what: String, why: String },
}

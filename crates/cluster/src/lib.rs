//! What makes a cluster out of components: its files, its keys, the checks before a start, and
//! what one instance leaves behind so that `status` and `down` find it.

pub mod error;
pub mod files;
pub mod instance;
pub mod kubeconfig;
pub mod node;
pub mod pki;
pub mod preflight;
pub mod progress;

pub use error::Error;
pub use files::Files;

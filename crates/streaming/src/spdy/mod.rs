//! SPDY/3.1, as far as Kubernetes clients use it: the framing, and one served connection.

mod dictionary;
pub mod frame;
pub mod headers;
pub(crate) mod session;

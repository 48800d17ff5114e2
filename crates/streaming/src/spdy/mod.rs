//! SPDY/3.1, as far as stream multiplexing needs it: no flow control (its clients use none), no priorities.

mod dictionary;
pub mod frame;
pub mod headers;
mod session;

pub use session::{Session, SpdyStream, StreamWriter};

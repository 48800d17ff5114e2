//! The HTTP side: what a request asks for, who asks, and in which form it is answered.

pub mod debug;
pub mod handlers;
pub mod limits;
pub mod local;
pub mod negotiate;
pub mod openapi;
pub mod path;
pub mod pipeline;

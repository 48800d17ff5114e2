//! The HTTP side: what a request asks for, who asks, and in which form it is answered.

pub mod handlers;
pub mod local;
pub mod negotiate;
pub mod openapi;
pub mod path;
pub mod pipeline;

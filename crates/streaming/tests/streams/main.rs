//! Exec, attach and port-forward through a real HTTP server, as each kind of client sees them.

#![allow(clippy::unwrap_used, reason = "test helpers outside of #[test] functions fail by panicking, too")]

mod kubectl;
mod server;
mod spdy;
mod websocket;

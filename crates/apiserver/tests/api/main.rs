//! The server in the process: each test has its own, over a store in memory, and speaks to it as
//! any client does.

mod adopted;
mod apply;
mod crud;
mod hostile;
mod lists;
mod patches;
mod restart;
mod streams;
mod support;
mod tls;
mod watches;

//! The server in the process: each test has its own, over a store in memory, and speaks to it as
//! any client does.

mod adopted;
mod crud;
mod lists;
mod restart;
mod streams;
mod support;
mod tls;
mod watches;

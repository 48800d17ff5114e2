//! The server in the process: each test has its own, over a store in memory, and speaks to it as
//! any client does.

mod crud;
mod lists;
mod support;
mod watches;

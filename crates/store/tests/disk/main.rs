//! The embedded engine and its disk: reopening, cuts, damage, kill -9, a full disk, old formats.

#![allow(clippy::unwrap_used, reason = "test helpers outside of #[test] functions fail by panicking, too")]

mod crash;
mod faults;
mod format;
mod full;
mod recovery;
mod support;

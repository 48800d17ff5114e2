//! Clients nobody here wrote, driven against the real binary with simulated nodes: kubectl's whole
//! command set as golden transcripts, the Python and JavaScript clients, and kube-rs;
//! and the binary's own kubectl-compatible commands beside kubectl.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod commands;
mod install;
mod kube_rs;
mod normalise;
mod plane;
mod programs;
mod transcript;

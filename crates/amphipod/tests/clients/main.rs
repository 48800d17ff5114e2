//! Clients nobody here wrote, driven against the real binary with simulated nodes: kubectl's whole
//! command set as golden transcripts, the Python and JavaScript clients, and kube-rs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod install;
mod kube_rs;
mod normalise;
mod plane;
mod programs;
mod transcript;

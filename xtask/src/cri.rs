//! Generates `crates/cri/src/generated` from the trimmed CRI contract, so that a build needs no protoc.

use std::{error::Error, path::Path};

/// Compiles the proto files with a pure Rust compiler and writes the checked-in client and server code.
pub fn generate(workspace: &Path) -> Result<(), Box<dyn Error>> {
    let proto_dir = workspace.join("crates/cri/proto");
    let output_dir = workspace.join("crates/cri/src/generated");
    std::fs::create_dir_all(&output_dir)?;
    let descriptors = protox::compile(["runtime.proto", "library.proto"], [&proto_dir])?;
    tonic_prost_build::configure().out_dir(&output_dir).compile_fds(descriptors)?;
    Ok(())
}

//! Generates `crates/store/src/etcd/generated` from the part of etcd's API the store speaks, so that a
//! build needs no protoc.

use std::{error::Error, path::Path};

/// Compiles the proto file with a pure Rust compiler and writes the checked-in client code. Keys and
/// values come as `Bytes`: they share the buffer they arrived in.
pub fn generate(workspace: &Path) -> Result<(), Box<dyn Error>> {
    let proto_dir = workspace.join("crates/store/proto");
    let output_dir = workspace.join("crates/store/src/etcd/generated");
    std::fs::create_dir_all(&output_dir)?;
    let descriptors = protox::compile(["etcd.proto"], [&proto_dir])?;
    tonic_prost_build::configure()
        .build_server(false)
        .bytes(".")
        .out_dir(&output_dir)
        .compile_fds(descriptors)?;
    Ok(())
}

//! `image import|export|list|remove`, and the images the binary carries.

use std::process::ExitCode;

use amphipod_cluster::Files;
use amphipod_runtime::{BuiltinFile, BuiltinImage, FileContent};

use crate::compose::Failure;
use crate::options::{ImageCommand, ImageOptions};

/// The demo images: one static program and links to it under its commands' names.
pub fn builtin() -> Vec<BuiltinImage> {
    let file = |path: String, mode, content| BuiltinFile { path, mode, content };
    let mut files =
        vec![file(amphipod_demo::PATH.to_owned(), 0o755, FileContent::Bytes(amphipod_demo::PROGRAM))];
    for command in amphipod_demo::COMMANDS {
        let link = FileContent::Link(amphipod_demo::PATH.to_owned());
        files.push(file(format!("/bin/{command}"), 0o777, link));
    }
    let image = |(reference, version): &(&str, &str)| BuiltinImage {
        reference: (*reference).to_owned(),
        files: files.clone(),
        entrypoint: vec![amphipod_demo::PATH.to_owned()],
        cmd: Vec::new(),
        env: vec!["PATH=/bin".to_owned(), format!("{}={version}", amphipod_demo::VERSION_VARIABLE)],
        working_dir: "/".to_owned(),
        user: String::new(),
    };
    amphipod_demo::IMAGES.iter().map(image).collect()
}

/// The names of the demo images.
pub fn references() -> Vec<String> {
    amphipod_demo::IMAGES.iter().map(|(reference, _)| (*reference).to_owned()).collect()
}

pub fn run(options: &ImageOptions) -> Result<ExitCode, Failure> {
    if let ImageCommand::Export { file } = &options.command {
        amphipod_runtime::images::export(&builtin(), file)?;
        println!("wrote {} to {}", references().join(" and "), file.display());
        return Ok(ExitCode::SUCCESS);
    }
    let socket = Files::new(&options.data.data_dir).cri_socket();
    if !socket.exists() {
        return Err(Failure::new(format!(
            "no container runtime at {}; start the cluster with `amphipod up`",
            socket.display()
        )));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match &options.command {
            ImageCommand::Import { file } => {
                for reference in amphipod_runtime::images::import(&socket, file).await? {
                    println!("imported {reference}");
                }
            }
            // Served above: it needs no runtime.
            ImageCommand::Export { .. } => {}
            ImageCommand::List => {
                for (reference, id, bytes) in amphipod_runtime::images::list(&socket).await? {
                    println!("{reference:<48} {id:.19} {:>8.1} MB", bytes as f64 / 1e6);
                }
            }
            ImageCommand::Remove { reference } => {
                amphipod_runtime::images::remove(&socket, reference).await?;
                println!("removed {reference}");
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

//! `image import|list|remove`, and the images the binary carries.

use std::process::ExitCode;

use amphipod_cluster::Files;

use crate::compose::Failure;
use crate::options::{ImageCommand, ImageOptions};

/// The demo images: one static program and links to it under its commands' names.
pub fn builtin() -> Vec<amphipod_runtime::BuiltinImage> {
    let image = |(reference, version): &(&str, &str)| {
        let mut image = amphipod_runtime::BuiltinImage::new(reference);
        image.executable(amphipod_demo::PATH, amphipod_demo::PROGRAM);
        for command in amphipod_demo::COMMANDS {
            image.link(&format!("/bin/{command}"), amphipod_demo::PATH);
        }
        image.entrypoint(&[amphipod_demo::PATH]);
        image.env("PATH", "/bin");
        image.env(amphipod_demo::VERSION_VARIABLE, version);
        image.expose(amphipod_demo::PORT);
        image
    };
    amphipod_demo::IMAGES.iter().map(image).collect()
}

pub fn run(options: &ImageOptions) -> Result<ExitCode, Failure> {
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

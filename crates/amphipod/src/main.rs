//! The one binary: chooses a role from its arguments and composes it. No logic lives here.

mod allocator;
mod compose;
mod hollow;
mod image;
mod lifecycle;
mod node;
mod options;
mod plane;
mod roles;
mod storage;
mod up;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use options::{Cli, Command};

#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    // Roles that must not start a thread come first.
    if let Some(code) = early_role(&args) {
        return code;
    }
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("error: a TLS provider was installed twice");
        return ExitCode::FAILURE;
    }
    let program = called_as(&args);
    if program == "kubectl" {
        return amphipod_cli::main(args[1..].to_vec());
    }
    let word = args.get(1).map(|w| w.to_string_lossy().into_owned()).unwrap_or_default();
    if word == "kubectl" {
        return amphipod_cli::main(args[2..].to_vec());
    }
    if amphipod_cli::is_command(&word) {
        return amphipod_cli::main(args[1..].to_vec());
    }
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    run(cli.command)
}

fn called_as(args: &[OsString]) -> String {
    let path = args.first().map(std::path::Path::new);
    path.and_then(|p| p.file_name()).map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The container shim, its helpers and the CNI plugin: short-lived or tiny processes, executed by
/// the runtime from this same file.
fn early_role(args: &[OsString]) -> Option<ExitCode> {
    if amphipod_network::PLUGIN_NAMES.contains(&called_as(args).as_str()) {
        return Some(amphipod_network::cni_main());
    }
    let word = args.get(1)?.to_str()?;
    amphipod_runtime::shim_main(word, &args[2..])
}

fn run(command: Command) -> ExitCode {
    let outcome = match command {
        Command::Up(options) if options.detach => lifecycle::detach(&options),
        Command::Up(options) => up::run(&options),
        Command::Down(options) => lifecycle::down(&options),
        Command::Status(options) => lifecycle::status(&options),
        Command::Image(options) => image::run(&options),
        Command::Apiserver(options) => roles::apiserver(&options),
        Command::Scheduler(options) => roles::scheduler(&options),
        Command::ControllerManager(options) => roles::controller_manager(&options),
        Command::Kubelet(options) => roles::kubelet(&options),
        Command::Proxy(options) => roles::proxy(&options),
        Command::Dns(options) => roles::dns(&options),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            for line in error.to_string().lines() {
                eprintln!("error: {line}");
            }
            ExitCode::FAILURE
        }
    }
}

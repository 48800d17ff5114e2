//! Chores of the workspace: `codegen` makes the schema facts, `cri` the container runtime
//! interface's code, `etcd` that of etcd's API, `layers` checks the direction of dependencies between crates, `verify` runs
//! every check and changes nothing.

mod codegen;
mod cri;
mod etcd;
mod layers;
mod verify;
mod workspace;

use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask codegen [--check] | cri | etcd | layers | verify";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["codegen"] => codegen::run(codegen::Mode::Write),
        ["codegen", "--check"] => codegen::run(codegen::Mode::Check),
        ["cri"] => {
            cri::generate(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).map_err(|e| e.to_string())
        }
        ["etcd"] => {
            etcd::generate(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).map_err(|e| e.to_string())
        }
        ["layers"] => layers::run(),
        ["verify"] => verify::run(),
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

//! Development tasks: code generation and checks.

mod cri;

use std::{path::Path, process::ExitCode};

fn main() -> ExitCode {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let task = std::env::args().nth(1).unwrap_or_default();
    let result = match task.as_str() {
        "cri" => cri::generate(&workspace),
        other => Err(format!("unknown task {other:?}; known: cri").into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

//! Every check in a row, stopping at the first that fails; nothing is changed.

use std::process::Command;

use crate::{codegen, layers};

const STEPS: &[&[&str]] = &[
    &["fmt", "--all", "--check"],
    &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"],
    &["test", "--workspace"],
];

pub fn run() -> Result<(), String> {
    layers::run()?;
    codegen::run(codegen::Mode::Check)?;
    for step in STEPS {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let status = Command::new(cargo).args(*step).status();
        let status = status.map_err(|e| format!("cannot run cargo {}: {e}", step.join(" ")))?;
        if !status.success() {
            return Err(format!("cargo {} failed", step.join(" ")));
        }
    }
    Ok(())
}

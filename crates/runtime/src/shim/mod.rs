//! The processes the binary re-executes itself as: one shim per container, one helper per exec, one pause
//! process per shared PID namespace.
//!
//! libcontainer forks, changes the caller's directory and OOM score and makes it undumpable: none of that
//! may happen in the multi-threaded runtime. A shim is single-threaded, outlives the runtime, holds the
//! container's output pipes or terminal, writes its log, and records how it ended.

pub mod client;
mod control;
pub mod exec;
mod executor;
mod files;
pub mod io;
pub mod log;
pub mod pause;
pub mod protocol;
mod run;
pub mod seccomp;
pub mod syscalls;

use std::{ffi::OsString, path::Path, process::ExitCode};

pub use files::{read_json, write_atomically, write_json};

/// Subcommand of the binary that runs one container.
pub const SHIM_COMMAND: &str = "runtime-shim";
/// Subcommand of the binary that runs one process in a running container.
pub const EXEC_COMMAND: &str = "runtime-exec";
/// Subcommand of the binary that holds a PID namespace open.
pub const PAUSE_COMMAND: &str = "runtime-pause";

/// Entry of the re-executed binary: `command` is its first argument, `arguments` what follows. `None` when
/// the command is not one of the runtime's. Must be called while the process has one thread only.
pub fn shim_main(command: &str, arguments: &[OsString]) -> Option<ExitCode> {
    let argument = arguments.first().map(Path::new);
    let result = match (command, argument) {
        (SHIM_COMMAND, Some(directory)) => run::run(directory),
        (EXEC_COMMAND, None) => exec::run(),
        (PAUSE_COMMAND, Some(root)) => pause::run(root),
        (SHIM_COMMAND | EXEC_COMMAND | PAUSE_COMMAND, _) => {
            Err(format!("wrong arguments for an internal command: {arguments:?}"))
        }
        _ => return None,
    };
    Some(match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{command}: {error}");
            ExitCode::FAILURE
        }
    })
}

/// Nanoseconds since the epoch.
pub(crate) fn now_nanos() -> i64 {
    let elapsed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_nanos()).unwrap_or(i64::MAX)
}

/// RFC 3339 with nanoseconds in UTC, as CRI logs carry it.
pub(crate) fn timestamp(nanos: i64) -> String {
    let time = jiff::Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{time:.9}")
}

/// What a failed start tells the user: libcontainer wraps the executor's sentence in its own.
pub(crate) fn start_failure(error: &dyn std::error::Error) -> String {
    let text = chain(error);
    match text.find("exec: \"") {
        Some(at) => text[at..].to_string(),
        None => text,
    }
}

/// An error and everything that caused it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

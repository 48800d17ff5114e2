//! A small web server to show a cluster with, after the classic "kuard" demo, and enough of a
//! shell to look around inside its container. Standard library only: it is linked statically and
//! is the one file of its image. Called by another name (`sh`, `ls`, ...) it is that command.

mod dns;
mod http;
mod keygen;
mod pages;
mod shell;
mod state;

use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;

use state::State;

fn main() -> ExitCode {
    let mut args = std::env::args();
    let called = args.next().unwrap_or_default();
    let name = called.rsplit('/').next().unwrap_or("");
    let args: Vec<String> = args.collect();
    if name != "demo" && name != "amphipod-demo" {
        return shell::command(name, &args);
    }
    match args.first().map(String::as_str) {
        None | Some("serve") => serve(),
        Some(command) => shell::command(command, &args[1..]),
    }
}

fn serve() -> ExitCode {
    let port = std::env::var("PORT").ok().and_then(|p| p.parse().ok()).unwrap_or(8080);
    let listener = match TcpListener::bind(("0.0.0.0", port)) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("demo: cannot listen on port {port}: {error}");
            return ExitCode::FAILURE;
        }
    };
    let state = Arc::new(State::from_environment());
    state::drain_on_termination(&state);
    println!("demo version {} on {} listening on :{port}", state.version, state.hostname);
    http::serve(&listener, &state);
    ExitCode::SUCCESS
}

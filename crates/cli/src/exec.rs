//! `exec`: a command in a container, with the terminal handed over when asked.

use std::process::ExitCode;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;

use crate::Error;
use crate::context::Session;
use crate::error::usage;
use crate::streams::Streams;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// POD or TYPE/NAME
    resource: String,
    /// Container name.
    #[arg(short, long)]
    container: Option<String>,
    /// Pass stdin to the container.
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Stdin is a TTY.
    #[arg(short, long)]
    tty: bool,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

pub async fn run(session: &Session, args: Args) -> Result<ExitCode, Error> {
    let name = session.pod(&args.resource).await?;
    let streams = Streams::new(args.stdin, args.tty);
    let process =
        session.pods().exec(&name, &args.command, &streams.parameters(args.container.clone())).await?;
    exit_code(streams.join(process).await?)
}

/// The command's own exit code, or why it could not run.
fn exit_code(status: Option<Status>) -> Result<ExitCode, Error> {
    let Some(status) = status else { return Ok(ExitCode::SUCCESS) };
    if status.status.as_deref() == Some("Success") {
        return Ok(ExitCode::SUCCESS);
    }
    let causes = status.details.iter().flat_map(|d| d.causes.iter().flatten());
    let code = causes.into_iter().find(|c| c.reason.as_deref() == Some("ExitCode"));
    let code = code.and_then(|c| c.message.as_deref()?.parse::<u8>().ok());
    match code {
        Some(code) => {
            eprintln!("command terminated with exit code {code}");
            Ok(ExitCode::from(code))
        }
        None => Err(usage(status.message.unwrap_or_else(|| "the command failed".to_owned()))),
    }
}

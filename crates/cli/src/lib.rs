//! The kubectl-compatible commands: the same words, flags and output, for a machine that has no
//! kubectl. Commands talk to any Kubernetes API server; `why` alone asks what only
//! Amphipod answers.

mod apply;
mod context;
mod create;
mod delete;
mod describe;
mod discovery;
mod error;
mod exec;
mod expose;
mod get;
mod logs;
mod manifest;
mod mistakes;
mod output;
mod portforward;
mod rollout;
mod run;
mod scale;
mod select;
mod set;
mod streams;
mod table;
mod watch;
mod why;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

pub use error::Error;

/// Flags every command takes.
#[derive(Debug, clap::Args)]
pub struct Global {
    /// Path to the kubeconfig file to use.
    #[arg(long, global = true)]
    kubeconfig: Option<std::path::PathBuf>,
    /// The name of the kubeconfig context to use.
    #[arg(long, global = true)]
    context: Option<String>,
    /// The namespace scope for this request.
    #[arg(short, long, global = true)]
    namespace: Option<String>,
}

#[derive(Debug, Parser)]
#[command(name = "kubectl", about = "Controls the cluster, in kubectl's own words", version)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Display one or many resources
    Get(get::Args),
    /// Show details of a specific resource or group of resources
    Describe(describe::Args),
    /// Apply a configuration to a resource by file name or stdin, by server-side apply
    Apply(apply::Args),
    /// Create a resource from a file or from stdin
    Create(create::Args),
    /// Run a particular image on the cluster
    Run(run::Args),
    /// Expose a deployment, pod or service as a new Kubernetes service
    Expose(expose::Args),
    /// Set a new size for a deployment, replica set, or replication controller
    Scale(scale::Args),
    /// Set specific features on objects
    Set(set::Args),
    /// Manage the rollout of a resource
    Rollout(rollout::Args),
    /// Delete resources by file names, stdin, resources and names, or by label selector
    Delete(delete::Args),
    /// Print the logs for a container in a pod
    Logs(logs::Args),
    /// Execute a command in a container
    Exec(exec::Args),
    /// Forward one or more local ports to a pod
    PortForward(portforward::Args),
    /// Explain where a pod goes, and why (Amphipod only)
    Why(why::Args),
}

/// The command names, so that the binary knows which of its arguments are meant for kubectl.
pub fn is_command(word: &str) -> bool {
    Cli::command().get_subcommands().any(|command| command.get_name() == word)
}

/// Runs one command; `args` are the words after the program's name.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let words = std::iter::once(OsString::from("kubectl")).chain(args.iter().cloned());
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => {
            match mistakes::text(&Cli::command(), &args, &error) {
                Some(text) => eprintln!("{text}"),
                None => {
                    let _ = error.print();
                }
            }
            return ExitCode::from(if error.use_stderr() { 1 } else { 0 });
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = match runtime.block_on(dispatch(cli)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    };
    // A blocked read of standard input must not hold the exit.
    runtime.shutdown_background();
    code
}

async fn dispatch(cli: Cli) -> Result<ExitCode, Error> {
    let session = context::Session::open(&cli.global).await?;
    match cli.command {
        Command::Get(args) => get::run(&session, args).await?,
        Command::Describe(args) => describe::run(&session, args).await?,
        Command::Apply(args) => apply::run(&session, args).await?,
        Command::Create(args) => create::run(&session, args).await?,
        Command::Run(args) => return run::run(&session, args).await,
        Command::Expose(args) => expose::run(&session, args).await?,
        Command::Scale(args) => scale::run(&session, args).await?,
        Command::Set(args) => set::run(&session, args).await?,
        Command::Rollout(args) => rollout::run(&session, args).await?,
        Command::Delete(args) => delete::run(&session, args).await?,
        Command::Logs(args) => logs::run(&session, args).await?,
        Command::Exec(args) => return exec::run(&session, args).await,
        Command::PortForward(args) => portforward::run(&session, args).await?,
        Command::Why(args) => why::run(&session, args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

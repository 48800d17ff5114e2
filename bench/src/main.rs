//! Measuring Amphipod, or any Kubernetes server a kubeconfig leads to: what DESIGN's budgets name,
//! one figure a line.

mod api;
mod arrivals;
mod cluster;
mod deployment;
mod flood;
mod hollow;
mod local;
mod metrics;
mod process;
mod report;
mod scale;
mod scheduler;
mod target;
mod watch;
mod wire;
mod world;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use report::Report;

#[derive(Debug, Parser)]
#[command(name = "amphipod-bench", version, about = "Figures of a Kubernetes cluster, as a table or JSON")]
struct Cli {
    /// One JSON object per figure instead of a table.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Durable creates, reads and lists against an API server
    Api(api::Options),
    /// A whole local cluster: start, idle memory and CPU, pod start; needs root
    Cluster(cluster::Options),
    /// Hollow nodes filled with pods: how fast, and what it costs in memory; needs no root
    Scale(scale::Options),
    /// Hollow nodes themselves: what each costs, and how fast their pods start and end; needs no root
    Hollow(hollow::Options),
    /// A large Deployment: how soon its pods exist and are bound; needs no root
    Deployment(deployment::Options),
    /// The scheduler on scheduler_perf's scenarios: its core alone in one thread, or a whole cluster
    Scheduler(scheduler::Options),
    /// The first two, on a cluster started for the purpose
    All(cluster::Options),
}

/// Failures are told to a person and end the run.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("error: a TLS provider was installed twice");
        return ExitCode::FAILURE;
    }
    let mut report = Report::new(cli.json);
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        match cli.command {
            Command::Api(options) => api::run(&options, &mut report).await,
            Command::Cluster(options) => cluster::run(&options, &mut report, false).await,
            Command::Scale(options) => scale::run(&options, &mut report).await,
            Command::Hollow(options) => hollow::run(&options, &mut report).await,
            Command::Deployment(options) => deployment::run(&options, &mut report).await,
            Command::Scheduler(options) => scheduler::run(&options, &mut report).await,
            Command::All(options) => cluster::run(&options, &mut report, true).await,
        }
    });
    report.finish();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

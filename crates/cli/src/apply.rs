//! `apply`: server-side apply of manifests.

use amphipod_api::object;
use amphipod_client::Query;
use serde_json::Value;

use crate::Error;
use crate::context::Session;
use crate::error::usage;
use crate::manifest::Item;
use crate::output;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// File, directory or - with the configuration to apply.
    #[arg(short, long)]
    filename: Vec<String>,
    /// Process directories recursively.
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Apply runs in the server; given for kubectl's sake, it is always so.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    server_side: Option<bool>,
    /// Take over fields that other managers own.
    #[arg(long)]
    force_conflicts: bool,
    /// Name of the manager used to track field ownership.
    #[arg(long, default_value = "kubectl")]
    field_manager: String,
    /// none or server: server submits without persisting.
    #[arg(long, default_value = "none")]
    dry_run: String,
}

pub async fn run(session: &Session, args: Args) -> Result<(), Error> {
    let mut failures = Vec::new();
    if args.filename.is_empty() {
        return Err(usage("must specify one of -f and -k"));
    }
    for item in session.manifests(&args.filename, args.recursive).await? {
        if let Err(error) = apply(session, &args, &item).await {
            failures.push(error);
        }
    }
    match failures.pop() {
        None => Ok(()),
        Some(last) => {
            failures.iter().for_each(|error| eprintln!("{error}"));
            Err(last)
        }
    }
}

async fn apply(session: &Session, args: &Args, item: &Item) -> Result<(), Error> {
    let mut query = Query::default();
    query.add("fieldManager", &args.field_manager);
    query.add("force", if args.force_conflicts { "true" } else { "false" });
    query.add("fieldValidation", "Strict");
    if args.dry_run == "server" {
        query.add("dryRun", "All");
    }
    let before = match session.get(&item.path()).await {
        Ok(object) => Some(object),
        Err(Error::Client(e)) if e.is_not_found() => None,
        Err(error) => return Err(error),
    };
    let path = format!("{}{}", item.path(), query.as_str());
    let after = session.patch(&path, "application/apply-patch+yaml", &item.object).await?;
    let suffix = if args.dry_run == "server" { " (server dry run)" } else { "" };
    output::confirm(&item.kind, item.name(), &format!("{}{suffix}", verdict(before.as_ref(), &after, args)));
    Ok(())
}

/// kubectl says `serverside-applied` when told `--server-side`; without it, what client-side apply
/// would have said of the change.
fn verdict(before: Option<&Value>, after: &Value, args: &Args) -> &'static str {
    if args.server_side == Some(true) {
        return "serverside-applied";
    }
    match before {
        None => "created",
        Some(before) if object::resource_version(before) == object::resource_version(after) => "unchanged",
        Some(_) => "configured",
    }
}

//! `scale`: through the scale subresource.

use serde_json::{Value, json};

use crate::Error;
use crate::context::Session;
use crate::error::{nothing_named, usage};
use crate::output;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// TYPE NAME or TYPE/NAME
    resource: Vec<String>,
    /// The new desired number of replicas.
    #[arg(long)]
    replicas: i32,
    /// Precondition for current size.
    #[arg(long)]
    current_replicas: Option<i64>,
}

/// kubectl looks for the objects first and then finds nothing to do.
fn none_to_scale(error: Error) -> Error {
    match error.refusal().filter(|_| error.is_not_found()) {
        Some(why) => usage(format!("no objects passed to scale {why}")),
        None => error,
    }
}

pub async fn run(session: &Session, args: Args) -> Result<(), Error> {
    if args.resource.is_empty() {
        return Err(nothing_named());
    }
    for selected in session.select(&args.resource).await? {
        if selected.names.is_empty() {
            return Err(usage("resource(s) were provided, but no name was specified"));
        }
        for name in &selected.names {
            let path = format!("{}/scale", selected.kind.path(Some(&session.namespace), name));
            if let Some(expected) = args.current_replicas {
                let scale = session.get(&path).await?;
                let current = scale.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
                if current != expected {
                    return Err(usage(format!("Expected replicas to be {expected}, was {current}")));
                }
            }
            let patch = json!({"spec": {"replicas": args.replicas}});
            session.patch(&path, "application/merge-patch+json", &patch).await.map_err(none_to_scale)?;
            output::confirm(&selected.kind, name, "scaled");
        }
    }
    Ok(())
}

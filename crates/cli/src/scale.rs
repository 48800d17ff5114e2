//! `scale`: through the scale subresource.

use serde_json::{Value, json};

use crate::Error;
use crate::context::Session;
use crate::error::usage;
use crate::output;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// TYPE NAME or TYPE/NAME
    #[arg(required = true)]
    resource: Vec<String>,
    /// The new desired number of replicas.
    #[arg(long)]
    replicas: i32,
    /// Precondition for current size.
    #[arg(long)]
    current_replicas: Option<i64>,
}

pub async fn run(session: &Session, args: Args) -> Result<(), Error> {
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
            session.patch(&path, "application/merge-patch+json", &patch).await?;
            output::confirm(&selected.kind, name, "scaled");
        }
    }
    Ok(())
}

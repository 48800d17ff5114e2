//! `delete`: by name, by selector, or by manifest; waits until the objects are gone.

use amphipod_api::object;
use amphipod_client::Query;
use serde_json::{Value, json};

use crate::Error;
use crate::context::Session;
use crate::discovery::Kind;
use crate::error::{nothing_named, usage};
use crate::watch::Lines;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// TYPE NAME..., TYPE/NAME..., or TYPE with -l or --all
    resources: Vec<String>,
    #[arg(short, long)]
    filename: Vec<String>,
    /// Selector (label query) to filter on.
    #[arg(short = 'l', long)]
    selector: Option<String>,
    /// Delete all resources, in the namespace of the specified resource types.
    #[arg(long)]
    all: bool,
    /// Delete in all namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Seconds given to the resource to terminate gracefully.
    #[arg(long, default_value_t = -1, allow_hyphen_values = true)]
    grace_period: i64,
    /// Immediately remove resources from the API and bypass graceful deletion.
    #[arg(long)]
    force: bool,
    /// Signal resources for immediate shutdown (grace period 1).
    #[arg(long)]
    now: bool,
    /// background, orphan, or foreground.
    #[arg(long, default_value = "background")]
    cascade: String,
    /// Wait for resources to be gone before returning.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    wait: bool,
    #[arg(long)]
    ignore_not_found: bool,
}

/// One object to delete.
pub struct Target {
    pub kind: Kind,
    pub namespace: String,
    pub name: String,
}

impl Target {
    fn path(&self) -> String {
        self.kind.path(Some(&self.namespace), &self.name)
    }
    /// Deletes it; its uid, for waiting until it is gone.
    pub async fn delete(&self, session: &Session, options: &Value) -> Result<String, Error> {
        let answer = session.send("DELETE", &self.path(), options).await?;
        let uid = answer.pointer("/metadata/uid").or(answer.pointer("/details/uid"));
        Ok(uid.and_then(Value::as_str).unwrap_or("").to_owned())
    }
    /// Tells that it was deleted, or `how`.
    pub fn confirm(&self, how: &str) {
        let place =
            if self.kind.namespaced { format!(" from {} namespace", self.namespace) } else { String::new() };
        println!("{} {:?} {how}{place}", self.kind.display(), self.name);
    }
}

pub async fn run(session: &Session, args: Args) -> Result<(), Error> {
    if args.resources.is_empty() && args.filename.is_empty() {
        return Err(nothing_named());
    }
    let options = options(&args)?;
    let targets = targets(session, &args).await?;
    if targets.is_empty() {
        println!("No resources found");
    }
    let mut waiting = Vec::new();
    let how = if args.force && args.grace_period <= 0 { "force deleted" } else { "deleted" };
    for target in targets {
        match target.delete(session, &options).await {
            Ok(uid) => {
                target.confirm(how);
                waiting.push((target, uid));
            }
            Err(Error::Client(e)) if e.is_not_found() && args.ignore_not_found => {}
            Err(error) => return Err(error),
        }
    }
    if args.wait {
        for (target, uid) in waiting {
            gone(session, &target, &uid).await?;
        }
    }
    Ok(())
}

fn options(args: &Args) -> Result<Value, Error> {
    let policy = match args.cascade.as_str() {
        "background" | "true" => "Background",
        "foreground" => "Foreground",
        "orphan" | "false" => "Orphan",
        other => {
            return Err(usage(format!(
                "invalid cascade value ({other}). Must be \"background\", \"foreground\", or \"orphan\""
            )));
        }
    };
    let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy});
    let grace = match (args.force, args.now, args.grace_period) {
        (_, true, _) => Some(1),
        (true, _, seconds) if seconds < 0 => Some(0),
        (_, _, seconds) => (seconds >= 0).then_some(seconds),
    };
    if let Some(seconds) = grace {
        options["gracePeriodSeconds"] = seconds.into();
    }
    Ok(options)
}

async fn targets(session: &Session, args: &Args) -> Result<Vec<Target>, Error> {
    if !args.filename.is_empty() {
        let items = session.manifests(&args.filename, false).await?;
        let target = |item: crate::manifest::Item| Target {
            name: item.name().to_owned(),
            kind: item.kind,
            namespace: item.namespace,
        };
        return Ok(items.into_iter().map(target).collect());
    }
    let mut targets = Vec::new();
    for selected in session.select(&args.resources).await? {
        for name in &selected.names {
            targets.push(Target {
                kind: selected.kind.clone(),
                namespace: session.namespace.clone(),
                name: name.clone(),
            });
        }
        if !selected.names.is_empty() {
            continue;
        }
        if args.selector.is_none() && !args.all {
            return Err(usage("resource(s) were provided, but no name was specified"));
        }
        let mut query = Query::default();
        query.add_some("labelSelector", args.selector.as_deref());
        let namespace = (!args.all_namespaces).then_some(session.namespace.as_str());
        let list = session.get(&format!("{}{}", selected.kind.path(namespace, ""), query.as_str())).await?;
        for item in list["items"].as_array().into_iter().flatten() {
            targets.push(Target {
                kind: selected.kind.clone(),
                namespace: object::namespace(item).to_owned(),
                name: object::name(item).to_owned(),
            });
        }
    }
    Ok(targets)
}

/// Waits until the object is gone, or another one has taken its name.
async fn gone(session: &Session, target: &Target, uid: &str) -> Result<(), Error> {
    loop {
        let object = match session.get(&target.path()).await {
            Ok(object) => object,
            Err(Error::Client(e)) if e.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        };
        if !uid.is_empty() && object::uid(&object) != uid {
            return Ok(());
        }
        let mut lines = Lines::following(session, &target.kind, &target.namespace, &object).await?;
        while let Some((event, _)) = lines.next().await? {
            if event == "DELETED" {
                return Ok(());
            }
        }
    }
}

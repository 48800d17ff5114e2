//! `run`: one pod from an image.

use serde_json::json;

use crate::Error;
use crate::context::Session;
use crate::error::usage;
use crate::output;

#[derive(Debug, clap::Args)]
pub struct Args {
    name: String,
    /// The image for the container to run.
    #[arg(long)]
    image: String,
    /// The restart policy for this pod: Always, OnFailure or Never.
    #[arg(long, default_value = "Always")]
    restart: String,
    /// Always, IfNotPresent or Never.
    #[arg(long)]
    image_pull_policy: Option<String>,
    /// Environment variables to set in the container, NAME=VALUE.
    #[arg(long)]
    env: Vec<String>,
    /// The port that this container exposes.
    #[arg(long)]
    port: Option<u16>,
    /// Comma separated labels to apply to the pod.
    #[arg(short, long, value_delimiter = ',')]
    labels: Vec<String>,
    /// Use the arguments after -- as the command, not as its arguments.
    #[arg(long)]
    command: bool,
    /// Arguments for the container.
    #[arg(last = true)]
    args: Vec<String>,
}

fn pairs(words: &[String], what: &str) -> Result<Vec<(String, String)>, Error> {
    let split = |word: &String| {
        let pair = word.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()));
        pair.ok_or_else(|| usage(format!("invalid {what}: {word}, expected key=value")))
    };
    words.iter().map(split).collect()
}

pub async fn run(session: &Session, args: Args) -> Result<(), Error> {
    let mut container = json!({"name": args.name, "image": args.image, "resources": {}});
    if let Some(policy) = &args.image_pull_policy {
        container["imagePullPolicy"] = policy.clone().into();
    }
    let env = pairs(&args.env, "env")?;
    if !env.is_empty() {
        container["env"] = env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    }
    if let Some(port) = args.port {
        container["ports"] = json!([{"containerPort": port}]);
    }
    if !args.args.is_empty() {
        container[if args.command { "command" } else { "args" }] = json!(args.args);
    }
    let mut labels = serde_json::Map::new();
    for (key, value) in pairs(&args.labels, "label")? {
        labels.insert(key, value.into());
    }
    if labels.is_empty() {
        labels.insert("run".to_owned(), args.name.clone().into());
    }
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": args.name, "labels": labels},
        "spec": {"containers": [container], "restartPolicy": args.restart, "dnsPolicy": "ClusterFirst"},
    });
    let kind = session.kind("pods").await?;
    session.create(&kind, "kubectl-run", &pod).await?;
    output::confirm(&kind, &args.name, "created");
    Ok(())
}

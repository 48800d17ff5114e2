//! `create`: from manifests, and the generators people type most.

use clap::Subcommand;
use serde_json::{Value, json};

use crate::Error;
use crate::context::Session;
use crate::error::usage;
use crate::output;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// File, directory or - to create the resources from.
    #[arg(short, long)]
    filename: Vec<String>,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Create a deployment with the specified name
    #[command(visible_alias = "deploy")]
    Deployment {
        name: String,
        /// Image names to run; one container each.
        #[arg(long, required = true)]
        image: Vec<String>,
        /// Number of replicas to create.
        #[arg(short, long, default_value_t = 1)]
        replicas: i32,
        /// The container port that this deployment exposes.
        #[arg(long)]
        port: Option<u16>,
        /// Command to run in the container.
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Create a namespace with the specified name
    #[command(visible_alias = "ns")]
    Namespace { name: String },
    /// Create a config map from literal values
    #[command(visible_alias = "cm")]
    Configmap {
        name: String,
        /// KEY=VALUE
        #[arg(long)]
        from_literal: Vec<String>,
    },
    /// Create a service account with the specified name
    #[command(visible_alias = "sa")]
    Serviceaccount { name: String },
}

pub async fn run(session: &Session, args: Args) -> Result<(), Error> {
    let Some(what) = args.what else {
        for item in session.manifests(&args.filename, false).await? {
            session.create(&item.kind, "kubectl-create", &item.object).await?;
            output::confirm(&item.kind, item.name(), "created");
        }
        return Ok(());
    };
    let (word, object) = generate(what)?;
    let kind = session.kind(word).await?;
    let created = session.create(&kind, "kubectl-create", &object).await;
    created.map_err(|error| match error.refusal() {
        Some(why) if kind.plural != "namespaces" => {
            usage(format!("failed to create {}: {why}", kind.singular))
        }
        _ => error,
    })?;
    output::confirm(&kind, amphipod_api::object::name(&object), "created");
    Ok(())
}

fn generate(what: What) -> Result<(&'static str, Value), Error> {
    Ok(match what {
        What::Deployment { name, image, replicas, port, command } => {
            ("deployments", deployment(&name, &image, replicas, port, &command))
        }
        What::Namespace { name } => {
            ("namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
        }
        What::Configmap { name, from_literal } => {
            let mut data = serde_json::Map::new();
            for literal in from_literal {
                let (key, value) = literal
                    .split_once('=')
                    .ok_or_else(|| usage(format!("invalid literal source {literal}, expected key=value")))?;
                data.insert(key.to_owned(), value.into());
            }
            (
                "configmaps",
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}),
            )
        }
        What::Serviceaccount { name } => (
            "serviceaccounts",
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}),
        ),
    })
}

/// The last part of an image's name, without tag or digest, made fit for a container's name.
fn container_name(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    let bare = last.split(['@', ':']).next().unwrap_or(last);
    bare.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}

fn deployment(name: &str, images: &[String], replicas: i32, port: Option<u16>, command: &[String]) -> Value {
    let containers: Vec<Value> = images
        .iter()
        .map(|image| {
            let mut container = json!({"name": container_name(image), "image": image, "resources": {}});
            if let Some(port) = port {
                container["ports"] = json!([{"containerPort": port}]);
            }
            if !command.is_empty() {
                container["command"] = json!(command);
            }
            container
        })
        .collect();
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": containers}},
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_named_after_their_image() {
        for (image, expected) in [
            ("amphipod.local/demo:1", "demo"),
            ("nginx", "nginx"),
            ("localhost:5000/a/My_App@sha256:00", "my-app"),
        ] {
            assert_eq!(container_name(image), expected);
        }
    }
}

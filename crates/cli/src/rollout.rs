//! `rollout`: status, history, undo, restart, pause and resume of deployments.

use amphipod_api::object;
use clap::Subcommand;
use serde_json::{Value, json};

use crate::Error;
use crate::context::Session;
use crate::discovery::Kind;
use crate::error::usage;
use crate::output;
use crate::watch::Lines;

const REVISION: &str = "deployment.kubernetes.io/revision";
const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";
const HASH_LABEL: &str = "pod-template-hash";

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show the status of the rollout
    Status {
        #[command(flatten)]
        target: Target,
        /// How long to watch before giving up, e.g. 30s or 2m; 0s is forever.
        #[arg(long, default_value = "0s")]
        timeout: String,
    },
    /// View rollout history
    History(Target),
    /// Undo a previous rollout
    Undo {
        #[command(flatten)]
        target: Target,
        /// The revision to roll back to; 0 is the last one.
        #[arg(long, default_value_t = 0)]
        to_revision: i64,
    },
    /// Restart a resource
    Restart(Target),
    /// Mark the provided resource as paused
    Pause(Target),
    /// Resume a paused resource
    Resume(Target),
}

#[derive(Debug, clap::Args)]
struct Target {
    /// TYPE NAME or TYPE/NAME
    #[arg(required = true)]
    resource: Vec<String>,
}

pub async fn run(session: &Session, args: Args) -> Result<(), Error> {
    match args.what {
        What::Status { target, timeout } => {
            let (kind, name) = deployment(session, &target).await?;
            let limit = std::time::Duration::from_secs(crate::logs::seconds(&timeout)?);
            let watching = status(session, &kind, &name);
            if limit.is_zero() {
                return watching.await;
            }
            let late = || usage("timed out waiting for the condition");
            tokio::time::timeout(limit, watching).await.map_err(|_| late())?
        }
        What::History(target) => {
            let (kind, name) = deployment(session, &target).await?;
            history(session, &kind, &name).await
        }
        What::Undo { target, to_revision } => {
            let (kind, name) = deployment(session, &target).await?;
            undo(session, &kind, &name, to_revision).await
        }
        What::Restart(target) => {
            let now = jiff::Timestamp::now().to_string();
            let annotation = json!({"kubectl.kubernetes.io/restartedAt": now});
            let patch = json!({"spec": {"template": {"metadata": {"annotations": annotation}}}});
            change(session, &target, &patch, "restarted").await
        }
        What::Pause(target) => change(session, &target, &json!({"spec": {"paused": true}}), "paused").await,
        What::Resume(target) => change(session, &target, &json!({"spec": {"paused": null}}), "resumed").await,
    }
}

async fn deployment(session: &Session, target: &Target) -> Result<(Kind, String), Error> {
    let (kind, name) = session.one(&target.resource, "").await?;
    if kind.plural != "deployments" {
        return Err(usage(format!("this command knows deployments only so far, not {}", kind.plural)));
    }
    Ok((kind, name))
}

async fn change(session: &Session, target: &Target, patch: &Value, what: &str) -> Result<(), Error> {
    let (kind, name) = session.one(&target.resource, "").await?;
    let path = format!("{}?fieldManager=kubectl-rollout", kind.path(Some(&session.namespace), &name));
    session.patch(&path, "application/strategic-merge-patch+json", patch).await?;
    output::confirm(&kind, &name, what);
    Ok(())
}

/// What `rollout status` says of a deployment; true when it is done.
fn progress(deployment: &Value) -> Result<(String, bool), Error> {
    let name = object::name(deployment);
    let number = |pointer: &str| deployment.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    if number("/metadata/generation") > number("/status/observedGeneration") {
        return Ok(("Waiting for deployment spec update to be observed...".to_owned(), false));
    }
    let conditions = deployment.pointer("/status/conditions").and_then(Value::as_array);
    let late = conditions
        .into_iter()
        .flatten()
        .any(|c| c["type"] == "Progressing" && c["reason"] == "ProgressDeadlineExceeded");
    if late {
        return Err(usage(format!("deployment {name:?} exceeded its progress deadline")));
    }
    let wanted = deployment.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    let (updated, total, available) =
        (number("/status/updatedReplicas"), number("/status/replicas"), number("/status/availableReplicas"));
    let waiting = format!("Waiting for deployment {name:?} rollout to finish: ");
    Ok(if updated < wanted {
        (format!("{waiting}{updated} out of {wanted} new replicas have been updated..."), false)
    } else if total > updated {
        (format!("{waiting}{} old replicas are pending termination...", total - updated), false)
    } else if available < updated {
        (format!("{waiting}{available} of {updated} updated replicas are available..."), false)
    } else {
        (format!("deployment {name:?} successfully rolled out"), true)
    })
}

async fn status(session: &Session, kind: &Kind, name: &str) -> Result<(), Error> {
    let mut last = String::new();
    loop {
        let current = session.get(&kind.path(Some(&session.namespace), name)).await?;
        if tell(&current, &mut last)? {
            return Ok(());
        }
        let mut lines = Lines::following(session, kind, &session.namespace, &current).await?;
        while let Some((event, object)) = lines.next().await? {
            match event.as_str() {
                "ADDED" | "MODIFIED" if tell(&object, &mut last)? => return Ok(()),
                "DELETED" => return Err(usage("object has been deleted")),
                "ERROR" => break,
                _ => {}
            }
        }
    }
}

fn tell(deployment: &Value, last: &mut String) -> Result<bool, Error> {
    let (text, done) = progress(deployment)?;
    if text != *last {
        println!("{text}");
        *last = text;
    }
    Ok(done)
}

fn revision(object: &Value) -> i64 {
    let text = object::annotations(object).and_then(|a| a.get(REVISION)).and_then(Value::as_str);
    text.and_then(|t| t.parse().ok()).unwrap_or(0)
}

/// The deployment's replica sets, oldest revision first.
async fn replica_sets(session: &Session, deployment: &Value) -> Result<Vec<Value>, Error> {
    let kind = session.kind("replicasets.apps").await?;
    let mut list = session.get(&kind.path(Some(&session.namespace), "")).await?;
    let Some(items) = list["items"].as_array_mut() else { return Ok(Vec::new()) };
    let owned = |set: &Value| {
        let owners = set.pointer("/metadata/ownerReferences").and_then(Value::as_array);
        owners.into_iter().flatten().any(|o| o["uid"] == object::uid(deployment))
    };
    let mut sets: Vec<Value> = items.drain(..).filter(owned).collect();
    sets.sort_by_key(revision);
    Ok(sets)
}

async fn history(session: &Session, kind: &Kind, name: &str) -> Result<(), Error> {
    let deployment = session.get(&kind.path(Some(&session.namespace), name)).await?;
    let mut rows = String::from("REVISION  CHANGE-CAUSE\n");
    for set in replica_sets(session, &deployment).await? {
        let cause = object::annotations(&set).and_then(|a| a.get(CHANGE_CAUSE)).and_then(Value::as_str);
        let cause = cause.unwrap_or("<none>");
        rows.push_str(&format!("{:<10}{cause}\n", revision(&set)));
    }
    println!("{}/{name} ", kind.display());
    println!("{rows}");
    Ok(())
}

async fn undo(session: &Session, kind: &Kind, name: &str, to_revision: i64) -> Result<(), Error> {
    let path = kind.path(Some(&session.namespace), name);
    let deployment = session.get(&path).await?;
    if deployment.pointer("/spec/paused") == Some(&true.into()) {
        return Err(usage(format!(
            "you cannot rollback a paused deployment; resume it first with 'kubectl rollout resume {}/{name}' and try again",
            kind.display()
        )));
    }
    let sets = replica_sets(session, &deployment).await?;
    let target = match to_revision {
        0 => sets
            .iter()
            .rev()
            .nth(1)
            .ok_or_else(|| usage(format!("no rollout history found for deployment {name:?}")))?,
        wanted => sets
            .iter()
            .find(|s| revision(s) == wanted)
            .ok_or_else(|| usage(format!("unable to find specified revision {wanted} in history")))?,
    };
    let mut template = target.pointer("/spec/template").cloned().unwrap_or_default();
    if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(HASH_LABEL);
    }
    if deployment.pointer("/spec/template") == Some(&template) {
        output::confirm(
            kind,
            name,
            &format!("skipped rollback (current template already matches revision {})", revision(target)),
        );
        return Ok(());
    }
    let patch = json!([{"op": "replace", "path": "/spec/template", "value": template}]);
    let path = format!("{path}?fieldManager=kubectl-rollout");
    session.patch(&path, "application/json-patch+json", &patch).await?;
    output::confirm(kind, name, "rolled back");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_as_kubectl_does() {
        let deployment = |status: Value| json!({"metadata": {"name": "d", "generation": 2}, "spec": {"replicas": 3}, "status": status});
        let cases = [
            (json!({"observedGeneration": 1}), "Waiting for deployment spec update to be observed...", false),
            (
                json!({"observedGeneration": 2, "updatedReplicas": 1}),
                "Waiting for deployment \"d\" rollout to finish: 1 out of 3 new replicas have been updated...",
                false,
            ),
            (
                json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 4}),
                "Waiting for deployment \"d\" rollout to finish: 1 old replicas are pending termination...",
                false,
            ),
            (
                json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 2}),
                "Waiting for deployment \"d\" rollout to finish: 2 of 3 updated replicas are available...",
                false,
            ),
            (
                json!({"observedGeneration": 2, "updatedReplicas": 3, "replicas": 3, "availableReplicas": 3}),
                "deployment \"d\" successfully rolled out",
                true,
            ),
        ];
        for (status, text, done) in cases {
            assert_eq!(progress(&deployment(status)).unwrap(), (text.to_owned(), done));
        }
        let late = json!({"observedGeneration": 2, "conditions": [{"type": "Progressing", "reason": "ProgressDeadlineExceeded"}]});
        assert!(progress(&deployment(late)).is_err());
    }
}

//! `run`: one pod from an image, with this terminal attached to it when asked.

use std::process::ExitCode;
use std::time::Duration;

use amphipod_api::object;
use serde_json::{Value, json};

use crate::Error;
use crate::context::Session;
use crate::delete::Target;
use crate::discovery::Kind;
use crate::error::usage;
use crate::streams::Streams;
use crate::watch::Lines;
use crate::{logs, output};

/// How long an attached pod may take to start, as kubectl waits.
const START_TIMEOUT: Duration = Duration::from_secs(60);

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
    /// Keep stdin open on the container, even if nothing is attached; attaches.
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Allocate a TTY for the container.
    #[arg(short, long)]
    tty: bool,
    /// Wait for the pod to start running, then attach to it; implied by -i.
    #[arg(long)]
    attach: bool,
    /// Delete the pod after it exits; only for attached containers.
    #[arg(long)]
    rm: bool,
    /// Do not print prompt messages.
    #[arg(short, long)]
    quiet: bool,
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

pub async fn run(session: &Session, args: Args) -> Result<ExitCode, Error> {
    let attach = args.attach || args.stdin;
    if args.tty && !args.stdin {
        return Err(usage("stdin is required for containers with -t/--tty"));
    }
    if args.rm && !attach {
        return Err(usage("--rm should only be used for attached containers"));
    }
    if !["Always", "OnFailure", "Never"].contains(&args.restart.as_str()) {
        return Err(usage(format!("invalid restart policy: {}", args.restart)));
    }
    let kind = session.kind("pods").await?;
    session.create(&kind, "kubectl-run", &pod(&args)?).await?;
    if !attach {
        output::confirm(&kind, &args.name, "created");
        return Ok(ExitCode::SUCCESS);
    }
    let outcome = attached(session, &kind, &args).await;
    if args.rm {
        let target = Target { kind, namespace: session.namespace.clone(), name: args.name.clone() };
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
        match target.delete(session, &options).await {
            Ok(_) if args.quiet => {}
            Ok(_) => target.confirm("deleted"),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    outcome
}

fn pod(args: &Args) -> Result<Value, Error> {
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
    if args.stdin {
        container["stdin"] = true.into();
        container["stdinOnce"] = true.into();
    }
    if args.tty {
        container["tty"] = true.into();
    }
    let mut labels = serde_json::Map::new();
    for (key, value) in pairs(&args.labels, "label")? {
        labels.insert(key, value.into());
    }
    if labels.is_empty() {
        labels.insert("run".to_owned(), args.name.clone().into());
    }
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": args.name, "labels": labels},
        "spec": {"containers": [container], "restartPolicy": args.restart, "dnsPolicy": "ClusterFirst"},
    }))
}

fn phase(pod: &Value) -> &str {
    pod["status"]["phase"].as_str().unwrap_or("")
}
fn has_ended(pod: &Value) -> bool {
    ["Succeeded", "Failed"].contains(&phase(pod))
}

async fn attached(session: &Session, kind: &Kind, args: &Args) -> Result<ExitCode, Error> {
    let started = until(session, kind, &args.name, |pod| phase(pod) == "Running" || has_ended(pod));
    let pod = tokio::time::timeout(START_TIMEOUT, started)
        .await
        .map_err(|_| usage("timed out waiting for the condition"))??;
    let streams = Streams::new(args.stdin, args.tty);
    let mut shown = false;
    if phase(&pod) == "Running" {
        if args.stdin && args.tty && !args.quiet {
            eprintln!("If you don't see a command prompt, try pressing enter.");
        }
        match session.pods().attach(&args.name, &streams.parameters(Some(args.name.clone()))).await {
            Ok(process) => {
                streams.join(process).await?;
                shown = true;
            }
            // It may have ended in between.
            Err(error) => eprintln!(
                "warning: couldn't attach to pod/{}, falling back to streaming logs: {error}",
                args.name
            ),
        }
    }
    if !shown {
        let path = format!("{}/log?follow=true", kind.path(Some(&session.namespace), &args.name));
        logs::copy(session, path, String::new()).await?;
    }
    if args.restart == "Always" {
        if !args.rm && !args.quiet && args.stdin {
            let flags = if args.tty { "-i -t" } else { "-i" };
            println!(
                "Session ended, resume using 'kubectl attach {0} -c {0} {flags}' command when the pod is running",
                args.name
            );
        }
        return Ok(ExitCode::SUCCESS);
    }
    exit_code(&until(session, kind, &args.name, has_ended).await?)
}

/// The container's own exit code.
fn exit_code(pod: &Value) -> Result<ExitCode, Error> {
    if phase(pod) == "Succeeded" {
        return Ok(ExitCode::SUCCESS);
    }
    let place = format!("{}/{}", object::namespace(pod), object::name(pod));
    let ended = pod.pointer("/status/containerStatuses/0/state/terminated");
    let code = ended.and_then(|state| u8::try_from(state["exitCode"].as_i64()?).ok());
    let Some(code) = code.filter(|code| *code != 0) else {
        return Err(usage(format!("pod {place} failed with unknown exit code")));
    };
    let reason = ended.and_then(|state| state["reason"].as_str()).unwrap_or("Error");
    eprintln!("pod {place} terminated ({reason})");
    Ok(ExitCode::from(code))
}

/// Watches the pod until it is as wanted. It is read before each watch: one that is gone by then
/// would never be told of.
async fn until(
    session: &Session,
    kind: &Kind,
    name: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Result<Value, Error> {
    loop {
        let pod = session.get(&kind.path(Some(&session.namespace), name)).await?;
        if wanted(&pod) {
            return Ok(pod);
        }
        let mut lines = Lines::following(session, kind, &session.namespace, &pod).await?;
        while let Some((event, pod)) = lines.next().await? {
            if event == "DELETED" {
                return Err(usage(format!("pod \"{name}\" was deleted")));
            }
            if wanted(&pod) {
                return Ok(pod);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use amphipod_api::status::Status;
    use amphipod_client::Client;
    use http::{Request, Response};
    use http_body_util::Full;

    use super::*;
    use crate::discovery::tests::sample;

    type Reads = Arc<Mutex<std::vec::IntoIter<Value>>>;
    /// Longer than an answer takes that needs no network.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// A server that answers reads of the pod from `reads`, then says it is gone; its watches end
    /// at once without an event.
    fn server(reads: Vec<Value>) -> Session {
        let reads: Reads = Arc::new(Mutex::new(reads.into_iter()));
        let next = |reads: &Reads| reads.lock().unwrap().next().map(|pod| pod.to_string());
        let answer = tower::service_fn(move |request: Request<_>| {
            let reads = reads.clone();
            async move {
                let watches = request.uri().query().is_some_and(|query| query.contains("watch=true"));
                let read = if watches { Some(String::new()) } else { next(&reads) };
                let gone = || serde_json::to_string(&Status::not_found("", "pods", "p")).unwrap();
                let (code, body) = read.map_or_else(|| (404, gone()), |body| (200, body));
                Ok::<_, std::convert::Infallible>(
                    Response::builder().status(code).body(Full::from(body)).unwrap(),
                )
            }
        });
        Session::new(Client::local(answer), "ns".to_owned())
    }

    #[tokio::test]
    async fn waiting_ends_when_the_pod_is_there_or_gone() {
        let kind = sample("", "pods", "Pod", "po");
        let pod = |phase: &str| json!({"metadata": {"name": "p"}, "status": {"phase": phase}});
        let wait = async |session: Session| {
            let ended = tokio::time::timeout(PATIENCE, until(&session, &kind, "p", has_ended)).await;
            ended.expect("an end").map_err(|error| error.to_string())
        };
        let gone = "Error from server (NotFound): pods \"p\" not found";
        assert_eq!(wait(server(vec![pod("Succeeded")])).await, Ok(pod("Succeeded")));
        assert_eq!(wait(server(vec![])).await, Err(gone.to_owned()));
        assert_eq!(wait(server(vec![pod("Running")])).await, Err(gone.to_owned()));
    }

    #[test]
    fn a_failed_pod_gives_its_exit_code() {
        let ended = |code: i64| {
            json!({"metadata": {"name": "a", "namespace": "b"}, "status": {"phase": "Failed",
                "containerStatuses": [{"state": {"terminated": {"exitCode": code, "reason": "Error"}}}]}})
        };
        assert_eq!(exit_code(&ended(3)).unwrap(), ExitCode::from(3));
        let unknown = exit_code(&ended(0)).unwrap_err().to_string();
        assert_eq!(unknown, "error: pod b/a failed with unknown exit code");
        assert_eq!(exit_code(&json!({"status": {"phase": "Succeeded"}})).unwrap(), ExitCode::SUCCESS);
    }
}

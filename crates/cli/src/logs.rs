//! `logs`: a container's output, as it comes.

use std::io::Write;

use amphipod_api::object;
use amphipod_client::Query;
use futures::StreamExt;
use http::Request;
use serde_json::Value;

use crate::Error;
use crate::context::Session;
use crate::error::usage;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// POD or TYPE/NAME, and optionally a container
    resource: Option<String>,
    container_name: Option<String>,
    /// Print the logs of this container.
    #[arg(short, long)]
    container: Option<String>,
    /// Stream the logs.
    #[arg(short, long)]
    follow: bool,
    /// Print the logs of the previous instance of the container.
    #[arg(short, long)]
    previous: bool,
    /// Lines of recent log file to display.
    #[arg(long, allow_hyphen_values = true)]
    tail: Option<i64>,
    /// Only return logs newer than a relative duration like 5s, 2m, or 3h.
    #[arg(long)]
    since: Option<String>,
    /// Include timestamps on each line.
    #[arg(long)]
    timestamps: bool,
    /// Maximum bytes of logs to return.
    #[arg(long)]
    limit_bytes: Option<i64>,
    /// Selector (label query) to filter on.
    #[arg(short = 'l', long)]
    selector: Option<String>,
    /// Get all containers' logs in the pod(s).
    #[arg(long)]
    all_containers: bool,
    /// Prefix each log line with the log source.
    #[arg(long)]
    prefix: bool,
}

/// Lines shown of each pod when several are selected and --tail is not given.
const SELECTOR_TAIL: i64 = 10;

pub async fn run(session: &Session, args: Args) -> Result<(), Error> {
    let pods = session.kind("pods").await?;
    let names = match (&args.selector, &args.resource) {
        (Some(selector), None) => {
            let mut query = Query::default();
            query.add("labelSelector", selector);
            let list = session
                .get(&format!("{}{}", pods.path(Some(&session.namespace), ""), query.as_str()))
                .await?;
            list["items"].as_array().into_iter().flatten().map(|p| object::name(p).to_owned()).collect()
        }
        (None, Some(resource)) => vec![session.pod(resource).await?],
        _ => {
            return Err(usage(
                "expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]'.\n\
                 POD or TYPE/NAME is a required argument for the logs command\n\
                 See 'kubectl logs -h' for help and examples",
            ));
        }
    };
    let mut streams = Vec::new();
    for name in &names {
        let pod = session.get(&pods.path(Some(&session.namespace), name)).await;
        let pod = pod.map_err(|error| no_pod(session, error))?;
        for container in containers(&args, &pod) {
            let path =
                format!("{}/log{}", pods.path(Some(&session.namespace), name), query(&args, &container)?);
            let prefix = if args.prefix { format!("[pod/{name}/{container}] ") } else { String::new() };
            streams.push(copy(session, path, prefix));
        }
    }
    if args.follow {
        futures::future::try_join_all(streams).await?;
    } else {
        for stream in streams {
            stream.await?;
        }
    }
    Ok(())
}

fn no_pod(session: &Session, error: Error) -> Error {
    match error.refusal().filter(|_| error.is_not_found()) {
        Some(why) => {
            usage(format!("error from server (NotFound): {why} in namespace {:?}", session.namespace))
        }
        None => error,
    }
}

fn containers(args: &Args, pod: &Value) -> Vec<String> {
    if let Some(name) = args.container.clone().or(args.container_name.clone()) {
        return vec![name];
    }
    let all: Vec<String> = ["initContainers", "containers"]
        .iter()
        .flat_map(|list| pod["spec"][list].as_array().into_iter().flatten())
        .map(|c| c["name"].as_str().unwrap_or("").to_owned())
        .collect();
    if args.all_containers {
        return all;
    }
    let preferred = object::annotations(pod).and_then(|a| a.get("kubectl.kubernetes.io/default-container"));
    let main = pod.pointer("/spec/containers/0/name");
    let name = preferred.or(main).and_then(Value::as_str).unwrap_or("").to_owned();
    if preferred.is_none() && all.len() > 1 {
        eprintln!("Defaulted container {name:?} out of: {}", all.join(", "));
    }
    vec![name]
}

fn query(args: &Args, container: &str) -> Result<String, Error> {
    let mut query = Query::default();
    query.add("container", container);
    for (name, on) in [("follow", args.follow), ("previous", args.previous), ("timestamps", args.timestamps)]
    {
        if on {
            query.add(name, "true");
        }
    }
    let tail = args.tail.or(args.selector.as_ref().map(|_| SELECTOR_TAIL)).filter(|lines| *lines >= 0);
    query.add_some("tailLines", tail.map(|lines| lines.to_string()).as_deref());
    query.add_some("limitBytes", args.limit_bytes.map(|bytes| bytes.to_string()).as_deref());
    if let Some(since) = &args.since {
        query.add("sinceSeconds", &seconds(since)?.to_string());
    }
    Ok(query.as_str().to_owned())
}

/// `90s`, `5m`, `1h30m`.
pub fn seconds(text: &str) -> Result<u64, Error> {
    let fail = || usage(format!("invalid argument {text:?}: time: invalid duration {text:?}"));
    let mut total = 0;
    let mut number = String::new();
    for c in text.chars() {
        if c.is_ascii_digit() {
            number.push(c);
            continue;
        }
        let unit = match c {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            _ => return Err(fail()),
        };
        total += number.parse::<u64>().map_err(|_| fail())? * unit;
        number.clear();
    }
    if number.is_empty() && !text.is_empty() { Ok(total) } else { Err(fail()) }
}

/// Copies a log to standard output.
pub async fn copy(session: &Session, path: String, prefix: String) -> Result<(), Error> {
    let request = Request::builder().uri(path).header("accept", "*/*").body(Vec::new())?;
    let mut stream = session.client.stream(request).await?;
    let mut line_start = true;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        let mut out = std::io::stdout().lock();
        if prefix.is_empty() {
            out.write_all(&chunk)?;
        } else {
            for line in chunk.split_inclusive(|b| *b == b'\n') {
                if line_start {
                    out.write_all(prefix.as_bytes())?;
                }
                out.write_all(line)?;
                line_start = line.ends_with(b"\n");
            }
        }
        out.flush()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn durations() {
        assert_eq!(super::seconds("1h30m").unwrap(), 5400);
        assert_eq!(super::seconds("5s").unwrap(), 5);
        assert!(super::seconds("5").is_err());
        assert!(super::seconds("x").is_err());
    }
}

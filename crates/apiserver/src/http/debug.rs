//! `/debug`: what the maintainer asks a server that is slow or large, or refuses requests. Behind
//! authorization like every path, and made when asked for.

use std::fmt::Write;

use amphipod_api::status::Status;
use amphipod_profile::{Error, timed};
use http::header::{CONTENT_DISPOSITION, HeaderValue};
use http::{Response, StatusCode};

use super::path::Query;
use crate::body::{self, Body};
use crate::flow_control::dump;
use crate::registry::view;
use crate::server::ApiServer;

const INDEX: &str = "/debug/pprof/\n\nheap: memory of the process, and what the watch cache holds\n\
                     profile: where processor time goes, for seconds=30 seconds; for go tool pprof and speedscope\n\
                     tasks: the runtime's tasks and queues, requests being served and waiting\n";
const FLOW_CONTROL: &str = "/debug/api_priority_and_fairness/";
/// Asks the table of requests to say who asked for what.
const DETAILS: &str = "includeRequestDetails";
/// When to ask for a profile again while another one is taken.
const BUSY_SECONDS: u32 = 10;

/// These answer when they are done, not within the time of a request.
pub fn is_long_running(path: &str) -> bool {
    path.starts_with("/debug/pprof/")
}

pub async fn answer(server: &ApiServer, path: &str, query: &Query) -> Result<Response<Body>, Status> {
    let text = match path {
        "/debug/pprof" => INDEX.to_owned(),
        "/debug/pprof/heap" => heap(server),
        "/debug/pprof/profile" => return profile(server, query).await,
        "/debug/pprof/tasks" => tasks(server),
        _ => path
            .strip_prefix(FLOW_CONTROL)
            .and_then(|table| dump::answer(&server.flow_control, table, !query.text(DETAILS).is_empty()))
            .ok_or_else(Status::no_such_path)?,
    };
    Ok(view::response(StatusCode::OK, "text/plain; charset=utf-8", body::full(text)))
}

/// The process is sampled until the time is over, the client is gone or the server ends.
async fn profile(server: &ApiServer, query: &Query) -> Result<Response<Body>, Status> {
    let length =
        timed::length(query.text("seconds")).map_err(|error| Status::bad_request(error.to_string()))?;
    let taken = timed::taken(length, server.shutdown.cancelled()).await;
    let packed = taken.map_err(|error| match error {
        Error::Busy => Status::too_many_requests(error.to_string(), BUSY_SECONDS),
        other => Status::internal(other),
    })?;
    let mut answer = view::response(StatusCode::OK, "application/octet-stream", body::full(packed));
    let saved_as = HeaderValue::from_static("attachment; filename=\"profile\"");
    answer.headers_mut().insert(CONTENT_DISPOSITION, saved_as);
    Ok(answer)
}

fn heap(server: &ApiServer) -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut text: String = status
        .lines()
        .filter(|line| line.starts_with("Vm") || line.starts_with("Rss"))
        .collect::<Vec<_>>()
        .join("\n");
    text.push_str("\n\nresource objects watchers\n");
    let mut collections = server.cache.standings();
    collections.sort_by_key(|(name, standing)| (std::cmp::Reverse(standing.objects), name.clone()));
    for (resource, standing) in collections {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{resource} {} {}", standing.objects, standing.watchers);
    }
    text
}

fn tasks(server: &ApiServer) -> String {
    let runtime = tokio::runtime::Handle::current().metrics();
    let mut text = format!(
        "workers {}\nalive tasks {}\nglobal queue {}\n",
        runtime.num_workers(),
        runtime.num_alive_tasks(),
        runtime.global_queue_depth()
    );
    for (kind, served, waiting) in server.flow_control.load() {
        let _ = writeln!(text, "requests {} served {served} waiting {waiting}", kind.name());
    }
    text
}

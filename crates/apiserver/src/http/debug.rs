//! `/debug/pprof`: what the maintainer asks a server that is slow or large. Behind authorization
//! like every path; plain text, made when asked for.

use std::fmt::Write;

use amphipod_api::status::Status;
use http::{Response, StatusCode};

use crate::body::{self, Body};
use crate::registry::view;
use crate::server::ApiServer;

const INDEX: &str = "/debug/pprof/\n\nheap: memory of the process, and what the watch cache holds\n\
                     tasks: the runtime's tasks and queues, requests being served and waiting\n";

pub fn answer(server: &ApiServer, path: &str) -> Result<Response<Body>, Status> {
    let text = match path {
        "/debug/pprof" => INDEX.to_owned(),
        "/debug/pprof/heap" => heap(server),
        "/debug/pprof/tasks" => tasks(server),
        _ => return Err(Status::no_such_path()),
    };
    Ok(view::response(StatusCode::OK, "text/plain; charset=utf-8", body::full(text)))
}

fn heap(server: &ApiServer) -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut text: String = status
        .lines()
        .filter(|line| line.starts_with("Vm") || line.starts_with("Rss"))
        .collect::<Vec<_>>()
        .join("\n");
    text.push_str("\n\nresource objects watchers\n");
    let mut collections = server.cache.sizes();
    collections.sort_by_key(|(name, objects, _)| (std::cmp::Reverse(*objects), name.clone()));
    for (resource, objects, watchers) in collections {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{resource} {objects} {watchers}");
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
    for (kind, served, waiting) in server.limits.load() {
        let _ = writeln!(text, "requests {} served {served} waiting {waiting}", kind.name());
    }
    text
}

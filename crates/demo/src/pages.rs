//! The paths the server answers: one page for people, small endpoints for scripts.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use crate::http::{Request, Response};
use crate::state::{Probe, State};
use crate::{dns, keygen};

/// Keys one request may ask for.
const MAX_KEYS: usize = 1000;
/// The file browser shows at most this much of a file.
const MAX_SHOWN_BYTES: usize = 256 << 10;

pub fn answer(state: &State, request: &Request) -> Response {
    match request.path.as_str() {
        "/" => Response::html(page(state, request)),
        "/healthy" => probe(&state.healthy),
        "/ready" if state.draining.load(Ordering::SeqCst) => Response::text(503, "stopping\n"),
        "/ready" => probe(&state.ready),
        "/healthy/api" => set_probe(&state.healthy, request),
        "/ready/api" => set_probe(&state.ready, request),
        "/hostname" => Response::text(200, format!("{}\n", state.hostname)),
        "/version" => Response::text(200, format!("{}\n", state.version)),
        "/env/api" => Response::json(environment()),
        "/mem/api" => Response::text(200, memory()),
        "/dns/api" => lookup(request),
        "/keygen/api" => generate(request),
        "/memq/api" => queue(state, request),
        "/request/api" => Response::text(200, request_details(request)),
        path => match path.strip_prefix("/fs") {
            Some(rest) => browse(rest),
            None => Response::text(404, "not found\n"),
        },
    }
}

fn probe(probe: &Probe) -> Response {
    if probe.ask() { Response::text(200, "ok\n") } else { Response::text(503, "told to fail\n") }
}

/// `?fail=always`, `?fail=3`, `?fail=0`.
fn set_probe(probe: &Probe, request: &Request) -> Response {
    if let Some(value) = request.parameter("fail") {
        match (value, value.parse()) {
            ("always", _) => probe.set(None),
            (_, Ok(times)) => probe.set(Some(times)),
            _ => return Response::text(400, "fail takes a number or \"always\"\n"),
        }
    }
    Response::text(200, format!("{}\n", probe.describe()))
}

fn json_text(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if (c as u32) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn environment() -> String {
    let mut variables: Vec<(String, String)> = std::env::vars().collect();
    variables.sort();
    let pairs: Vec<String> =
        variables.iter().map(|(k, v)| format!("{}:{}", json_text(k), json_text(v))).collect();
    let arguments: Vec<String> = std::env::args().map(|a| json_text(&a)).collect();
    format!("{{\"commandLine\":[{}],\"env\":{{{}}}}}\n", arguments.join(","), pairs.join(","))
}

fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let wanted = ["VmRSS", "VmSize", "Threads"];
    let own: String = status
        .lines()
        .filter(|l| wanted.iter().any(|w| l.starts_with(w)))
        .map(|l| format!("{l}\n"))
        .collect();
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limit = limits.iter().find_map(|path| std::fs::read_to_string(path).ok());
    format!("{own}limit:\t{}\n", limit.as_deref().map_or("unknown", str::trim))
}

fn request_details(request: &Request) -> String {
    let from = request.peer.map(|p| p.to_string()).unwrap_or_default();
    let headers: String = request.headers.iter().map(|(k, v)| format!("{k}: {v}\n")).collect();
    format!("{} {}\nfrom {from}\n{headers}", request.method, request.path)
}

fn lookup(request: &Request) -> Response {
    let name = request.parameter("name").unwrap_or("kubernetes.default");
    match dns::lookup(name, request.parameter("type").unwrap_or("A")) {
        Ok(records) => {
            let lines = records.iter().map(|r| format!("{} {} {}\n", r.name, r.kind, r.data));
            Response::text(200, lines.collect::<String>())
        }
        Err(error) => Response::text(404, format!("{error}\n")),
    }
}

fn generate(request: &Request) -> Response {
    let count = request.parameter("count").and_then(|c| c.parse().ok()).unwrap_or(10);
    Response::text(200, keygen::generate(count.min(MAX_KEYS)))
}

fn queue(state: &State, request: &Request) -> Response {
    match request.method.as_str() {
        "POST" | "PUT" => match state.enqueue(request.body.clone()) {
            Ok(length) => Response::text(200, format!("{length}\n")),
            Err(why) => Response::text(503, format!("{why}\n")),
        },
        "DELETE" => match state.dequeue() {
            Some(message) => Response::text(200, message),
            None => Response { code: 204, content_type: "text/plain", body: Vec::new() },
        },
        _ => Response::text(200, format!("{} messages\n", state.queue_length())),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn browse(path: &str) -> Response {
    let path = if path.is_empty() { "/" } else { path };
    let Ok(meta) = std::fs::metadata(path) else {
        return Response::text(404, format!("{path}: not found\n"));
    };
    if !meta.is_dir() {
        let mut bytes = std::fs::read(path).unwrap_or_default();
        bytes.truncate(MAX_SHOWN_BYTES);
        return Response::text(200, String::from_utf8_lossy(&bytes).into_owned());
    }
    let mut names: Vec<String> = std::fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let base = path.trim_end_matches('/');
    let links =
        names.iter().map(|n| format!("<li><a href=\"/fs{0}/{1}\">{1}</a></li>", escape(base), escape(n)));
    Response::html(format!("<h1>{}</h1><ul>{}</ul>", escape(path), links.collect::<String>()))
}

fn page(state: &State, request: &Request) -> String {
    let (colour, name) =
        if state.version == "1" { ("#1d6fa5", "shoreline") } else { ("#b3471d", "deep sea") };
    let section = |title: &str, text: &str| format!("<h2>{title}</h2><pre>{}</pre>", escape(text));
    let probes = |title: &str, path: &str, probe: &Probe| {
        format!(
            "<h2>{title}</h2><p>{} (asked {} times) <a href=\"{path}/api?fail=always\">fail</a> \
             <a href=\"{path}/api?fail=3\">fail 3 times</a> <a href=\"{path}/api?fail=0\">succeed</a></p>",
            probe.describe(),
            probe.asked.load(Ordering::Relaxed)
        )
    };
    let mut body = format!(
        "<header><h1>demo version {}</h1><p>{name}: served by <b>{}</b>, request {}</p></header><main>",
        escape(&state.version),
        escape(&state.hostname),
        state.requests.load(Ordering::Relaxed)
    );
    body += &section("Request", &request_details(request));
    body += &section("Server environment", &environment());
    body += &section("Memory", &memory());
    body += &probes("Liveness probe", "/healthy", &state.healthy);
    body += &probes("Readiness probe", "/ready", &state.ready);
    body += "<h2>DNS query</h2><form action=\"/dns/api\"><input name=name value=kubernetes.default>\
             <select name=type><option>A<option>AAAA<option>SRV<option>CNAME<option>PTR</select>\
             <button>look up</button></form>";
    body += "<h2>Key generation</h2><form action=\"/keygen/api\"><input name=count value=100>\
             <button>make keys</button></form>";
    body += &format!(
        "<h2>Queue in memory</h2><p>{} messages at <code>/memq/api</code></p>",
        state.queue_length()
    );
    body += "<h2>Files</h2><p><a href=\"/fs/\">browse</a></p></main>";
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>demo {}</title><style>body{{font:16px/1.5 \
         system-ui;margin:0}}header{{background:{colour};color:#fff;padding:1rem 2rem}}main{{padding:0 \
         2rem 2rem}}pre{{background:#f3f3f3;padding:1rem;overflow:auto}}</style>{body}</html>\n",
        escape(&state.version)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, path: &str, query: &[(&str, &str)], body: &str) -> Request {
        Request {
            method: method.into(),
            path: path.into(),
            query: query.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            headers: Vec::new(),
            body: body.into(),
            peer: None,
        }
    }

    #[test]
    fn probes_and_queue_answer_as_told() {
        let state = State::from_environment();
        let call =
            |method, path, query: &[(&str, &str)], body| answer(&state, &request(method, path, query, body));
        assert_eq!(call("GET", "/healthy", &[], "").code, 200);
        assert_eq!(call("PUT", "/healthy/api", &[("fail", "always")], "").code, 200);
        assert_eq!(call("GET", "/healthy", &[], "").code, 503);
        assert_eq!(call("PUT", "/ready/api", &[("fail", "soon")], "").code, 400);
        assert_eq!(call("POST", "/memq/api", &[], "hello").body, b"1\n");
        assert_eq!(call("DELETE", "/memq/api", &[], "").body, b"hello");
        assert_eq!(call("DELETE", "/memq/api", &[], "").code, 204);
        assert_eq!(call("GET", "/nowhere", &[], "").code, 404);
        assert!(environment().starts_with("{\"commandLine\":["));
    }
}

//! Just enough HTTP/1.1: one thread a connection, keep-alive, bounded heads and bodies.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::pages;
use crate::state::State;

const MAX_HEAD_BYTES: u64 = 32 << 10;
const MAX_BODY_BYTES: usize = 1 << 20;
const MAX_CONNECTIONS: usize = 512;
const IDLE: Duration = Duration::from_secs(30);

pub struct Request {
    pub method: String,
    pub path: String,
    pub query: Vec<(String, String)>,
    pub headers: Vec<(String, String)>,
    pub body: String,
    pub peer: Option<SocketAddr>,
}

impl Request {
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

pub struct Response {
    pub code: u16,
    pub content_type: &'static str,
    pub body: Vec<u8>,
}

impl Response {
    pub fn text(code: u16, body: impl Into<String>) -> Self {
        Response { code, content_type: "text/plain; charset=utf-8", body: body.into().into_bytes() }
    }
    pub fn json(body: String) -> Self {
        Response { code: 200, content_type: "application/json", body: body.into_bytes() }
    }
    pub fn html(body: String) -> Self {
        Response { code: 200, content_type: "text/html; charset=utf-8", body: body.into_bytes() }
    }
}

pub fn serve(listener: &TcpListener, state: &Arc<State>) {
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        if open.fetch_add(1, Ordering::SeqCst) >= MAX_CONNECTIONS {
            open.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let (state, open) = (state.clone(), open.clone());
        std::thread::spawn(move || {
            // A peer that goes away is no event worth telling.
            let _ = converse(stream, &state);
            open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

fn converse(stream: TcpStream, state: &State) -> std::io::Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_nodelay(true)?;
    let peer = stream.peer_addr().ok();
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader, peer)? {
        let number = state.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let asked_to_close =
            request.headers.iter().any(|(k, v)| k == "connection" && v.eq_ignore_ascii_case("close"));
        let response = pages::answer(state, &request);
        let from = peer.map(|p| p.to_string()).unwrap_or_default();
        println!("{number} {from} {} {} {}", request.method, request.path, response.code);
        let close = asked_to_close || state.draining.load(Ordering::SeqCst);
        write_response(&mut writer, &response, close, request.method == "HEAD")?;
        if close {
            break;
        }
    }
    Ok(())
}

fn write_response(out: &mut impl Write, response: &Response, close: bool, head: bool) -> std::io::Result<()> {
    let reason = match response.code {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    };
    let connection = if close { "close" } else { "keep-alive" };
    let mut message = format!(
        "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n",
        response.code,
        response.content_type,
        response.body.len()
    )
    .into_bytes();
    if !head {
        message.extend_from_slice(&response.body);
    }
    out.write_all(&message)
}

/// `None` at a clean end of the connection.
fn read_request(reader: &mut impl BufRead, peer: Option<SocketAddr>) -> std::io::Result<Option<Request>> {
    let mut head = reader.by_ref().take(MAX_HEAD_BYTES);
    let mut line = String::new();
    if head.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(None) };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (method, path, query) = (method.to_owned(), decode(path), parse_query(query));
    let mut headers = Vec::new();
    loop {
        line.clear();
        if head.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let trimmed = line.trim_end();
        if trimmed.is_empty() {
            break;
        }
        if let Some((key, value)) = trimmed.split_once(':') {
            headers.push((key.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    let length = headers.iter().find(|(key, _)| key == "content-length").and_then(|(_, v)| v.parse().ok());
    let mut body = vec![0; length.unwrap_or(0).min(MAX_BODY_BYTES)];
    reader.read_exact(&mut body)?;
    let body = String::from_utf8_lossy(&body).into_owned();
    Ok(Some(Request { method, path, query, headers, body, peer }))
}

fn parse_query(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(k, v)| (decode(k), decode(v)))
        .collect()
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|h| std::str::from_utf8(h).ok());
        match (bytes[at], hex.and_then(|h| u8::from_str_radix(h, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
                continue;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Fetches a URL, for the shell's `get`.
pub fn get(url: &str) -> Result<String, String> {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    if rest.starts_with("https://") {
        return Err("https is not spoken here; use http".to_owned());
    }
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (name, port) = host.rsplit_once(':').unwrap_or((host, "80"));
    let port: u16 = port.parse().map_err(|_| format!("bad port {port:?}"))?;
    let address = crate::dns::resolve(name)?;
    let timeout = Duration::from_secs(5);
    let fail = |e: std::io::Error| format!("{host}: {e}");
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, port), timeout).map_err(fail)?;
    stream.set_read_timeout(Some(timeout)).map_err(fail)?;
    let request =
        format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: demo\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(fail)?;
    let mut answer = Vec::new();
    stream.take(16 << 20).read_to_end(&mut answer).map_err(fail)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let code = head.split_whitespace().nth(1).unwrap_or("?");
    if code.starts_with('2') { Ok(body.to_owned()) } else { Err(format!("{host}: HTTP {code}: {body}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_parsed() {
        let raw = b"POST /a%20b?x=1+2&y HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc";
        let request = read_request(&mut &raw[..], None).unwrap().unwrap();
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/a b"));
        assert_eq!(request.parameter("x"), Some("1 2"));
        assert_eq!(request.parameter("y"), Some(""));
        assert_eq!(request.body, "abc");
    }
}

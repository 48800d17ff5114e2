//! `/openapi/v2` and `/openapi/v3`: made when asked for, kept by clients under their hash.

use amphipod_api::status::Status;
use amphipod_openapi::{Info, V2_PROTOBUF, V2_PROTOBUF_ANSWER};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::Map;

use super::handlers::{matches_etag, set_etag};
use super::negotiate;
use super::path::Query;
use crate::body::{self, Body};
use crate::registry::render::ExpectedSize;
use crate::registry::view;
use crate::server::ApiServer;

const JSON: &str = "application/json";

pub fn answer(
    server: &ApiServer,
    path: &str,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Response<Body>, Status> {
    let version = server.config.version.git_version.clone();
    let info = Info { server_version: version.split('+').next().unwrap_or(&version) };
    match path {
        "/openapi/v2" => {
            let etag = format!("\"{}\"", amphipod_openapi::hash(info, "v2"));
            let protobuf = negotiate::clauses(headers).iter().any(|c| c.media_type == V2_PROTOBUF);
            Ok(tagged(headers, &etag, if protobuf { V2_PROTOBUF_ANSWER } else { JSON }, || {
                if protobuf {
                    amphipod_openapi::v2_protobuf(info, &Map::new())
                } else {
                    amphipod_openapi::v2(info, &Map::new())
                }
            }))
        }
        "/openapi/v3" => {
            let text = amphipod_openapi::v3_index(info, &[]).to_string();
            let etag = crate::discovery::etag(text.as_bytes());
            Ok(tagged(headers, &etag, JSON, || text.into()))
        }
        _ => {
            let part = path.trim_start_matches("/openapi/v3/");
            let document = amphipod_openapi::v3(info, part).ok_or_else(Status::no_such_path)?;
            let hash = amphipod_openapi::hash(info, part);
            let given = query.text("hash");
            if !given.is_empty() && given != hash {
                // An old name of the document: its new one is told.
                let mut moved = view::response(StatusCode::MOVED_PERMANENTLY, JSON, body::empty());
                if let Ok(location) = format!("{path}?hash={hash}").parse() {
                    moved.headers_mut().insert(http::header::LOCATION, location);
                }
                return Ok(moved);
            }
            let mut answer = tagged(headers, &format!("\"{hash}\""), JSON, || document);
            // Asked for by its hash it never changes.
            if query.text("hash") == hash {
                let value = HeaderValue::from_static("public, immutable");
                answer.headers_mut().insert(http::header::CACHE_CONTROL, value);
            }
            Ok(answer)
        }
    }
}

fn tagged(headers: &HeaderMap, etag: &str, media_type: &str, make: impl FnOnce() -> Bytes) -> Response<Body> {
    let mut answer = if matches_etag(headers, etag) {
        view::response(StatusCode::NOT_MODIFIED, media_type, body::empty())
    } else {
        let bytes = make();
        let size = ExpectedSize(bytes.len());
        let mut answer = view::response(StatusCode::OK, media_type, body::full(bytes));
        answer.extensions_mut().insert(size);
        answer
    };
    set_etag(&mut answer, etag);
    answer.headers_mut().insert(http::header::VARY, HeaderValue::from_static("Accept"));
    answer
}

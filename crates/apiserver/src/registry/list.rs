//! LIST: matching entries are collected as shared pointers, their bytes streamed chunk by chunk as
//! the client takes them; the whole answer never exists at once.

use std::sync::Arc;

use amphipod_api::status::Status;
use amphipod_store::Revision;
use bytes::{BufMut, Bytes, BytesMut};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::options::{self, AsOf, CONTINUE_EXPIRED, ListOptions};
use super::{encode, view};
use crate::body::{self, Body, BoxError};
use crate::cache::{Collection, Entry, Selector, Snapshot, within};
use crate::context::Context;
use crate::http::negotiate::{Encoding, Form};
use crate::server::ApiServer;

/// One chunk of a streamed list: large enough to cost few writes, small enough to keep memory flat.
const CHUNK_BYTES: usize = 64 << 10;

/// The outcome of a list before it is written.
pub struct Page {
    pub revision: Revision,
    pub entries: Vec<Arc<Entry>>,
    pub next: Option<String>,
    pub remaining: Option<usize>,
}

impl Page {
    pub fn metadata(&self) -> Value {
        let mut metadata = json!({"resourceVersion": self.revision.to_string()});
        if let Some(next) = &self.next {
            metadata["continue"] = next.as_str().into();
        }
        if let Some(remaining) = self.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
        metadata
    }
}

pub async fn list(server: &ApiServer, cx: Arc<Context>) -> Result<Response<Body>, Status> {
    if cx.query.contains("sendInitialEvents") {
        let path = amphipod_api::field::Path::new("sendInitialEvents");
        let text = "sendInitialEvents is forbidden for list";
        return Err(cx.invalid_options(&amphipod_api::field::Error::forbidden(&path, text)));
    }
    let collection = server.cache.collection(&cx.resource).await?;
    let options = ListOptions::parse(&cx)?;
    let selector = options::selector(&cx, &collection)?;
    let page = page(server, &collection, cx.namespace(), &selector, &options).await?;
    respond(cx, page).await
}

/// Reads one page.
pub async fn page(
    server: &ApiServer,
    collection: &Collection,
    namespace: &str,
    selector: &Selector,
    options: &ListOptions,
) -> Result<Page, Status> {
    let (snapshot, revision) = match read(server, collection, options.as_of).await {
        Err(status) if options.continued && status.code == 410 => {
            return Err(expired_page(options.start.as_deref().unwrap_or("")));
        }
        other => other?,
    };
    let prefix = &collection.prefix;
    let scope = if namespace.is_empty() { prefix.clone() } else { format!("{prefix}{namespace}/") };
    Ok(select(&snapshot, revision, &scope, selector, options))
}

fn expired_page(start: &str) -> Status {
    let mut status = Status::expired(CONTINUE_EXPIRED);
    status.metadata.continue_ = Some(options::continue_token(start, None));
    status
}

async fn read(
    server: &ApiServer,
    collection: &Collection,
    as_of: AsOf,
) -> Result<(Snapshot, Revision), Status> {
    let cache = &server.cache;
    match as_of {
        AsOf::Newest => {
            cache.fresh().await?;
        }
        AsOf::Any => {}
        AsOf::NotOlderThan(revision) => cache.wait_for(revision).await?,
        AsOf::Exactly(revision) => return Ok((cache.at(collection, revision).await?, revision)),
    }
    // Read before the snapshot, which has at least all of that; what is newer in it counts too.
    let applied = cache.applied();
    let (snapshot, newest) = collection.snapshot_and_change();
    Ok((snapshot, applied.max(newest)))
}

fn select(
    snapshot: &Snapshot,
    revision: Revision,
    scope: &str,
    selector: &Selector,
    options: &ListOptions,
) -> Page {
    let start = format!("{scope}{}", options.start.as_deref().unwrap_or(""));
    let mut page = Page { revision, entries: Vec::new(), next: None, remaining: None };
    let mut range = within(snapshot, &start, scope);
    let everything = selector.is_everything();
    for entry in range.by_ref() {
        if !everything && !selector.matches(entry) {
            continue;
        }
        if options.limit > 0 && page.entries.len() == options.limit {
            // One more matches: there is a next page, and it begins right after this page's last.
            let last = page.entries.last().map(|e| e.key[scope.len()..].to_owned()).unwrap_or_default();
            page.next = Some(options::continue_token(&format!("{last}\0"), Some(revision)));
            page.remaining = everything.then(|| range.count() + 1);
            return page;
        }
        page.entries.push(entry.clone());
    }
    page
}

/// Writes a page in the form asked for.
pub async fn respond(cx: Arc<Context>, page: Page) -> Result<Response<Body>, Status> {
    if let Some(writer) = view::stored_writer(&cx) {
        return super::message_list::respond(&cx.resource, writer, page).await;
    }
    if cx.accepted.encoding != Encoding::Json || cx.accepted.pretty {
        return whole(&cx, &page);
    }
    let (head, tail) = frame(&cx, &page);
    let size = page.entries.iter().map(|e| e.bytes.len()).sum::<usize>();
    let mut answer = view::response(
        StatusCode::OK,
        Encoding::Json.media_type(),
        stream(Renderer::new(cx), page.entries, head, tail),
    );
    answer.extensions_mut().insert(ExpectedSize(size));
    Ok(answer)
}

/// About how long a streamed answer will be, for the decision to compress.
#[derive(Clone, Copy, Debug)]
pub struct ExpectedSize(pub usize);

/// What stands before and after the items.
fn frame(cx: &Context, page: &Page) -> (Bytes, &'static str) {
    let resource = &cx.resource;
    let metadata = page.metadata();
    let head = match cx.accepted.form {
        Form::Object => {
            let (kind, version) = (format!("{}List", resource.kind), resource.api_version());
            format!(
                "{{\"kind\":{},\"apiVersion\":{},\"metadata\":{metadata},\"items\":[",
                json!(kind),
                json!(version)
            )
        }
        Form::PartialMetadata => format!(
            "{{\"kind\":\"PartialObjectMetadataList\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
            view::META_V1
        ),
        Form::Table => format!(
            "{{\"kind\":\"Table\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"columnDefinitions\":{},\"rows\":[",
            view::META_V1,
            view::columns(resource)
        ),
    };
    (head.into(), "]}")
}

/// Writes single items.
pub struct Renderer {
    cx: Arc<Context>,
    stored_form: bool,
    type_prefix: Vec<u8>,
}

impl Renderer {
    pub fn new(cx: Arc<Context>) -> Self {
        let stored_form = view::is_stored_form(&cx.resource);
        let type_prefix = encode::type_prefix(&cx.resource.kind, &cx.resource.api_version());
        Renderer { cx, stored_form, type_prefix }
    }

    fn item(&self, entry: &Entry, out: &mut BytesMut) -> Result<(), Status> {
        match (self.cx.accepted.form, self.stored_form) {
            (Form::Object, true) => match entry.bytes.strip_prefix(self.type_prefix.as_slice()) {
                Some(rest) => {
                    out.put_u8(b'{');
                    out.put_slice(rest);
                }
                None => out.put_slice(&entry.bytes),
            },
            (Form::PartialMetadata, true) => {
                let head = format!(
                    "{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"{}\",\"metadata\":",
                    view::META_V1
                );
                out.put_slice(head.as_bytes());
                match encode::metadata_slice(&entry.bytes) {
                    Some(metadata) => out.put_slice(&metadata),
                    None => out.put_slice(b"{}"),
                }
                out.put_u8(b'}');
            }
            (form, _) => {
                let value = view::served(&self.cx.resource, &entry.bytes)?;
                let value = match form {
                    Form::Object => value,
                    Form::PartialMetadata => view::partial(value),
                    Form::Table => view::row(&self.cx, value),
                };
                serde_json::to_writer(out.writer(), &value).map_err(Status::internal)?;
            }
        }
        Ok(())
    }
}

/// The pull side of back pressure: a chunk is made when the connection asks for one.
fn stream(renderer: Renderer, entries: Vec<Arc<Entry>>, head: Bytes, tail: &'static str) -> Body {
    let state = (renderer, entries.into_iter(), Some(head), true);
    body::stream(futures::stream::unfold(state, move |(renderer, mut entries, head, open)| async move {
        if !open {
            return None;
        }
        let first = head.is_some();
        let mut out = BytesMut::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 4);
        out.put_slice(&head.unwrap_or_default());
        let mut separate = !first;
        let mut open = true;
        while out.len() < CHUNK_BYTES {
            let Some(entry) = entries.next() else {
                out.put_slice(tail.as_bytes());
                open = false;
                break;
            };
            if separate {
                out.put_u8(b',');
            }
            separate = true;
            if let Err(status) = renderer.item(&entry, &mut out) {
                return Some((Err(BoxError::from(status)), (renderer, entries, None, false)));
            }
        }
        // An empty first chunk cannot be: the head is never empty.
        Some((Ok(out.freeze()), (renderer, entries, None, open)))
    }))
}

/// YAML, and protobuf of what is not stored as it is served, need the list as one value.
fn whole(cx: &Context, page: &Page) -> Result<Response<Body>, Status> {
    let items = page.entries.iter().map(|e| view::served(&cx.resource, &e.bytes));
    let items = items.collect::<Result<Vec<Value>, Status>>()?;
    let resource = &cx.resource;
    let value = match cx.accepted.form {
        Form::Object => {
            json!({"kind": format!("{}List", resource.kind), "apiVersion": resource.api_version(),
            "metadata": page.metadata(), "items": items})
        }
        Form::PartialMetadata => json!({"kind": "PartialObjectMetadataList", "apiVersion": view::META_V1,
            "metadata": page.metadata(), "items": items.into_iter().map(view::partial).collect::<Vec<_>>()}),
        Form::Table => {
            let rows = items.into_iter().map(|item| view::row(cx, item)).collect();
            view::table(resource, page.metadata(), rows, true)
        }
    };
    view::value_response(cx, StatusCode::OK, &value)
}

/// GET of one object.
pub async fn get(server: &ApiServer, cx: &Context) -> Result<Response<Body>, Status> {
    let collection = server.cache.collection(&cx.resource).await?;
    match cx.query.text("resourceVersion") {
        "" => {
            server.cache.fresh().await?;
        }
        "0" => {}
        text => server.cache.wait_for(options::revision(text)?).await?,
    }
    let entry = collection.get(&super::key(cx)).ok_or_else(|| cx.not_found())?;
    view::stored_response(cx, StatusCode::OK, &entry.bytes)
}

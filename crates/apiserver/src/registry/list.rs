//! LIST: which entries of which revision. They are collected as shared pointers; `render` writes
//! them.

use std::sync::Arc;

use amphipod_api::status::Status;
use amphipod_api::table;
use amphipod_store::Revision;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::options::{self, AsOf, CONTINUE_EXPIRED, ListOptions};
use super::{render, view};
use crate::body::Body;
use crate::cache::{Collection, Entry, Selector, Snapshot, within};
use crate::context::Context;
use crate::http::negotiate::Form;
use crate::server::ApiServer;

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
    let collection = server.cache.collection(&cx.resource).await?;
    let options = ListOptions::parse(&cx)?;
    let selector = options::selector(&cx, &collection)?;
    let page = page(server, &collection, cx.namespace(), &selector, &options).await?;
    server.metrics.listed(&cx.resource, page.entries.len());
    let page = ranked(&cx, page);
    render::respond(cx, page).await
}

/// A table's rows in their own order, where the kind has one; equals stay sorted by name.
fn ranked(cx: &Context, mut page: Page) -> Page {
    let rank = table::rank(&cx.resource.group, &cx.resource.plural);
    if let Some(rank) = rank.filter(|_| cx.accepted.form == Form::Table) {
        let rank_of = |entry: &Arc<Entry>| view::served(&cx.resource, &entry.bytes).map_or(0, |o| rank(&o));
        page.entries.sort_by_cached_key(rank_of);
    }
    page
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
        Err(status) if matches!(options.as_of, AsOf::Exactly(_)) && status.code == 410 => {
            return Err(Status::expired("The resourceVersion for the provided list is too old."));
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

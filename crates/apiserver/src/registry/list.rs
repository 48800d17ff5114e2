//! LIST: which entries of which revision. They are collected as shared pointers; `render` writes
//! them.

use std::sync::Arc;

use amphipod_api::status::Status;
use amphipod_api::table;
use amphipod_store::{Range, Revision};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::options::{self, AsOf, CONTINUE_EXPIRED, ListOptions};
use super::{render, view};
use crate::body::Body;
use crate::cache::{Cache, Collection, Entry, Selector, Snapshot, storage_status, within};
use crate::context::Context;
use crate::http::negotiate::Form;
use crate::server::ApiServer;

/// Most keys read at once where a selector rejects many, as upstream has it.
const MAX_PART_KEYS: usize = 10_000;

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
        let rank_of =
            |entry: &Arc<Entry>| view::served(&cx.resource, &entry.text.contiguous()).map_or(0, |o| rank(&o));
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
    let prefix = &collection.prefix;
    let scope = if namespace.is_empty() { prefix.clone() } else { format!("{prefix}{namespace}/") };
    let wanted = Wanted { scope: &scope, selector, options };
    match read(&server.cache, collection, &wanted).await {
        Err(status) if options.continued && status.code == 410 => {
            Err(expired_page(options.start.as_deref().unwrap_or("")))
        }
        Err(status) if matches!(options.as_of, AsOf::Exactly(_)) && status.code == 410 => {
            Err(Status::expired("The resourceVersion for the provided list is too old."))
        }
        other => other,
    }
}

fn expired_page(start: &str) -> Status {
    let mut status = Status::expired(CONTINUE_EXPIRED);
    status.metadata.continue_ = Some(options::continue_token(start, None));
    status
}

/// What a page is to hold.
struct Wanted<'a> {
    /// What keys begin with.
    scope: &'a str,
    selector: &'a Selector,
    options: &'a ListOptions,
}

impl Wanted<'_> {
    /// The first key that may be on the page.
    fn start(&self) -> String {
        format!("{}{}", self.scope, self.options.start.as_deref().unwrap_or(""))
    }
}

async fn read(cache: &Cache, collection: &Collection, wanted: &Wanted<'_>) -> Result<Page, Status> {
    match wanted.options.as_of {
        AsOf::Newest => {
            cache.fresh().await?;
        }
        AsOf::Any => {}
        AsOf::NotOlderThan(revision) => cache.wait_for(revision).await?,
        AsOf::Exactly(revision) => {
            return match cache.at(collection, revision).await? {
                Some(snapshot) => Ok(select(&snapshot, revision, wanted)),
                None => read_stored(cache, collection, revision, wanted).await,
            };
        }
    }
    // Read before the snapshot, which has at least all of that; what is newer in it counts too.
    let applied = cache.applied();
    let (snapshot, newest) = collection.snapshot_and_change();
    Ok(select(&snapshot, applied.max(newest), wanted))
}

fn select(snapshot: &Snapshot, revision: Revision, wanted: &Wanted<'_>) -> Page {
    let mut page = Page::at(revision);
    page.fill(within(snapshot, &wanted.start(), wanted.scope), 0, wanted);
    page
}

/// A page of a state that only the store still knows. It is read in parts, for what the selector
/// rejects does not fill the page.
async fn read_stored(
    cache: &Cache,
    collection: &Collection,
    revision: Revision,
    wanted: &Wanted<'_>,
) -> Result<Page, Status> {
    let mut page = Page::at(revision);
    // The one behind the page tells that there is a next page.
    let mut limit = match wanted.options.limit {
        0 => 0,
        limit => limit.saturating_add(1),
    };
    let mut range = Range { start: wanted.start(), ..Range::prefix(wanted.scope) };
    loop {
        let part = cache.stored(collection, revision, Range { limit, ..range.clone() }).await?;
        let full = page.fill(part.entries.values(), part.more, wanted);
        match part.next {
            Some(next) if !full => range.start = next,
            _ => return Ok(page),
        }
        limit = limit.max(limit.saturating_mul(2).min(MAX_PART_KEYS));
    }
}

impl Page {
    fn at(revision: Revision) -> Self {
        Page { revision, entries: Vec::new(), next: None, remaining: None }
    }

    /// Takes what is wanted of entries that follow each other, with so many more behind them. Whether
    /// the page is complete before they are: there is a next page then.
    fn fill<'e>(
        &mut self,
        mut entries: impl Iterator<Item = &'e Arc<Entry>>,
        behind: usize,
        wanted: &Wanted<'_>,
    ) -> bool {
        let limit = wanted.options.limit;
        let everything = wanted.selector.is_everything();
        while let Some(entry) = entries.next() {
            if !everything && !wanted.selector.matches(entry) {
                continue;
            }
            if limit > 0 && self.entries.len() == limit {
                // One more matches: there is a next page, and it begins right after this page's last.
                let last = self.entries.last().map(|e| &e.key[wanted.scope.len()..]).unwrap_or_default();
                self.next = Some(options::continue_token(&format!("{last}\0"), Some(self.revision)));
                self.remaining = everything.then(|| entries.count() + 1 + behind);
                return true;
            }
            self.entries.push(entry.clone());
        }
        false
    }
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
    let entry = collection.get(&super::key(cx)).map_err(storage_status)?.ok_or_else(|| cx.not_found())?;
    view::stored_response(cx, StatusCode::OK, &entry.text)
}

#[cfg(test)]
mod tests {
    use amphipod_api::selector::{FieldSelector, LabelSelector};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::cache::testing::{ProbedStore, config_maps, put_map};

    /// Follows a list to its end in pages of two; the names of each page, and what it says remains.
    async fn pages(
        cache: &Cache,
        collection: &Collection,
        as_of: AsOf,
        selector: &Selector,
    ) -> Vec<(Vec<String>, Option<usize>)> {
        let mut options = ListOptions { as_of, limit: 2, start: None, continued: false };
        let mut pages = Vec::new();
        loop {
            let scope = format!("{}default/", collection.prefix);
            let wanted = Wanted { scope: &scope, selector, options: &options };
            let page = read(cache, collection, &wanted).await.expect("a page");
            let names: Vec<_> = page.entries.iter().map(|e| e.path(&scope).to_owned()).collect();
            options.start = names.last().map(|last| format!("{last}\0"));
            pages.push((names, page.remaining));
            if page.next.is_none() {
                return pages;
            }
        }
    }

    #[tokio::test]
    async fn an_old_page_reads_what_it_shows_and_no_more() {
        let (store, maps) = (Arc::new(ProbedStore::default()), config_maps());
        let resources = std::slice::from_ref(&maps);
        let cache = Cache::start(store.clone(), resources, CancellationToken::new()).await.expect("a cache");
        let collection = cache.collection(&maps).await.expect("read");
        let mut old = 0;
        for n in 0..20 {
            old = put_map(&*store, &format!("map-{n:02}"), if n % 10 == 9 { "nine" } else { "" }).await;
        }
        let newest = put_map(&*store, "map-00-later", "nine").await;
        cache.wait_for(newest).await.expect("told");
        let labels = LabelSelector::parse("n=nine").expect("a selector");
        let fields = FieldSelector::default();
        let some = Selector::new(&maps, &collection.prefix, &collection.pointers, labels, fields)
            .expect("a selector");
        let everything = Selector::everything();
        let recent = [
            pages(&cache, &collection, AsOf::Exactly(old), &everything).await,
            pages(&cache, &collection, AsOf::Exactly(old), &some).await,
        ];
        assert_eq!(recent[0][1], (vec!["map-02".to_owned(), "map-03".to_owned()], Some(16)));
        assert_eq!(recent[1], [(vec!["map-09".to_owned(), "map-19".to_owned()], None)]);

        // From here on only the store knows what was.
        collection.compact(newest);
        store.read.lock().clear();
        assert_eq!(pages(&cache, &collection, AsOf::Exactly(old), &everything).await, recent[0]);
        assert_eq!(std::mem::take(&mut *store.read.lock()), [3, 3, 3, 3, 3, 3, 3, 3, 3, 2]);
        assert_eq!(pages(&cache, &collection, AsOf::Exactly(old), &some).await, recent[1]);
        assert_eq!(*store.read.lock(), [3, 6, 11]);
    }
}

//! The order of merged lists: items of the patch keep the patch's order, the server's own items
//! keep theirs, and both are interleaved by the server's order as far as it is known.

use std::collections::HashMap;

use serde_json::Value;

/// What tells items of a list apart: the merge key's value, or the item itself.
pub(super) fn identity<'a>(item: &'a Value, merge_key: &str) -> Option<&'a Value> {
    if merge_key.is_empty() { Some(item) } else { item.get(merge_key) }
}

/// Where each identity first stands in a list. Keyed by its text, so that large lists stay cheap.
pub(super) struct Index<'k> {
    places: HashMap<String, usize>,
    merge_key: &'k str,
}

impl<'k> Index<'k> {
    pub fn new(list: &[Value], merge_key: &'k str) -> Self {
        let mut index = Index { places: HashMap::with_capacity(list.len()), merge_key };
        for (place, item) in list.iter().enumerate() {
            index.insert(item, place);
        }
        index
    }
    /// The first place counts.
    pub fn insert(&mut self, item: &Value, place: usize) {
        if let Some(identity) = identity(item, self.merge_key) {
            self.places.entry(identity.to_string()).or_insert(place);
        }
    }
    pub fn find(&self, item: &Value) -> Option<usize> {
        self.places.get(&identity(item, self.merge_key)?.to_string()).copied()
    }
}

/// Orders `merged` by `patch_order` (the patch's items) and `server_order` (everything else).
pub(super) fn normalise(
    merged: Vec<Value>,
    patch_order: &[Value],
    server_order: &[Value],
    merge_key: &str,
) -> Vec<Value> {
    let by_patch = Index::new(patch_order, merge_key);
    let by_server = Index::new(server_order, merge_key);
    let (mut patched, mut server) = (Vec::new(), Vec::new());
    for item in merged {
        let place = by_server.find(&item);
        match by_patch.find(&item) {
            Some(rank) => patched.push((rank, place, item)),
            None => server.push((place.unwrap_or(usize::MAX), place, item)),
        }
    }
    patched.sort_by_key(|(rank, _, _)| *rank);
    server.sort_by_key(|(rank, _, _)| *rank);
    interleave(server, patched)
}

type Placed = (usize, Option<usize>, Value);

/// The server's item goes first where its own order says so.
fn interleave(server: Vec<Placed>, patched: Vec<Placed>) -> Vec<Value> {
    let mut merged = Vec::with_capacity(server.len() + patched.len());
    let (mut left, mut right) = (server.into_iter().peekable(), patched.into_iter().peekable());
    while let (Some((_, l, _)), Some((_, r, _))) = (left.peek(), right.peek()) {
        let first = matches!((l, r), (Some(l), Some(r)) if l < r);
        let next = if first { left.next() } else { right.next() };
        merged.extend(next.map(|(_, _, item)| item));
    }
    merged.extend(left.chain(right).map(|(_, _, item)| item));
    merged
}

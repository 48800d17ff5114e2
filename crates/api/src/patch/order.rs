//! The order of merged lists: items of the patch keep the patch's order, the server's own items
//! keep theirs, and both are interleaved by the server's order as far as it is known.

use serde_json::Value;

/// What tells items of a list apart: the merge key's value, or the item itself.
pub(super) fn identity<'a>(item: &'a Value, merge_key: &str) -> Option<&'a Value> {
    if merge_key.is_empty() { Some(item) } else { item.get(merge_key) }
}

fn index(list: &[Value], item: &Value, merge_key: &str) -> Option<usize> {
    let wanted = identity(item, merge_key)?;
    list.iter().position(|i| identity(i, merge_key) == Some(wanted))
}

/// Orders `merged` by `patch_order` (the patch's items) and `server_order` (everything else).
pub(super) fn normalise(
    merged: Vec<Value>,
    patch_order: &[Value],
    server_order: &[Value],
    merge_key: &str,
) -> Vec<Value> {
    let (mut patched, mut server): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|i| index(patch_order, i, merge_key).is_some());
    patched.sort_by_key(|i| index(patch_order, i, merge_key));
    server.sort_by_key(|i| index(server_order, i, merge_key).unwrap_or(usize::MAX));
    interleave(server, patched, server_order, merge_key)
}

fn interleave(left: Vec<Value>, right: Vec<Value>, order: &[Value], merge_key: &str) -> Vec<Value> {
    let mut merged = Vec::with_capacity(left.len() + right.len());
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    while let (Some(l), Some(r)) = (left.peek(), right.peek()) {
        let first = match (index(order, l, merge_key), index(order, r, merge_key)) {
            (Some(l), Some(r)) => l < r,
            _ => false,
        };
        merged.extend(if first { left.next() } else { right.next() });
    }
    merged.extend(left);
    merged.extend(right);
    merged
}

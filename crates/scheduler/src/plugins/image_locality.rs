//! Nodes that have a pod's images already are better, the more so the larger the images are and the
//! more nodes have them: the only node with an image is not to be filled for it.

use crate::class::{Features, Signature};
use crate::framework::{Choice, MAX_SCORE, View};
use crate::node::Shape;
use crate::symbols::Symbol;

pub const NAME: &str = "ImageLocality";
const MEGABYTE: i64 = 1 << 20;
/// Less than this is not worth anything.
const LEAST_BYTES: i64 = 23 * MEGABYTE;
/// More than this for each container makes no difference.
const MOST_BYTES_PER_CONTAINER: i64 = 1000 * MEGABYTE;

/// The pod's images that are on the node, once for each container.
pub fn present(pod: &Signature, shape: &Shape) -> Box<[(Symbol, i64)]> {
    if shape.images.is_empty() {
        return Box::default();
    }
    let find = |image: &Symbol| {
        let index = shape.images.binary_search_by_key(image, |(name, _)| *name).ok()?;
        Some(shape.images[index])
    };
    pod.spec.images.iter().filter_map(find).collect()
}

pub fn score(view: &View, choices: &[Choice]) -> Vec<i64> {
    choices.iter().map(|choice| of(view, choice.features)).collect()
}

fn of(view: &View, features: &Features) -> i64 {
    let nodes = view.snapshot.node_count() as f64;
    let worth = |(image, bytes): &(Symbol, i64)| {
        let spread = f64::from(view.snapshot.nodes_with_image(*image)) / nodes;
        (*bytes as f64 * spread) as i64
    };
    let sum: i64 = features.images.iter().map(worth).sum();
    let most = MOST_BYTES_PER_CONTAINER * view.pod.spec.images.len() as i64;
    if most <= LEAST_BYTES {
        return 0; // a pod without containers
    }
    MAX_SCORE * (sum.clamp(LEAST_BYTES, most) - LEAST_BYTES) / (most - LEAST_BYTES)
}

//! What the wire says: kinds, schema facts, quantities, selectors, names, codecs, patches and
//! field ownership. No I/O, no async, no clock: everything here is a function of its arguments.

pub mod apply;
pub mod codec;
pub mod duration;
pub mod exposition;
pub mod field;
mod go_text;
pub mod intstr;
pub mod names;
pub mod node_labels;
pub mod object;
pub mod patch;
pub mod pod_resources;
pub mod protobuf;
pub mod quantity;
pub mod quota;
pub mod resource;
pub mod scheduling_review;
pub mod schema;
pub mod selector;
pub mod status;
pub mod table;

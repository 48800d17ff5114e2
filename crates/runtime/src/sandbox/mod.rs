//! Pod sandboxes: namespaces, network and files that the containers of a pod share.

pub mod cni;
pub mod files;
pub mod manager;
pub mod namespaces;
pub mod record;

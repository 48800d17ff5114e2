//! Volumes beyond the pod: claims, volumes, classes, drivers, attachments.

mod attachment;
mod claim;
mod class;
mod csi;
mod volume;
mod volume_source;

pub use attachment::VOLUME_ATTACHMENT;
pub use claim::{CLAIM, claim_spec};
pub use class::{ATTRIBUTES_CLASS, CLASS};
pub use csi::{CSI_CAPACITY, CSI_DRIVER, CSI_NODE};
pub use volume::VOLUME;

use amphipod_api::field::{Error, Path};
use serde_json::Value;

use crate::check::{self, Faults};
use crate::contract::Warnings;
use crate::json::{items, set, text};

const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const CLASS_ANNOTATION_HINT: &str = "deprecated since v1.8; use \"storageClassName\" attribute instead";

fn access_modes(faults: &mut Faults, path: &Path, modes: &Value) {
    let modes = items(modes);
    for mode in modes.iter().filter(|mode| !ACCESS_MODES.contains(&text(mode))) {
        faults.push(Error::not_supported(path, text(mode), &ACCESS_MODES));
    }
    let alone = |mode: &Value| text(mode) == "ReadWriteOncePod";
    let shared = |mode: &Value| !alone(mode) && ACCESS_MODES.contains(&text(mode));
    if modes.iter().any(alone) && modes.iter().any(shared) {
        faults.push(Error::forbidden(path, "may not use ReadWriteOncePod with other access modes"));
    }
}

fn class_name(faults: &mut Faults, path: &Path, name: &Value) {
    check::invalid_each(faults, path, text(name), check::dns1123_subdomain(text(name)));
}

fn annotation_warning(texts: &mut Warnings, object: &Value) {
    if set(&object["metadata"]["annotations"][CLASS_ANNOTATION]) {
        let at = Path::new("metadata").child("annotations").key(CLASS_ANNOTATION);
        texts.push(format!("{at}: {CLASS_ANNOTATION_HINT}"));
    }
}

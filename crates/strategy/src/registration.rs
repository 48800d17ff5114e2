//! Runtime classes.

use amphipod_api::field::Path;

use crate::check::{self, Faults};
use crate::json::{text, with};
use crate::kind::{Kind, PLAIN};

pub static RUNTIME_CLASS: Kind = Kind {
    default: |object| {
        with(object, "overhead", |overhead| with(overhead, "podFixed", crate::pod::defaults::canonical_list));
    },
    validate: |object| {
        let mut faults = Faults::new();
        let handler = text(&object["handler"]);
        check::invalid_each(&mut faults, &Path::new("handler"), handler, check::dns1123_label(handler));
        faults
    },
    validate_change: |new, old| {
        let mut faults = Faults::new();
        check::immutable(&mut faults, &Path::new("handler"), &new["handler"], &old["handler"]);
        faults
    },
    ..PLAIN
};

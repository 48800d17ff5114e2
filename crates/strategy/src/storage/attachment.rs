//! VolumeAttachment.

use amphipod_api::field::{Error, Path};
use amphipod_api::names::inclusive_range_text;
use serde_json::Value;

use super::volume::volume_spec;
use crate::check::{self, Faults, invalid_each};
use crate::domains::driver_name;
use crate::json::{default, fields, int, same, set, text, within};
use crate::kind::{Kind, PLAIN};

const METADATA_BYTES_MAX: usize = 256 * 1024;
const MESSAGE_BYTES_MAX: usize = 1024;

pub static VOLUME_ATTACHMENT: Kind = Kind {
    status: true,
    status_keeps_metadata: true,
    unconditional_update: false,
    default: |object| within(object, "status", |status| default(status, "attached", false)),
    validate: |object| {
        let mut faults = spec(object);
        faults.extend(status(object, &Value::Null));
        faults
    },
    validate_new: |_, object| {
        let mut faults = Faults::new();
        driver_name(&mut faults, &Path::new("spec.attacher"), text(&object["spec"]["attacher"]));
        let volume = &object["spec"]["source"]["persistentVolumeName"];
        if set(volume) {
            let at = Path::new("spec.source.persistentVolumeName");
            invalid_each(&mut faults, &at, text(volume), check::dns1123_subdomain(text(volume)));
        }
        faults
    },
    validate_change: |new, old| {
        let mut faults = Faults::new();
        if !same(&new["spec"], &old["spec"]) {
            faults.push(Error::invalid(&Path::new("spec"), new["spec"].clone(), check::IMMUTABLE));
        }
        faults
    },
    validate_status: status,
    ..PLAIN
};

fn spec(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    check::required(&mut faults, &path.child("attacher"), &object["spec"]["attacher"]);
    let source = &object["spec"]["source"];
    let at = path.child("source");
    let one = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (set(&source["inlineVolumeSpec"]), set(&source["persistentVolumeName"])) {
        (false, false) => faults.push(Error::required(&at, one)),
        (true, true) => faults.push(Error::forbidden(&at, one)),
        (true, false) => {
            volume_spec(&mut faults, &at.child("inlineVolumeSpec"), &source["inlineVolumeSpec"], None);
        }
        (false, true) if text(&source["persistentVolumeName"]).is_empty() => {
            let detail = "must specify non empty persistentVolumeName";
            faults.push(Error::required(&at.child("persistentVolumeName"), detail));
        }
        (false, true) => {}
    }
    let node = text(&object["spec"]["nodeName"]);
    invalid_each(&mut faults, &path.child("nodeName"), node, check::dns1123_subdomain(node));
    faults
}

fn status(object: &Value, _: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("status");
    let status = &object["status"];
    let bytes: usize =
        fields(&status["attachmentMetadata"]).map(|(key, value)| key.len() + text(value).len()).sum();
    if bytes > METADATA_BYTES_MAX {
        faults.push(Error::too_long(&path.child("attachmentMetadata"), METADATA_BYTES_MAX));
    }
    for key in ["attachError", "detachError"] {
        let at = path.child(key);
        if text(&status[key]["message"]).len() > MESSAGE_BYTES_MAX {
            faults.push(Error::too_long(&at.child("message"), METADATA_BYTES_MAX));
        }
        if let Some(code) = int(&status[key]["errorCode"]).filter(|code| *code < 0) {
            let detail = inclusive_range_text(0, i64::from(i32::MAX));
            faults.push(Error::invalid(&at.child("errorCode"), code, detail));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use crate::testing::named::{created, patched, stored, updated};
    use serde_json::json;

    const GROUP: &str = "storage.k8s.io";

    #[test]
    fn attachments() {
        let one = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
        let good =
            json!({"spec": {"attacher": "a.b", "nodeName": "n", "source": {"persistentVolumeName": "v"}}});
        for (object, expected) in [
            (good.clone(), vec![]),
            (
                json!({"spec": {"nodeName": "n"}}),
                vec![
                    "spec.attacher: Required value".to_owned(),
                    format!("spec.source: Required value: {one}"),
                    "spec.attacher: Required value".to_owned(),
                ],
            ),
            (
                json!({"spec": {"attacher": "a", "nodeName": "n", "source": {"inlineVolumeSpec": {"capacity": {"storage": "1"}}}}}),
                [
                    "capacity: Forbidden: may not be specified in the context of inline volumes",
                    "csi: Required value: has to be specified in the context of inline volumes",
                    "accessModes: Required value",
                ]
                .iter()
                .map(|text| format!("spec.source.inlineVolumeSpec.{text}"))
                .chain(
                    ["spec.source.inlineVolumeSpec: Required value: must specify a volume type".to_owned()],
                )
                .collect(),
            ),
        ] {
            assert_eq!(created(GROUP, "volumeattachments", object.clone()), expected, "{object}");
        }
        let moved = updated(GROUP, "volumeattachments", good.clone(), json!({"spec": {"nodeName": "m"}}));
        assert!(moved.len() == 1 && moved[0].ends_with("field is immutable"), "{moved:?}");
        let report = json!({"status": {"attachError": {"errorCode": -1}}});
        let old = stored(GROUP, "volumeattachments", good);
        assert_eq!(
            patched(GROUP, "volumeattachments", "status", &old, report).1,
            ["status.attachError.errorCode: Invalid value: -1: must be between 0 and 2147483647, inclusive"]
        );
    }
}

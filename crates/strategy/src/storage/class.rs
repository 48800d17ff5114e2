//! StorageClass and VolumeAttributesClass.

use amphipod_api::field::{Error, Path};
use serde_json::Value;

use crate::check::{self, Faults, invalid_each};
use crate::contract::Warnings;
use crate::json::{default_text, fields, items, same, set, text};
use crate::kind::{Kind, PLAIN};
use crate::node::old_label;

const PARAMETERS_MAX: usize = 512;
const PARAMETER_BYTES_MAX: usize = 256 * 1024;
const BINDING_MODES: [&str; 2] = ["Immediate", "WaitForFirstConsumer"];

pub static CLASS: Kind = Kind {
    default: |object| {
        default_text(object, "reclaimPolicy", "Delete");
        default_text(object, "volumeBindingMode", "Immediate");
    },
    validate: |object| {
        let mut faults = Faults::new();
        provisioner(&mut faults, &Path::new("provisioner"), text(&object["provisioner"]));
        parameters(&mut faults, &object["parameters"], true);
        let (reclaim, binding) = (Path::new("reclaimPolicy"), Path::new("volumeBindingMode"));
        check::optional_one_of(&mut faults, &reclaim, &object["reclaimPolicy"], &["Delete", "Retain"]);
        check::one_of(&mut faults, &binding, &object["volumeBindingMode"], &BINDING_MODES);
        topologies(&mut faults, &Path::new("allowedTopologies"), items(&object["allowedTopologies"]));
        faults
    },
    validate_change: |new, old| {
        let mut faults = Faults::new();
        fixed(&mut faults, new, old, &["parameters", "provisioner", "reclaimPolicy"]);
        let at = Path::new("volumeBindingMode");
        check::immutable(&mut faults, &at, &new["volumeBindingMode"], &old["volumeBindingMode"]);
        faults
    },
    warn: |object, _| {
        let mut texts = Warnings::new();
        for (t, term) in items(&object["allowedTopologies"]).iter().enumerate() {
            for (e, expression) in items(&term["matchLabelExpressions"]).iter().enumerate() {
                if let Some(hint) = old_label(text(&expression["key"])) {
                    let at = Path::new("allowedTopologies").index(t).child("matchLabelExpressions").index(e);
                    texts.push(format!("{}: {hint}", at.child("key")));
                }
            }
        }
        texts
    },
    ..PLAIN
};

pub static ATTRIBUTES_CLASS: Kind = Kind {
    validate: |object| {
        let mut faults = Faults::new();
        provisioner(&mut faults, &Path::new("driverName"), text(&object["driverName"]));
        parameters(&mut faults, &object["parameters"], false);
        faults
    },
    validate_change: |new, old| {
        let mut faults = Faults::new();
        fixed(&mut faults, new, old, &["driverName", "parameters"]);
        faults
    },
    ..PLAIN
};

fn provisioner(faults: &mut Faults, path: &Path, name: &str) {
    if name.is_empty() {
        faults.push(Error::required(path, ""));
        return;
    }
    let lower = name.to_lowercase();
    invalid_each(faults, path, &lower, check::qualified_name(&lower));
}

fn parameters(faults: &mut Faults, parameters: &Value, may_be_empty: bool) {
    let path = Path::new("parameters");
    if fields(parameters).count() > PARAMETERS_MAX {
        faults.push(Error::too_long(&path, PARAMETERS_MAX));
        return;
    }
    if fields(parameters).any(|(key, _)| key.is_empty()) {
        faults.push(Error::invalid(&path, "", "field can not be empty."));
    }
    let bytes: usize = fields(parameters).map(|(key, value)| key.len() + text(value).len()).sum();
    if bytes > PARAMETER_BYTES_MAX {
        faults.push(Error::too_long(&path, PARAMETER_BYTES_MAX));
    }
    if !may_be_empty && fields(parameters).next().is_none() {
        faults.push(Error::required(&path, "must contain at least one key/value pair"));
    }
}

fn fixed(faults: &mut Faults, new: &Value, old: &Value, keys: &[&str]) {
    for key in keys.iter().filter(|key| !same(&new[**key], &old[**key])) {
        faults.push(Error::forbidden(&Path::new(key), format!("updates to {key} are forbidden.")));
    }
}

fn topologies(faults: &mut Faults, path: &Path, terms: &[Value]) {
    for (t, term) in terms.iter().enumerate() {
        let at = path.index(t).child("matchLabelExpressions");
        let expressions = items(&term["matchLabelExpressions"]);
        let mut keys: Vec<&str> = Vec::new();
        for (e, expression) in expressions.iter().enumerate() {
            let at = at.index(e);
            let (key, values) = (text(&expression["key"]), items(&expression["values"]));
            if values.is_empty() {
                faults.push(Error::required(&at.child("values"), ""));
            }
            for (v, value) in values.iter().enumerate().filter(|(v, value)| values[..*v].contains(value)) {
                faults.push(Error::duplicate(&at.child("values").index(v), text(value)));
            }
            invalid_each(faults, &at.child("key"), key, check::qualified_name(key));
            if keys.contains(&key) {
                faults.push(Error::duplicate(&at.child("key"), key));
            }
            keys.push(key);
        }
        if set(&term["matchLabelExpressions"]) && terms[..t].contains(term) {
            faults.push(Error::duplicate(&at, ""));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::named::{created, updated, warned};
    use serde_json::json;

    const GROUP: &str = "storage.k8s.io";

    #[test]
    fn classes() {
        for (object, expected) in [
            (json!({"provisioner": "Example.com/P"}), vec![]),
            (
                json!({"reclaimPolicy": "Recycle", "volumeBindingMode": "X"}),
                vec![
                    "provisioner: Required value",
                    "reclaimPolicy: Unsupported value: \"Recycle\": supported values: \"Delete\", \"Retain\"",
                    "volumeBindingMode: Unsupported value: \"X\": supported values: \"Immediate\", \"WaitForFirstConsumer\"",
                ],
            ),
            (
                json!({"provisioner": "p", "allowedTopologies": [{"matchLabelExpressions": [{"key": "a", "values": ["x", "x"]}, {"key": "a"}]}]}),
                vec![
                    "allowedTopologies[0].matchLabelExpressions[0].values[1]: Duplicate value: \"x\"",
                    "allowedTopologies[0].matchLabelExpressions[1].values: Required value",
                    "allowedTopologies[0].matchLabelExpressions[1].key: Duplicate value: \"a\"",
                ],
            ),
        ] {
            assert_eq!(created(GROUP, "storageclasses", object.clone()), expected, "{object}");
        }
        let change = json!({"provisioner": "q", "parameters": {"a": "b"}, "reclaimPolicy": "Retain", "volumeBindingMode": "WaitForFirstConsumer"});
        assert_eq!(
            updated(GROUP, "storageclasses", json!({"provisioner": "p"}), change),
            [
                "parameters: Forbidden: updates to parameters are forbidden.",
                "provisioner: Forbidden: updates to provisioner are forbidden.",
                "reclaimPolicy: Forbidden: updates to reclaimPolicy are forbidden.",
                "volumeBindingMode: Invalid value: \"WaitForFirstConsumer\": field is immutable",
            ]
        );
        let zones = json!({"allowedTopologies": [{"matchLabelExpressions": [{"key": "failure-domain.beta.kubernetes.io/zone"}]}]});
        assert_eq!(
            warned(GROUP, "storageclasses", zones),
            [
                "allowedTopologies[0].matchLabelExpressions[0].key: deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"
            ]
        );
    }

    #[test]
    fn attributes() {
        assert_eq!(
            created(GROUP, "volumeattributesclasses", json!({})),
            [
                "driverName: Required value",
                "parameters: Required value: must contain at least one key/value pair"
            ]
        );
        let good = json!({"driverName": "d", "parameters": {"a": "b"}});
        assert_eq!(created(GROUP, "volumeattributesclasses", good.clone()), [""; 0]);
        assert_eq!(
            updated(
                GROUP,
                "volumeattributesclasses",
                good,
                json!({"driverName": "e", "parameters": {"a": "c"}})
            ),
            [
                "driverName: Forbidden: updates to driverName are forbidden.",
                "parameters: Forbidden: updates to parameters are forbidden.",
            ]
        );
    }
}

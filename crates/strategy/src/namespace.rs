//! Namespaces and service accounts.

use amphipod_api::field::{Error, Path};
use serde_json::{Value, json};

use crate::check::{self, Faults, invalid_each};
use crate::contract::Warnings;
use crate::json::{copy, default_text, each, items, put, set, text, within};
use crate::kind::{Kind, PLAIN};
use crate::metadata::{NameRule, known_finalizer};

pub static NAMESPACE: Kind = Kind {
    name: NameRule::Label,
    status: true,
    default: |object| {
        let name = text(&object["metadata"]["name"]).to_owned();
        if !name.is_empty() {
            within(object, "metadata", |metadata| {
                within(metadata, "labels", |labels| put(labels, "kubernetes.io/metadata.name", name));
            });
        }
        within(object, "spec", |_| {});
        within(object, "status", |status| default_text(status, "phase", "Active"));
    },
    create: |_, object| {
        put(object, "status", json!({"phase": "Active"}));
        within(object, "spec", |spec| {
            let mut list = items(&spec["finalizers"]).to_vec();
            if !list.iter().any(|f| f == "kubernetes") {
                list.push("kubernetes".into());
            }
            put(spec, "finalizers", list);
        });
    },
    update: |context, object, old| {
        if context.subresource == "finalize" {
            copy(object, "status", old);
        } else {
            copy(object, "spec", old);
        }
    },
    validate: |object| finalizers(object, |path, _| path),
    // Only `finalize` changes them, and it tells which one is wrong.
    revalidate: Some(|new, _| finalizers(new, |path, i| path.index(i))),
    validate_status: |new, _| {
        let mut faults = Faults::new();
        let phase = text(&new["status"]["phase"]);
        let at = Path::new("status").child("Phase");
        match (set(&new["metadata"]["deletionTimestamp"]), phase) {
            (false, "Active") | (true, "Terminating") => {}
            (false, _) => {
                let detail = "may only be 'Active' if `deletionTimestamp` is empty";
                faults.push(Error::invalid(&at, phase, detail));
            }
            (true, _) => {
                let detail = "may only be 'Terminating' if `deletionTimestamp` is not empty";
                faults.push(Error::invalid(&at, phase, detail));
            }
        }
        faults
    },
    ..PLAIN
};

fn finalizers(object: &Value, at: fn(Path, usize) -> Path) -> Faults {
    let mut faults = Faults::new();
    for (i, finalizer) in items(&object["spec"]["finalizers"]).iter().enumerate() {
        let (at, name) = (at(Path::new("spec").child("finalizers"), i), text(finalizer));
        invalid_each(&mut faults, &at, name, check::qualified_name(name));
        known_finalizer(&mut faults, &at, name);
    }
    faults
}

const MOUNTABLE_SECRETS: &str = "kubernetes.io/enforce-mountable-secrets";

pub static SERVICE_ACCOUNT: Kind = Kind {
    // Tokens are asked for; the server makes no secrets of its own accord. A reference says no
    // more than a name.
    create: |_, object| bare_references(object),
    update: |_, object, _| bare_references(object),
    warn: |object, old| {
        let marked = |object: &Value| set(&object["metadata"]["annotations"][MOUNTABLE_SECRETS]);
        if marked(object) && !old.is_some_and(marked) {
            Warnings::from(format!(
                "metadata.annotations[{MOUNTABLE_SECRETS}]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"
            ))
        } else {
            Warnings::new()
        }
    },
    ..PLAIN
};

fn bare_references(object: &mut Value) {
    each(object, "secrets", |reference| *reference = json!({"name": reference["name"]}));
}

#[cfg(test)]
mod tests {
    use crate::testing::named::{created, patched, stored, warned};
    use serde_json::json;

    #[test]
    fn namespaces() {
        let old = stored("", "namespaces", json!({}));
        assert_eq!(old["spec"]["finalizers"], json!(["kubernetes"]));
        assert_eq!(old["metadata"]["labels"]["kubernetes.io/metadata.name"], "n");
        let (object, faults) = patched("", "namespaces", "", &old, json!({"spec": {"finalizers": []}}));
        assert_eq!((&object["spec"], faults), (&old["spec"], vec![]), "only finalize takes them away");
        let (object, _) = patched(
            "",
            "namespaces",
            "finalize",
            &old,
            json!({"spec": {"finalizers": []}, "status": {"phase": "X"}}),
        );
        assert_eq!((&object["spec"]["finalizers"], &object["status"]), (&json!([]), &old["status"]));
        let odd = json!({"spec": {"finalizers": ["a/b", "x"]}});
        let fault = |at: &str| {
            format!(
                "{at}: Invalid value: \"x\": name is neither a standard finalizer name nor is it fully qualified"
            )
        };
        assert_eq!(patched("", "namespaces", "finalize", &old, odd.clone()).1, [fault("spec.finalizers[1]")]);
        assert_eq!(created("", "namespaces", odd), [fault("spec.finalizers")]);
        assert_eq!(
            patched("", "namespaces", "status", &old, json!({"status": {"phase": "Terminating"}})).1,
            [
                "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty"
            ]
        );
        assert_eq!(
            created("", "namespaces", json!({"metadata": {"name": "a.b"}})),
            ["metadata.name: Invalid value: \"a.b\": must not contain dots"]
        );
    }

    #[test]
    fn service_accounts() {
        let object = json!({"metadata": {"annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}},
            "secrets": [{"name": "a", "kind": "Secret", "namespace": "x"}]});
        assert_eq!(stored("", "serviceaccounts", object.clone())["secrets"], json!([{"name": "a"}]));
        assert_eq!(
            warned("", "serviceaccounts", object),
            [
                "metadata.annotations[kubernetes.io/enforce-mountable-secrets]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"
            ]
        );
    }
}

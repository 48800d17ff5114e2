//! IngressClass.

use amphipod_api::field::{Error, Path};
use serde_json::Value;

use super::typed_reference;
use crate::check::{self, Faults, invalid_each};
use crate::domains::domain_prefixed_path;
use crate::json::{default, set, text, with, within};
use crate::kind::{Kind, PLAIN};

const CONTROLLER_MAX: usize = 250;
const SCOPES: [&str; 2] = ["Cluster", "Namespace"];

pub static INGRESS_CLASS: Kind = Kind {
    generation: true,
    default: |object| {
        within(object, "spec", |spec| {
            with(spec, "parameters", |parameters| default(parameters, "scope", "Cluster"));
        });
    },
    validate,
    revalidate: Some(|new, old| {
        let mut faults = Faults::new();
        let at = Path::new("spec").child("controller");
        check::immutable_text(&mut faults, &at, &new["spec"]["controller"], &old["spec"]["controller"]);
        faults.extend(validate(new));
        faults
    }),
    ..PLAIN
};

fn validate(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec");
    let controller = text(&object["spec"]["controller"]);
    if controller.len() > CONTROLLER_MAX {
        faults.push(Error::too_long(&path.child("controller"), CONTROLLER_MAX));
    }
    domain_prefixed_path(&mut faults, &path.child("controller"), controller);
    let parameters = &object["spec"]["parameters"];
    if set(parameters) {
        self::parameters(&mut faults, &path.child("parameters"), parameters);
    }
    faults
}

fn parameters(faults: &mut Faults, path: &Path, parameters: &Value) {
    typed_reference(faults, path, parameters);
    let (scope, namespace) = (text(&parameters["scope"]), &parameters["namespace"]);
    let at = path.child("namespace");
    match scope {
        "Namespace" if !set(namespace) => {
            faults.push(Error::required(&at, "`parameters.scope` is set to 'Namespace'"));
        }
        "Namespace" => invalid_each(faults, &at, text(namespace), check::dns1123_label(text(namespace))),
        "Cluster" if set(namespace) => {
            faults.push(Error::forbidden(&at, "`parameters.scope` is set to 'Cluster'"));
        }
        "Cluster" => {}
        _ => faults.push(Error::not_supported(&path.child("scope"), scope, &SCOPES)),
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::named::{created, updated};
    use serde_json::json;

    #[test]
    fn classes() {
        let class = |parameters| json!({"spec": {"controller": "a.b/c", "parameters": parameters}});
        for (object, expected) in [
            (class(json!(null)), vec![]),
            (json!({"spec": {}}), vec!["spec.controller: Required value"]),
            (
                class(json!({"scope": "X"})),
                vec![
                    "spec.parameters.kind: Required value: kind is required",
                    "spec.parameters.name: Required value: name is required",
                    "spec.parameters.scope: Unsupported value: \"X\": supported values: \"Cluster\", \"Namespace\"",
                ],
            ),
            (
                class(json!({"kind": "K", "name": "n", "namespace": "d"})),
                vec!["spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'"],
            ),
            (
                class(json!({"kind": "K", "name": "n", "scope": "Namespace"})),
                vec!["spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'"],
            ),
        ] {
            assert_eq!(created("networking.k8s.io", "ingressclasses", object.clone()), expected, "{object}");
        }
        let change = json!({"spec": {"controller": "a.b/d"}});
        assert_eq!(
            updated("networking.k8s.io", "ingressclasses", class(json!(null)), change),
            ["spec.controller: Invalid value: \"a.b/d\": field is immutable"]
        );
    }
}

//! Node selector terms and label selectors on typed objects.

use std::collections::BTreeMap;

use amphipod_api::selector::{Operator, Requirement};
use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

pub type Labels = BTreeMap<String, String>;

fn requirement(key: &str, operator: &str, values: Option<&Vec<String>>) -> Option<Requirement> {
    let operator = match operator {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan,
        "Lt" => Operator::LessThan,
        _ => return None,
    };
    Some(Requirement { key: key.to_owned(), operator, values: values.cloned().unwrap_or_default() })
}

fn holds(requirement: Option<Requirement>, value: Option<&str>) -> bool {
    requirement.is_some_and(|r| r.matches(value))
}

/// A term without any requirement selects nothing.
pub fn term_matches(term: &NodeSelectorTerm, node_name: &str, labels: Option<&Labels>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let label = |key: &str| labels.and_then(|l| l.get(key)).map(String::as_str);
    let field = |key: &str| (key == "metadata.name").then_some(node_name);
    let check = |r: &NodeSelectorRequirement, value: Option<&str>| {
        holds(requirement(&r.key, &r.operator, r.values.as_ref()), value)
    };
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|r| check(r, label(&r.key)))
        && fields.iter().all(|r| check(r, field(&r.key)))
}

/// `None` selects nothing, an empty selector everything.
pub fn labels_match(selector: Option<&LabelSelector>, labels: Option<&Labels>) -> bool {
    let Some(selector) = selector else { return false };
    let label = |key: &str| labels.and_then(|l| l.get(key)).map(String::as_str);
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| label(key) == Some(value));
    let expressions = selector.match_expressions.iter().flatten();
    equal
        && expressions
            .into_iter()
            .all(|r| holds(requirement(&r.key, &r.operator, r.values.as_ref()), label(&r.key)))
}

//! Labels and what selects by them, in symbols: pod and namespace selectors, node selector terms.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::symbols::{Symbol, Symbols};

/// Sorted by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Labels(Arc<[(Symbol, Symbol)]>);

impl Labels {
    pub fn parse(symbols: &mut Symbols, labels: Option<&BTreeMap<String, String>>) -> Self {
        let pairs = labels.into_iter().flatten();
        Labels::from_pairs(pairs.map(|(key, value)| (symbols.intern(key), symbols.intern(value))).collect())
    }
    pub fn from_pairs(mut pairs: Vec<(Symbol, Symbol)>) -> Self {
        pairs.sort_unstable();
        Labels(pairs.into())
    }
    pub fn get(&self, key: Symbol) -> Option<Symbol> {
        let index = self.0.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        Some(self.0[index].1)
    }
    pub fn iter(&self) -> impl Iterator<Item = (Symbol, Symbol)> {
        self.0.iter().copied()
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Requirement {
    In(Symbol, Box<[Symbol]>),
    NotIn(Symbol, Box<[Symbol]>),
    Exists(Symbol),
    Absent(Symbol),
    Above(Symbol, i64),
    Below(Symbol, i64),
    /// What cannot be understood holds for nothing.
    Never,
}

impl Requirement {
    fn parse(symbols: &mut Symbols, key: &str, operator: &str, values: Option<&Vec<String>>) -> Self {
        let key = symbols.intern(key);
        let values = values.map(Vec::as_slice).unwrap_or_default();
        let number = || values.first().filter(|_| values.len() == 1).and_then(|v| v.parse().ok());
        match operator {
            "In" if !values.is_empty() => Requirement::In(key, intern_all(symbols, values)),
            "NotIn" if !values.is_empty() => Requirement::NotIn(key, intern_all(symbols, values)),
            "Exists" if values.is_empty() => Requirement::Exists(key),
            "DoesNotExist" if values.is_empty() => Requirement::Absent(key),
            "Gt" => number().map_or(Requirement::Never, |n| Requirement::Above(key, n)),
            "Lt" => number().map_or(Requirement::Never, |n| Requirement::Below(key, n)),
            _ => Requirement::Never,
        }
    }
    pub fn matches(&self, symbols: &Symbols, labels: &Labels) -> bool {
        let number = |key: Symbol| symbols.text(labels.get(key)?).parse::<i64>().ok();
        match self {
            Requirement::In(key, values) => labels.get(*key).is_some_and(|v| values.contains(&v)),
            Requirement::NotIn(key, values) => labels.get(*key).is_none_or(|v| !values.contains(&v)),
            Requirement::Exists(key) => labels.get(*key).is_some(),
            Requirement::Absent(key) => labels.get(*key).is_none(),
            Requirement::Above(key, bound) => number(*key).is_some_and(|n| n > *bound),
            Requirement::Below(key, bound) => number(*key).is_some_and(|n| n < *bound),
            Requirement::Never => false,
        }
    }
}

/// Of several such requirements the one with the fewest values.
fn handhold(requirements: &[Requirement]) -> Option<(Symbol, &[Symbol])> {
    let lists = requirements.iter().filter_map(|requirement| match requirement {
        Requirement::In(key, values) => Some((*key, &**values)),
        _ => None,
    });
    lists.min_by_key(|(_, values)| values.len())
}

impl Requirement {
    /// In words that go behind "the label" or "a label".
    pub fn text(&self, symbols: &Symbols) -> String {
        let text = |symbol: &Symbol| symbols.text(*symbol);
        let among = |values: &[Symbol]| values.iter().map(text).collect::<Vec<_>>().join(", ");
        match self {
            Requirement::In(key, values) if values.len() == 1 => format!("{}={}", text(key), among(values)),
            Requirement::In(key, values) => format!("{} in ({})", text(key), among(values)),
            Requirement::NotIn(key, values) => format!("{} not in ({})", text(key), among(values)),
            Requirement::Exists(key) => text(key).to_owned(),
            Requirement::Absent(key) => format!("!{}", text(key)),
            Requirement::Above(key, bound) => format!("{} > {bound}", text(key)),
            Requirement::Below(key, bound) => format!("{} < {bound}", text(key)),
            Requirement::Never => "what nothing can match".to_owned(),
        }
    }
}

fn intern_all(symbols: &mut Symbols, texts: &[String]) -> Box<[Symbol]> {
    texts.iter().map(|text| symbols.intern(text)).collect()
}

/// Without requirements it selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selector(Vec<Requirement>);

impl Selector {
    /// No selector at all selects nothing.
    pub fn parse(symbols: &mut Symbols, selector: Option<&LabelSelector>) -> Self {
        let Some(selector) = selector else { return Selector(vec![Requirement::Never]) };
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Requirement::In(symbols.intern(key), [symbols.intern(value)].into()));
        }
        for r in selector.match_expressions.iter().flatten() {
            requirements.push(Requirement::parse(symbols, &r.key, &r.operator, r.values.as_ref()));
        }
        Selector(requirements)
    }
    /// All of these labels.
    pub fn of_labels(labels: &Labels) -> Self {
        Selector(labels.iter().map(|(key, value)| Requirement::In(key, [value].into())).collect())
    }
    pub fn require(&mut self, requirement: Requirement) {
        self.0.push(requirement);
    }
    pub fn extend(&mut self, other: &Selector) {
        self.0.extend(other.0.iter().cloned());
    }
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }
    /// A label, and the values one of which it asks for, if there is such a label.
    pub fn handhold(&self) -> Option<(Symbol, &[Symbol])> {
        handhold(&self.0)
    }
    pub fn matches(&self, symbols: &Symbols, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| requirement.matches(symbols, labels))
    }
}

/// One of the alternatives of a node affinity: all its requirements on labels and on the name hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeTerm {
    expressions: Box<[Requirement]>,
    names: Box<[NameRequirement]>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum NameRequirement {
    Is(Symbol),
    IsNot(Symbol),
    Never,
}

impl NodeTerm {
    pub fn parse(symbols: &mut Symbols, term: &NodeSelectorTerm) -> Self {
        let expressions = term.match_expressions.iter().flatten();
        let expressions = expressions
            .map(|r| Requirement::parse(symbols, &r.key, &r.operator, r.values.as_ref()))
            .collect();
        let names = term.match_fields.iter().flatten().map(|r| name_requirement(symbols, r)).collect();
        NodeTerm { expressions, names }
    }
    /// A term that asks for nothing selects nothing.
    pub fn is_empty(&self) -> bool {
        self.expressions.is_empty() && self.names.is_empty()
    }
    pub fn matches(&self, symbols: &Symbols, name: Symbol, labels: &Labels) -> bool {
        let by_name = |requirement: &NameRequirement| match requirement {
            NameRequirement::Is(wanted) => *wanted == name,
            NameRequirement::IsNot(unwanted) => *unwanted != name,
            NameRequirement::Never => false,
        };
        !self.is_empty()
            && self.names.iter().all(by_name)
            && self.expressions.iter().all(|r| r.matches(symbols, labels))
    }
    /// A label, and the values one of which it asks for, if there is such a label.
    pub fn handhold(&self) -> Option<(Symbol, &[Symbol])> {
        handhold(&self.expressions)
    }
    /// The requirements on labels that do not hold.
    pub fn unmet<'a>(
        &'a self,
        symbols: &'a Symbols,
        labels: &'a Labels,
    ) -> impl Iterator<Item = &'a Requirement> {
        self.expressions.iter().filter(|requirement| !requirement.matches(symbols, labels))
    }
    /// The names the term allows, if it names any.
    pub fn names(&self) -> Option<Vec<Symbol>> {
        let named = self.names.iter().filter_map(|r| match r {
            NameRequirement::Is(name) => Some(*name),
            _ => None,
        });
        let named: Vec<Symbol> = named.collect();
        let first = *named.first()?;
        Some(if named.iter().all(|name| *name == first) { vec![first] } else { Vec::new() })
    }
}

/// Fields are selected by one value; the name is the only one nodes have.
fn name_requirement(symbols: &mut Symbols, r: &NodeSelectorRequirement) -> NameRequirement {
    let values = r.values.as_deref().unwrap_or_default();
    match (r.key.as_str(), r.operator.as_str(), values) {
        ("metadata.name", "In", [name]) => NameRequirement::Is(symbols.intern(name)),
        ("metadata.name", "NotIn", [name]) => NameRequirement::IsNot(symbols.intern(name)),
        _ => NameRequirement::Never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn selectors() {
        let mut symbols = Symbols::default();
        let pairs = [("app", "web"), ("tier", "front")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let labels = Labels::parse(&mut symbols, Some(&pairs));
        let expression = |key: &str, operator: &str, values: Value| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        let cases = [
            (json!({}), true),
            (json!({"matchLabels": {"app": "web"}}), true),
            (json!({"matchLabels": {"app": "db"}}), false),
            (expression("app", "In", json!(["db", "web"])), true),
            (expression("app", "NotIn", json!(["web"])), false),
            (expression("other", "NotIn", json!(["web"])), true),
            (expression("other", "Exists", json!([])), false),
            (expression("other", "DoesNotExist", json!([])), true),
            (expression("app", "In", json!([])), false),
            (expression("app", "Unheard", json!([])), false),
        ];
        for (selector, expected) in cases {
            let parsed =
                Selector::parse(&mut symbols, Some(&serde_json::from_value(selector.clone()).unwrap()));
            assert_eq!(parsed.matches(&symbols, &labels), expected, "{selector}");
        }
        assert!(!Selector::parse(&mut symbols, None).matches(&symbols, &labels));
    }

    #[test]
    fn node_terms() {
        let mut symbols = Symbols::default();
        let pairs = [("cores".to_owned(), "8".to_owned())].into();
        let labels = Labels::parse(&mut symbols, Some(&pairs));
        let name = symbols.intern("n1");
        let expression = |operator: &str, value: &str| json!({"matchExpressions": [{"key": "cores", "operator": operator, "values": [value]}]});
        let field = |operator: &str, values: Value| json!({"matchFields": [{"key": "metadata.name", "operator": operator, "values": values}]});
        let cases = [
            (json!({}), false),
            (expression("Gt", "7"), true),
            (expression("Gt", "8"), false),
            (expression("Lt", "9"), true),
            (expression("Lt", "many"), false),
            (field("In", json!(["n1"])), true),
            (field("In", json!(["n2"])), false),
            (field("NotIn", json!(["n2"])), true),
            (field("In", json!(["n1", "n2"])), false),
        ];
        for (term, expected) in cases {
            let parsed = NodeTerm::parse(&mut symbols, &serde_json::from_value(term.clone()).unwrap());
            assert_eq!(parsed.matches(&symbols, name, &labels), expected, "{term}");
        }
    }
}

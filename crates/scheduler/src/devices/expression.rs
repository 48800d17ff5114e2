//! Which devices a class or a request selects: an expression of one variable, `device`, in the Common
//! Expression Language. Each text is compiled once.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, LazyLock};

use amphipod_api::quantity::Quantity;
use cel::extractors::This;
use cel::objects::{Key, Map, Opaque};
use cel::{Context, Env, ExecutionError, Program, Value};
use k8s_openapi::api::resource::v1::{Device, DeviceAttribute};

use super::limits;

static ENVIRONMENT: LazyLock<Arc<Env>> =
    LazyLock::new(|| Arc::new(Env::stdlib().with_optional_support(true)));

#[derive(Debug)]
pub struct Expression {
    source: String,
    program: Result<Program, String>,
    /// Texts in it that may be the domains of attributes: a domain a device has nothing of is empty,
    /// and no mistake.
    texts: BTreeSet<String>,
}

impl Expression {
    pub fn compile(source: &str) -> Self {
        let program = limits::compile(&ENVIRONMENT, source);
        Expression { source: source.to_owned(), program, texts: quoted(source) }
    }
    /// Why it can select nothing.
    pub fn error(&self) -> Option<&str> {
        self.program.as_ref().err().map(String::as_str)
    }
    /// What it says of what a device does not have, as of one it does not have at all, is no.
    pub fn selects(&self, driver: &str, device: &Device) -> bool {
        let Ok(program) = &self.program else { return false };
        let mut context = Context::with_env(ENVIRONMENT.clone());
        // The names are no others' in the environment, so that they cannot be refused.
        let added = context
            .add_function("quantity", quantity)
            .and_then(|()| context.add_function("semver", semver))
            .and_then(|()| context.add_function("compareTo", compare_to))
            .and_then(|()| context.add_function("isGreaterThan", is_greater))
            .and_then(|()| context.add_function("isLessThan", is_less));
        context.add_variable_from_value("device", self.variable(driver, device));
        added.is_ok() && program.execute(&context) == Ok(Value::Bool(true))
    }

    fn variable(&self, driver: &str, device: &Device) -> Value {
        let attributes = device.attributes.iter().flatten();
        let attributes = attributes.filter_map(|(name, attribute)| Some((name, value_of(attribute)?)));
        let capacity = device.capacity.iter().flatten();
        let capacity = capacity.filter_map(|(name, capacity)| Some((name, amount(&capacity.value.0).ok()?)));
        let multiple = device.allow_multiple_allocations.unwrap_or(false);
        map([
            ("driver".to_owned(), text(driver)),
            ("attributes".to_owned(), self.by_domain(driver, attributes)),
            ("capacity".to_owned(), self.by_domain(driver, capacity)),
            ("allowMultipleAllocations".to_owned(), Value::Bool(multiple)),
        ])
    }
    /// Names without a domain are of the driver's.
    fn by_domain<'a>(&self, driver: &str, values: impl Iterator<Item = (&'a String, Value)>) -> Value {
        let domains = self.texts.iter().map(String::as_str).chain([driver]);
        let mut by_domain: HashMap<&str, Vec<(String, Value)>> = domains.map(|d| (d, Vec::new())).collect();
        for (name, value) in values {
            let (domain, id) = name.split_once('/').unwrap_or((driver, name));
            by_domain.entry(domain).or_default().push((id.to_owned(), value));
        }
        map(by_domain.into_iter().map(|(domain, values)| (domain.to_owned(), map(values))))
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

/// The texts between quotes.
fn quoted(source: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut rest = source;
    while let Some(start) = rest.find(['"', '\'']) {
        let quote = &rest[start..=start];
        let Some((text, after)) = rest[start + 1..].split_once(quote) else { break };
        found.insert(text.to_owned());
        rest = after;
    }
    found
}

fn map(entries: impl IntoIterator<Item = (String, Value)>) -> Value {
    let entries = entries.into_iter().map(|(key, value)| (Key::String(Arc::new(key)), value));
    Value::Map(Map { map: Arc::new(entries.collect()) })
}

fn text(text: &str) -> Value {
    Value::String(Arc::new(text.to_owned()))
}

fn value_of(attribute: &DeviceAttribute) -> Option<Value> {
    let DeviceAttribute { bool, int, string, version } = attribute;
    let version = version.as_ref().and_then(|version| Version::parse(version));
    bool.map(Value::Bool)
        .or_else(|| int.map(Value::Int))
        .or_else(|| string.as_deref().map(text))
        .or_else(|| version.map(|version| Value::Opaque(Arc::new(version))))
}

/// An amount, in billionths.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Amount(i128);

impl Opaque for Amount {
    fn runtime_type_name(&self) -> &str {
        "kubernetes.Quantity"
    }
}

fn amount(text: &str) -> Result<Value, ExecutionError> {
    let quantity = Quantity::parse(text);
    let quantity = quantity.map_err(|error| ExecutionError::function_error("quantity", error))?;
    Ok(Value::Opaque(Arc::new(Amount(quantity.nanos()))))
}

fn quantity(text: Arc<String>) -> Result<Value, ExecutionError> {
    amount(&text)
}

/// A semantic version: three numbers, and what comes before the release.
#[derive(Debug, PartialEq, Eq)]
struct Version {
    numbers: [u64; 3],
    before: Vec<String>,
}

impl Opaque for Version {
    fn runtime_type_name(&self) -> &str {
        "kubernetes.Semver"
    }
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let text = text.split_once('+').map_or(text, |(version, _build)| version);
        let (numbers, before) = text.split_once('-').map_or((text, None), |(n, before)| (n, Some(before)));
        let numbers: Option<Vec<u64>> = numbers.split('.').map(|number| number.parse().ok()).collect();
        let before = before.map(|before| before.split('.').map(str::to_owned).collect());
        Some(Version { numbers: numbers?.try_into().ok()?, before: before.unwrap_or_default() })
    }
    fn compare(&self, other: &Version) -> Ordering {
        let releases = || self.before.is_empty().cmp(&other.before.is_empty());
        let parts = || {
            let pairs = self.before.iter().zip(&other.before);
            let unequal = pairs.map(|(a, b)| compare_parts(a, b)).find(|order| order.is_ne());
            unequal.unwrap_or(self.before.len().cmp(&other.before.len()))
        };
        self.numbers.cmp(&other.numbers).then_with(releases).then_with(parts)
    }
}

/// Numbers come before words.
fn compare_parts(a: &str, b: &str) -> Ordering {
    match (a.parse::<u64>(), b.parse::<u64>()) {
        (Ok(a), Ok(b)) => a.cmp(&b),
        (Ok(_), Err(_)) => Ordering::Less,
        (Err(_), Ok(_)) => Ordering::Greater,
        (Err(_), Err(_)) => a.cmp(b),
    }
}

fn semver(text: Arc<String>) -> Result<Value, ExecutionError> {
    let version = Version::parse(&text);
    let version =
        version.ok_or_else(|| ExecutionError::function_error("semver", "not a semantic version"))?;
    Ok(Value::Opaque(Arc::new(version)))
}

fn compare(one: &dyn Opaque, other: &dyn Opaque) -> Result<Ordering, ExecutionError> {
    if let (Some(one), Some(other)) = (one.downcast_ref::<Amount>(), other.downcast_ref::<Amount>()) {
        return Ok(one.cmp(other));
    }
    match (one.downcast_ref::<Version>(), other.downcast_ref::<Version>()) {
        (Some(one), Some(other)) => Ok(one.compare(other)),
        _ => Err(ExecutionError::function_error("compareTo", "values of different kinds")),
    }
}

fn compare_to(This(one): This<Arc<dyn Opaque>>, other: Arc<dyn Opaque>) -> Result<i64, ExecutionError> {
    compare(&*one, &*other).map(|order| order as i64)
}
fn is_greater(This(one): This<Arc<dyn Opaque>>, other: Arc<dyn Opaque>) -> Result<bool, ExecutionError> {
    compare(&*one, &*other).map(Ordering::is_gt)
}
fn is_less(This(one): This<Arc<dyn Opaque>>, other: Arc<dyn Opaque>) -> Result<bool, ExecutionError> {
    compare(&*one, &*other).map(Ordering::is_lt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_selected_by_driver_attributes_and_capacity() {
        let device = serde_json::json!({"name": "d",
            "attributes": {"model": {"string": "a100"}, "other.com/cores": {"int": 8}, "ecc": {"bool": true}, "driverVersion": {"version": "1.10.0-rc.1"}},
            "capacity": {"memory": {"value": "40Gi"}}});
        let device: Device = serde_json::from_value(device).unwrap();
        let cases = [
            ("true", true),
            ("device.driver == 'gpu.com'", true),
            ("device.driver == 'nic.com'", false),
            ("device.attributes['gpu.com'].model == 'a100'", true),
            ("device.attributes['other.com'].cores >= 8 && device.attributes['gpu.com'].ecc", true),
            ("device.attributes[device.driver].model.startsWith('h')", false),
            ("device.capacity['gpu.com'].memory.compareTo(quantity('40Gi')) == 0", true),
            ("device.capacity['gpu.com'].memory.isGreaterThan(quantity('40000Mi'))", true),
            ("device.attributes['gpu.com'].driverVersion.isLessThan(semver('1.10.0'))", true),
            ("device.attributes['gpu.com'].driverVersion.isGreaterThan(semver('1.9.3'))", true),
            // Of what it does not have nothing is true, but one can ask whether it has it.
            ("device.attributes['gpu.com'].missing == 'x'", false),
            ("has(device.attributes['nowhere.com'].x)", false),
            ("!has(device.attributes['nowhere.com'].x)", true),
            ("device.driver", false),
            ("device.driver ==", false),
        ];
        for (source, expected) in cases {
            assert_eq!(Expression::compile(source).selects("gpu.com", &device), expected, "{source}");
        }
        assert!(Expression::compile("device.driver ==").error().is_some());
        assert_eq!(Expression::compile("device.driver").error(), None);
    }
}

//! The expressions devices are selected with in these tests, and what each says, in other words than those
//! of its language.

use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1::{Device, DeviceAttribute, DeviceSelector};

/// An expression, and what it says of a driver's device in other words.
pub struct Expression {
    pub text: &'static str,
    selects: fn(&str, &Device) -> bool,
}

pub const EXPRESSIONS: [Expression; 9] = [
    Expression { text: "true", selects: |_, _| true },
    Expression { text: "device.driver == 'gpu.com'", selects: |driver, _| driver == "gpu.com" },
    Expression {
        text: "device.attributes['gpu.com'].model == 'a'",
        selects: |driver, device| model(driver, device) == Some("a"),
    },
    Expression {
        text: "device.attributes['gpu.com'].model in ['a', 'b']",
        selects: |driver, device| matches!(model(driver, device), Some("a" | "b")),
    },
    Expression {
        text: "device.attributes['gpu.com'].cores >= 4",
        selects: |driver, device| {
            attribute(driver, device, "gpu.com/cores").is_some_and(|value| value.int >= Some(4))
        },
    },
    Expression {
        text: "device.capacity['gpu.com'].memory.compareTo(quantity('8Gi')) >= 0",
        selects: |driver, device| {
            let capacity = device.capacity.as_ref();
            let own = |c: &'_ BTreeMap<_, _>| c.get("memory").filter(|_| driver == "gpu.com").cloned();
            let memory = capacity.and_then(|c| c.get("gpu.com/memory").cloned().or_else(|| own(c)));
            memory.is_some_and(|memory| matches!(&*memory.value.0, "8Gi" | "16Gi"))
        },
    },
    Expression {
        text: "has(device.attributes['dra.example'].numa) && device.attributes['dra.example'].numa == 1",
        selects: |driver, device| {
            attribute(driver, device, "dra.example/numa").is_some_and(|value| value.int == Some(1))
        },
    },
    Expression {
        text: "!has(device.attributes['gpu.com'].model)",
        selects: |driver, device| model(driver, device).is_none(),
    },
    Expression {
        text: "device.attributes['gpu.com'].version.isGreaterThan(semver('1.9.0'))",
        selects: |driver, device| {
            let version = attribute(driver, device, "gpu.com/version").and_then(|v| v.version.as_deref());
            version == Some("1.10.0")
        },
    },
];

fn model<'a>(driver: &str, device: &'a Device) -> Option<&'a str> {
    attribute(driver, device, "gpu.com/model")?.string.as_deref()
}
/// `name`: with its domain, which a driver may leave out where it is its own.
pub fn attribute<'a>(driver: &str, device: &'a Device, name: &str) -> Option<&'a DeviceAttribute> {
    let attributes = device.attributes.as_ref()?;
    let (domain, id) = name.split_once('/').expect("a domain");
    attributes.get(name).or_else(|| attributes.get(id).filter(|_| domain == driver))
}
pub fn selected(selectors: Option<&Vec<DeviceSelector>>, driver: &str, device: &Device) -> bool {
    selectors.into_iter().flatten().all(|selector| {
        let text = &selector.cel.as_ref().expect("an expression").expression;
        let known = EXPRESSIONS.iter().find(|known| known.text == text).expect("one of the table");
        (known.selects)(driver, device)
    })
}

//! IPAddress and ServiceCIDR: which addresses services may have, and which are taken.

use amphipod_api::field::{Error, Path};
use amphipod_api::names::path_segment_name;
use serde_json::Value;

use crate::addresses::{one_of_each_family, strict_cidr};
use crate::check::{self, Faults, invalid_each};
use crate::json::{items, same, set, text, within};
use crate::kind::{Kind, PLAIN};
use crate::metadata::NameRule;

pub static IP_ADDRESS: Kind = Kind {
    name: NameRule::Ip,
    validate: |object| {
        let mut faults = Faults::new();
        parent(&mut faults, &Path::new("spec").child("parentRef"), &object["spec"]["parentRef"]);
        faults
    },
    validate_change: |new, old| {
        let mut faults = Faults::new();
        let at = Path::new("spec").child("parentRef");
        let (now, before) = (&new["spec"]["parentRef"], &old["spec"]["parentRef"]);
        if set(now) && !same(now, before) {
            let shown =
                [("Group", "group"), ("Resource", "resource"), ("Namespace", "namespace"), ("Name", "name")];
            let shown = shown.map(|(name, key)| (name, text(&now[key]).into()));
            faults.push(check::shown_as(Error::invalid(&at, Value::Null, check::IMMUTABLE), &shown));
        } else {
            check::immutable(&mut faults, &at, now, before);
        }
        faults
    },
    ..PLAIN
};

pub static SERVICE_CIDR: Kind = Kind {
    status: true,
    status_keeps_metadata: true,
    default: |object| within(object, "status", |_| {}),
    validate: cidrs,
    validate_change: |new, old| blocks_kept(&new["spec"]["cidrs"], &old["spec"]["cidrs"]),
    ..PLAIN
};

/// A second block may be added, for a cluster that becomes dual-stack.
fn blocks_kept(new: &Value, old: &Value) -> Faults {
    let at = Path::new("spec").child("cidrs");
    let (now, then) = (items(new), items(old));
    if now.len() != then.len() && (then.len(), now.len()) != (1, 2) {
        return Faults::from(Error::invalid(&at, new.clone(), check::IMMUTABLE));
    }
    let changed = now.iter().zip(then).enumerate().filter(|(_, (now, then))| now != then);
    changed.map(|(i, (now, _))| Error::invalid(&at.index(i), now.clone(), check::IMMUTABLE)).collect()
}

fn parent(faults: &mut Faults, path: &Path, parent: &Value) {
    if !set(parent) {
        faults.push(Error::required(path, ""));
        return;
    }
    let group = text(&parent["group"]);
    if !group.is_empty() {
        invalid_each(faults, &path.child("group"), group, check::dns1123_subdomain(group));
    }
    for (key, needed) in [("resource", true), ("name", true), ("namespace", false)] {
        match text(&parent[key]) {
            "" if needed => faults.push(Error::required(&path.child(key), "")),
            "" => {}
            value => invalid_each(faults, &path.child(key), value, path_segment_name(value)),
        }
    }
}

fn cidrs(object: &Value) -> Faults {
    let mut faults = Faults::new();
    let path = Path::new("spec").child("cidrs");
    let cidrs = items(&object["spec"]["cidrs"]);
    if cidrs.is_empty() {
        return Faults::from(Error::required(&path, "at least one CIDR required"));
    }
    if cidrs.len() > 2 {
        return Faults::from(Error::invalid(&path, object["spec"].clone(), "may only hold up to 2 values"));
    }
    for (i, cidr) in cidrs.iter().enumerate() {
        strict_cidr(&mut faults, &path.index(i), text(cidr));
    }
    if let [first, second] = cidrs
        && one_of_each_family(text(first), text(second)) == Some(false)
    {
        let detail =
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        faults.push(Error::invalid(&path, object["spec"]["cidrs"].clone(), detail));
    }
    faults
}

#[cfg(test)]
mod tests {
    use crate::testing::named::{created, merge, updated};
    use serde_json::json;

    const GROUP: &str = "networking.k8s.io";

    #[test]
    fn addresses_have_a_parent() {
        let good = json!({"metadata": {"name": "10.0.0.1"}, "spec": {"parentRef": {"resource": "services", "namespace": "d", "name": "s"}}});
        assert_eq!(created(GROUP, "ipaddresses", good.clone()), [""; 0]);
        assert_eq!(
            updated(GROUP, "ipaddresses", good.clone(), json!({"spec": {"parentRef": {"name": "t"}}})),
            [
                "spec.parentRef: Invalid value: {\"Group\":\"\",\"Resource\":\"services\",\"Namespace\":\"d\",\"Name\":\"t\"}: field is immutable"
            ]
        );
        let named = merge(
            good,
            json!({"metadata": {"name": "010.0.0.1"}, "spec": {"parentRef": {"resource": null, "name": "a/b"}}}),
        );
        assert_eq!(
            created(GROUP, "ipaddresses", named),
            [
                "metadata.name: Invalid value: \"010.0.0.1\": must not have leading 0s",
                "spec.parentRef.resource: Required value",
                "spec.parentRef.name: Invalid value: \"a/b\": may not contain '/'",
            ]
        );
    }

    #[test]
    fn blocks() {
        for (cidrs, expected) in [
            (json!([]), "spec.cidrs: Required value: at least one CIDR required"),
            (
                json!(["10.0.0.0/8", "11.0.0.0/8"]),
                "spec.cidrs: Invalid value: [\"10.0.0.0/8\",\"11.0.0.0/8\"]: may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
            ),
            (
                json!(["10.0.0.1/8"]),
                "spec.cidrs[0]: Invalid value: \"10.0.0.1/8\": must not have bits set beyond the prefix length",
            ),
        ] {
            assert_eq!(created(GROUP, "servicecidrs", json!({"spec": {"cidrs": cidrs}})), [expected]);
        }
        let good = json!({"spec": {"cidrs": ["10.0.0.0/8", "fd00::/112"]}});
        assert_eq!(created(GROUP, "servicecidrs", good.clone()), [""; 0]);
        let change = |from: &serde_json::Value, cidrs: serde_json::Value| {
            updated(GROUP, "servicecidrs", from.clone(), json!({"spec": {"cidrs": cidrs}}))
        };
        assert_eq!(
            change(&good, json!(["10.0.0.0/8"])),
            ["spec.cidrs: Invalid value: [\"10.0.0.0/8\"]: field is immutable"]
        );
        let single = json!({"spec": {"cidrs": ["10.0.0.0/8"]}});
        assert_eq!(change(&single, json!(["10.0.0.0/8", "fd00::/112"])), [""; 0]);
        assert_eq!(
            change(&single, json!(["10.0.0.0/9", "fd00::/112"])),
            ["spec.cidrs[0]: Invalid value: \"10.0.0.0/9\": field is immutable"]
        );
    }
}

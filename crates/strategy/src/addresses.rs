//! IP addresses and blocks as the API has always taken them: more leniently than they should have
//! been, so what old fields accept comes with a warning instead of a refusal.

use std::net::{IpAddr, Ipv4Addr};

use amphipod_api::field::{Error, Path, go_quote};
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::check::Faults;
use crate::contract::Warnings;
use crate::json::{items, put, text};

/// An address with leading zeros in its octets, or an IPv4 address dressed as IPv6, still counts.
pub fn lenient_ip(text: &str) -> Option<IpAddr> {
    let address = match text.parse::<IpAddr>() {
        Ok(address) => address,
        Err(_) => IpAddr::V4(zero_padded(text)?),
    };
    Some(unmapped(address))
}

fn unmapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

fn zero_padded(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next().filter(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))?;
        let digits = part.trim_start_matches('0');
        *octet = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets))
}

/// The address as written and the block it lies in.
pub fn lenient_cidr(text: &str) -> Option<(IpAddr, IpNet)> {
    let (address, length) = text.split_once('/')?;
    let written: IpAddr = address.parse().or_else(|_| zero_padded(address).map(IpAddr::V4).ok_or(())).ok()?;
    let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
    let length: u8 = length.parse().ok().filter(|_| digits)?;
    let (address, length) = match (written, unmapped(written)) {
        (IpAddr::V6(_), v4 @ IpAddr::V4(_)) => (v4, length.checked_sub(96)?),
        (_, address) => (address, length),
    };
    let net = IpNet::new(address, length).ok()?;
    Some((address, net.trunc()))
}

const IP_TEXT: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const CIDR_TEXT: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// A field older than strict parsing.
pub fn legacy_ip(faults: &mut Faults, path: &Path, text: &str) {
    if lenient_ip(text).is_none() {
        faults.push(Error::invalid(path, text, IP_TEXT));
    }
}
pub fn legacy_cidr(faults: &mut Faults, path: &Path, text: &str) {
    if lenient_cidr(text).is_none() {
        faults.push(Error::invalid(path, text, CIDR_TEXT));
    }
}
/// A field that takes the canonical form only.
pub fn strict_ip(text: &str) -> Option<String> {
    let Some(address) = lenient_ip(text) else { return Some(IP_TEXT.to_owned()) };
    match text.parse::<IpAddr>() {
        Err(_) => Some("must not have leading 0s".to_owned()),
        Ok(parsed) if parsed != address => Some("must not be an IPv4-mapped IPv6 address".to_owned()),
        Ok(parsed) if parsed.to_string() != text => {
            Some(format!("must be in canonical form ({})", go_quote(&parsed.to_string())))
        }
        Ok(_) => None,
    }
}
pub fn strict_cidr(faults: &mut Faults, path: &Path, text: &str) {
    let Some((address, net)) = lenient_cidr(text) else {
        faults.push(Error::invalid(path, text, CIDR_TEXT));
        return;
    };
    let length = text.split_once('/').map(|(_, length)| length).unwrap_or_default();
    let written = text.split_once('/').and_then(|(ip, _)| ip.parse::<IpAddr>().ok());
    match written {
        None => faults.push(Error::invalid(path, text, "must not have leading 0s in IP or prefix length")),
        Some(written) if written != address => {
            faults.push(Error::invalid(path, text, "must not have an IPv4-mapped IPv6 address"));
        }
        Some(_) if length.len() > 1 && length.starts_with('0') => {
            faults.push(Error::invalid(path, text, "must not have leading 0s in IP or prefix length"));
        }
        Some(_) if net.addr() != address => {
            faults.push(Error::invalid(path, text, "must not have bits set beyond the prefix length"));
        }
        Some(_) if net.to_string() != text => {
            let detail = format!("must be in canonical form ({})", go_quote(&net.to_string()));
            faults.push(Error::invalid(path, text, detail));
        }
        Some(_) => {}
    }
}
/// An address of an interface with its prefix length, in canonical form.
pub fn interface_address(faults: &mut Faults, path: &Path, text: &str) {
    let Some((address, net)) = lenient_cidr(text) else {
        let detail = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
        faults.push(Error::invalid(path, text, detail));
        return;
    };
    let canonical = format!("{address}/{}", net.prefix_len());
    if canonical != text {
        faults.push(Error::invalid(
            path,
            text,
            format!("must be in canonical form ({})", go_quote(&canonical)),
        ));
    }
}

/// A field for one address that a list of both families came to stand beside: what an older client
/// writes into the field decides, and the list's first fills it. `key` is the address's in an item.
pub fn keep_in_step(object: &mut Value, single: &str, list: &str, key: Option<&str>) {
    let of_item = |item: &Value| text(key.map_or(item, |key| &item[key])).to_owned();
    let one = text(&object[single]).to_owned();
    match items(&object[list]).first().map(of_item) {
        Some(first) if one.is_empty() => put(object, single, first),
        Some(first) if first == one => {}
        _ if one.is_empty() => {}
        _ => {
            let item = key.map_or_else(|| Value::from(one.as_str()), |key| json!({key: one}));
            put(object, list, vec![item]);
        }
    }
}

/// What will not be accepted for ever, or not mean what it seems to.
pub fn warn_ip(texts: &mut Warnings, path: &Path, text: &str) {
    let Some(address) = lenient_ip(text) else { return };
    let shown = go_quote(text);
    match text.parse::<IpAddr>() {
        Ok(parsed) if parsed == address => {
            if parsed.is_ipv6() && parsed.to_string() != text {
                let canonical = go_quote(&parsed.to_string());
                texts.push(format!("{path}: IPv6 address {shown} should be in RFC 5952 canonical format ({canonical})"));
            }
        }
        _ => texts.push(format!(
            "{path}: non-standard IP address {shown} will be considered invalid in a future Kubernetes release: use {}",
            go_quote(&address.to_string())
        )),
    }
}
pub fn warn_cidr(texts: &mut Warnings, path: &Path, text: &str) {
    let Some((address, net)) = lenient_cidr(text) else { return };
    let (shown, block) = (go_quote(text), go_quote(&net.to_string()));
    let before = texts.len();
    if net.addr() != address {
        let single = go_quote(&format!("{address}/{}", net.max_prefix_len()));
        texts.push(format!(
            "{path}: CIDR value {shown} is ambiguous in this context (should be {block} or {single}?)"
        ));
    }
    let (written, length) = text.split_once('/').unwrap_or_default();
    let strict = written.parse::<IpAddr>().is_ok_and(|ip| ip == address)
        && !(length.len() > 1 && length.starts_with('0'));
    if !strict {
        texts.push(format!(
            "{path}: non-standard CIDR value {shown} will be considered invalid in a future Kubernetes release: use {block}"
        ));
    }
    if texts.len() == before && address.is_ipv6() && net.to_string() != text {
        texts.push(format!(
            "{path}: IPv6 CIDR value {shown} should be in RFC 5952 canonical format ({block})"
        ));
    }
}

/// Whether the two are of different families; None when one cannot be parsed.
pub fn one_of_each_family(a: &str, b: &str) -> Option<bool> {
    let family = |text: &str| match text.contains('/') {
        true => lenient_cidr(text).map(|(ip, _)| ip.is_ipv6()),
        false => lenient_ip(text).map(|ip| ip.is_ipv6()),
    };
    Some(family(a)? != family(b)?)
}

pub fn is_ipv6(text: &str) -> bool {
    lenient_ip(text).is_some_and(|ip| ip.is_ipv6())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_fields_take_more_than_new_ones() {
        let path = Path::new("x");
        for (text, strict) in [
            ("10.0.0.1", None),
            ("010.000.0.1", Some("must not have leading 0s")),
            ("::ffff:1.2.3.4", Some("must not be an IPv4-mapped IPv6 address")),
            ("2001:DB8::1", Some("must be in canonical form (\"2001:db8::1\")")),
        ] {
            let mut faults = Faults::new();
            legacy_ip(&mut faults, &path, text);
            assert!(faults.is_empty(), "{text}");
            assert_eq!(strict_ip(text).as_deref(), strict, "{text}");
        }
        for text in ["", "1.2.3", "1.2.3.4.5", "1..2.3", "a", "300.1.1.1"] {
            assert!(lenient_ip(text).is_none(), "{text}");
        }
    }

    #[test]
    fn one_address_and_the_list_beside_it() {
        for (given, expected) in [
            (json!({}), json!({})),
            (json!({"ip": "a"}), json!({"ip": "a", "ips": [{"ip": "a"}]})),
            (
                json!({"ips": [{"ip": "a"}, {"ip": "b"}]}),
                json!({"ip": "a", "ips": [{"ip": "a"}, {"ip": "b"}]}),
            ),
            (
                json!({"ip": "a", "ips": [{"ip": "a"}, {"ip": "b"}]}),
                json!({"ip": "a", "ips": [{"ip": "a"}, {"ip": "b"}]}),
            ),
            (json!({"ip": "c", "ips": [{"ip": "a"}, {"ip": "b"}]}), json!({"ip": "c", "ips": [{"ip": "c"}]})),
        ] {
            let mut object = given.clone();
            keep_in_step(&mut object, "ip", "ips", Some("ip"));
            assert_eq!(object, expected, "{given}");
        }
        let mut object = json!({"cidr": "a"});
        keep_in_step(&mut object, "cidr", "cidrs", None);
        assert_eq!(object, json!({"cidr": "a", "cidrs": ["a"]}));
    }

    #[test]
    fn warnings() {
        let path = Path::new("x");
        let mut texts = Warnings::new();
        warn_ip(&mut texts, &path, "1.2.3.4");
        warn_cidr(&mut texts, &path, "1.2.3.0/24");
        warn_cidr(&mut texts, &path, "2001:db8::/32");
        assert!(texts.is_empty(), "{texts:?}");
        warn_ip(&mut texts, &path, "001.2.3.4");
        warn_ip(&mut texts, &path, "2001:DB8::1");
        warn_cidr(&mut texts, &path, "1.2.3.4/24");
        warn_cidr(&mut texts, &path, "2001:DB8::/32");
        assert_eq!(
            *texts,
            [
                "x: non-standard IP address \"001.2.3.4\" will be considered invalid in a future Kubernetes release: use \"1.2.3.4\"",
                "x: IPv6 address \"2001:DB8::1\" should be in RFC 5952 canonical format (\"2001:db8::1\")",
                "x: CIDR value \"1.2.3.4/24\" is ambiguous in this context (should be \"1.2.3.0/24\" or \"1.2.3.4/32\"?)",
                "x: IPv6 CIDR value \"2001:DB8::/32\" should be in RFC 5952 canonical format (\"2001:db8::/32\")",
            ]
        );
    }

    #[test]
    fn strict_blocks() {
        let texts = |text: &str| {
            let mut faults = Faults::new();
            strict_cidr(&mut faults, &Path::new("x"), text);
            interface_address(&mut faults, &Path::new("i"), text);
            faults.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(texts("10.0.0.0/8").is_empty());
        assert_eq!(
            texts("10.0.0.1/8"),
            ["x: Invalid value: \"10.0.0.1/8\": must not have bits set beyond the prefix length"]
        );
        assert_eq!(texts("10.0.0.1").len(), 2);
    }
}

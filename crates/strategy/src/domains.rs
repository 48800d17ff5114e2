//! Names with a domain in them: drivers, signers, webhooks, controllers, and where webhooks live.

use amphipod_api::field::{Error, Path, go_quote};
use amphipod_api::names::{DNS1123_LABEL_MAX, DNS1123_SUBDOMAIN_MAX};
use serde_json::Value;

use crate::check::{self, Faults, invalid_each};
use crate::json::{number, set, text};

/// `name.example.com`
pub fn fully_qualified_name(faults: &mut Faults, path: &Path, name: &str) {
    if name.is_empty() {
        faults.push(Error::required(path, ""));
        return;
    }
    let texts = check::dns1123_subdomain(name);
    if !texts.is_empty() {
        faults.push(Error::invalid(path, name, texts.join(",")));
    } else if name.split('.').count() < 3 {
        let detail = "should be a domain with at least three segments separated by dots";
        faults.push(Error::invalid(path, name, detail));
    }
}

/// A host that may end in the root's dot.
pub fn fully_qualified_host(faults: &mut Faults, path: &Path, name: &str) {
    if name.is_empty() {
        faults.push(Error::required(path, ""));
        return;
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let texts = check::dns1123_subdomain(name);
    if !texts.is_empty() {
        faults.push(Error::invalid(path, name, texts.join(",")));
        return;
    }
    if !name.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        faults.push(Error::invalid(path, name, detail));
        return;
    }
    for label in name.split('.') {
        let texts = check::dns1123_label(label);
        if !texts.is_empty() {
            faults.push(Error::invalid(path, label, texts.join(",")));
        }
    }
}

/// `acme.io/foo`
pub fn domain_prefixed_path(faults: &mut Faults, path: &Path, value: &str) {
    if value.is_empty() {
        faults.push(Error::required(path, ""));
        return;
    }
    let Some((host, rest)) =
        value.split_once('/').filter(|(host, rest)| !host.is_empty() && !rest.is_empty())
    else {
        let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        faults.push(Error::invalid(path, value, detail));
        return;
    };
    invalid_each(faults, path, host, check::dns1123_subdomain(host));
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
    if !rest.bytes().all(fits) {
        let detail = r"Invalid path (regex used for validation is '[A-Za-z0-9/\-._~%!$&'()*+,;=:]+')";
        faults.push(Error::invalid(path, rest, detail));
    }
}

const DRIVER_NAME_MAX: usize = 63;

/// The name of a CSI or device driver.
pub fn driver_name(faults: &mut Faults, path: &Path, name: &str) {
    if name.is_empty() {
        faults.push(Error::required(path, ""));
        return;
    }
    if name.len() > DRIVER_NAME_MAX {
        faults.push(Error::too_long(path, DRIVER_NAME_MAX));
    }
    invalid_each(faults, path, name, check::dns1123_subdomain(&name.to_lowercase()));
}

/// `example.com/signer-name`
pub fn signer_name(faults: &mut Faults, path: &Path, name: &str) {
    if name.is_empty() {
        faults.push(Error::required(path, ""));
        return;
    }
    let parts: Vec<&str> = name.split('/').collect();
    let [domain, rest] = parts[..] else {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        faults.push(Error::invalid(path, name, detail));
        return;
    };
    if domain.len() > DNS1123_SUBDOMAIN_MAX {
        faults.push(Error::too_long(path, DNS1123_SUBDOMAIN_MAX));
    }
    first_bad_label(faults, path, domain, check::dns1123_label);
    if !domain.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        faults.push(Error::invalid(path, domain, detail));
    }
    first_bad_label(faults, path, rest, check::dns1123_subdomain);
    let longest = DNS1123_SUBDOMAIN_MAX + 1 + DNS1123_SUBDOMAIN_MAX + DNS1123_LABEL_MAX + 1;
    if name.len() > longest {
        faults.push(Error::too_long(path, longest));
    }
}

fn first_bad_label(faults: &mut Faults, path: &Path, value: &str, rule: fn(&str) -> Vec<String>) {
    if let Some((label, texts)) = value.split('.').map(|l| (l, rule(l))).find(|(_, texts)| !texts.is_empty())
    {
        let texts = texts.into_iter().map(|text| format!("validating label {}: {text}", go_quote(label)));
        invalid_each(faults, path, value, texts.collect());
    }
}

/// Where a webhook is called: by URL or through a service, never both.
pub fn webhook_client(faults: &mut Faults, path: &Path, client: &Value) {
    match (set(&client["url"]), set(&client["service"])) {
        (true, false) => url(faults, &path.child("url"), text(&client["url"])),
        (false, true) => service(faults, &path.child("service"), &client["service"]),
        _ => faults.push(Error::required(path, "exactly one of url or service is required")),
    }
}

const URL_FORM: &str = "; desired format: https://host[/path]";

fn url(faults: &mut Faults, path: &Path, url: &str) {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    if scheme != "https" {
        let detail = format!("'https' is the only allowed URL scheme{URL_FORM}");
        faults.push(Error::invalid(path, scheme, detail));
    }
    let (before_fragment, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (before_query, query) = before_fragment.split_once('?').unwrap_or((before_fragment, ""));
    let authority = if scheme.is_empty() { "" } else { before_query.split('/').next().unwrap_or_default() };
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if host.is_empty() {
        faults.push(Error::invalid(path, host, format!("host must be specified{URL_FORM}")));
    }
    if authority.contains('@') {
        faults.push(Error::invalid(path, user, "user information is not permitted in the URL"));
    }
    if !fragment.is_empty() {
        faults.push(Error::invalid(path, fragment, "fragments are not permitted in the URL"));
    }
    if !query.is_empty() {
        faults.push(Error::invalid(path, query, "query parameters are not permitted in the URL"));
    }
}

fn service(faults: &mut Faults, path: &Path, service: &Value) {
    if text(&service["name"]).is_empty() {
        faults.push(Error::required(&path.child("name"), "service name is required"));
    }
    if text(&service["namespace"]).is_empty() {
        faults.push(Error::required(&path.child("namespace"), "service namespace is required"));
    }
    let port = number(&service["port"]);
    let texts = amphipod_api::names::port_number(port);
    if !texts.is_empty() {
        let detail = format!("port is not valid: {}", texts.join(", "));
        faults.push(Error::invalid(&path.child("port"), port, detail));
    }
    let route = text(&service["path"]);
    let at = path.child("path");
    match route {
        "" | "/" => return,
        "//" => {
            faults.push(Error::invalid(&at, route, "segment[0] may not be empty"));
            return;
        }
        _ if !route.starts_with('/') => faults.push(Error::invalid(&at, route, "must start with a '/'")),
        _ => {}
    }
    let mut chars = route.chars();
    chars.next();
    let inner = chars.as_str();
    for (i, segment) in inner.strip_suffix('/').unwrap_or(inner).split('/').enumerate() {
        // Each shows the whole path.
        if faults.is_full() {
            return;
        }
        if segment.is_empty() {
            faults.push(Error::invalid(&at, route, format!("segment[{i}] may not be empty")));
            continue;
        }
        for failure in check::dns1123_subdomain(segment) {
            faults.push(Error::invalid(&at, route, format!("segment[{i}]: {failure}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(rule: impl Fn(&mut Faults, &Path)) -> Vec<String> {
        let mut faults = Faults::new();
        rule(&mut faults, &Path::new("x"));
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn webhook_clients() {
        for (client, expected) in [
            (json!({}), vec!["x: Required value: exactly one of url or service is required"]),
            (json!({"url": "https://a/b"}), vec![]),
            (
                json!({"url": "http://u:p@/x?q#f"}),
                vec![
                    "x.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
                    "x.url: Invalid value: \"\": host must be specified; desired format: https://host[/path]",
                    "x.url: Invalid value: \"u:p\": user information is not permitted in the URL",
                    "x.url: Invalid value: \"f\": fragments are not permitted in the URL",
                    "x.url: Invalid value: \"q\": query parameters are not permitted in the URL",
                ],
            ),
            (
                json!({"service": {"path": "a//b", "port": 0}}),
                vec![
                    "x.service.name: Required value: service name is required",
                    "x.service.namespace: Required value: service namespace is required",
                    "x.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive",
                    "x.service.path: Invalid value: \"a//b\": must start with a '/'",
                    "x.service.path: Invalid value: \"a//b\": segment[0] may not be empty",
                    "x.service.path: Invalid value: \"a//b\": segment[1] may not be empty",
                ],
            ),
        ] {
            assert_eq!(texts(|faults, path| webhook_client(faults, path, &client)), expected, "{client}");
        }
    }

    #[test]
    fn domain_names() {
        let controller = |value: &str| texts(|faults, path| domain_prefixed_path(faults, path, value));
        assert!(controller("example.com/a").is_empty());
        assert_eq!(
            controller("example.com"),
            ["x: Invalid value: \"example.com\": must be a domain-prefixed path (such as \"acme.io/foo\")"]
        );
        let hook = |value: &str| texts(|faults, path| fully_qualified_name(faults, path, value));
        assert!(hook("a.b.c").is_empty());
        assert_eq!(
            hook("a.b"),
            ["x: Invalid value: \"a.b\": should be a domain with at least three segments separated by dots"]
        );
        let signer = |value: &str| texts(|faults, path| signer_name(faults, path, value));
        assert!(signer("kubernetes.io/kube-apiserver-client").is_empty());
        assert_eq!(signer("a/b").len(), 1);
        assert_eq!(signer("a.b").len(), 1);
    }
}

//! What a URL path and method ask for: the rules by which every Kubernetes component names
//! requests (resource, subresource, namespace, verb). Pure.

use crate::seams::Attributes;

/// The part of the path behind a proxy-like subresource, e.g. `/a/b` of `pods/x/proxy/a/b`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    pub attributes_verb: String,
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub resource: String,
    pub name: String,
    pub subresource: String,
    pub rest: String,
}

/// Resolves an API path to a resource request; `None` for everything else (discovery included).
/// `watch` is the `watch` query parameter.
pub fn resolve(method: &http::Method, path: &str, watch: bool) -> Option<Target> {
    let mut parts = path.trim_start_matches('/').split('/').filter(|p| !p.is_empty());
    let (group, version) = match parts.next()? {
        "api" => ("", parts.next()?),
        "apis" => (parts.next()?, parts.next()?),
        _ => return None,
    };
    let mut rest: Vec<&str> = parts.collect();
    let mut legacy_watch = false;
    if rest.first() == Some(&"watch") {
        legacy_watch = true;
        rest.remove(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut target = Target { group: decode(group), version: decode(version), ..Target::default() };
    // namespaces/<ns>, namespaces/<ns>/status and /finalize are the namespace itself.
    let of_namespace = rest[0] == "namespaces"
        && rest.len() > 2
        && !(rest.len() == 3 && matches!(rest[2], "status" | "finalize") && group.is_empty());
    if rest[0] == "namespaces" && rest.len() >= 2 {
        target.namespace = decode(rest[1]);
    }
    if of_namespace {
        rest.drain(..2);
    }
    target.resource = decode(rest[0]);
    target.name = rest.get(1).map(|p| decode(p)).unwrap_or_default();
    target.subresource = rest.get(2).map(|p| decode(p)).unwrap_or_default();
    target.rest = rest_of(path, &rest);
    let watch = watch || legacy_watch;
    target.attributes_verb = verb(method, target.name.is_empty(), watch).to_owned();
    Some(target)
}

/// The raw text behind the subresource, slashes kept as they were sent.
fn rest_of(path: &str, parts: &[&str]) -> String {
    let Some(subresource) = parts.get(2) else { return String::new() };
    let Some(name) = parts.get(1) else { return String::new() };
    let marker = format!("/{name}/{subresource}");
    path.find(&marker).map(|at| path[at + marker.len()..].to_owned()).unwrap_or_default()
}

fn verb(method: &http::Method, whole_collection: bool, watch: bool) -> &'static str {
    match (method.as_str(), whole_collection) {
        ("GET" | "HEAD", _) if watch => "watch",
        ("GET" | "HEAD", true) => "list",
        ("GET" | "HEAD", false) => "get",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", true) => "deletecollection",
        ("DELETE", false) => "delete",
        _ => "",
    }
}

impl Target {
    pub fn attributes(&self, path: &str) -> Attributes {
        Attributes {
            verb: self.attributes_verb.clone(),
            group: self.group.clone(),
            version: self.version.clone(),
            resource: self.resource.clone(),
            subresource: self.subresource.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            path: path.to_owned(),
            resource_request: true,
            ..Attributes::default()
        }
    }
}

/// Undoes percent-encoding; what is no valid escape stays as it is.
pub fn decode(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = (bytes[at] == b'%')
            .then(|| bytes.get(at + 1..at + 3))
            .flatten()
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match escape {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The query's parameters in order, decoded.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(query: Option<&str>) -> Self {
        let pairs = query.unwrap_or("").split('&').filter(|p| !p.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(&key.replace('+', " ")), decode(&value.replace('+', " ")))
        });
        Query(pairs.collect())
    }
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }
    pub fn text(&self, key: &str) -> &str {
        self.get(key).unwrap_or("")
    }
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }
    pub fn contains(&self, key: &str) -> bool {
        self.get(key).is_some()
    }
    /// Go's reading of a boolean: present and empty is true.
    pub fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|v| v != "0" && !v.eq_ignore_ascii_case("false"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_resolve_as_upstream_reads_them() {
        let cases = [
            ("GET", "/api/v1/pods", "list  v1  pods  "),
            ("GET", "/api/v1/namespaces/a/pods/b", "get  v1 a pods b "),
            ("POST", "/api/v1/namespaces/a/pods/b/exec", "create  v1 a pods b exec"),
            ("PUT", "/api/v1/namespaces/a/finalize", "update  v1 a namespaces a finalize"),
            ("GET", "/api/v1/namespaces/a", "get  v1 a namespaces a "),
            ("GET", "/api/v1/namespaces", "list  v1  namespaces  "),
            ("DELETE", "/apis/apps/v1/namespaces/a/deployments", "deletecollection apps v1 a deployments  "),
            (
                "PATCH",
                "/apis/apps/v1/namespaces/a/deployments/d/scale",
                "patch apps v1 a deployments d scale",
            ),
            ("GET", "/api/v1/watch/pods", "watch  v1  pods  "),
        ];
        for (method, path, want) in cases {
            let method = http::Method::from_bytes(method.as_bytes()).expect("method");
            let t = resolve(&method, path, false).expect(path);
            let got = [
                &t.attributes_verb,
                &t.group,
                &t.version,
                &t.namespace,
                &t.resource,
                &t.name,
                &t.subresource,
            ];
            assert_eq!(got.map(String::as_str).join(" "), want, "{path}");
        }
        assert_eq!(resolve(&http::Method::GET, "/apis/apps/v1", false), None);
        let proxy = resolve(&http::Method::GET, "/api/v1/namespaces/a/pods/b:80/proxy/x//y/", false);
        assert_eq!(proxy.map(|t| t.rest).as_deref(), Some("/x//y/"));
    }

    #[test]
    fn queries_decode() {
        let query = Query::parse(Some("labelSelector=a%3Db%2Cc+in+(d)&watch&dryRun=All"));
        assert_eq!(query.text("labelSelector"), "a=b,c in (d)");
        assert!(query.flag("watch"));
        assert!(!query.flag("follow"));
    }
}

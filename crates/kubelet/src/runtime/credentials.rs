//! Which registry credentials go with an image: `imagePullSecrets` in both docker formats.

use amphipod_cri::v1::AuthConfig;
use base64::Engine;
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

const DOCKER_HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// The credentials that match the image, the most specific first.
pub fn for_image(image: &str, secrets: &[Secret]) -> Vec<AuthConfig> {
    let (registry, path) = split(image);
    let mut found: Vec<(usize, AuthConfig)> = Vec::new();
    for (key, value) in secrets.iter().flat_map(entries) {
        if let Some(rank) = rank(&key, &registry, &path) {
            found.extend(auth(&value).map(|a| (rank, AuthConfig { server_address: key.clone(), ..a })));
        }
    }
    found.sort_by_key(|(rank, _)| std::cmp::Reverse(*rank));
    found.into_iter().map(|(_, auth)| auth).collect()
}

/// Registry host and repository path of an image reference.
fn split(image: &str) -> (String, String) {
    let name = image.split('@').next().unwrap_or(image);
    match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => {
            (host.to_owned(), strip_tag(path).to_owned())
        }
        Some(_) => ("docker.io".to_owned(), strip_tag(name).to_owned()),
        None => ("docker.io".to_owned(), format!("library/{}", strip_tag(name))),
    }
}

fn strip_tag(path: &str) -> &str {
    path.rsplit_once(':').map_or(path, |(repository, _)| repository)
}

fn entries(secret: &Secret) -> Vec<(String, Value)> {
    let data = |key: &str| {
        let bytes = secret.data.as_ref()?.get(key)?;
        serde_json::from_slice::<Value>(&bytes.0).ok()
    };
    let auths = match data(".dockerconfigjson") {
        Some(config) => config.get("auths").cloned(),
        None => data(".dockercfg"),
    };
    let Some(Value::Object(auths)) = auths else { return Vec::new() };
    auths.into_iter().collect()
}

/// How well a key of the secret fits; hosts may hold globs (`*.example.com`).
fn rank(key: &str, registry: &str, path: &str) -> Option<usize> {
    let bare = key.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let bare = bare.strip_suffix("/v1").or(bare.strip_suffix("/v2")).unwrap_or(bare);
    let (host, prefix) = bare.split_once('/').unwrap_or((bare, ""));
    let hub = |host: &str| DOCKER_HUB.contains(&host);
    let same_host = glob_host(host, registry) || (hub(host) && hub(registry));
    let same_path = prefix.is_empty() || path == prefix || path.starts_with(&format!("{prefix}/"));
    (same_host && same_path).then_some(bare.len())
}

fn glob_host(pattern: &str, host: &str) -> bool {
    let (pattern_parts, host_parts): (Vec<&str>, Vec<&str>) =
        (pattern.split('.').collect(), host.split('.').collect());
    pattern_parts.len() == host_parts.len()
        && pattern_parts.iter().zip(&host_parts).all(|(p, h)| match p.split_once('*') {
            Some((start, end)) => {
                h.len() >= start.len() + end.len() && h.starts_with(start) && h.ends_with(end)
            }
            None => p == h,
        })
}

fn auth(value: &Value) -> Option<AuthConfig> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut auth = AuthConfig {
        username: text("username"),
        password: text("password"),
        identity_token: text("identitytoken"),
        registry_token: text("registrytoken"),
        ..AuthConfig::default()
    };
    let encoded = text("auth");
    if auth.username.is_empty() && !encoded.is_empty() {
        let bytes = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
        let pair = String::from_utf8(bytes).ok()?;
        let (username, password) = pair.split_once(':')?;
        (auth.username, auth.password) = (username.to_owned(), password.trim_end_matches('\0').to_owned());
    }
    Some(auth)
}

#[cfg(test)]
mod tests {
    use super::*;
    use amphipod_client::Resource;
    use serde_json::json;

    #[test]
    fn the_most_specific_entry_comes_first() {
        let encode = |text: String| base64::engine::general_purpose::STANDARD.encode(text);
        let config = json!({"auths": {
            "https://index.docker.io/v1/": {"auth": encode("hub:pw".into())},
            "reg.example.com": {"username": "all", "password": "x"},
            "reg.example.com/team": {"username": "team", "password": "x"},
            "*.other.com": {"username": "glob", "password": "x"}}});
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {},
            "data": {".dockerconfigjson": encode(config.to_string())}});
        let secret = Secret::decode(secret.to_string().as_bytes()).unwrap();
        let cases = [
            ("busybox", "hub"),
            ("user/app:1", "hub"),
            ("reg.example.com/team/app@sha256:00", "team all"),
            ("reg.example.com/x", "all"),
            ("a.other.com/x", "glob"),
            ("localhost:5000/x", ""),
        ];
        for (image, expected) in cases {
            let users: Vec<String> =
                for_image(image, std::slice::from_ref(&secret)).into_iter().map(|a| a.username).collect();
            assert_eq!(users.join(" "), expected, "{image}");
        }
    }
}

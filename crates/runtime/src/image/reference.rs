//! Image references: `busybox` means `docker.io/library/busybox:latest`.

use std::fmt;

use crate::error::Error;

const DEFAULT_REGISTRY: &str = "docker.io";
const LEGACY_REGISTRY: &str = "index.docker.io";
const OFFICIAL_NAMESPACE: &str = "library";
const DEFAULT_TAG: &str = "latest";
/// Longest repository name a registry accepts.
const MAX_NAME_BYTES: usize = 255;

/// A complete reference. A digest wins over a tag when both are given.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    pub registry: String,
    pub repository: String,
    pub tag: Option<String>,
    pub digest: Option<String>,
}

impl Reference {
    /// Parses what a person writes.
    pub fn parse(text: &str) -> Result<Reference, Error> {
        let invalid = || Error::InvalidArgument(format!("invalid image reference {text:?}"));
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) if is_digest(digest) => (rest, Some(digest.to_string())),
            Some(_) => return Err(invalid()),
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag.to_string())),
            _ => (rest, None),
        };
        let (registry, path) = match name.split_once('/') {
            Some((first, path)) if is_registry(first) => (first, path.to_string()),
            Some(_) => (DEFAULT_REGISTRY, name.to_string()),
            None => (DEFAULT_REGISTRY, format!("{OFFICIAL_NAMESPACE}/{name}")),
        };
        let registry = if registry == LEGACY_REGISTRY { DEFAULT_REGISTRY } else { registry };
        let repository = match path.contains('/') || registry != DEFAULT_REGISTRY {
            true => path,
            false => format!("{OFFICIAL_NAMESPACE}/{path}"),
        };
        let tag_fits = tag.as_deref().is_none_or(is_tag);
        if !tag_fits || !is_repository(&repository) || name.is_empty() {
            return Err(invalid());
        }
        let tag = if digest.is_none() { Some(tag.unwrap_or_else(|| DEFAULT_TAG.into())) } else { tag };
        Ok(Reference { registry: registry.to_string(), repository, tag, digest })
    }

    /// `registry/repository`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// `registry/repository:tag`, when there is a tag and no digest overrules it.
    pub fn tagged(&self) -> Option<String> {
        let tag = self.tag.as_ref().filter(|_| self.digest.is_none())?;
        Some(format!("{}:{tag}", self.name()))
    }

    /// `registry/repository@digest` for a known digest.
    pub fn with_digest(&self, digest: &str) -> String {
        format!("{}@{digest}", self.name())
    }

    /// Whether the registry is on this machine: such ones are spoken to without TLS.
    pub fn is_loopback(&self) -> bool {
        let host = self.registry.rsplit_once(':').map_or(self.registry.as_str(), |(host, _)| host);
        let address = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => write!(f, "{}@{digest}", self.name()),
            (None, Some(tag)) => write!(f, "{}:{tag}", self.name()),
            (None, None) => f.write_str(&self.name()),
        }
    }
}

fn is_registry(first: &str) -> bool {
    first == "localhost" || first.contains('.') || first.contains(':')
}

fn is_tag(tag: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    !tag.is_empty() && tag.len() <= 128 && tag.bytes().all(fits) && !tag.starts_with(['.', '-'])
}

fn is_digest(digest: &str) -> bool {
    digest.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

fn is_repository(path: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_.-".contains(&byte);
    let part = |part: &str| {
        let edges = |byte: Option<u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        edges(part.bytes().next()) && edges(part.bytes().last()) && part.bytes().all(fits)
    };
    !path.is_empty() && path.len() <= MAX_NAME_BYTES && path.split('/').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_completed() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let cases = [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("team/app", "docker.io/team/app:latest"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("index.docker.io/library/nginx:1", "docker.io/library/nginx:1"),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
            ("localhost:5000/a/b/c:x", "localhost:5000/a/b/c:x"),
            ("127.0.0.1:5000/app", "127.0.0.1:5000/app:latest"),
            ("amphipod.local/demo:1", "amphipod.local/demo:1"),
        ];
        for (text, want) in cases {
            assert_eq!(Reference::parse(text).unwrap().to_string(), want, "{text}");
        }
        let both = Reference::parse(&format!("busybox:1@{digest}")).unwrap();
        assert_eq!(both.to_string(), format!("docker.io/library/busybox@{digest}"));
        assert_eq!(both.tagged(), None);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "Busybox", "a b", "x@sha256:12", "x:", "a//b", "-x", "x:.y", "docker.io/"] {
            assert!(Reference::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn loopback_registries_are_known() {
        for (text, want) in [
            ("localhost:5000/a", true),
            ("127.0.0.1:5000/a", true),
            ("[::1]:5000/a", true),
            ("10.0.0.1:5000/a", false),
            ("busybox", false),
        ] {
            assert_eq!(Reference::parse(text).unwrap().is_loopback(), want, "{text}");
        }
    }
}

//! The parts of OCI (and docker) image documents that running a container needs.

use serde::{Deserialize, Serialize};

/// An image configuration.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ImageConfig {
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub config: ProcessDefaults,
    #[serde(default)]
    pub rootfs: RootFs,
}

/// How the image wants to be run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ProcessDefaults {
    #[serde(deserialize_with = "null_as_default")]
    pub user: String,
    #[serde(deserialize_with = "null_as_default")]
    pub env: Vec<String>,
    #[serde(deserialize_with = "null_as_default")]
    pub entrypoint: Vec<String>,
    #[serde(deserialize_with = "null_as_default")]
    pub cmd: Vec<String>,
    #[serde(deserialize_with = "null_as_default")]
    pub working_dir: String,
    #[serde(deserialize_with = "null_as_default")]
    pub stop_signal: String,
}

/// The layers, lowest first, by the digest of their uncompressed archive.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RootFs {
    #[serde(default)]
    pub diff_ids: Vec<String>,
}

/// A pointer to content.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: String,
    #[serde(default)]
    pub size: u64,
    #[serde(default)]
    pub platform: Option<Platform>,
    #[serde(default)]
    pub annotations: std::collections::BTreeMap<String, String>,
}

/// The machine an image is for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Platform {
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
}

/// A manifest, or an index of manifests.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    #[serde(default)]
    pub config: Option<Descriptor>,
    #[serde(default)]
    pub layers: Vec<Descriptor>,
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
}

impl Manifest {
    /// The entry of an index that fits this machine.
    pub fn for_this_machine(&self) -> Option<&Descriptor> {
        let fits = |descriptor: &&Descriptor| match &descriptor.platform {
            Some(platform) => platform.os == "linux" && platform.architecture == machine(),
            None => false,
        };
        let unlabelled = || self.manifests.iter().find(|descriptor| descriptor.platform.is_none());
        self.manifests.iter().find(fits).or_else(unlabelled)
    }
}

/// This machine's architecture in OCI's words.
pub fn machine() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_and_absent_fields_are_empty() {
        let config: ImageConfig =
            serde_json::from_str(r#"{"config":{"Entrypoint":null,"Cmd":["sh"],"Other":1}}"#).unwrap();
        assert!(config.config.entrypoint.is_empty());
        assert_eq!(config.config.cmd, ["sh"]);
    }

    #[test]
    fn an_index_yields_this_machine() {
        let text = format!(
            r#"{{"manifests":[
                {{"digest":"sha256:a","platform":{{"os":"linux","architecture":"s390x"}}}},
                {{"digest":"sha256:b","platform":{{"os":"linux","architecture":"{}"}}}}]}}"#,
            machine()
        );
        let index: Manifest = serde_json::from_str(&text).unwrap();
        assert_eq!(index.for_this_machine().unwrap().digest, "sha256:b");
    }
}

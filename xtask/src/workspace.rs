//! What `cargo metadata` says about the workspace and its dependencies.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

pub struct Workspace {
    metadata: Value,
}

impl Workspace {
    pub fn load() -> Result<Self, String> {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let output = Command::new(cargo)
            .args(["metadata", "--format-version", "1", "--locked", "--offline"])
            .output()
            .map_err(|e| format!("cannot run cargo metadata: {e}"))?;
        if !output.status.success() {
            return Err(format!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr)));
        }
        let metadata = serde_json::from_slice(&output.stdout)
            .map_err(|e| format!("cargo metadata answered nonsense: {e}"))?;
        Ok(Workspace { metadata })
    }

    pub fn root(&self) -> PathBuf {
        PathBuf::from(self.metadata["workspace_root"].as_str().unwrap_or("."))
    }

    fn packages(&self) -> impl Iterator<Item = &Value> {
        self.metadata["packages"].as_array().into_iter().flatten()
    }

    /// The `src` folder of a dependency.
    pub fn source_of(&self, package: &str) -> Result<PathBuf, String> {
        let found = self.packages().find(|p| p["name"] == package);
        let manifest = found.and_then(|p| p["manifest_path"].as_str());
        let manifest =
            manifest.ok_or_else(|| format!("no package {package} in the workspace's dependencies"))?;
        let folder = PathBuf::from(manifest);
        let folder = folder.parent().ok_or_else(|| format!("{manifest} has no folder"))?;
        Ok(folder.join("src"))
    }

    /// Every crate of ours with the crates of ours it depends on (tests' own dependencies aside).
    pub fn edges(&self) -> Vec<(String, Vec<String>)> {
        let ours: Vec<&str> =
            self.packages().filter(|p| p["source"].is_null()).filter_map(|p| p["name"].as_str()).collect();
        let edges_of = |package: &Value| {
            let dependencies = package["dependencies"].as_array().into_iter().flatten();
            let names = dependencies.filter(|d| d["kind"] != "dev").filter_map(|d| d["name"].as_str());
            names.filter(|n| ours.contains(n)).map(str::to_owned).collect()
        };
        self.packages()
            .filter(|p| p["source"].is_null())
            .map(|p| (p["name"].as_str().unwrap_or_default().to_owned(), edges_of(p)))
            .collect()
    }
}

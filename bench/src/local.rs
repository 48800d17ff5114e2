//! A cluster on this machine, driven through the binary as a person would.

use std::path::PathBuf;
use std::process::Stdio;

use clap::Args;
use serde_json::Value;
use tokio::process::Command;

use crate::Outcome;

#[derive(Clone, Debug, Args)]
pub struct Local {
    /// The binary to measure.
    #[arg(long, default_value = "target/release/amphipod")]
    pub binary: PathBuf,
    /// A data directory for the measurement; deleted afterwards.
    #[arg(long, default_value = "/var/lib/amphipod-bench")]
    pub data_dir: PathBuf,
    #[arg(long, default_value = "127.0.0.1:16443")]
    pub listen: String,
}

impl Local {
    pub async fn up(&self, flags: &[&str]) -> Outcome<()> {
        let mut all = vec!["--detach", "--listen", &self.listen];
        all.extend(flags);
        self.run("up", &all).await
    }

    pub async fn run(&self, command: &str, flags: &[&str]) -> Outcome<()> {
        let output = Command::new(&self.binary)
            .args([command, "--data-dir"])
            .arg(&self.data_dir)
            .args(flags)
            .stdin(Stdio::null())
            .output()
            .await
            .map_err(|error| format!("{}: {error}", self.binary.display()))?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(format!("amphipod {command} failed ({}): {text}", output.status).into())
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir.join("admin.kubeconfig")
    }

    pub fn pid(&self) -> Outcome<u32> {
        let text = std::fs::read_to_string(self.data_dir.join("run/instance.json"))?;
        let record: Value = serde_json::from_str(&text)?;
        let pid = record["pid"].as_u64().and_then(|p| u32::try_from(p).ok());
        Ok(pid.ok_or("the instance record has no pid")?)
    }
}

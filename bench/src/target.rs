//! Which cluster is measured: one that is there already, whosever it is, or one of this machine that
//! is started for the purpose and purged afterwards.

use std::path::PathBuf;

use clap::Args;

use crate::Outcome;
use crate::local::Local;
use crate::wire::Wire;

#[derive(Clone, Debug, Args)]
pub struct Target {
    #[command(flatten)]
    pub local: Local,
    /// A cluster to measure instead of starting one; it may have no nodes.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// A process of that cluster on this machine, for figures of its CPU and memory; may be given
    /// several times.
    #[arg(long, requires = "kubeconfig")]
    pub pid: Vec<u32>,
}

/// A cluster that answers.
pub struct Running<'a> {
    target: &'a Target,
    pub wire: Wire,
    pub pids: Vec<u32>,
}

impl Target {
    /// The cluster was there before and stays.
    pub fn is_given(&self) -> bool {
        self.kubeconfig.is_some()
    }

    /// `flags` are for the cluster that is started.
    pub async fn start(&self, flags: &[&str]) -> Outcome<Running<'_>> {
        if let Some(kubeconfig) = &self.kubeconfig {
            let wire = Wire::connect(kubeconfig).await?;
            return Ok(Running { target: self, wire, pids: self.pid.clone() });
        }
        let local = &self.local;
        local.up(flags).await?;
        let reached = async { Ok((Wire::connect(&local.kubeconfig()).await?, local.pid()?)) };
        match reached.await {
            Ok((wire, pid)) => Ok(Running { target: self, wire, pids: vec![pid] }),
            Err(error) => {
                local.run("down", &["--purge"]).await?;
                Err(error)
            }
        }
    }
}

impl Running<'_> {
    pub async fn stop(self) -> Outcome<()> {
        if self.target.is_given() {
            return Ok(());
        }
        self.target.local.run("down", &["--purge"]).await
    }
}

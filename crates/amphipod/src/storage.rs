//! Where the cluster's state is kept: the flags, and the engine they choose.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use amphipod_cluster::Files;
use amphipod_store::{EmbeddedStore, EtcdOptions, EtcdStore, Options, Store, TlsFiles};
use clap::Args;

use crate::compose::Failure;

/// What the API server's keys begin with.
const ROOT: &str = "/registry";

#[derive(Clone, Debug, Args)]
pub struct StoreOptions {
    /// Where the cluster's state is kept: `embedded` (in the data directory) or an etcd cluster,
    /// etcd://host:port,host:port.
    #[arg(long, default_value = "embedded")]
    pub store: Place,
    /// CA bundle that etcd's certificates are checked against; connections then use TLS.
    #[arg(long)]
    pub etcd_cafile: Option<PathBuf>,
    /// Client certificate for etcd.
    #[arg(long, requires = "etcd_keyfile")]
    pub etcd_certfile: Option<PathBuf>,
    /// Key of the client certificate.
    #[arg(long, requires = "etcd_certfile")]
    pub etcd_keyfile: Option<PathBuf>,
    /// What the cluster's keys in etcd begin with [default: /registry].
    #[arg(long)]
    pub etcd_prefix: Option<String>,
    /// How long what changed can still be read and watched from, if it is not too much: watches reach back
    /// 16,384 changes of a resource, the embedded store 200,000 in all. Up to twice that time is kept.
    #[arg(long, default_value = "5m", value_parser = duration)]
    pub history: Duration,
    /// Memory for replaced objects and their upkeep; beyond it history is forgotten sooner (embedded store only).
    #[arg(long, default_value_t = 128)]
    pub history_mib: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Embedded,
    /// `host:port` of each member named.
    Etcd(Vec<String>),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "embedded" {
            return Ok(Place::Embedded);
        }
        let members = text.strip_prefix("etcd://").filter(|members| !members.is_empty());
        let members = members.ok_or("write `embedded`, or etcd://host:port,host:port")?;
        // Each may repeat the scheme, as lists of etcd's own URLs do.
        let names = members.split(',').map(|name| name.trim_start_matches("etcd://").trim_end_matches('/'));
        Ok(Place::Etcd(names.map(str::to_owned).collect()))
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration = text.parse().map_err(|e| format!("{e}"))?;
    let duration = Duration::try_from(parsed).map_err(|e| e.to_string())?;
    if duration.is_zero() { Err("it must not be 0".to_owned()) } else { Ok(duration) }
}

impl StoreOptions {
    /// Refuses flags that say how to use an etcd where none is used: a cluster that was meant to be in an
    /// etcd would begin anew in the data directory.
    pub fn check(&self) -> Result<(), Failure> {
        let given = [
            ("--etcd-cafile", self.etcd_cafile.is_some()),
            ("--etcd-certfile", self.etcd_certfile.is_some()),
            ("--etcd-keyfile", self.etcd_keyfile.is_some()),
            ("--etcd-prefix", self.etcd_prefix.is_some()),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some((flag, _)) if self.store == Place::Embedded => Err(Failure::new(format!(
                "{flag} is for an etcd, and the cluster's state is kept in the data directory; add --store \
                 etcd://host:port, or leave {flag} out"
            ))),
            _ => Ok(()),
        }
    }

    pub async fn open(&self, files: &Files) -> Result<Arc<dyn Store>, Failure> {
        self.check()?;
        let Place::Etcd(endpoints) = &self.store else {
            let directory = files.store();
            let options = Options { history_bytes: self.history_mib << 20, ..Options::default() };
            let store =
                tokio::task::spawn_blocking(move || EmbeddedStore::open(&directory, options)).await??;
            return Ok(Arc::new(store));
        };
        let store = EtcdStore::connect(EtcdOptions {
            endpoints: endpoints.clone(),
            tls: TlsFiles {
                ca: self.etcd_cafile.clone(),
                certificate: self.etcd_certfile.clone(),
                key: self.etcd_keyfile.clone(),
            },
            root: ROOT.to_owned(),
            prefix: self.etcd_prefix.as_deref().unwrap_or(ROOT).trim_end_matches('/').to_owned(),
        })
        .await?;
        Ok(Arc::new(store))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Command {
        #[command(flatten)]
        store: StoreOptions,
    }

    #[test]
    fn flags_of_an_etcd_need_one() {
        let check = |flags: &[&str]| {
            let parsed = Command::try_parse_from([&["amphipod"], flags].concat()).expect("flags");
            parsed.store.check().map_err(|failure| failure.to_string())
        };
        let certificate: &[&str] = &["--etcd-certfile", "c", "--etcd-keyfile", "k"];
        for flags in [&["--etcd-cafile", "ca"], &["--etcd-prefix", "/registry"], certificate] {
            let why = check(flags).expect_err("there is no etcd");
            assert!(why.starts_with(flags[0]) && why.contains("--store etcd://"), "{why}");
            assert_eq!(check(&[flags, &["--store", "etcd://a:2379"]].concat()), Ok(()));
        }
        assert_eq!(check(&[]), Ok(()));
    }

    #[test]
    fn places_are_parsed() {
        assert_eq!("embedded".parse(), Ok(Place::Embedded));
        let members = |names: &[&str]| Ok(Place::Etcd(names.iter().map(|n| (*n).to_owned()).collect()));
        assert_eq!("etcd://a:2379".parse(), members(&["a:2379"]));
        assert_eq!("etcd://a:2379,b:2379,etcd://c:2379/".parse(), members(&["a:2379", "b:2379", "c:2379"]));
        for bad in ["", "etcd://", "a:2379", "redis://a:1"] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert!(duration("0s").is_err() && duration("-5m").is_err() && duration("x").is_err());
    }
}

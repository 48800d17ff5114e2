//! The CA of client certificates: from a file, or as the API server names it to its extensions. It may
//! be another one day, and then connections that come are judged by that.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use amphipod_client::{Api, Client};
use k8s_openapi::api::core::v1::ConfigMap;
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::Error;
use crate::tls::{Identity, Tls, Trust};

/// Where the API server says which CA its clients' certificates are of.
const AUTHENTICATION: &str = "extension-apiserver-authentication";

pub struct Authority {
    pub client: Client,
    /// Goes before what the API server says.
    pub file: Option<PathBuf>,
}

impl Authority {
    /// TLS that follows the CA until cancelled. Without one callers can still bring tokens.
    pub async fn follow(
        self,
        names: Vec<String>,
        certificate: Option<(PathBuf, PathBuf)>,
        every: Duration,
        cancel: &CancellationToken,
    ) -> Result<Tls, Error> {
        let certificate = certificate.as_ref().map(|(certificate, key)| (&**certificate, &**key));
        let identity = Identity::new(names, certificate)?;
        let mut known = match self.read().await {
            Ok(pem) => pem,
            Err(why) if self.file.is_some() => return Err(Error::Certificate(why)),
            Err(why) => {
                warn!(why, "the CA of client certificates is not known yet; tokens are taken only");
                String::new()
            }
        };
        let (current, followed) = watch::channel(Arc::new(config(&identity, &known)?));
        let cancel = cancel.clone();
        tokio::spawn(async move {
            while cancel.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
                let Ok(pem) = self.read().await else { continue }; // what was known holds
                if pem == known {
                    continue;
                }
                match config(&identity, &pem) {
                    Ok(config) => {
                        info!("the CA of client certificates is another now");
                        current.send_replace(Arc::new(config));
                    }
                    Err(error) => warn!(%error, "the new CA of client certificates is none"),
                }
                known = pem;
            }
        });
        Ok(Tls::following(followed))
    }

    /// Empty where there is none.
    async fn read(&self) -> Result<String, String> {
        if let Some(file) = &self.file {
            let text = tokio::fs::read_to_string(file).await;
            return text.map_err(|error| format!("{}: {error}", file.display()));
        }
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), "kube-system");
        let told = api.get(AUTHENTICATION).await.map_err(|error| error.to_string())?;
        Ok(told.data.unwrap_or_default().remove("client-ca-file").unwrap_or_default())
    }
}

fn config(identity: &Identity, pem: &str) -> Result<ServerConfig, Error> {
    let trust = if pem.is_empty() { Trust::Nobody } else { Trust::Pem(pem.to_owned()) };
    identity.config(&trust)
}

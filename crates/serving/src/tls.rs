//! The serving side's TLS: a given certificate or one of our own making, client certificates
//! asked for where a CA is known.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::sync::watch;

use crate::Error;

/// The CA of client certificates.
#[derive(Clone, Debug)]
pub enum Trust {
    Nobody,
    File(PathBuf),
    Pem(String),
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Certificate(error.to_string())
}

/// `certificate`: files of the certificate and its key; without them one is made for the names.
pub fn config(
    names: Vec<String>,
    certificate: Option<(&Path, &Path)>,
    trust: &Trust,
) -> Result<ServerConfig, Error> {
    Identity::new(names, certificate)?.config(trust)
}

/// Settings for connections, which may change between them.
#[derive(Clone)]
pub struct Tls(watch::Receiver<Arc<ServerConfig>>);

impl Tls {
    pub(crate) fn following(settings: watch::Receiver<Arc<ServerConfig>>) -> Self {
        Tls(settings)
    }
    /// For the next connection.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        self.0.borrow().clone()
    }
}

impl From<ServerConfig> for Tls {
    fn from(settings: ServerConfig) -> Self {
        // What was sent last is seen although nobody will send more.
        Tls(watch::channel(Arc::new(settings)).1)
    }
}

/// Who serves.
pub(crate) struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    pub fn new(names: Vec<String>, certificate: Option<(&Path, &Path)>) -> Result<Self, Error> {
        let (chain, key) = match certificate {
            Some((certificate, key)) => {
                let chain: Result<Vec<_>, _> =
                    CertificateDer::pem_file_iter(certificate).map_err(failed)?.collect();
                (chain.map_err(failed)?, PrivateKeyDer::from_pem_file(key).map_err(failed)?)
            }
            None => self_signed(names)?,
        };
        Ok(Identity { chain, key })
    }

    pub fn config(&self, trust: &Trust) -> Result<ServerConfig, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(failed)?;
        let authorities = authorities(trust)?;
        let builder = if authorities.is_empty() {
            builder.with_no_client_auth()
        } else {
            // Callers without a certificate may still bring a token.
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider)
                .allow_unauthenticated()
                .build()
                .map_err(failed)?;
            builder.with_client_cert_verifier(verifier)
        };
        let mut server =
            builder.with_single_cert(self.chain.clone(), self.key.clone_key()).map_err(failed)?;
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(server)
    }
}

fn authorities(trust: &Trust) -> Result<RootCertStore, Error> {
    let found: Result<Vec<CertificateDer>, _> = match trust {
        Trust::Nobody => Ok(Vec::new()),
        Trust::File(path) => CertificateDer::pem_file_iter(path).map_err(failed)?.collect(),
        Trust::Pem(text) => CertificateDer::pem_slice_iter(text.as_bytes()).collect(),
    };
    let mut roots = RootCertStore::empty();
    for authority in found.map_err(failed)? {
        roots.add(authority).map_err(failed)?;
    }
    Ok(roots)
}

fn self_signed(names: Vec<String>) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    let made = rcgen::generate_simple_self_signed(names).map_err(failed)?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(failed)?;
    Ok((vec![made.cert.der().clone()], key))
}

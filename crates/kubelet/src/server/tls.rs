//! The serving side's TLS: a given certificate or one of our own making, client certificates
//! asked for where a CA is known.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::{Config, Error};

fn certificate(error: impl std::fmt::Display) -> Error {
    Error::Certificate(error.to_string())
}

pub fn config(config: &Config) -> Result<ServerConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(certificate)?;
    let builder = match &config.client_ca {
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for ca in CertificateDer::pem_file_iter(path).map_err(certificate)? {
                roots.add(ca.map_err(certificate)?).map_err(certificate)?;
            }
            // Callers without a certificate may still bring a token.
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .map_err(certificate)?;
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let (chain, key) = match &config.serving_cert {
        Some((cert, key)) => {
            let chain: Result<Vec<_>, _> =
                CertificateDer::pem_file_iter(cert).map_err(certificate)?.collect();
            (chain.map_err(certificate)?, PrivateKeyDer::from_pem_file(key).map_err(certificate)?)
        }
        None => self_signed(config)?,
    };
    let mut server = builder.with_single_cert(chain, key).map_err(certificate)?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(server)
}

fn self_signed(config: &Config) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    let names = vec![config.node_name.clone(), config.node_ip.to_string(), "localhost".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).map_err(certificate)?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(certificate)?;
    Ok((vec![made.cert.der().clone()], key))
}

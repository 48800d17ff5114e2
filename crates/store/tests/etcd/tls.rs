//! TLS: the server is checked against the given authority, and asks for a client certificate.

use std::path::Path;

use amphipod_store::suite::{put, write};
use amphipod_store::{Error, EtcdOptions, EtcdStore, TlsFiles};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::cluster::{Cluster, etcd};

pub fn write_file(dir: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

pub fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Certificate and key, for a server on loopback and for a client of this name.
pub fn leaf(
    dir: &Path,
    name: &str,
    ca: &CertifiedIssuer<'static, KeyPair>,
) -> (std::path::PathBuf, std::path::PathBuf) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let certificate = params.signed_by(&key, ca).unwrap();
    let certificate = write_file(dir, &format!("{name}.crt"), &certificate.pem());
    (certificate, write_file(dir, &format!("{name}.key"), &key.serialize_pem()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_show_certificates() {
    if etcd().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ca = authority("etcd-ca");
    let ca_file = write_file(dir.path(), "ca.crt", &ca.pem());
    let (server, server_key) = leaf(dir.path(), "server", &ca);
    let (client, client_key) = leaf(dir.path(), "client", &ca);
    let text = |path: &Path| path.display().to_string();
    let (server, server_key, ca_text) = (text(&server), text(&server_key), text(&ca_file));
    let flags = [
        "--cert-file",
        &server,
        "--key-file",
        &server_key,
        "--client-cert-auth",
        "--trusted-ca-file",
        &ca_text,
    ];
    let tls = TlsFiles { ca: Some(ca_file.clone()), certificate: Some(client), key: Some(client_key) };
    let Some(cluster) = Cluster::start_with_tls(1, &flags, tls).await else { return };
    write(&*cluster.store("/tls").await, vec![put("/a", "x")]).await;

    let stranger = write_file(dir.path(), "stranger.crt", &authority("stranger").pem());
    for (what, tls) in [
        ("without a client certificate", TlsFiles { ca: Some(ca_file), ..TlsFiles::default() }),
        ("another authority", TlsFiles { ca: Some(stranger), ..cluster.tls.clone() }),
        ("no TLS", TlsFiles::default()),
    ] {
        let error = EtcdStore::connect(EtcdOptions { tls, ..cluster.options("/tls") }).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable(_)), "{what}: {error}");
    }
}

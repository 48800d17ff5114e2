//! Calls to the node's HTTPS API with a client certificate, as the API server makes them.

use std::path::Path;
use std::sync::Arc;

use amphipod_kubelet::Config;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, ServerName};

/// A CA with one serving and one client certificate.
pub struct Authority {
    tls: Arc<rustls::ClientConfig>,
    files: [std::path::PathBuf; 3],
}

impl Authority {
    pub fn new(dir: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test CA");
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let serving_key = KeyPair::generate().unwrap();
        let serving = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let serving = serving.signed_by(&serving_key, &ca).unwrap();
        let client_key = KeyPair::generate().unwrap();
        let mut client = CertificateParams::new(Vec::new()).unwrap();
        client.distinguished_name.push(DnType::CommonName, "kube-apiserver-kubelet-client");
        client.distinguished_name.push(DnType::OrganizationName, "system:masters");
        let client = client.signed_by(&client_key, &ca).unwrap();
        let files = ["ca.crt", "kubelet.crt", "kubelet.key"].map(|name| dir.join(name));
        for (path, text) in files.iter().zip([ca.pem(), serving.pem(), serving_key.serialize_pem()]) {
            std::fs::write(path, text).unwrap();
        }
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivateKeyDer::try_from(client_key.serialize_der()).unwrap();
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![client.der().clone()], key)
            .unwrap();
        Authority { tls: Arc::new(tls), files }
    }

    /// Lets the kubelet serve with these certificates, at a port that its node's status tells.
    pub fn configure(&self, config: &mut Config) {
        let [ca, certificate, key] = self.files.clone();
        config.client_ca = Some(ca);
        config.serving_cert = Some((certificate, key));
        config.listen = Some(([127, 0, 0, 1], 0).into());
    }

    pub async fn call(&self, port: u16, method: &str, uri: String) -> (u16, String) {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = tokio_rustls::TlsConnector::from(self.tls.clone()).connect(name, stream).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(uri).header("host", "node");
        let answer = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
        let code = answer.status().as_u16();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8_lossy(&bytes).into_owned())
    }
}

//! A registry on loopback with one image of two layers, behind basic authentication.

use std::{
    collections::HashMap,
    convert::Infallible,
    io::Write,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use base64::Engine;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

use super::{append, layer};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

pub struct Registry {
    pub address: SocketAddr,
    pub manifest_digest: String,
    served: Arc<AtomicUsize>,
}

/// Type and bytes by path.
type Documents = HashMap<String, (&'static str, Bytes)>;

struct Content {
    authorization: String,
    documents: Documents,
    served: Arc<AtomicUsize>,
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The busybox layer with one more file, and a layer that deletes that file and adds another.
fn layers() -> [Vec<u8>; 2] {
    let mut lower = tar::Builder::new(Vec::new());
    append(&mut lower, "hidden", b"x", 0o644);
    // Without its end marker, so that the other archive continues it.
    let mut first = lower.get_ref().clone();
    first.extend_from_slice(&layer());
    let mut upper = tar::Builder::new(Vec::new());
    append(&mut upper, ".wh.hidden", b"", 0o644);
    append(&mut upper, "added", b"y", 0o644);
    [first, upper.into_inner().unwrap()]
}

/// An index, a manifest, a configuration, and a gzip and a zstd layer. Returns the index's digest too.
fn documents() -> (Documents, String) {
    let [lower, upper] = layers();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Env":["PATH=/bin"]}},
            "rootfs":{{"type":"layers","diff_ids":["{}","{}"]}}}}"#,
        digest(&lower),
        digest(&upper)
    );
    let blobs = [config.into_bytes(), gzip(&lower), zstd::encode_all(&upper[..], 1).unwrap()];
    let descriptor = |kind: &str, bytes: &[u8], more: &str| {
        format!(r#"{{"mediaType":"{kind}","digest":"{}","size":{}{more}}}"#, digest(bytes), bytes.len())
    };
    let [config, lower, upper] = [0, 1, 2].map(|index| descriptor("x", &blobs[index], ""));
    let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{lower},{upper}]}}"#);
    let machine = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let platform = format!(r#","platform":{{"os":"linux","architecture":"{machine}"}}"#);
    let entry = descriptor(MANIFEST, manifest.as_bytes(), &platform);
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{entry}]}}"#);
    let index_digest = digest(index.as_bytes());
    let mut all = Documents::new();
    for name in ["v1", index_digest.as_str()] {
        all.insert(format!("/v2/team/app/manifests/{name}"), (INDEX, Bytes::from(index.clone())));
    }
    let path = format!("/v2/team/app/manifests/{}", digest(manifest.as_bytes()));
    all.insert(path, (MANIFEST, Bytes::from(manifest)));
    for blob in blobs {
        let path = format!("/v2/team/app/blobs/{}", digest(&blob));
        all.insert(path, ("application/octet-stream", Bytes::from(blob)));
    }
    (all, index_digest)
}

impl Registry {
    pub async fn start(user: &str, password: &str) -> Registry {
        let (documents, manifest_digest) = documents();
        let credentials = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        let served = Arc::new(AtomicUsize::new(0));
        let authorization = format!("Basic {credentials}");
        let content = Arc::new(Content { authorization, documents, served: Arc::clone(&served) });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, content));
        Registry { address, manifest_digest, served }
    }

    pub fn blobs_served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }
}

async fn serve(listener: TcpListener, content: Arc<Content>) {
    while let Ok((stream, _)) = listener.accept().await {
        let content = Arc::clone(&content);
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let response = content.answer(&request);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            drop(connection.await);
        });
    }
}

impl Content {
    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let given = request.headers().get("authorization").and_then(|value| value.to_str().ok());
        let path = request.uri().path();
        let found = self.documents.get(path);
        let builder = Response::builder();
        let response = if given != Some(self.authorization.as_str()) {
            let builder = builder.status(StatusCode::UNAUTHORIZED);
            builder.header("www-authenticate", "Basic realm=\"test\"").body(Full::default())
        } else if path == "/v2/" {
            builder.body(Full::default())
        } else if let Some((kind, bytes)) = found {
            if path.contains("/blobs/") {
                self.served.fetch_add(1, Ordering::SeqCst);
            }
            builder.header("content-type", *kind).body(Full::new(bytes.clone()))
        } else {
            let unknown = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"unknown"}]}"#;
            builder.status(StatusCode::NOT_FOUND).body(Full::from(unknown))
        };
        response.unwrap()
    }
}

//! etcd's own access control: a user who may not do all that the engine needs.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use amphipod_store::suite::{put, write};
use amphipod_store::{EtcdStore, Store, TlsFiles};

use crate::cluster::Cluster;
use crate::tls::{authority, leaf, write_file};

/// `/access/` and the smallest key beyond it, as JSON has bytes.
const PREFIX: (&str, &str) = ("L2FjY2Vzcy8=", "L2FjY2VzczA=");

/// One call of etcd's JSON gateway, which the member serves beside gRPC.
fn call(member: &str, path: &str, body: &str) {
    let mut stream = TcpStream::connect(member).unwrap();
    let length = body.len();
    write!(
        stream,
        "POST /v3/auth/{path} HTTP/1.1\r\nHost: etcd\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
}

/// The member's clients are from now on whom their certificates name, and `amphipod` may read and write
/// below one prefix only.
async fn restrict(cluster: &mut Cluster, dir: &Path) {
    let member = cluster.members[0].client.clone();
    let (key, range_end) = PREFIX;
    let permission = format!(r#"{{"permType":"READWRITE","key":"{key}","range_end":"{range_end}"}}"#);
    for (path, body) in [
        ("user/add", r#"{"name":"root","password":"x"}"#),
        ("user/grant", r#"{"user":"root","role":"root"}"#),
        ("role/add", r#"{"name":"below"}"#),
        ("role/grant", &format!(r#"{{"name":"below","perm":{permission}}}"#)),
        ("user/add", r#"{"name":"amphipod","password":"x"}"#),
        ("user/grant", r#"{"user":"amphipod","role":"below"}"#),
        ("enable", "{}"),
    ] {
        call(&member, path, body);
    }
    let ca = authority("etcd-ca");
    let ca_file = write_file(dir, "ca.crt", &ca.pem());
    let (server, server_key) = leaf(dir, "server", &ca);
    let (certificate, key) = leaf(dir, "amphipod", &ca);
    cluster.flags = ["--client-cert-auth".to_owned()].to_vec();
    for (flag, path) in
        [("--cert-file", server), ("--key-file", server_key), ("--trusted-ca-file", ca_file.clone())]
    {
        cluster.flags.extend([flag.to_owned(), path.display().to_string()]);
    }
    cluster.tls = TlsFiles { ca: Some(ca_file), certificate: Some(certificate), key: Some(key) };
    cluster.kill(0);
    cluster.restart(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_is_not_permitted_is_refused_at_once() {
    let Some(mut cluster) = Cluster::start(1, &[]).await else { return };
    let dir = tempfile::tempdir().unwrap();
    restrict(&mut cluster, dir.path()).await;
    let options = cluster.options("/access");
    // It serves once it has read its data.
    let begin = std::time::Instant::now();
    let store = loop {
        match EtcdStore::connect(options.clone()).await {
            Ok(store) => break store,
            Err(error) => assert!(begin.elapsed() < amphipod_store::suite::DEADLINE, "{error}"),
        }
    };
    let written = write(&store, vec![put("/a", "x")]).await.revision;
    for after in [0, written] {
        let error = store.watch("/", after).await.err().expect("not permitted").to_string();
        assert!(error.contains("watch all keys") && error.contains("permission denied"), "{error}");
    }
    store.compact(written).await.unwrap();
    let error = store.oldest_revision().await.unwrap_err().to_string();
    assert!(error.contains("permission denied"), "{error}");
}

//! Images from a registry on loopback (open and private), and from archives.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;

use support::{AMPHIPOD, Cluster, architecture, digest, eventually, require_root, tar, text};

/// An image of one layer: the demo program as `/demo`, and a file that tells it from others.
struct Image {
    blobs: HashMap<String, Vec<u8>>,
    manifest: Vec<u8>,
    config: Vec<u8>,
    layer: Vec<u8>,
}

fn image(mark: &str) -> Image {
    let layer = tar(&[("demo", amphipod_demo::PROGRAM, 0o755), ("mark", mark.as_bytes(), 0o644)]);
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&layer).unwrap();
    let packed = packed.finish().unwrap();
    let config = serde_json::json!({
        "architecture": architecture(), "os": "linux",
        "config": {"Entrypoint": ["/demo"], "Env": ["DEMO_VERSION=9"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    });
    let config = config.to_string().into_bytes();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest(&packed), "size": packed.len()}],
    });
    let manifest = manifest.to_string().into_bytes();
    let blobs = HashMap::from([(digest(&config), config.clone()), (digest(&packed), packed.clone())]);
    Image { blobs, manifest, config, layer: packed }
}

/// A registry that serves one image under any name and tag; `user:password` where private.
fn registry(image: Arc<Image>, secret: Option<&'static str>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let image = image.clone();
            std::thread::spawn(move || answer(stream, &image, secret));
        }
    });
    format!("localhost:{}", address.port())
}

fn answer(mut stream: std::net::TcpStream, image: &Image, secret: Option<&str>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if lines.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let mut words = head.split_whitespace();
        let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let wanted = secret.map(|s| format!("basic {}", base64(s)).to_lowercase());
        let allowed = wanted.is_none_or(|w| head.to_lowercase().contains(&w));
        let last = path.rsplit('/').next().unwrap_or("");
        let (code, kind, body): (&str, &str, &[u8]) = if !allowed {
            (
                "401 Unauthorized",
                "application/json",
                b"{\"errors\":[{\"code\":\"UNAUTHORIZED\",\"message\":\"who are you?\"}]}",
            )
        } else if path.contains("/manifests/") {
            ("200 OK", "application/vnd.oci.image.manifest.v1+json", &image.manifest)
        } else if let Some(blob) = image.blobs.get(last) {
            ("200 OK", "application/octet-stream", blob)
        } else if path == "/v2/" || path == "/v2" {
            ("200 OK", "application/json", b"{}")
        } else {
            ("404 Not Found", "application/json", b"{\"errors\":[]}")
        };
        let challenge = if allowed { "" } else { "WWW-Authenticate: Basic realm=\"test\"\r\n" };
        let digest_header =
            if path.contains("/manifests/") { digest(&image.manifest) } else { last.to_owned() };
        let reply = format!(
            "HTTP/1.1 {code}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nDocker-Content-Digest: {digest_header}\r\n{challenge}\r\n",
            body.len()
        );
        let body = if method == "HEAD" { &[] } else { body };
        if stream.write_all(reply.as_bytes()).and_then(|()| stream.write_all(body)).is_err() {
            return;
        }
    }
}

fn base64(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn mark_of(cluster: &Cluster, pod: &str) -> String {
    cluster.run(&["exec", pod, "--", "/demo", "cat", "/mark"])
}

#[test]
fn images_are_pulled_and_imported() {
    require_root();
    let cluster = Cluster::up(&[]);
    let open = registry(Arc::new(image("from the open registry")), None);
    cluster.run(&["run", "open", &format!("--image={open}/some/app:1")]);
    cluster.expect(&["get", "pod", "open"], "Running", 60);
    assert_eq!(mark_of(&cluster, "open"), "from the open registry");
    cluster.expect(&["get", "events"], "Successfully pulled image", 10);

    let private = registry(Arc::new(image("from the private registry")), Some("me:secret"));
    let reference = format!("{private}/some/app:1");
    cluster.run(&["run", "refused", &format!("--image={reference}")]);
    cluster.expect(&["get", "pod", "refused"], "ImagePull", 60);
    let login = format!(r#"{{"auths":{{"{private}":{{"auth":"{}"}}}}}}"#, base64("me:secret"));
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: pull}}\ntype: kubernetes.io/dockerconfigjson\ndata: \
         {{.dockerconfigjson: {}}}\n---\napiVersion: v1\nkind: Pod\nmetadata: {{name: private}}\nspec:\n  \
         imagePullSecrets: [{{name: pull}}]\n  containers: [{{name: main, image: \"{reference}\"}}]\n",
        base64(&login)
    ));
    cluster.expect(&["get", "pod", "private"], "Running", 60);
    assert_eq!(mark_of(&cluster, "private"), "from the private registry");

    imports(&cluster);
}

fn amphipod(cluster: &Cluster, args: &[&str]) -> String {
    let output =
        Command::new(AMPHIPOD).args(args).arg("--data-dir").arg(cluster.data.path()).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", text(&output));
    text(&output)
}

fn imports(cluster: &Cluster) {
    let made = image("from an archive");
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", digest(bytes).trim_start_matches("sha256:"));
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(&made.manifest), "size": made.manifest.len(),
        "annotations": {"io.containerd.image.name": "example.test/oci:1", "org.opencontainers.image.ref.name": "1"},
    }]})
    .to_string();
    let oci = tar(&[
        ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644),
        ("index.json", index.as_bytes(), 0o644),
        (&blob(&made.manifest), &made.manifest, 0o644),
        (&blob(&made.config), &made.config, 0o644),
        (&blob(&made.layer), &made.layer, 0o644),
    ]);
    let mut layer = Vec::new();
    flate2::read::GzDecoder::new(&made.layer[..]).read_to_end(&mut layer).unwrap();
    let list = serde_json::json!([{"Config": "config.json", "RepoTags": ["example.test/docker:1"], "Layers": ["layer.tar"]}]);
    let docker = tar(&[
        ("manifest.json", list.to_string().as_bytes(), 0o644),
        ("config.json", &made.config, 0o644),
        ("layer.tar", &layer, 0o644),
    ]);
    for (kind, archive) in [("oci", oci), ("docker", docker)] {
        let path = cluster.data.path().join(format!("{kind}.tar"));
        std::fs::write(&path, archive).unwrap();
        let reference = format!("example.test/{kind}:1");
        assert!(amphipod(cluster, &["image", "import", path.to_str().unwrap()]).contains(&reference));
        assert!(amphipod(cluster, &["image", "list"]).contains(&reference));
        cluster.run(&["run", kind, &format!("--image={reference}"), "--image-pull-policy=IfNotPresent"]);
        cluster.expect(&["get", "pod", kind], "Running", 30);
        assert_eq!(mark_of(cluster, kind), "from an archive");
        cluster.run(&["delete", "pod", kind, "--grace-period=1"]);
        eventually("the image to be removable", 30, || {
            let out = Command::new(AMPHIPOD)
                .args(["image", "remove", &reference, "--data-dir"])
                .arg(cluster.data.path())
                .output()
                .unwrap();
            if out.status.success() { Ok(()) } else { Err(text(&out)) }
        });
        assert!(!amphipod(cluster, &["image", "list"]).contains(&reference));
    }
}

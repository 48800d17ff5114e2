//! Writing kubeconfigs: for the administrator, and for components that run as processes of their
//! own.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::Error;
use crate::files;
use crate::pki::Pair;

/// A kubeconfig with everything inline, readable by its owner only.
pub fn write(path: &Path, server: &str, ca: &str, user: &str, pair: &Pair) -> Result<(), Error> {
    files::write(path, render(server, ca, user, pair).as_bytes(), 0o600)
}

/// The file's first cluster.
fn cluster(path: &Path) -> Result<serde_json::Value, Error> {
    let fail = |why: &str| Error::Key { path: path.display().to_string(), why: why.to_owned() };
    let mut config: serde_json::Value =
        serde_saphyr::from_str(&files::read(path)?).map_err(|e| fail(&e.to_string()))?;
    let cluster = config.pointer_mut("/clusters/0/cluster").ok_or_else(|| fail("it names no cluster"))?;
    Ok(cluster.take())
}

/// Host and port of its server.
pub fn host(path: &Path) -> Result<String, Error> {
    let cluster = cluster(path)?;
    let server = cluster["server"].as_str().unwrap_or_default();
    let address = server.split_once("://").map_or(server, |(_, address)| address);
    Ok(address.split('/').next().unwrap_or_default().to_owned())
}

/// The CA (PEM) it trusts.
pub fn authority(path: &Path) -> Result<String, Error> {
    let fail = |why: &str| Error::Key { path: path.display().to_string(), why: why.to_owned() };
    let cluster = cluster(path)?;
    if let Some(file) = cluster["certificate-authority"].as_str() {
        return files::read(Path::new(file));
    }
    let encoded = cluster["certificate-authority-data"].as_str().ok_or_else(|| fail("it names no CA"))?;
    let bytes = STANDARD.decode(encoded).map_err(|e| fail(&e.to_string()))?;
    String::from_utf8(bytes).map_err(|e| fail(&e.to_string()))
}

fn render(server: &str, ca: &str, user: &str, pair: &Pair) -> String {
    let encode = |text: &str| STANDARD.encode(text);
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: amphipod\n  cluster:\n    server: {server}\n    \
         certificate-authority-data: {}\nusers:\n- name: {user}\n  user:\n    client-certificate-data: {}\n    \
         client-key-data: {}\ncontexts:\n- name: amphipod\n  context:\n    cluster: amphipod\n    user: \
         {user}\ncurrent-context: amphipod\n",
        encode(ca),
        encode(&pair.certificate),
        encode(&pair.key),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_the_owner_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("k/admin.kubeconfig");
        let pair = Pair { certificate: "c".into(), key: "k".into() };
        write(&path, "https://127.0.0.1:6443", "ca", "admin", &pair).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.contains("\n    server: https://127.0.0.1:6443\n    certificate-authority-data: Y2E=\n")
        );
        assert_eq!(
            (host(&path).unwrap().as_str(), authority(&path).unwrap().as_str()),
            ("127.0.0.1:6443", "ca")
        );
    }
}

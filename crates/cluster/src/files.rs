//! Where things lie below the data directory, and writing them so that a crash leaves either the
//! old file or the new one.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::Error;

#[derive(Clone, Debug)]
pub struct Files {
    root: PathBuf,
}

impl Files {
    pub fn new(root: &Path) -> Self {
        Files { root: root.to_owned() }
    }
    pub fn root(&self) -> &Path {
        &self.root
    }
    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }
    pub fn pki(&self, name: &str) -> PathBuf {
        self.root.join("pki").join(name)
    }
    /// Kubeconfigs of the components, for roles that run alone.
    pub fn component_kubeconfig(&self, component: &str) -> PathBuf {
        self.root.join("kubeconfigs").join(format!("{component}.kubeconfig"))
    }
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.root.join("admin.kubeconfig")
    }
    pub fn kubelet(&self) -> PathBuf {
        self.root.join("kubelet")
    }
    pub fn manifests(&self) -> PathBuf {
        self.root.join("manifests")
    }
    pub fn runtime(&self) -> PathBuf {
        self.root.join("runtime")
    }
    pub fn cni_conf(&self) -> PathBuf {
        self.root.join("cni/net.d")
    }
    pub fn cni_bin(&self) -> PathBuf {
        self.root.join("cni/bin")
    }
    pub fn cni_state(&self) -> PathBuf {
        self.root.join("cni/state")
    }
    /// Sockets, locks and what the running instance says of itself.
    pub fn run(&self, name: &str) -> PathBuf {
        self.root.join("run").join(name)
    }
    pub fn cri_socket(&self) -> PathBuf {
        self.run("cri.sock")
    }
    pub fn log(&self) -> PathBuf {
        self.root.join("amphipod.log")
    }
    /// Makes the directory tree, readable by the owner only.
    pub fn create(&self) -> Result<(), Error> {
        use std::os::unix::fs::DirBuilderExt;
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o755);
        for directory in [self.root.clone(), self.root.join("run")] {
            builder.create(&directory).map_err(Error::file(&directory))?;
        }
        builder.mode(0o700);
        for directory in ["pki", "kubeconfigs", "store"] {
            let directory = self.root.join(directory);
            builder.create(&directory).map_err(Error::file(&directory))?;
        }
        Ok(())
    }
}

/// Replaces the file atomically; `mode` is set from its first moment.
pub fn write(path: &Path, contents: &[u8], mode: u32) -> Result<(), Error> {
    let fail = || Error::file(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory).map_err(Error::file(directory))?;
    let temporary = directory.join(format!(".{name}.{}", std::process::id()));
    let _ = std::fs::remove_file(&temporary);
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(mode).open(&temporary).map_err(fail())?;
    file.write_all(contents).map_err(fail())?;
    file.sync_all().map_err(fail())?;
    std::fs::rename(&temporary, path).map_err(fail())
}

pub fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(Error::file(path))
}

//! Settings of the runtime and where it keeps things.

use std::path::{Path, PathBuf};

/// What [`crate::serve`] needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Images, containers and sandboxes; survives a reboot.
    pub root_dir: PathBuf,
    /// Sockets and pinned namespaces; meaningless after a reboot.
    pub state_dir: PathBuf,
    /// Unix socket on which CRI is served.
    pub socket: PathBuf,
    /// Directory with CNI configuration lists.
    pub cni_conf_dir: PathBuf,
    /// Directory with CNI plugins.
    pub cni_bin_dir: PathBuf,
    /// The binary that answers to the `runtime-*` subcommands.
    pub shim_executable: PathBuf,
    /// Images that are there without a registry.
    pub builtin_images: Vec<BuiltinImage>,
    /// Registries (`host:port`) spoken to in plain HTTP besides those on loopback addresses.
    pub insecure_registries: Vec<String>,
}

impl Config {
    /// Settings with everything below `data_dir`, and `executable` as the shim.
    pub fn new(data_dir: &Path, executable: PathBuf) -> Config {
        Config {
            root_dir: data_dir.join("runtime"),
            state_dir: data_dir.join("run/runtime"),
            socket: data_dir.join("run/cri.sock"),
            cni_conf_dir: data_dir.join("cni/net.d"),
            cni_bin_dir: data_dir.join("cni/bin"),
            shim_executable: executable,
            builtin_images: Vec::new(),
            insecure_registries: Vec::new(),
        }
    }
}

/// An image made of files of this machine.
#[derive(Debug, Clone)]
pub struct BuiltinImage {
    /// Full reference, such as `amphipod.local/demo:1`.
    pub reference: String,
    /// Content of its single layer.
    pub files: Vec<BuiltinFile>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value` entries.
    pub env: Vec<String>,
    pub working_dir: String,
    /// `user[:group]`; empty means root.
    pub user: String,
}

/// One file of a built-in image.
#[derive(Debug, Clone)]
pub struct BuiltinFile {
    /// Absolute path inside the image.
    pub path: String,
    pub mode: u32,
    pub content: FileContent,
}

/// Where the bytes of a built-in file come from.
#[derive(Debug, Clone)]
pub enum FileContent {
    Bytes(&'static [u8]),
    /// A copy of a file on this machine, taken when the runtime starts.
    CopyOf(PathBuf),
    /// A symbolic link to this target.
    Link(String),
}

/// Locations below the two directories.
#[derive(Debug, Clone)]
pub struct Paths {
    root: PathBuf,
    state: PathBuf,
}

impl Paths {
    pub fn new(config: &Config) -> Paths {
        Paths { root: config.root_dir.clone(), state: config.state_dir.clone() }
    }

    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// Unpacked layers; the name is short because mount options are limited to one page.
    pub fn layers(&self) -> PathBuf {
        self.root.join("l")
    }

    pub fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    pub fn container(&self, id: &str) -> PathBuf {
        self.containers().join(id)
    }

    pub fn sandboxes(&self) -> PathBuf {
        self.root.join("sandboxes")
    }

    pub fn sandbox(&self, id: &str) -> PathBuf {
        self.sandboxes().join(id)
    }

    /// Directory of a sandbox's pinned namespaces.
    pub fn namespaces(&self, sandbox: &str) -> PathBuf {
        self.state.join("ns").join(sandbox)
    }

    pub fn shim_socket(&self, container: &str) -> PathBuf {
        self.state.join("shims").join(format!("{container}.sock"))
    }

    /// Read-only bind mount of the binary, from which shims are started: a container that reaches its
    /// shim's executable through `/proc` cannot write to it (CVE-2019-5736).
    pub fn sealed_executable(&self) -> PathBuf {
        self.state.join("shim")
    }

    /// Every directory that must exist before anything else.
    pub fn all(&self) -> [PathBuf; 6] {
        [
            self.images(),
            self.layers(),
            self.containers(),
            self.sandboxes(),
            self.state.join("ns"),
            self.state.join("shims"),
        ]
    }
}

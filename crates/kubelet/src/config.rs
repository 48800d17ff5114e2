//! What a kubelet must be told; defaults are upstream's where upstream has one.

use std::net::IpAddr;
use std::path::PathBuf;

use std::collections::BTreeMap;

/// How pod cgroups are made. Only the plain file system driver is offered: no systemd is needed.
#[derive(Clone, Debug)]
pub struct CgroupConfig {
    /// Where the hierarchies are mounted.
    pub mount: PathBuf,
    /// Path below each hierarchy that holds `kubepods`; empty for the top.
    pub root: String,
    /// Off where nothing may be written (tests without root): containers then sit below the runtime's own.
    pub enabled: bool,
}

impl Default for CgroupConfig {
    fn default() -> Self {
        CgroupConfig { mount: "/sys/fs/cgroup".into(), root: String::new(), enabled: true }
    }
}

#[derive(Clone, Debug)]
pub struct Config {
    pub node_name: String,
    pub node_ip: IpAddr,
    /// `unix:///path` of the CRI runtime and image services.
    pub cri_endpoint: String,
    /// Volumes, hosts files and termination messages of pods.
    pub root_dir: PathBuf,
    /// Container logs, `<namespace>_<name>_<uid>/<container>/<attempt>.log`.
    pub pod_logs_dir: PathBuf,
    /// Folder of static pod manifests.
    pub manifest_dir: Option<PathBuf>,
    /// Address the node's HTTPS API listens on; `None` serves nothing.
    pub listen: Option<std::net::SocketAddr>,
    /// PEM; a self-signed certificate is made where absent.
    pub serving_cert: Option<(PathBuf, PathBuf)>,
    /// PEM bundle that client certificates must chain to.
    pub client_ca: Option<PathBuf>,
    pub cluster_dns: Vec<IpAddr>,
    pub cluster_domain: String,
    /// The host's resolver configuration, for pods that use it and for upstream searches.
    pub resolv_conf: PathBuf,
    pub max_pods: u32,
    pub cgroups: CgroupConfig,
    /// Held back from pods: subtracted from capacity.
    pub reserved: BTreeMap<String, String>,
    pub node_labels: BTreeMap<String, String>,
    /// `key=value:effect` parsed by the caller; set at registration only.
    pub register_taints: Vec<k8s_openapi::api::core::v1::Taint>,
    pub register_node: bool,
    /// `name` or `prefix.*` patterns of unsafe sysctls pods may set.
    pub allowed_unsafe_sysctls: Vec<String>,
    pub image_gc_high_percent: u8,
    pub image_gc_low_percent: u8,
    /// Images never collected.
    pub pinned_images: Vec<String>,
}

impl Config {
    pub fn new(node_name: &str, node_ip: IpAddr, cri_endpoint: &str) -> Self {
        Config {
            node_name: node_name.to_owned(),
            node_ip,
            cri_endpoint: cri_endpoint.to_owned(),
            root_dir: "/var/lib/amphipod/kubelet".into(),
            pod_logs_dir: "/var/log/pods".into(),
            manifest_dir: None,
            listen: Some((std::net::Ipv4Addr::UNSPECIFIED, 10250).into()),
            serving_cert: None,
            client_ca: None,
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            max_pods: 110,
            cgroups: CgroupConfig::default(),
            reserved: BTreeMap::new(),
            node_labels: BTreeMap::new(),
            register_taints: Vec::new(),
            register_node: true,
            allowed_unsafe_sysctls: Vec::new(),
            image_gc_high_percent: 85,
            image_gc_low_percent: 80,
            pinned_images: Vec::new(),
        }
    }

    pub(crate) fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root_dir.join("pods").join(uid)
    }

    pub(crate) fn pod_log_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.pod_logs_dir.join(format!("{namespace}_{name}_{uid}"))
    }
}

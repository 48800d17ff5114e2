//! Checks before anything is started: each failure names the problem and the cure.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use ipnet::IpNet;

use crate::Error;

/// What a start is going to need.
pub struct Needs<'a> {
    pub data_dir: &'a Path,
    /// The cluster's state is kept in the data directory.
    pub embedded_store: bool,
    pub listen: SocketAddr,
    pub pod_cidr: IpNet,
    pub service_cidr: IpNet,
    /// A real node runs here: containers, network namespaces, nftables.
    pub node: bool,
    /// The runtime that serves the node; the embedded one runs here too where `None`.
    pub runtime_endpoint: Option<&'a str>,
}

/// Free space a start needs in any case: keys, records.
const MIN_FREE_BYTES: u64 = 16 << 20;
/// What the embedded store needs besides: one log file, allocated as a whole.
const STORE_BYTES: u64 = 64 << 20;

/// Runs every check and reports all failures at once.
pub fn check(needs: &Needs) -> Result<(), Error> {
    let mut problems = Vec::new();
    let mut note = |outcome: Result<(), String>| problems.extend(outcome.err());
    note(cidrs(needs));
    note(writable(needs.data_dir, min_free_bytes(needs.embedded_store)));
    note(port_free(needs.listen));
    if needs.node {
        let root = is_root();
        note(root.clone());
        if root.is_ok() {
            note(network_namespaces());
            match needs.runtime_endpoint {
                Some(endpoint) => note(runtime_answers(endpoint)),
                None => note(overlay()),
            }
            note(cgroups());
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::Preflight(problems.join("\n"))) }
}

fn cidrs(needs: &Needs) -> Result<(), String> {
    for (flag, cidr) in [("--pod-cidr", needs.pod_cidr), ("--service-cidr", needs.service_cidr)] {
        if !matches!(cidr, IpNet::V4(_)) {
            return Err(format!("{flag} {cidr}: only IPv4 ranges work so far; give one like 10.244.0.0/16"));
        }
        if cidr.prefix_len() > 28 {
            return Err(format!("{flag} {cidr} is too small; give a /28 or larger"));
        }
    }
    let (pods, services) = (needs.pod_cidr, needs.service_cidr);
    if pods.contains(&services) || services.contains(&pods) {
        return Err(format!(
            "--pod-cidr {pods} and --service-cidr {services} overlap; choose disjoint ranges"
        ));
    }
    Ok(())
}

fn min_free_bytes(embedded_store: bool) -> u64 {
    MIN_FREE_BYTES + if embedded_store { STORE_BYTES } else { 0 }
}

fn writable(directory: &Path, min_free_bytes: u64) -> Result<(), String> {
    let cure = "choose another with --data-dir, or fix its permissions";
    std::fs::create_dir_all(directory)
        .map_err(|e| format!("cannot create {}: {e}; {cure}", directory.display()))?;
    let disk = rustix::fs::statvfs(directory)
        .map_err(|e| format!("cannot tell the free space of {}: {e}; {cure}", directory.display()))?;
    enough_space(directory, disk.f_bavail.saturating_mul(disk.f_frsize), min_free_bytes)?;
    let probe = directory.join(format!(".probe.{}", std::process::id()));
    std::fs::write(&probe, b"x")
        .map_err(|e| format!("cannot write to {}: {e}; {cure}", directory.display()))?;
    let _ = std::fs::remove_file(probe);
    Ok(())
}

/// On a full disk a cluster would come up and then refuse every write: better said before.
fn enough_space(directory: &Path, free_bytes: u64, min_free_bytes: u64) -> Result<(), String> {
    if free_bytes >= min_free_bytes {
        return Ok(());
    }
    Err(format!(
        "the disk of {} is full: {} MiB are free and a start needs {}; free some space, or choose another \
         directory with --data-dir (what is stored there is unharmed)",
        directory.display(),
        free_bytes >> 20,
        min_free_bytes >> 20
    ))
}

fn port_free(listen: SocketAddr) -> Result<(), String> {
    match TcpListener::bind(listen) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(format!(
            "{listen} is already taken by another program; stop it, or choose another address with --listen"
        )),
        Err(error) => {
            Err(format!("cannot listen on {listen}: {error}; choose another address with --listen"))
        }
    }
}

fn is_root() -> Result<(), String> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err("running containers needs root; run with sudo, or without a node: --no-node or --hollow-nodes N"
        .to_owned())
}

fn runtime_answers(endpoint: &str) -> Result<(), String> {
    let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
    if !path.starts_with('/') {
        return Err(format!(
            "--container-runtime-endpoint {endpoint}: only unix sockets work; give one like \
             unix:///run/containerd/containerd.sock"
        ));
    }
    std::os::unix::net::UnixStream::connect(path).map(|_| ()).map_err(|error| {
        format!(
            "no container runtime answers at {endpoint}: {error}; start it, or leave \
             --container-runtime-endpoint out to use the embedded one"
        )
    })
}

fn overlay() -> Result<(), String> {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known.lines().any(|line| line.trim_start_matches("nodev").trim() == "overlay") {
        return Ok(());
    }
    Err("the kernel has no overlayfs, which container images need; load it with `modprobe overlay`, or use \
         another runtime with --container-runtime-endpoint"
        .to_owned())
}

fn network_namespaces() -> Result<(), String> {
    if Path::new("/proc/self/ns/net").exists() {
        return Ok(());
    }
    Err("the kernel has no network namespaces (CONFIG_NET_NS), which pods need; use another kernel, or \
         --no-node"
        .to_owned())
}

fn cgroups() -> Result<(), String> {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mounted =
        mounts.lines().any(|line| line.split(' ').nth(2).is_some_and(|t| t == "cgroup" || t == "cgroup2"));
    if mounted {
        return Ok(());
    }
    Err("no cgroup hierarchy is mounted, which resource limits need; mount one, for instance `mount -t cgroup2 \
         none /sys/fs/cgroup`"
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(directory: &Path, listen: SocketAddr) -> Needs<'_> {
        Needs {
            data_dir: directory,
            embedded_store: true,
            listen,
            pod_cidr: "10.244.0.0/16".parse().unwrap(),
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            node: false,
            runtime_endpoint: None,
        }
    }

    #[test]
    fn problems_name_their_cure() {
        let directory = tempfile::tempdir().unwrap();
        let reserved = amphipod_testing::Reserved::new().unwrap();
        let free = reserved.address;
        assert!(check(&needs(directory.path(), free)).is_ok());

        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let text = check(&needs(directory.path(), taken.local_addr().unwrap())).unwrap_err().to_string();
        assert!(text.contains("already taken") && text.contains("--listen"), "{text}");

        for (endpoint, cure) in
            [("tcp://localhost:1", "unix:///run"), ("unix:///nothing/here.sock", "start it")]
        {
            let text = runtime_answers(endpoint).unwrap_err();
            assert!(text.contains(endpoint) && text.contains(cure), "{text}");
        }

        let mut overlapping = needs(directory.path(), free);
        overlapping.service_cidr = "10.244.8.0/24".parse().unwrap();
        let text = check(&overlapping).unwrap_err().to_string();
        assert!(text.contains("overlap"), "{text}");

        let text = enough_space(directory.path(), 3 << 20, min_free_bytes(true)).unwrap_err();
        assert!(
            text.contains("3 MiB are free and a start needs 80") && text.contains("free some space"),
            "{text}"
        );
        let text = enough_space(directory.path(), 3 << 20, min_free_bytes(false)).unwrap_err();
        assert!(text.contains("a start needs 16"), "the store is elsewhere: {text}");
        assert!(enough_space(directory.path(), min_free_bytes(true), min_free_bytes(true)).is_ok());

        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        let text = check(&needs(&file, free)).unwrap_err().to_string();
        assert!(text.contains("--data-dir"), "{text}");
    }
}

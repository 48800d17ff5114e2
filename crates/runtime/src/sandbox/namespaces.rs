//! Namespaces without a process: made by a thread, kept alive by a bind mount of their `/proc` entry.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    net::TcpStream,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use nix::sched::{CloneFlags, setns, unshare};

use crate::mounts;

/// Namespaces of one sandbox that are its own rather than the node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub network: bool,
    pub ipc: bool,
    pub uts: bool,
}

/// File names below a sandbox's namespace directory.
pub const NETWORK: &str = "net";
pub const IPC: &str = "ipc";
pub const UTS: &str = "uts";
pub const PID: &str = "pid";

/// Makes the wanted namespaces and pins each as a file in `directory`. The host name and the sysctls are
/// set inside. Blocking.
pub fn create(
    directory: &Path,
    wanted: Wanted,
    hostname: &str,
    sysctls: &BTreeMap<String, String>,
) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let (directory, hostname, sysctls) = (directory.to_path_buf(), hostname.to_string(), sysctls.clone());
    // A thread of its own: it changes namespaces and must not be used for anything else afterwards.
    on_own_thread(move || {
        let mut flags = CloneFlags::empty();
        flags.set(CloneFlags::CLONE_NEWNET, wanted.network);
        flags.set(CloneFlags::CLONE_NEWIPC, wanted.ipc);
        flags.set(CloneFlags::CLONE_NEWUTS, wanted.uts);
        unshare(flags)?;
        if wanted.uts {
            rustix::system::sethostname(hostname.as_bytes())?;
        }
        if wanted.network {
            bring_up_loopback()?;
        }
        for (name, value) in &sysctls {
            set_sysctl(name, value)?;
        }
        let pins = [(wanted.network, NETWORK), (wanted.ipc, IPC), (wanted.uts, UTS)];
        for (_, name) in pins.into_iter().filter(|(wanted, _)| *wanted) {
            pin(&PathBuf::from(format!("/proc/thread-self/ns/{name}")), &directory.join(name))?;
        }
        Ok(())
    })
}

/// Keeps the namespace behind `source` alive at `target`.
pub fn pin(source: &Path, target: &Path) -> io::Result<()> {
    File::create(target)?;
    mounts::bind(source, target)
}

/// Lets go of everything pinned in `directory`.
pub fn release(directory: &Path) {
    for name in [NETWORK, IPC, UTS, PID] {
        mounts::detach(&directory.join(name));
    }
    if let Err(error) = std::fs::remove_dir_all(directory)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %directory.display(), %error, "cannot remove pinned namespaces");
    }
}

/// Whether `path` is a pinned namespace (and not a plain file left from before a reboot).
pub fn is_pinned(path: &Path) -> bool {
    /// From `linux/magic.h`.
    const NSFS_MAGIC: u64 = 0x6e73_6673;
    rustix::fs::statfs(path).is_ok_and(|found| found.f_type as u64 == NSFS_MAGIC)
}

/// Connects to a port on the loopback address inside a network namespace (`None`: the node's). Blocking.
pub fn connect_loopback(network: Option<PathBuf>, port: u16) -> io::Result<TcpStream> {
    let connect = move || {
        TcpStream::connect(("127.0.0.1", port))
            .or_else(|first| TcpStream::connect(("::1", port)).map_err(|_| first))
    };
    in_network(network, connect)
}

/// Bytes and errors of one interface, from `/proc/net/dev`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InterfaceCounters {
    pub name: String,
    pub rx_bytes: u64,
    pub rx_errors: u64,
    pub tx_bytes: u64,
    pub tx_errors: u64,
}

/// Reads the counters of all interfaces but loopback inside a network namespace. Blocking.
pub fn interface_counters(network: PathBuf) -> io::Result<Vec<InterfaceCounters>> {
    in_network(Some(network), || Ok(parse_counters(&std::fs::read_to_string("/proc/thread-self/net/dev")?)))
}

fn parse_counters(text: &str) -> Vec<InterfaceCounters> {
    let parse = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let fields: Vec<u64> = rest.split_whitespace().map_while(|field| field.parse().ok()).collect();
        Some(InterfaceCounters {
            name: name.trim().to_string(),
            rx_bytes: *fields.first()?,
            rx_errors: *fields.get(2)?,
            tx_bytes: *fields.get(8)?,
            tx_errors: *fields.get(10)?,
        })
    };
    text.lines().filter_map(parse).filter(|counters| counters.name != "lo").collect()
}

fn in_network<T: Send + 'static>(
    network: Option<PathBuf>,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let Some(path) = network else { return work() };
    on_own_thread(move || {
        let namespace = File::open(path)?;
        setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
        work()
    })
}

fn on_own_thread<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    std::thread::Builder::new()
        .name("namespace".into())
        .spawn(work)?
        .join()
        .map_err(|_| io::Error::other("the namespace thread panicked"))?
}

fn bring_up_loopback() -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: `ifreq` is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *place = *byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the socket is open, and `request` is a properly initialised ifreq that outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw mut request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn set_sysctl(name: &str, value: &str) -> io::Result<()> {
    let file = Path::new("/proc/sys").join(sysctl_path(name));
    std::fs::write(&file, value)
        .map_err(|error| io::Error::new(error.kind(), format!("sysctl {name}: {error}")))
}

/// `net.ipv4.ip_forward` and `net/ipv4/conf/eth0.1/forwarding` both name files; the first separator decides.
fn sysctl_path(name: &str) -> String {
    let first = name.find(['.', '/']);
    match first.map(|at| &name[at..=at]) {
        Some("/") => name.to_string(),
        _ => name
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctl_names_have_two_spellings() {
        for (name, want) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/conf/eth0.1/forwarding", "net/ipv4/conf/eth0.1/forwarding"),
            ("net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"),
        ] {
            assert_eq!(sysctl_path(name), want);
        }
    }

    #[test]
    fn counters_parse() {
        let text = "Inter-|   Receive |  Transmit\n face |bytes packets errs drop|bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 10 2 3 0 0 0 0 0 20 4 5 0 0 0 0 0\n";
        let counters = parse_counters(text);
        assert_eq!(counters.len(), 1);
        assert_eq!((counters[0].rx_bytes, counters[0].rx_errors), (10, 3));
        assert_eq!((counters[0].tx_bytes, counters[0].tx_errors), (20, 5));
    }
}

//! The `RuntimeDefault` seccomp profile: everything but the calls that reach beyond a container.

use serde_json::{Value, json};

use crate::shim::syscalls::syscall_names;

/// Refused to everyone without the capability named in [`PRIVILEGED`].
const REFUSED: &[&str] = &[
    "_sysctl",
    "acct",
    "add_key",
    "afs_syscall",
    "bpf",
    "clock_adjtime",
    "clock_settime",
    "clone",
    "clone3",
    "create_module",
    "delete_module",
    "fanotify_init",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "get_kernel_syms",
    "init_module",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "ioperm",
    "iopl",
    "kcmp",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "lookup_dcookie",
    "mount",
    "mount_setattr",
    "move_mount",
    "nfsservctl",
    "open_by_handle_at",
    "open_tree",
    "perf_event_open",
    "personality",
    "pivot_root",
    "query_module",
    "quotactl",
    "quotactl_fd",
    "reboot",
    "request_key",
    "setdomainname",
    "sethostname",
    "setns",
    "settimeofday",
    "socket",
    "stime",
    "swapoff",
    "swapon",
    "sysfs",
    "syslog",
    "umount",
    "umount2",
    "unshare",
    "uselib",
    "userfaultfd",
    "ustat",
    "vhangup",
];

/// Calls that come back with a capability.
const PRIVILEGED: &[(&str, &[&str])] = &[
    (
        "CAP_SYS_ADMIN",
        &[
            "bpf",
            "clone",
            "clone3",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "perf_event_open",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "syslog",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    ("CAP_BPF", &["bpf"]),
    ("CAP_DAC_READ_SEARCH", &["open_by_handle_at"]),
    ("CAP_PERFMON", &["perf_event_open"]),
    ("CAP_SYS_BOOT", &["reboot"]),
    ("CAP_SYS_MODULE", &["delete_module", "init_module", "finit_module"]),
    ("CAP_SYS_PACCT", &["acct"]),
    ("CAP_SYS_PTRACE", &["kcmp"]),
    ("CAP_SYS_RAWIO", &["iopl", "ioperm"]),
    ("CAP_SYS_TIME", &["settimeofday", "stime", "clock_settime", "clock_adjtime"]),
    ("CAP_SYS_TTY_CONFIG", &["vhangup"]),
    ("CAP_SYSLOG", &["syslog"]),
];

/// Namespace flags of `clone`.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;
/// Execution domains programs may ask for: the default, UNAME26, no randomisation, and the query.
const PERSONALITIES: &[u64] = &[0x0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;

/// The profile for a container with these capabilities (`CAP_...`).
pub fn profile(capabilities: &[String]) -> Value {
    let granted = |name: &str| {
        PRIVILEGED.iter().any(|(capability, calls)| {
            calls.contains(&name) && capabilities.iter().any(|held| held == capability)
        })
    };
    let allowed: Vec<&str> =
        syscall_names().filter(|name| !REFUSED.contains(name) || granted(name)).collect();
    let mut rules = vec![json!({"names": allowed, "action": "SCMP_ACT_ALLOW"})];
    let allow = |name: &str, argument: Value| json!({"names": [name], "action": "SCMP_ACT_ALLOW", "args": [argument]});
    for value in PERSONALITIES {
        rules.push(allow("personality", json!({"index": 0, "value": value, "op": "SCMP_CMP_EQ"})));
    }
    for (value, op) in [(AF_ALG, "SCMP_CMP_LT"), (39, "SCMP_CMP_EQ"), (AF_VSOCK, "SCMP_CMP_GT")] {
        rules.push(allow("socket", json!({"index": 0, "value": value, "op": op})));
    }
    if !granted("clone") {
        let masked =
            json!({"index": 0, "value": CLONE_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"});
        rules.push(allow("clone", masked));
        // "Not there" makes the C library fall back to clone, whose flags a filter can see.
        rules.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS}));
    }
    json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": libc::EPERM, "syscalls": rules})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim::seccomp::Filters;

    #[test]
    fn the_profile_compiles_and_depends_on_capabilities() {
        let names = |profile: &Value| profile["syscalls"][0]["names"].as_array().unwrap().clone();
        let plain = profile(&[]);
        Filters::compile(&plain).unwrap();
        assert!(names(&plain).contains(&json!("read")));
        assert!(!names(&plain).contains(&json!("mount")));
        let admin = profile(&["CAP_SYS_ADMIN".into()]);
        Filters::compile(&admin).unwrap();
        assert!(names(&admin).contains(&json!("mount")));
    }
}

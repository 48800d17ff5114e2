//! What a container is asked while it runs: probes and lifecycle hooks, and the actions both share.

use amphipod_api::field::{Error, Path};
use serde_json::Value;

use crate::check::{self, Faults, invalid_each};
use crate::json::{int, items, number, set, text};

const LIFECYCLE_ACTIONS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "sleep"];
const PROBE_ACTIONS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "grpc"];
const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];
const SCHEMES: [&str; 2] = ["HTTP", "HTTPS"];
const WINDOWS_SIGNALS: [&str; 2] = ["SIGKILL", "SIGTERM"];
/// Realtime signals are counted from both ends, up to this far.
const REALTIME_ABOVE_MIN: u32 = 15;
const REALTIME_BELOW_MAX: u32 = 14;
const LINUX_SIGNALS: [&str; 36] = [
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGRTMAX",
    "SIGRTMIN",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];

/// Hooks and probes of containers that keep running.
pub fn running_parts(faults: &mut Faults, path: &Path, container: &Value, spec: &Value) {
    let grace = int(&spec["terminationGracePeriodSeconds"]);
    let lifecycle = &container["lifecycle"];
    for hook in ["postStart", "preStop"] {
        if set(&lifecycle[hook]) {
            let at = path.child("lifecycle").child(hook);
            handler(faults, &at, &lifecycle[hook], &LIFECYCLE_ACTIONS, grace);
        }
    }
    if set(&lifecycle["stopSignal"]) {
        let at = path.child("lifecycle").child("stopSignal");
        stop_signal(faults, &at, text(&lifecycle["stopSignal"]), &spec["os"]);
    }
    for name in PROBES.iter().filter(|name| set(&container[**name])) {
        probe(faults, &path.child(name), name, &container[*name], grace);
    }
}

fn stop_signal(faults: &mut Faults, path: &Path, signal: &str, os: &Value) {
    if !set(os) {
        faults.push(Error::forbidden(path, "may not be set for containers with empty `spec.os.name`"));
        return;
    }
    match text(&os["name"]) {
        "windows" if !WINDOWS_SIGNALS.contains(&signal) => {
            faults.push(Error::not_supported(path, signal, &WINDOWS_SIGNALS));
        }
        "linux" => {
            let mut known: Vec<String> = LINUX_SIGNALS.iter().map(|name| (*name).to_owned()).collect();
            known.extend((1..=REALTIME_ABOVE_MIN).map(|n| format!("SIGRTMIN+{n}")));
            known.extend((1..=REALTIME_BELOW_MAX).map(|n| format!("SIGRTMAX-{n}")));
            if !known.iter().any(|name| name == signal) {
                faults.push(Error::not_supported(path, signal, &known));
            }
        }
        _ => {}
    }
}

fn probe(faults: &mut Faults, path: &Path, name: &str, probe: &Value, grace: Option<i64>) {
    handler(faults, path, probe, &PROBE_ACTIONS, grace);
    for key in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        check::not_negative(faults, &path.child(key), &probe[key]);
    }
    let own_grace = &probe["terminationGracePeriodSeconds"];
    let grace_path = path.child("terminationGracePeriodSeconds");
    if set(own_grace) && number(own_grace) <= 0 {
        faults.push(Error::invalid(&grace_path, number(own_grace), "must be greater than 0"));
    }
    if name == "readinessProbe" {
        if set(own_grace) {
            let detail = "must not be set for readinessProbes";
            faults.push(Error::invalid(&grace_path, number(own_grace), detail));
        }
    } else if number(&probe["successThreshold"]) != 1 {
        let threshold = number(&probe["successThreshold"]);
        faults.push(Error::invalid(&path.child("successThreshold"), threshold, "must be 1"));
    }
}

fn handler(faults: &mut Faults, path: &Path, handler: &Value, kinds: &[&str], grace: Option<i64>) {
    let mut seen = 0;
    for kind in kinds.iter().filter(|kind| set(&handler[**kind])) {
        let at = path.child(kind);
        seen += 1;
        if seen > 1 {
            faults.push(Error::forbidden(&at, "may not specify more than 1 handler type"));
            continue;
        }
        let action = &handler[*kind];
        match *kind {
            "exec" if items(&action["command"]).is_empty() => {
                faults.push(Error::required(&at.child("command"), ""));
            }
            "httpGet" => http_get(faults, &at, action),
            "tcpSocket" => check::port_number_or_name(faults, &at.child("port"), &action["port"]),
            "grpc" => check::port_number(faults, &at.child("port"), number(&action["port"])),
            "sleep" => sleep(faults, &at, number(&action["seconds"]), grace),
            _ => {}
        }
    }
    if seen == 0 {
        faults.push(Error::required(path, "must specify a handler type"));
    }
}

fn sleep(faults: &mut Faults, path: &Path, seconds: i64, grace: Option<i64>) {
    if let Some(grace) = grace.filter(|grace| seconds < 0 || seconds > *grace) {
        let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        faults.push(Error::invalid(path, seconds, detail));
    }
}

fn http_get(faults: &mut Faults, path: &Path, action: &Value) {
    check::required(faults, &path.child("path"), &action["path"]);
    check::port_number_or_name(faults, &path.child("port"), &action["port"]);
    let scheme = text(&action["scheme"]);
    if !SCHEMES.contains(&scheme) {
        faults.push(Error::not_supported(&path.child("scheme"), scheme, &SCHEMES));
    }
    for header in items(&action["httpHeaders"]) {
        let name = text(&header["name"]);
        invalid_each(faults, &path.child("httpHeaders"), name, check::http_header_name(name));
    }
}

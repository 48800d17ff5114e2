//! Every role as a process of its own, talking HTTPS only.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::process::{Child, Command, Stdio};

use amphipod_testing::Reserved;
use support::{AMPHIPOD, DEMO_1, eventually, require_root};

/// Ended with the value; TERM first, so that roles clean up.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.0.id() as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

#[test]
fn a_pod_runs_with_each_role_in_a_process_of_its_own() {
    require_root();
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    let reserved = Reserved::new().unwrap();
    let listen = reserved.address.to_string();
    let role = |words: &[&str]| {
        let log = std::fs::File::options().create(true).append(true).open(data.join("roles.log")).unwrap();
        let child = Command::new(AMPHIPOD).args(words).stdin(Stdio::null()).stderr(log).spawn().unwrap();
        Process(child)
    };
    let kubeconfig =
        |component: &str| data.join(format!("kubeconfigs/{component}.kubeconfig")).display().to_string();
    let root = data.to_str().unwrap();
    // The API server must be reachable from pods for their tokens' CA; here it only serves roles.
    let _server = role(&["apiserver", "--data-dir", root, "--listen", &listen, "--node-name", "solo"]);
    let kubectl = |args: &[&str]| {
        let output = Command::new(AMPHIPOD)
            .env("KUBECONFIG", data.join("admin.kubeconfig"))
            .args(args)
            .output()
            .unwrap();
        if output.status.success() { Ok(support::text(&output)) } else { Err(support::text(&output)) }
    };
    eventually("the API server to answer", 30, || kubectl(&["get", "namespaces"]));
    // Others of this machine may have the usual ports.
    let ports = [(); 2].map(|()| Reserved::new().unwrap());
    let [scheduler, controllers] = ports.each_ref().map(|reserved| reserved.address.port().to_string());
    let _scheduler =
        role(&["scheduler", "--kubeconfig", &kubeconfig("scheduler"), "--secure-port", &scheduler]);
    let own = kubeconfig("controller-manager");
    let _controllers = role(&["controller-manager", "--kubeconfig", &own, "--secure-port", &controllers]);
    let kubelet_config = kubeconfig("kubelet");
    let kubelet =
        role(&["kubelet", "--kubeconfig", &kubelet_config, "--data-dir", root, "--node-name", "solo"]);
    let proxy = role(&["proxy", "--kubeconfig", &kubeconfig("proxy"), "--node-name", "solo"]);
    let dns = role(&["dns", "--kubeconfig", &kubeconfig("dns")]);
    eventually("the node to be Ready", 60, || {
        let seen = kubectl(&["get", "nodes"])?;
        if seen.contains(" Ready") { Ok(()) } else { Err(seen) }
    });
    eventually("the default service account", 30, || kubectl(&["get", "serviceaccount", "default"]));
    kubectl(&["create", "deployment", "demo", &format!("--image={DEMO_1}")]).unwrap();
    kubectl(&["expose", "deployment", "demo", "--port=80", "--target-port=8080"]).unwrap();
    eventually("the pod to run", 60, || {
        let seen = kubectl(&["get", "deployment", "demo"])?;
        if seen.contains("1/1") { Ok(()) } else { Err(seen) }
    });
    eventually("the service to answer by name", 60, || {
        kubectl(&["exec", "deployment/demo", "--", "get", "http://demo/hostname"])
    });
    drop((dns, proxy, kubelet));
    let down = Command::new(AMPHIPOD).args(["down", "--data-dir", root]).output().unwrap();
    drop(_server);
    let down = if down.status.success() {
        down
    } else {
        Command::new(AMPHIPOD).args(["down", "--data-dir", root]).output().unwrap()
    };
    assert!(down.status.success(), "{}", support::text(&down));
}

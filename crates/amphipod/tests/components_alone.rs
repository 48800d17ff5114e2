//! Scheduler and controllers in processes of their own, without a node: what they tell of themselves, and
//! who takes over. Needs no root.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::path::Path;
use std::process::{Child, Command, Stdio};

use amphipod_client::Client;
use amphipod_testing::Reserved;
use serde_json::Value;
use support::{AMPHIPOD, eventually, text};

/// Killed with the value.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An API server, and the port of each component beside it.
struct Plane {
    data: tempfile::TempDir,
    _server: Process,
    _reserved: Reserved,
}

impl Plane {
    fn up() -> Self {
        let (data, reserved) = (tempfile::tempdir().unwrap(), Reserved::new().unwrap());
        let listen = reserved.address.to_string();
        let root = data.path().to_str().unwrap();
        let server = role(data.path(), &["apiserver", "--data-dir", root, "--listen", &listen]);
        let plane = Plane { data, _server: server, _reserved: reserved };
        eventually("the API server to answer", 30, || plane.kubectl(&["get", "namespaces"]));
        plane
    }
    fn kubeconfig(&self, component: &str) -> String {
        let file = format!("kubeconfigs/{component}.kubeconfig");
        self.data.path().join(file).display().to_string()
    }
    fn kubectl(&self, args: &[&str]) -> Result<String, String> {
        let kubeconfig = self.data.path().join("admin.kubeconfig");
        let output = Command::new(AMPHIPOD).env("KUBECONFIG", kubeconfig).args(args).output().unwrap();
        if output.status.success() { Ok(text(&output)) } else { Err(text(&output)) }
    }
    fn role(&self, words: &[&str]) -> Process {
        role(self.data.path(), words)
    }
    /// What the component at the port answers the administrator.
    fn told(&self, port: &str, path: &str) -> Result<String, String> {
        let file = self.data.path().join(format!("at-{port}.kubeconfig"));
        let own = std::fs::read_to_string(self.data.path().join("admin.kubeconfig")).unwrap();
        let lines = own.lines().map(|line| match line.trim().split(':').next() {
            Some("server") => format!("    server: https://127.0.0.1:{port}"),
            Some("certificate-authority-data") => "    insecure-skip-tls-verify: true".to_owned(),
            _ => line.to_owned(),
        });
        std::fs::write(&file, lines.collect::<Vec<_>>().join("\n")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answer = runtime.block_on(async {
            let client = Client::from_kubeconfig(&file).await.map_err(|error| error.to_string())?;
            let request = http::Request::get(path).body(Vec::new()).unwrap();
            client.request(request).await.map_err(|error| error.to_string())
        });
        answer.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn role(data: &Path, words: &[&str]) -> Process {
    let log = std::fs::File::options().create(true).append(true).open(data.join("roles.log")).unwrap();
    Process(Command::new(AMPHIPOD).args(words).stdin(Stdio::null()).stderr(log).spawn().unwrap())
}

#[test]
fn components_tell_of_themselves_and_take_over_from_each_other() {
    let plane = Plane::up();
    let reserved: Vec<Reserved> = (0..3).map(|_| Reserved::new().unwrap()).collect();
    let ports: Vec<String> = reserved.iter().map(|reserved| reserved.address.port().to_string()).collect();
    let controllers = plane.kubeconfig("controller-manager");
    let start = |port: &str| {
        let port = ["--secure-port", port, "--bind-address", "127.0.0.1"];
        plane.role(&[&["controller-manager", "--kubeconfig", &controllers], &port[..]].concat())
    };
    let first = start(&ports[0]);
    eventually("the controllers to count", 60, || {
        let seen = plane.told(&ports[0], "/metrics")?;
        let counts = seen.contains("workqueue_depth") && seen.contains("rest_client_requests_total");
        if counts && !seen.contains("# EOF") { Ok(()) } else { Err(seen) }
    });
    let health = plane.told(&ports[0], "/healthz?verbose").unwrap();
    assert_eq!(health, "[+]ping ok\n[+]leaderElection ok\nhealthz check passed\n");
    for path in ["/livez", "/readyz"] {
        assert_eq!(plane.told(&ports[0], path).unwrap(), "ok");
    }
    let shown: Value = serde_json::from_str(&plane.told(&ports[0], "/configz").unwrap()).unwrap();
    let shown = &shown["kubecontrollermanager.config.k8s.io"];
    assert_eq!(shown["Generic"]["LeaderElection"]["ResourceName"], "kube-controller-manager");
    assert_eq!(shown["NodeLifecycleController"]["NodeMonitorGracePeriod"], "40s");

    // One that stands by takes over once the lease of the killed one has run out.
    let _second = start(&ports[1]);
    eventually("the other to serve", 30, || plane.told(&ports[1], "/readyz"));
    plane.kubectl(&["create", "namespace", "before"]).unwrap();
    let account = |namespace: &str| {
        let args = ["get", "serviceaccount", "default", "-n", namespace];
        eventually("the namespace's service account", 60, || plane.kubectl(&args));
    };
    account("before");
    let authorities = "/api/v1/namespaces/before/configmaps/kube-root-ca.crt";
    let written =
        eventually("the namespace's authorities", 60, || plane.kubectl(&["get", "--raw", authorities]));
    let written: Value = serde_json::from_str(&written).unwrap();
    assert_eq!(written["metadata"]["managedFields"][0]["manager"], "kube-controller-manager");
    drop(first);
    plane.kubectl(&["create", "namespace", "after"]).unwrap();
    account("after");

    let scheduler = plane.kubeconfig("scheduler");
    let port = ports[2].as_str();
    let _scheduler = plane.role(&["scheduler", "--kubeconfig", &scheduler, "--secure-port", port]);
    let shown = eventually("the scheduler to show its configuration", 30, || plane.told(port, "/configz"));
    assert!(shown.contains("\"SchedulerName\":\"default-scheduler\""), "{shown}");
    eventually("the scheduler to be ready", 30, || plane.told(port, "/readyz"));
    assert!(plane.told(port, "/metrics").unwrap().contains("scheduler_pending_pods"));
}

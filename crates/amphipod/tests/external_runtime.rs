//! A runtime of another make behind the kubelet: Debian's containerd, started here with folders of
//! its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use amphipod_testing::Reserved;
use support::{
    AMPHIPOD, Cluster, architecture, digest, eventually, http_get, require_root, show_end, tar, text,
};

const SANDBOX_IMAGE: &str = "example.test/pause:1";

/// A containerd that knows the CNI folder of the cluster in `data`.
struct Containerd {
    dir: tempfile::TempDir,
    child: Child,
}

impl Containerd {
    fn start(data: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().display();
        // Lowering a score takes CAP_SYS_RESOURCE, which root in a container or a small virtual
        // machine may lack: then runc's first process ends before it says why.
        let config = format!(
            r#"version = 2
root = "{at}/root"
state = "{at}/state"
[grpc]
address = "{at}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{SANDBOX_IMAGE}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
conf_dir = "{data}/cni/net.d"
bin_dir = "{data}/cni/bin"
"#,
            data = data.display()
        );
        std::fs::write(dir.path().join("config.toml"), config).unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new("containerd")
            .arg("--config")
            .arg(dir.path().join("config.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let containerd = Containerd { dir, child };
        eventually("containerd to serve", 30, || containerd.ctr(&["version"]));
        containerd
    }
    fn socket(&self) -> PathBuf {
        self.dir.path().join("containerd.sock")
    }
    fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }
    fn ctr(&self, args: &[&str]) -> Result<String, String> {
        let output = Command::new("ctr")
            .arg("--address")
            .arg(self.socket())
            .args(["--namespace", "k8s.io"])
            .args(args)
            .output()
            .unwrap();
        if output.status.success() { Ok(text(&output)) } else { Err(text(&output)) }
    }
    fn import(&self, archive: &Path) {
        self.ctr(&["images", "import", archive.to_str().unwrap()]).unwrap();
    }
    fn tasks(&self) -> usize {
        self.ctr(&["tasks", "ls", "-q"]).unwrap().lines().count()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            show_end("containerd's log", &self.dir.path().join("log"));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

/// What these tests need is here; in CI it has to be.
fn can_run() -> bool {
    require_root();
    let found = installed("containerd") && installed("runc");
    if !found {
        assert!(std::env::var_os("CI").is_none(), "in CI containerd and runc must be installed");
        println!("skipped: containerd and runc are not installed");
    }
    found
}

/// The image of the process that holds a sandbox's namespaces.
fn sandbox_archive(path: &Path) {
    let layer = tar(&[("demo", amphipod_demo::PROGRAM, 0o755)]);
    let config = serde_json::json!({
        "architecture": architecture(), "os": "linux",
        "config": {"Entrypoint": ["/demo", "sleep", "1000000000"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    });
    let list = serde_json::json!([
        {"Config": "config.json", "RepoTags": [SANDBOX_IMAGE], "Layers": ["layer.tar"]}
    ]);
    let archive = tar(&[
        ("manifest.json", list.to_string().as_bytes(), 0o644),
        ("config.json", config.to_string().as_bytes(), 0o644),
        ("layer.tar", &layer, 0o644),
    ]);
    std::fs::write(path, archive).unwrap();
}

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: demo}
spec:
  terminationGracePeriodSeconds: 2
  initContainers:
  - name: first
    image: amphipod.local/demo:1
    command: [/bin/sh, -c, "echo prepared"]
  containers:
  - name: main
    image: amphipod.local/demo:1
    resources:
      requests: {cpu: 50m, memory: 16Mi}
      limits: {memory: 64Mi}
    readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1, timeoutSeconds: 20}
    livenessProbe: {exec: {command: [/bin/get, "http://127.0.0.1:8080/healthy"]}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 2}
"#;

#[test]
fn containerd_runs_the_pods() {
    if !can_run() {
        return;
    }
    let data = tempfile::tempdir().unwrap();
    let containerd = Containerd::start(data.path());
    let archives = tempfile::tempdir().unwrap();
    let (pause, demo) = (archives.path().join("pause.tar"), archives.path().join("demo.tar"));
    sandbox_archive(&pause);
    let written = Command::new(AMPHIPOD).args(["image", "export"]).arg(&demo).output().unwrap();
    assert!(written.status.success(), "{}", text(&written));
    containerd.import(&pause);
    containerd.import(&demo);

    let cluster = Cluster::up_in(data, &["--container-runtime-endpoint", &containerd.endpoint()]);
    let nodes = cluster.run(&["get", "nodes", "-o", "wide"]);
    assert!(nodes.contains("containerd://"), "{nodes}");
    cluster.apply(POD);
    cluster.expect(&["get", "pod", "demo"], "1/1", 60);
    assert_eq!(containerd.tasks(), 2, "a sandbox and a container");
    inside(&cluster);
    let before = container(&cluster);
    assert!(before["containerID"].as_str().unwrap().starts_with("containerd://"), "{before}");

    cluster.kill();
    cluster.start();
    cluster.expect(&["get", "pod", "demo"], "1/1", 60);
    assert_eq!(container(&cluster)["containerID"], before["containerID"], "adopted");
    inside(&cluster);

    failing_probe(&cluster);
    cluster.run(&["delete", "pod", "demo", "--grace-period=1"]);
    eventually("the pod to leave the runtime", 60, || match containerd.tasks() {
        0 => Ok(()),
        more => Err(format!("{more} tasks")),
    });

    cluster.run(&["create", "deployment", "web", "--image=amphipod.local/demo:2", "--replicas=2"]);
    cluster.expect(&["get", "deployment", "web"], "2/2", 60);
    // On the embedded runtime from now on: the other one still holds what it ran.
    cluster.kill();
    cluster.start_with(&[]);
    assert!(cluster.run(&["get", "nodes", "-o", "wide"]).contains("amphipod://"));
    assert!(containerd.tasks() > 0);
    assert!(cluster.down(&[]).contains("pods, mounts and network removed"));
    assert_eq!(containerd.tasks(), 0, "`down` stops pods of any runtime");
}

#[test]
fn a_runtime_without_a_network_is_told_so() {
    if !can_run() {
        return;
    }
    let (data, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let containerd = Containerd::start(elsewhere.path());
    let said = refused(data.path(), &containerd.endpoint());
    let at = data.path().display();
    for part in [
        format!("the runtime at {} has no network for pods", containerd.endpoint()),
        "NetworkReady=false".to_owned(),
        format!("have it read CNI configuration from {at}/cni/net.d and plugins from {at}/cni/bin"),
        "conf_dir and bin_dir".to_owned(),
    ] {
        assert!(said.contains(&part), "{part:?} is missing in:\n{said}");
    }
}

#[test]
fn runtimes_that_are_gone_do_not_keep_the_rest() {
    require_root();
    let data = tempfile::tempdir().unwrap();
    let endpoints = ["a", "b"].map(|name| format!("unix://{}/{name}.sock", data.path().display()));
    let record = serde_json::json!({"pid": 1, "server": "", "kubeconfig": "", "nodeName": null, "hollowNodes": 0,
        "podCidr": "", "serviceCidr": "", "startedAt": "", "ready": true, "ownsNode": true,
        "runtimeEndpoint": endpoints[0], "formerRuntimeEndpoints": [endpoints[1]]});
    std::fs::create_dir(data.path().join("run")).unwrap();
    std::fs::write(data.path().join("run/instance.json"), record.to_string()).unwrap();
    let said = eventually("this machine's node to be free", 120, || {
        let (down, said) = run(data.path(), &["down"]);
        assert!(!down, "{said}");
        if said.contains("another cluster has its node here") { Err(said) } else { Ok(said) }
    });
    for endpoint in endpoints {
        assert!(said.contains(&format!("error: the pods in {endpoint} were not removed: ")), "{said}");
    }
    assert!(said.contains("pods, mounts and network removed"), "{said}");
    assert!(said.contains("run `amphipod down` again"), "{said}");
    // Which has to find the runtimes in the record.
    let (down, said) = run(data.path(), &["down", "--purge"]);
    assert!(!down && said.contains("remove them with that runtime's own tools"), "{said}");
    assert!(!data.path().exists(), "{said}");
}

/// Whether one of our commands succeeds with this data, and what it says.
fn run(data: &Path, args: &[&str]) -> (bool, String) {
    let output = Command::new(AMPHIPOD).args(args).arg("--data-dir").arg(data).output().unwrap();
    (output.status.success(), text(&output))
}

/// What `up` says when it fails on the runtime.
fn refused(data: &Path, endpoint: &str) -> String {
    let reserved = Reserved::new().unwrap();
    let listen = reserved.address.to_string();
    let said = eventually("this machine's node to be free", 120, || {
        let (up, said) =
            run(data, &["up", "--detach", "--listen", &listen, "--container-runtime-endpoint", endpoint]);
        assert!(!up, "{said}");
        if said.contains("this machine is already the node") { Err(said) } else { Ok(said) }
    });
    run(data, &["down"]);
    said
}

fn container(cluster: &Cluster) -> serde_json::Value {
    cluster.json(&["get", "pod", "demo"])["status"]["containerStatuses"][0].clone()
}

/// Logs, exec, port-forward, the memory limit.
fn inside(cluster: &Cluster) {
    assert!(cluster.run(&["logs", "demo", "-c", "first"]).contains("prepared"));
    assert!(cluster.run(&["logs", "demo", "-c", "main"]).contains("demo version 1"));
    let exec = |script: &str| cluster.run(&["exec", "demo", "-c", "main", "--", "/bin/sh", "-c", script]);
    assert_eq!(exec("hostname").trim(), "demo");
    assert!(exec("get http://127.0.0.1:8080/mem/api").contains("67108864"), "the memory limit");
    assert!(exec("nslookup kubernetes.default").contains("10.96.0.1"));
    let mut forward = cluster.spawn(&["port-forward", "demo", ":8080"]);
    let mut lines = BufReader::new(forward.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    let address = first.split_whitespace().nth(2).unwrap().to_owned();
    let (code, body) = http_get(&address, "/hostname").unwrap();
    forward.kill().unwrap();
    forward.wait().unwrap();
    assert_eq!((code, body.trim()), (200, "demo"));
}

fn failing_probe(cluster: &Cluster) {
    let script = "get 'http://127.0.0.1:8080/healthy/api?fail=always'";
    cluster.run(&["exec", "demo", "-c", "main", "--", "/bin/sh", "-c", script]);
    eventually("the container to be restarted", 60, || {
        let status = container(cluster);
        if status["restartCount"] == 1 && status["ready"] == true { Ok(()) } else { Err(status.to_string()) }
    });
    cluster.expect(&["get", "events"], "Liveness probe failed", 10);
}

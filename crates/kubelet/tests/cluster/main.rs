//! One node for real: API server, container runtime and kubelet in this process, containers of the
//! kernel. Needs root; says so and passes where it has none. The runtime starts this very program
//! again as its shim, so there is a `main` here instead of the usual test harness.

#![allow(clippy::unwrap_used)] // a test: what must not fail may panic

mod caller;

use std::ffi::OsString;
use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use amphipod_apiserver::{ApiServer, UserInfo};
use amphipod_client::{Api, Client, DeleteParams, ListParams, Patch, Resource, SharedInformers, Writable};
use amphipod_kubelet::{CgroupConfig, Config};
use amphipod_runtime::{BuiltinFile, BuiltinImage, FileContent};
use amphipod_store::{EmbeddedStore, Store};
use amphipod_testing::Reserved;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, Pod, Secret, ServiceAccount};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use caller::Authority;

const PATIENCE: Duration = Duration::from_secs(90);
const NODE: &str = "real-node";

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    if let Some(word) = args.get(1).and_then(|a| a.to_str())
        && let Some(code) = amphipod_runtime::shim_main(word, &args[2..])
    {
        return code;
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: containers need root");
        assert!(std::env::var_os("CI").is_none(), "in CI this test must run");
        return ExitCode::SUCCESS;
    }
    if std::env::var_os("RUST_BACKTRACE").is_none() {
        println!("running a real node");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run())
}

async fn run() -> ExitCode {
    let dir = tempfile::tempdir().unwrap();
    let root = format!("/amphipod-kubelet-test-{}", std::process::id());
    let cancel = CancellationToken::new();
    let runtime = runtime_config(dir.path().to_owned());
    let body = tokio::spawn(a_life(dir.path().to_owned(), runtime.clone(), root.clone(), cancel.clone()));
    let outcome = body.await;
    cancel.cancel();
    // The runtime lets go of its socket when it has stopped; then nothing serves these folders.
    let stopped = eventually("the runtime stops", || async {
        amphipod_cri::connect(&runtime.socket.display().to_string()).await.is_err().then_some(())
    });
    stopped.await;
    amphipod_runtime::cleanup(&runtime).await.unwrap();
    unmount_below(dir.path());
    remove_cgroups(&root);
    match outcome {
        Ok(()) => {
            println!("test result: ok");
            ExitCode::SUCCESS
        }
        Err(_) => ExitCode::from(101),
    }
}

fn runtime_config(dir: PathBuf) -> amphipod_runtime::Config {
    let mut config = amphipod_runtime::Config::new(&dir, std::env::current_exe().unwrap());
    config.socket = dir.join("cri.sock");
    let file = |path: &str, content| BuiltinFile { path: path.to_owned(), mode: 0o755, content };
    let mut image = BuiltinImage {
        reference: "amphipod.local/demo:1".to_owned(),
        files: Vec::new(),
        entrypoint: vec![amphipod_demo::PATH.to_owned()],
        cmd: Vec::new(),
        env: vec!["PATH=/bin".to_owned()],
        working_dir: "/".to_owned(),
        user: String::new(),
    };
    image.files.push(file(amphipod_demo::PATH, FileContent::Bytes(amphipod_demo::PROGRAM)));
    for command in amphipod_demo::COMMANDS {
        image.files.push(file(&format!("/bin/{command}"), FileContent::Link(amphipod_demo::PATH.to_owned())));
    }
    config.builtin_images = vec![image];
    config
}

/// What a test that failed left mounted.
fn unmount_below(dir: &std::path::Path) {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = table
        .lines()
        .filter_map(|l| l.split(' ').nth(1))
        .filter(|p| std::path::Path::new(p).starts_with(dir));
    for point in points.collect::<Vec<_>>().into_iter().rev() {
        let _ = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH);
    }
}

fn remove_cgroups(root: &str) {
    fn remove(path: &std::path::Path) {
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                remove(&entry.path());
            }
        }
        let _ = std::fs::remove_dir(path);
    }
    let base = PathBuf::from("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(&base).into_iter().flatten().flatten().map(|e| e.path());
    for hierarchy in hierarchies.chain([base.clone()]) {
        remove(&hierarchy.join(root.trim_start_matches('/')));
    }
}

async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, check: impl Fn() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

fn decode<T: Resource>(value: Value) -> T {
    T::decode(value.to_string().as_bytes()).unwrap()
}

fn encoded(pod: &Pod) -> Value {
    serde_json::from_slice(&pod.encode()).unwrap()
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

async fn until_pod(admin: &Client, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
    let pods = Api::<Pod>::namespaced(admin.clone(), "ns");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let pod = pods.get_opt("p").await.unwrap().map_or(Value::Null, |p| encoded(&p));
        if condition(&pod) {
            return pod;
        }
        if Instant::now() > deadline {
            let (_, events) =
                Api::<Event>::namespaced(admin.clone(), "ns").list(&ListParams::default()).await.unwrap();
            let told: Vec<String> = events.into_iter().filter_map(|e| e.message).collect();
            panic!("waited in vain: {what}\n{:#}\n{told:#?}", pod["status"]);
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

/// The port of the node's API.
async fn served_at(admin: &Client) -> Option<u16> {
    let node = Api::<Node>::all(admin.clone()).get_opt(NODE).await.unwrap()?;
    let endpoint = node.status?.daemon_endpoints?.kubelet_endpoint?;
    u16::try_from(endpoint.port).ok()
}

/// The process of the demo server that listens on `port`.
fn server_process(port: u16) -> Option<rustix::process::Pid> {
    let wanted = format!("PORT={port}");
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let has = environment.split(|b| *b == 0).any(|v| v == wanted.as_bytes());
        if has && command.starts_with(amphipod_demo::PATH.as_bytes()) {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            return rustix::process::Pid::from_raw(pid);
        }
    }
    None
}

async fn start_cluster(dir: &std::path::Path) -> Arc<ApiServer> {
    let store: Arc<dyn Store> =
        Arc::new(EmbeddedStore::open(&dir.join("store"), Default::default()).unwrap());
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let config = amphipod_apiserver::Config { service_account_key_pem: Some(key), ..Default::default() };
    ApiServer::start(config, store).await.unwrap()
}

async fn create_surroundings(admin: &Client) {
    Api::<Namespace>::all(admin.clone()).create(&decode(json!({"metadata": {"name": "ns"}}))).await.unwrap();
    let account = decode(json!({"metadata": {"name": "default"}}));
    Api::<ServiceAccount>::namespaced(admin.clone(), "ns").create(&account).await.unwrap();
    let ca = decode(json!({"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": "trust"}}));
    Api::<ConfigMap>::namespaced(admin.clone(), "ns").create(&ca).await.unwrap();
    let secret = decode(json!({"metadata": {"name": "s"}, "stringData": {"key": "hidden"}}));
    Api::<Secret>::namespaced(admin.clone(), "ns").create(&secret).await.unwrap();
}

fn pod(port: u16) -> Pod {
    decode(json!({"metadata": {"name": "p", "labels": {"app": "demo"}}, "spec": {
        "nodeName": NODE, "hostNetwork": true, "terminationGracePeriodSeconds": 3,
        "volumes": [
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "secret", "secret": {"secretName": "s"}},
            {"name": "about", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}],
        "containers": [{
            "name": "a", "image": "amphipod.local/demo:1",
            "env": [{"name": "PORT", "value": port.to_string()}, {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "resources": {"limits": {"memory": "64Mi", "cpu": "500m"}},
            "volumeMounts": [
                {"name": "memory", "mountPath": "/memory"}, {"name": "secret", "mountPath": "/secret"},
                {"name": "about", "mountPath": "/about"}, {"name": "secret", "mountPath": "/one", "subPath": "key"}],
            "readinessProbe": {"httpGet": {"path": "/healthy", "port": port}, "periodSeconds": 1},
            "lifecycle": {"preStop": {"exec": {"command": ["/bin/true"]}}}}]}}))
}

/// More memory and CPU for the running container, which sees it.
async fn resize<F: Future<Output = (u16, String)>>(admin: &Client, exec: impl Fn(&str) -> F, web: u16) {
    let before = until_pod(admin, "ready", is_ready).await["status"]["containerStatuses"][0].clone();
    let amounts = json!({"memory": "96Mi", "cpu": "750m"});
    let resources = json!({"limits": amounts, "requests": amounts});
    let patch = json!({"spec": {"containers": [{"name": "a", "resources": resources}]}});
    let pods = Api::<Pod>::namespaced(admin.clone(), "ns");
    pods.patch_subresource("p", "resize", &Patch::Strategic(patch)).await.unwrap();
    let resized = until_pod(admin, "resized", |pod| {
        let status = &pod["status"]["containerStatuses"][0];
        let passing = pod["status"]["conditions"].to_string().contains("PodResize");
        status["resources"] == resources && status["allocatedResources"] == amounts && !passing
    });
    let status = resized.await["status"]["containerStatuses"][0].clone();
    assert_eq!(status["containerID"], before["containerID"]);
    let (_, memory) = exec(&format!("/bin/get http://127.0.0.1:{web}/mem/api")).await;
    assert!(memory.contains(&(96 << 20).to_string()), "{memory}");
}

/// A container whose process is killed is started again, and what became of the last one is told.
async fn restart(admin: &Client, authority: &Authority, port: u16, web: u16) {
    let process = eventually("the server's process", || async { server_process(web) }).await;
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    let again = until_pod(admin, "restarted", |p| {
        p["status"]["containerStatuses"][0]["restartCount"] == 1 && is_ready(p)
    });
    let status = again.await;
    let last = &status["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!(last["exitCode"], 137, "{status:#}");
    let (code, _) = authority.call(port, "GET", "/containerLogs/ns/p/a?previous=true".to_owned()).await;
    assert_eq!(code, 200);
}

async fn a_life(
    dir: PathBuf,
    runtime: amphipod_runtime::Config,
    cgroup_root: String,
    cancel: CancellationToken,
) {
    let server = start_cluster(&dir).await;
    let endpoint = format!("unix://{}", runtime.socket.display());
    let serve = amphipod_runtime::serve(runtime.clone(), cancel.clone());
    tokio::spawn(async move { serve.await.unwrap() });
    eventually("the runtime's socket", || async { runtime.socket.exists().then_some(()) }).await;
    let client =
        |user: &str, groups: &[&str]| Client::local(server.local_service(UserInfo::new(user, groups)));
    let admin = client("admin", &["system:masters", "system:authenticated"]);
    let authority = Authority::new(&dir);
    let mut config = Config::new(NODE, "127.0.0.1".parse().unwrap(), &endpoint);
    config.root_dir = dir.join("kubelet");
    config.pod_logs_dir = dir.join("logs");
    config.cgroups = CgroupConfig { root: cgroup_root, ..config.cgroups };
    authority.configure(&mut config);
    let informers = SharedInformers::new(admin.clone(), cancel.clone());
    let node_client = client(&format!("system:node:{NODE}"), &["system:nodes", "system:authenticated"]);
    let run = amphipod_kubelet::run(config, node_client, informers, cancel.clone());
    tokio::spawn(async move { run.await.unwrap() });
    create_surroundings(&admin).await;

    let port = eventually("the node to tell its port", || served_at(&admin)).await;
    let reserved = Reserved::new().unwrap();
    let web = reserved.address.port();
    let pods = Api::<Pod>::namespaced(admin.clone(), "ns");
    let began = Instant::now();
    pods.create(&pod(web)).await.unwrap();
    let status = until_pod(&admin, "ready", is_ready).await;
    println!("create to Ready: {:?}", began.elapsed());
    assert_eq!(status["status"]["containerStatuses"][0]["restartCount"], 0);

    let exec = |command: &str| {
        authority.call(port, "POST", format!("/run/ns/p/a?cmd={}", command.replace(' ', "%20")))
    };
    let cases = [
        ("/bin/echo hi", "hi\n"),
        ("/bin/cat /secret/key", "hidden"),
        ("/bin/cat /one", "hidden"),
        ("/bin/cat /about/labels", "app=\"demo\""),
        ("/bin/cat /var/run/secrets/kubernetes.io/serviceaccount/namespace", "ns"),
    ];
    for (command, output) in cases {
        assert_eq!(exec(command).await, (200, output.to_owned()), "{command}");
    }
    let (_, environment) = exec("/bin/env").await;
    assert!(environment.lines().any(|l| l == "POD=p"), "{environment}");

    restart(&admin, &authority, port, web).await;
    resize(&admin, &exec, web).await;

    let began = Instant::now();
    pods.delete("p", &DeleteParams::default()).await.unwrap();
    until_pod(&admin, "gone", Value::is_null).await;
    println!("delete to gone: {:?}", began.elapsed());
    assert!(server_process(web).is_none());
    let left: Vec<_> = std::fs::read_dir(dir.join("kubelet/pods")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

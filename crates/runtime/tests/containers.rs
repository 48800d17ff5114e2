//! The runtime for real: containers, as root, in a temporary directory, driven through its CRI socket.
//!
//! The test binary is its own shim executable, so it has no harness: it dispatches `runtime-*` subcommands
//! first. Without root, overlayfs or a static busybox it says so and succeeds.

#![allow(clippy::unwrap_used)] // a test without the harness, which the lint does not recognise as one

mod support;

use std::{path::Path, process::ExitCode};

use amphipod_cri::v1::{
    self as cri, ContainerState, ContainerStatusRequest, ExecSyncRequest, ListContainersRequest,
    ListPodSandboxRequest, NamespaceMode, PodSandboxState, PodSandboxStatusRequest, RemoveContainerRequest,
    RemovePodSandboxRequest, ReopenContainerLogRequest, StopContainerRequest, StopPodSandboxRequest,
};
use support::{
    Node,
    registry::Registry,
    shell,
    websocket::{Said, WebSocketClient},
};

fn main() -> ExitCode {
    let args: Vec<std::ffi::OsString> = std::env::args_os().collect();
    if let Some(command) = args.get(1).and_then(|arg| arg.to_str())
        && let Some(code) = amphipod_runtime::shim_main(command, &args[2..])
    {
        return code;
    }
    if let Some(missing) = support::missing() {
        println!("skipped: {missing}");
        // Where everything is promised to be there, a missing piece is a failure.
        assert!(std::env::var_os("CI").is_none(), "{missing}");
        return ExitCode::SUCCESS;
    }
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    macro_rules! run {
        ($($test:ident),* $(,)?) => {$(
            if stringify!($test).contains(&filter) {
                let started = std::time::Instant::now();
                runtime.block_on($test());
                println!("test {} ... ok ({:?})", stringify!($test), started.elapsed());
            }
        )*};
    }
    run!(
        runs_to_completion,
        exec_stop_and_signals,
        identity_and_confinement,
        start_errors,
        survives_a_restart,
        shared_pid_namespace,
        limits_and_stats,
        log_rotation,
        streams,
        terminals,
        attach_with_input,
        forwards_ports,
        pulls_images,
        builtin_images,
        host_namespaces,
    );
    ExitCode::SUCCESS
}

async fn runs_to_completion() {
    let node = Node::start().await;
    let sandbox = node.sandbox("completion").await;
    let status = node
        .runtime()
        .pod_sandbox_status(PodSandboxStatusRequest { pod_sandbox_id: sandbox.clone(), verbose: false })
        .await
        .unwrap()
        .into_inner()
        .status
        .unwrap();
    assert_eq!(status.state(), PodSandboxState::SandboxReady);
    let script = "echo out; echo err >&2; hostname; cat /etc/resolv.conf; printf partial; exit 3";
    let id = node.container(&sandbox, "main", |config| config.command = shell(script)).await;
    node.start_container(&id).await;
    let status = node.wait_exit(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"));
    assert!(status.finished_at >= status.started_at && status.started_at > 0);
    assert_eq!(status.image.as_ref().unwrap().image, "docker.io/library/test:1");
    let log = std::fs::read_to_string(&status.log_path).unwrap();
    let said: Vec<&str> = log.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    for want in ["stdout F out", "stderr F err", "stdout F completion-host", "stdout F nameserver 10.1.2.3"] {
        assert!(said.contains(&want), "{want:?} is not in {said:?}");
    }
    assert_eq!(said.last(), Some(&"stdout P partial"));
    node.remove_everything().await;
    node.stop().await;
}

async fn exec_stop_and_signals() {
    let node = Node::start().await;
    let sandbox = node.sandbox("exec").await;
    let script = "trap 'exit 7' TERM; while true; do sleep 0.1; done";
    let id = node.container(&sandbox, "main", |config| config.command = shell(script)).await;
    node.start_container(&id).await;
    let output = node.exec(&id, &["sh", "-c", "echo hello; echo oops >&2; exit 5"]).await.unwrap();
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"hello\n"[..], &b"oops\n"[..]));
    assert_eq!(output.exit_code, 5);
    let missing = node.exec(&id, &["nonsense"]).await.unwrap_err();
    assert!(missing.message().contains("executable file not found in $PATH"), "{missing}");
    let request =
        ExecSyncRequest { container_id: id.clone(), cmd: vec!["sleep".into(), "60".into()], timeout: 1 };
    let late = node.runtime().exec_sync(request).await.unwrap_err();
    assert_eq!(late.code(), tonic::Code::DeadlineExceeded);
    let stop = StopContainerRequest { container_id: id.clone(), timeout: 10 };
    node.runtime().stop_container(stop.clone()).await.unwrap();
    assert_eq!(node.wait_exit(&id).await.exit_code, 7);
    node.runtime().stop_container(stop).await.unwrap();
    // One that does not listen is killed after its grace period.
    let deaf = "trap '' TERM; while true; do sleep 0.1; done";
    let id = node.container(&sandbox, "deaf", |config| config.command = shell(deaf)).await;
    node.start_container(&id).await;
    node.runtime()
        .stop_container(StopContainerRequest { container_id: id.clone(), timeout: 1 })
        .await
        .unwrap();
    assert_eq!(node.wait_exit(&id).await.exit_code, 137);
    node.remove_everything().await;
    node.stop().await;
}

async fn identity_and_confinement() {
    let node = Node::start().await;
    let sandbox = node.sandbox("identity").await;
    let script = "id; cat /proc/self/status; touch /rootfile; echo data > /scratch/file; pwd; env";
    let scratch = node.dir().join("scratch");
    std::fs::create_dir(&scratch).unwrap();
    std::os::unix::fs::chown(&scratch, Some(1000), Some(2000)).unwrap();
    let id = node
        .container(&sandbox, "main", |config| {
            config.command = shell(script);
            config.working_dir = "/made/for/you".into();
            config.envs = vec![cri::KeyValue { key: "GREETING".into(), value: "hi there".into() }];
            config.mounts = vec![cri::Mount {
                container_path: "/scratch".into(),
                host_path: scratch.display().to_string(),
                ..Default::default()
            }];
            let security = cri::LinuxContainerSecurityContext {
                run_as_user: Some(cri::Int64Value { value: 1000 }),
                run_as_group: Some(cri::Int64Value { value: 2000 }),
                supplemental_groups: vec![3000],
                readonly_rootfs: true,
                no_new_privs: true,
                capabilities: Some(cri::Capability {
                    drop_capabilities: vec!["ALL".into()],
                    ..Default::default()
                }),
                seccomp: Some(cri::SecurityProfile::default()),
                masked_paths: vec!["/proc/kcore".into()],
                ..support::security()
            };
            config.linux.as_mut().unwrap().security_context = Some(security);
        })
        .await;
    node.start_container(&id).await;
    let status = node.wait_exit(&id).await;
    let log = node.log(&status);
    for want in [
        "uid=1000 gid=2000",
        "3000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "CapEff:\t0000000000000000",
        "Read-only file system",
        "/made/for/you",
        "GREETING=hi there",
    ] {
        assert!(log.contains(want), "{want:?} is not in {log}");
    }
    assert_eq!(std::fs::read_to_string(scratch.join("file")).unwrap(), "data\n");
    // The default profile without no_new_privs: loading it needs a capability that must not remain.
    let id = node
        .container(&sandbox, "profile", |config| {
            config.command = shell("cat /proc/self/status; unshare -m true || echo refused");
            config.linux.as_mut().unwrap().security_context = Some(cri::LinuxContainerSecurityContext {
                seccomp: Some(cri::SecurityProfile::default()),
                ..support::security()
            });
        })
        .await;
    node.start_container(&id).await;
    let status = node.wait_exit(&id).await;
    let log = node.log(&status);
    for want in
        ["NoNewPrivs:\t0", "Seccomp:\t2", "CapEff:\t00000000a80425fb", "CapBnd:\t00000000a80425fb", "refused"]
    {
        assert!(log.contains(want), "{want:?} is not in {log}");
    }
    node.remove_everything().await;
    node.stop().await;
}

async fn start_errors() {
    let node = Node::start().await;
    let sandbox = node.sandbox("errors").await;
    let id = node.container(&sandbox, "main", |config| config.command = vec!["/no/such".into()]).await;
    let error = node
        .runtime()
        .start_container(cri::StartContainerRequest { container_id: id.clone() })
        .await
        .unwrap_err();
    let said = ": exec: \"/no/such\": stat /no/such: no such file or directory";
    assert!(error.message().ends_with(said), "{error}");
    let status = node.wait_exit(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    let gone = node
        .runtime()
        .container_status(ContainerStatusRequest { container_id: "deadbeef".into(), verbose: false })
        .await
        .unwrap_err();
    assert_eq!(gone.code(), tonic::Code::NotFound);
    node.runtime()
        .remove_container(RemoveContainerRequest { container_id: "deadbeef".into() })
        .await
        .unwrap();
    node.remove_everything().await;
    node.stop().await;
}

async fn survives_a_restart() {
    let mut node = Node::start().await;
    let sandbox = node.sandbox("restart").await;
    let stays = node.container(&sandbox, "stays", |config| config.command = shell("sleep 1000")).await;
    let ends = node
        .container(&sandbox, "ends", |config| {
            config.command = shell("while [ ! -e /go/on ]; do sleep 0.05; done; exit 9");
            let go = cri::Mount {
                container_path: "/go".into(),
                host_path: node.dir().display().to_string(),
                ..Default::default()
            };
            config.mounts.push(go);
        })
        .await;
    node.start_container(&stays).await;
    node.start_container(&ends).await;
    node.restart(|dir| std::fs::write(dir.join("on"), "").unwrap()).await;
    let status = node.wait_exit(&ends).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (9, "Error"));
    assert_eq!(node.status(&stays).await.state(), ContainerState::ContainerRunning);
    let output = node.exec(&stays, &["echo", "still here"]).await.unwrap();
    assert_eq!(output.stdout, b"still here\n");
    let ready = node.runtime().list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().into_inner();
    assert_eq!(ready.items[0].state(), PodSandboxState::SandboxReady);
    node.runtime()
        .stop_container(StopContainerRequest { container_id: stays.clone(), timeout: 0 })
        .await
        .unwrap();
    assert_eq!(node.wait_exit(&stays).await.exit_code, 137);
    node.remove_everything().await;
    node.stop().await;
}

async fn shared_pid_namespace() {
    let node = Node::start().await;
    let sandbox = node
        .sandbox_with("shared", |config| {
            let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
            security.namespace_options.as_mut().unwrap().set_pid(NamespaceMode::Pod);
        })
        .await;
    let share = |config: &mut cri::ContainerConfig| {
        let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        security.namespace_options.as_mut().unwrap().set_pid(NamespaceMode::Pod);
    };
    let first = node
        .container(&sandbox, "first", |config| {
            config.command = shell("exec sleep 1234");
            share(config);
        })
        .await;
    node.start_container(&first).await;
    let second = node
        .container(&sandbox, "second", |config| {
            config.command = shell("ps; ls /proc/1/root/ && echo empty root");
            share(config);
        })
        .await;
    node.start_container(&second).await;
    let status = node.wait_exit(&second).await;
    let log = node.log(&status);
    assert!(log.contains("sleep 1234"), "{log}");
    assert!(log.contains("runtime-pause"), "{log}");
    node.remove_everything().await;
    node.stop().await;
}

async fn limits_and_stats() {
    let node = Node::start().await;
    let sandbox = node.sandbox("limits").await;
    let id = node
        .container(&sandbox, "main", |config| {
            config.command = shell("sleep 1000");
            config.linux.as_mut().unwrap().resources = Some(cri::LinuxContainerResources {
                memory_limit_in_bytes: 64 << 20,
                cpu_quota: 50_000,
                cpu_period: 100_000,
                cpu_shares: 512,
                oom_score_adj: 900,
                ..Default::default()
            });
        })
        .await;
    node.start_container(&id).await;
    let stats = node
        .runtime()
        .container_stats(cri::ContainerStatsRequest { container_id: id.clone() })
        .await
        .unwrap()
        .into_inner()
        .stats
        .unwrap();
    let memory = stats.memory.unwrap();
    let available = memory.available_bytes.unwrap().value + memory.working_set_bytes.unwrap().value;
    assert_eq!(available, 64 << 20);
    let update = cri::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(cri::LinuxContainerResources { memory_limit_in_bytes: 32 << 20, ..Default::default() }),
        ..Default::default()
    };
    node.runtime().update_container_resources(update).await.unwrap();
    let resources = node.status(&id).await.resources.unwrap().linux.unwrap();
    assert_eq!((resources.memory_limit_in_bytes, resources.cpu_quota), (32 << 20, 50_000));
    // More memory than allowed: the kernel kills, and we say so.
    let hungry = node
        .container(&sandbox, "hungry", |config| {
            config.command = shell("dd if=/dev/zero of=/dev/null bs=64M count=1");
            config.linux.as_mut().unwrap().resources =
                Some(cri::LinuxContainerResources { memory_limit_in_bytes: 16 << 20, ..Default::default() });
        })
        .await;
    node.start_container(&hungry).await;
    let status = node.wait_exit(&hungry).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    node.remove_everything().await;
    node.stop().await;
}

async fn log_rotation() {
    let node = Node::start().await;
    let sandbox = node.sandbox("rotation").await;
    let id = node
        .container(&sandbox, "main", |config| {
            config.command = shell("i=0; while true; do echo line $i; i=$((i+1)); sleep 0.05; done");
        })
        .await;
    node.start_container(&id).await;
    let path = node.status(&id).await.log_path;
    let old = format!("{path}.old");
    support::wait_until("the first line", || has_line(&path)).await;
    std::fs::rename(&path, &old).unwrap();
    node.runtime()
        .reopen_container_log(ReopenContainerLogRequest { container_id: id.clone() })
        .await
        .unwrap();
    support::wait_until("a line in the new file", || has_line(&path)).await;
    node.runtime().stop_container(StopContainerRequest { container_id: id, timeout: 0 }).await.unwrap();
    let count = |path: &str| std::fs::read_to_string(path).unwrap().lines().count();
    assert!(count(&old) > 0 && count(&path) > 0);
    // Removing the sandbox takes the containers with it.
    node.runtime().stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() }).await.unwrap();
    node.runtime().remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: sandbox }).await.unwrap();
    let left = node.runtime().list_containers(ListContainersRequest::default()).await.unwrap().into_inner();
    assert!(left.containers.is_empty());
    tokio::time::timeout(support::DEADLINE, node.stop()).await.unwrap();
}

async fn streams() {
    let node = Node::start().await;
    let sandbox = node.sandbox("streams").await;
    let id = node.container(&sandbox, "main", |config| config.command = shell("sleep 1000")).await;
    node.start_container(&id).await;
    for protocol in ["v4.channel.k8s.io", "v5.channel.k8s.io"] {
        let url = node.exec_url(&id, "read x; echo got $x; echo oops >&2; exit 4", true, false).await;
        let mut client = WebSocketClient::connect(&url, protocol).await;
        client.send(0, b"word\n").await;
        let said = client.read_to_end().await;
        assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("got word\n", "oops\n"));
        let status: serde_json::Value = serde_json::from_str(&said.error).unwrap();
        assert_eq!(status["details"]["causes"][0]["message"], "4", "{status}");
        // A URL works once.
        assert!(WebSocketClient::try_connect(&url, protocol).await.is_err());
    }
    // Version 5 can end standard input without ending the session.
    let url = node.exec_url(&id, "cat; echo end", true, false).await;
    let mut client = WebSocketClient::connect(&url, "v5.channel.k8s.io").await;
    client.send(0, b"abc\n").await;
    client.send(255, &[0]).await;
    let said = client.read_to_end().await;
    assert_eq!(said.stdout, "abc\nend\n");
    assert!(said.error.contains("Success"), "{}", said.error);
    // A client that leaves takes its process along.
    let url = node.exec_url(&id, "echo here; exec sleep 4321", false, false).await;
    let mut client = WebSocketClient::connect(&url, "v4.channel.k8s.io").await;
    client.read_until("here").await;
    drop(client);
    let deadline = std::time::Instant::now() + support::DEADLINE;
    while String::from_utf8_lossy(&node.exec(&id, &["ps"]).await.unwrap().stdout).contains("sleep 4321") {
        assert!(std::time::Instant::now() < deadline, "the process outlives its client");
    }
    let url = node.exec_url(&id, "", false, false).await;
    let said = WebSocketClient::connect(&url, "v4.channel.k8s.io").await.read_to_end().await;
    assert!(said.error.contains("Success"), "{}", said.error);
    node.remove_everything().await;
    node.stop().await;
}

async fn terminals() {
    let node = Node::start().await;
    let sandbox = node.sandbox("terminals").await;
    let id = node.container(&sandbox, "main", |config| config.command = shell("sleep 1000")).await;
    node.start_container(&id).await;
    let url = node.exec_url(&id, "tty; while read x; do stty size; done", true, true).await;
    let mut client = WebSocketClient::connect(&url, "v4.channel.k8s.io").await;
    client.read_until("/dev/pts/").await;
    client.send(4, br#"{"Width":123,"Height":45}"#).await;
    let deadline = std::time::Instant::now() + support::DEADLINE;
    // The size travels beside the input: ask until it has arrived.
    loop {
        client.send(0, b"go\r").await;
        if client.read_some().await.contains("45 123") {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "the size does not arrive");
    }
    client.send(0, &[4]).await;
    let said = client.read_to_end().await;
    assert!(said.error.contains("Success"), "{}", said.error);
    // The container itself on a terminal, attached.
    let id = node
        .container(&sandbox, "tty", |config| {
            config.command = shell("read x; echo container got $x; stty size; read y");
            (config.tty, config.stdin) = (true, true);
        })
        .await;
    node.start_container(&id).await;
    let url = node.attach_url(&id, true).await;
    let mut client = WebSocketClient::connect(&url, "v5.channel.k8s.io").await;
    client.send(4, br#"{"Width":99,"Height":33}"#).await;
    client.send(0, b"word\r").await;
    client.read_until("container got word").await;
    client.send(0, b"\r").await;
    let said = client.read_to_end().await;
    assert!(said.error.contains("Success"), "{}", said.error);
    let status = node.wait_exit(&id).await;
    assert!(node.log(&status).contains("stdout F container got word"));
    node.remove_everything().await;
    node.stop().await;
}

async fn attach_with_input() {
    let node = Node::start().await;
    let sandbox = node.sandbox("attach").await;
    let id = node
        .container(&sandbox, "main", |config| {
            config.command = shell("echo started; cat; echo done >&2; exit 6");
            (config.stdin, config.stdin_once) = (true, true);
        })
        .await;
    node.start_container(&id).await;
    let url = node.attach_url(&id, false).await;
    let mut client = WebSocketClient::connect(&url, "v5.channel.k8s.io").await;
    client.send(0, b"line one\n").await;
    client.read_until("line one").await;
    client.send(255, &[0]).await;
    let said = client.read_to_end().await;
    assert_eq!(said.stderr, "done\n");
    let status = node.wait_exit(&id).await;
    assert_eq!(status.exit_code, 6);
    assert!(node.log(&status).contains("stdout F line one"));
    node.remove_everything().await;
    node.stop().await;
}

async fn forwards_ports() {
    let node = Node::start().await;
    let sandbox = node.sandbox("ports").await;
    let id = node
        .container(&sandbox, "main", |config| {
            config.command = shell("while true; do echo served | nc -l -p 8080; done");
        })
        .await;
    node.start_container(&id).await;
    let deadline = std::time::Instant::now() + support::DEADLINE;
    loop {
        let request = cri::PortForwardRequest { pod_sandbox_id: sandbox.clone(), port: vec![8080] };
        let url = node.runtime().port_forward(request).await.unwrap().into_inner().url;
        let mut client = WebSocketClient::connect(&url, "v4.channel.k8s.io").await;
        client.send(0, b"hello").await;
        // Channels 0 and 1 are data and errors of the only port, each opened by its number.
        let done = |said: &Said| said.stdin.contains("served") || said.stdout.contains("forward");
        let said = client.read_for(done).await;
        if said.stdin.contains("served") {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{said:?}");
    }
    node.remove_everything().await;
    node.stop().await;
}

async fn pulls_images() {
    let node = Node::start().await;
    let registry = Registry::start("user", "secret").await;
    let name = format!("{}/team/app:v1", registry.address);
    let pull = |auth: Option<cri::AuthConfig>, name: &str| {
        let image = cri::ImageSpec { image: name.to_string(), ..Default::default() };
        let request = cri::PullImageRequest { image: Some(image), auth, sandbox_config: None };
        let mut images = node.images();
        async move { images.pull_image(request).await.map(|response| response.into_inner().image_ref) }
    };
    let auth = cri::AuthConfig { username: "user".into(), password: "secret".into(), ..Default::default() };
    let refused = pull(None, &name).await.unwrap_err();
    assert!(refused.message().contains("failed to pull image"), "{refused}");
    let id = pull(Some(auth.clone()), &name).await.unwrap();
    let found = node.image(&name).await.unwrap();
    assert_eq!((found.id.as_str(), &found.repo_tags), (id.as_str(), &vec![name.clone()]));
    assert_eq!(found.repo_digests, [format!("{}/team/app@{}", registry.address, registry.manifest_digest)]);
    // By digest it is the same image; a second pull fetches no layer again.
    let fetched = registry.blobs_served();
    let by_digest = found.repo_digests[0].clone();
    assert_eq!(pull(Some(auth.clone()), &by_digest).await.unwrap(), id);
    assert_eq!(registry.blobs_served(), fetched + 1, "only the configuration");
    let missing = pull(Some(auth), &format!("{}/team/app:v9", registry.address)).await.unwrap_err();
    assert!(missing.message().contains("v9"), "{missing}");
    let sandbox = node.sandbox("pulled").await;
    let container = node
        .container(&sandbox, "main", |config| {
            config.image.as_mut().unwrap().image = id.clone();
            config.command = shell("ls /");
        })
        .await;
    node.start_container(&container).await;
    let status = node.wait_exit(&container).await;
    assert_eq!(
        (status.image.as_ref().unwrap().image.as_str(), status.image_ref.as_str()),
        (name.as_str(), by_digest.as_str())
    );
    // The second layer hides a file of the first.
    let log = node.log(&status);
    assert!(log.contains("F added") && !log.contains("F hidden"), "{log}");
    node.images()
        .remove_image(cri::RemoveImageRequest {
            image: Some(cri::ImageSpec { image: name.clone(), ..Default::default() }),
        })
        .await
        .unwrap();
    assert!(node.image(&name).await.is_none());
    node.remove_everything().await;
    node.stop().await;
}

async fn builtin_images() {
    let node = Node::start_with(|config| {
        config.builtin_images = vec![amphipod_runtime::BuiltinImage {
            reference: "amphipod.local/tool:1".into(),
            files: vec![
                amphipod_runtime::BuiltinFile {
                    path: "/tool".into(),
                    mode: 0o755,
                    content: amphipod_runtime::FileContent::CopyOf("/bin/busybox".into()),
                },
                amphipod_runtime::BuiltinFile {
                    path: "/bin/echo".into(),
                    mode: 0o777,
                    content: amphipod_runtime::FileContent::Link("/tool".into()),
                },
            ],
            entrypoint: vec!["echo".into()],
            cmd: vec!["built".into(), "in".into()],
            env: vec!["PATH=/bin".into()],
            working_dir: "/".into(),
            user: String::new(),
        }];
    })
    .await;
    let name = "amphipod.local/tool:1";
    let image = cri::ImageSpec { image: name.into(), ..Default::default() };
    let request = cri::PullImageRequest { image: Some(image), ..Default::default() };
    let id = node.images().pull_image(request).await.unwrap().into_inner().image_ref;
    assert!(node.image(name).await.unwrap().pinned);
    let sandbox = node.sandbox("builtin").await;
    let container =
        node.container(&sandbox, "main", |config| config.image.as_mut().unwrap().image = id).await;
    node.start_container(&container).await;
    let status = node.wait_exit(&container).await;
    assert!(node.log(&status).contains("stdout F built in"));
    node.remove_everything().await;
    node.stop().await;
}

async fn host_namespaces() {
    let node = Node::start().await;
    let all = |options: &mut cri::NamespaceOption| {
        options.set_network(NamespaceMode::Node);
        options.set_ipc(NamespaceMode::Node);
        options.set_pid(NamespaceMode::Node);
    };
    let sandbox = node
        .sandbox_with("host", |config| {
            let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
            all(security.namespace_options.as_mut().unwrap());
        })
        .await;
    let id = node
        .container(&sandbox, "main", |config| {
            config.command = shell("ls -l /proc/self/ns; sleep 4000 & sleep 5000");
            let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
            all(security.namespace_options.as_mut().unwrap());
            security.privileged = true;
        })
        .await;
    node.start_container(&id).await;
    let path = node.status(&id).await.log_path;
    support::wait_until("the listing", || {
        std::fs::read_to_string(&path).is_ok_and(|log| log.contains("uts"))
    })
    .await;
    let log = std::fs::read_to_string(&path).unwrap();
    for name in ["net", "ipc", "pid", "uts"] {
        let own = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert!(log.contains(own.to_str().unwrap()), "{name} in {log}");
    }
    // Stopping takes processes along that are in no PID namespace of their own.
    node.runtime()
        .stop_container(StopContainerRequest { container_id: id.clone(), timeout: 0 })
        .await
        .unwrap();
    node.wait_exit(&id).await;
    support::wait_until("the child's end", || !running("sleep\x005000") && !running("sleep\x004000")).await;
    node.remove_everything().await;
    node.stop().await;
}

/// Whether a process with this command line (zero bytes between words) exists.
fn running(command: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut lines = processes.filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok());
    lines.any(|line| line.contains(command))
}

fn has_line(path: &str) -> bool {
    std::fs::read_to_string(Path::new(path)).is_ok_and(|text| text.contains('\n'))
}

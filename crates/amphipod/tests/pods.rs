//! What a pod spec can ask for, seen from inside the containers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use support::{Cluster, eventually, require_root};

const SOURCES: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: blue, shape: round}
---
apiVersion: v1
kind: Secret
metadata: {name: key}
stringData: {password: sesame}
"#;

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: full
  labels: {app: full}
spec:
  initContainers:
  - name: first
    image: amphipod.local/demo:1
    command: [/bin/sh, -c, "echo prepared"]
    volumeMounts: [{name: scratch, mountPath: /scratch}]
  containers:
  - name: main
    image: amphipod.local/demo:1
    env:
    - {name: PLAIN, value: "a $(COLOUR) day"}
    - name: COLOUR
      valueFrom: {configMapKeyRef: {name: settings, key: colour}}
    - name: PASSWORD
      valueFrom: {secretKeyRef: {name: key, key: password}}
    - name: MY_NAME
      valueFrom: {fieldRef: {fieldPath: metadata.name}}
    - name: MY_LIMIT
      valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}
    envFrom:
    - {prefix: CFG_, configMapRef: {name: settings}}
    resources:
      requests: {cpu: 50m, memory: 16Mi}
      limits: {memory: 64Mi}
    startupProbe: {httpGet: {path: /healthy, port: 8080}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 30}
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, timeoutSeconds: 20}
    livenessProbe: {exec: {command: [/bin/get, "http://127.0.0.1:8080/healthy"]}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 2}
    volumeMounts:
    - {name: scratch, mountPath: /scratch}
    - {name: settings, mountPath: /etc/settings}
    - {name: key, mountPath: /etc/key, readOnly: true}
    - {name: info, mountPath: /etc/info}
  volumes:
  - {name: scratch, emptyDir: {medium: Memory}}
  - {name: settings, configMap: {name: settings}}
  - {name: key, secret: {secretName: key, defaultMode: 0400}}
  - name: info
    downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}
"#;

fn exec(cluster: &Cluster, script: &str) -> String {
    cluster.run(&["exec", "full", "-c", "main", "--", "/bin/sh", "-c", script])
}

#[test]
fn environment_volumes_probes_and_limits() {
    require_root();
    let cluster = Cluster::up(&[]);
    cluster.apply(SOURCES);
    cluster.apply(POD);
    cluster.expect(&["get", "pod", "full"], "1/1", 60);
    assert!(cluster.run(&["logs", "full", "-c", "first"]).contains("prepared"));
    let environment = exec(&cluster, "env");
    for line in [
        "COLOUR=blue",
        "PASSWORD=sesame",
        "MY_NAME=full",
        "MY_LIMIT=64",
        "CFG_shape=round",
        "KUBERNETES_SERVICE_HOST=10.96.0.1",
    ] {
        assert!(environment.lines().any(|l| l == line), "{line} in\n{environment}");
    }
    // A variable may only refer to those before it.
    assert!(environment.contains("PLAIN=a $(COLOUR) day"), "{environment}");
    assert_eq!(exec(&cluster, "cat /etc/settings/colour"), "blue");
    assert_eq!(exec(&cluster, "cat /etc/key/password"), "sesame");
    assert!(exec(&cluster, "cat /etc/info/labels").contains("app=\"full\""));
    assert!(exec(&cluster, "cat /etc/hosts").starts_with("# Kubernetes-managed hosts file."));
    let resolver = exec(&cluster, "cat /etc/resolv.conf");
    assert!(
        resolver.contains("nameserver 10.96.0.10") && resolver.contains("default.svc.cluster.local"),
        "{resolver}"
    );
    let token = exec(&cluster, "cat /var/run/secrets/kubernetes.io/serviceaccount/token");
    assert_eq!(token.matches('.').count(), 2, "a JWT");
    assert!(exec(&cluster, "get http://127.0.0.1:8080/mem/api").contains("67108864"), "the memory limit");

    // A changed ConfigMap reaches the running pod, by a watch: well before the next look.
    cluster.run(&["create", "configmap", "other", "--from-literal=a=b"]);
    cluster.apply(&SOURCES.replace("colour: blue", "colour: green"));
    eventually("the volume to follow its ConfigMap", 20, || {
        let seen = exec(&cluster, "cat /etc/settings/colour");
        if seen == "green" { Ok(()) } else { Err(seen) }
    });

    // A failing liveness probe restarts the container.
    exec(&cluster, "get 'http://127.0.0.1:8080/healthy/api?fail=always'");
    eventually("the container to be restarted", 60, || {
        let pod = cluster.json(&["get", "pod", "full"]);
        let status = &pod["status"]["containerStatuses"][0];
        if status["restartCount"] == 1 && status["ready"] == true { Ok(()) } else { Err(status.to_string()) }
    });
    cluster.expect(&["get", "events"], "Liveness probe failed", 10);

    static_pod(&cluster);
    job(&cluster);
    garbage(&cluster);
}

fn static_pod(cluster: &Cluster) {
    let manifests = cluster.data.path().join("manifests");
    std::fs::create_dir_all(&manifests).unwrap();
    let pod = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: fixed\n  namespace: default\nspec:\n  containers:\n  - name: \
               demo\n    image: amphipod.local/demo:2\n";
    std::fs::write(manifests.join("fixed.yaml"), pod).unwrap();
    eventually("the static pod's mirror", 60, || {
        let pods = cluster.run(&["get", "pods"]);
        let line = pods.lines().find(|l| l.starts_with("fixed-")).unwrap_or("").to_owned();
        if line.contains("Running") { Ok(()) } else { Err(pods) }
    });
    std::fs::remove_file(manifests.join("fixed.yaml")).unwrap();
    eventually("the static pod to go", 60, || {
        let pods = cluster.run(&["get", "pods"]);
        if pods.contains("fixed-") { Err(pods) } else { Ok(()) }
    });
}

const JOB: &str = r#"
apiVersion: batch/v1
kind: Job
metadata: {name: sums}
spec:
  completions: 3
  parallelism: 2
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: amphipod.local/demo:1
        command: [/bin/sh, -c, "echo done"]
"#;

fn job(cluster: &Cluster) {
    cluster.apply(JOB);
    eventually("the job to complete", 60, || {
        let job = cluster.json(&["get", "job", "sums"]);
        if job["status"]["succeeded"] == 3 { Ok(()) } else { Err(job["status"].to_string()) }
    });
    cluster.run(&["delete", "job", "sums"]);
    eventually("the job's pods to be collected", 60, || {
        let pods = cluster.run(&["get", "pods", "-l", "job-name=sums", "-o", "name"]);
        if pods.is_empty() { Ok(()) } else { Err(pods) }
    });
}

/// A namespace goes with all it holds.
fn garbage(cluster: &Cluster) {
    cluster.run(&["create", "namespace", "short"]);
    eventually("the namespace's account", 30, || {
        cluster.attempt(&["get", "serviceaccount", "default", "-n", "short"])
    });
    cluster.run(&[
        "create",
        "deployment",
        "demo",
        "-n",
        "short",
        "--image=amphipod.local/demo:1",
        "--replicas=2",
    ]);
    eventually("two pods", 60, || {
        let seen = cluster.attempt(&["get", "deployment", "demo", "-n", "short"])?;
        if seen.contains("2/2") { Ok(()) } else { Err(seen) }
    });
    cluster.run(&["delete", "namespace", "short"]);
    let said = cluster.attempt(&["get", "namespace", "short"]).unwrap_err();
    assert!(said.contains("namespaces \"short\" not found"), "{said}");
}

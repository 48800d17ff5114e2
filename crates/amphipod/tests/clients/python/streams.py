"""Exec, logs and port-forward of the Python client, against the pod `demo`."""

import sys

from kubernetes import client, config
from kubernetes.stream import portforward, stream

config.load_kube_config(sys.argv[1])
core = client.CoreV1Api()
pod = ("demo", "default")

said = stream(core.connect_get_namespaced_pod_exec, *pod, command=["sh", "-c", "hostname"], stderr=True, stdin=False, stdout=True, tty=False)
assert said.strip() == "demo", said

shell = stream(core.connect_get_namespaced_pod_exec, *pod, command=["sh"], stderr=True, stdin=True, stdout=True, tty=False, _preload_content=False)
shell.write_stdin("hostname\n")
assert shell.readline_stdout(timeout=30) == "demo"
shell.write_stdin("exit 3\n")
shell.run_forever(timeout=30)
assert shell.returncode == 3, shell.returncode

assert "listening on :8080" in core.read_namespaced_pod_log(*pod)
first = next(iter(core.read_namespaced_pod_log(*pod, follow=True, _preload_content=False).stream()))
assert first, "followed logs begin with what was written before"

forward = portforward(core.connect_get_namespaced_pod_portforward, *pod, ports="8080")
http = forward.socket(8080)
http.setblocking(True)
http.sendall(b"GET /hostname HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n")
answer = b""
while piece := http.recv(4096):
    answer += piece
http.close()
assert answer.startswith(b"HTTP/1.1 200") and b"demo" in answer, answer
assert forward.error(8080) is None, forward.error(8080)
assert core.connect_get_namespaced_pod_proxy_with_path("demo:8080", "default", "hostname").strip() == "demo"
print("exec, logs, port-forward, proxy: ok")

"""A control plane of Kubernetes for rehearsals, and a node that runs its containers with podman.

API server, controllers and scheduler are real. The node does the least that jobs need: it starts
the pods that are scheduled on it, restarts containers according to the pod's restart policy,
reports the status of pods, and stops pods that are deleted.
"""

import base64
import json
import os
import subprocess
import threading
import time
from pathlib import Path

from tests.deploy.containers import NETWORK, address, podman, remove, wait_until
from tests.deploy.manifests import substitute, value_of

PORT, TOKEN = 16443, "rehearsal"
NODE = "node-1"


class ControlPlane:
    """etcd, API server, controllers and scheduler, with their data in one folder.

    Args:
        stack: Exit stack that ends the processes.
        binaries: Folder of kube-apiserver, kube-controller-manager and kube-scheduler.
        folder: Folder for data and logs.
    """

    def __init__(self, stack, binaries: Path, folder: Path):
        self._stack, self._folder = stack, folder
        self.config = folder / "kubeconfig"
        self.config.write_text(_kubeconfig())
        (folder / "tokens").write_text(f'{TOKEN},admin,admin,"system:masters"\n')
        key = folder / "key.pem"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        self.start("etcd", f"--data-dir={folder / 'etcd'}")
        self.start(
            str(binaries / "kube-apiserver"),
            "--etcd-servers=http://127.0.0.1:2379",
            f"--secure-port={PORT}",
            f"--cert-dir={folder}",
            f"--token-auth-file={folder / 'tokens'}",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--service-account-issuer=https://rehearsal",
            "--service-cluster-ip-range=10.98.0.0/16",
            "--disable-admission-plugins=ServiceAccount",  # pods mount no tokens
        )
        wait_until(self._is_up)
        self.start(
            str(binaries / "kube-controller-manager"),
            f"--kubeconfig={self.config}",
            "--controllers=*,-nodelifecycle",  # it would remove a node without heartbeats
        )
        self.start(str(binaries / "kube-scheduler"), f"--kubeconfig={self.config}")

    def start(self, *command):
        """Start a process that ends with the rehearsal, with the address of the API server."""
        log = self._stack.enter_context((self._folder / f"{Path(command[0]).name}.log").open("wb"))
        environment = {**os.environ, "KUBECONFIG": str(self.config)}
        process = subprocess.Popen(
            command, cwd=self._folder, stdout=log, stderr=log, env=environment
        )
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)

    def kubectl(self, *arguments, stdin=None):
        process = subprocess.run(
            ["kubectl", f"--kubeconfig={self.config}", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == 0, process.stderr
        return process.stdout

    def get(self, kind, *arguments):
        return json.loads(self.kubectl("get", kind, "--output=json", *arguments))

    def _is_up(self):
        command = ["kubectl", f"--kubeconfig={self.config}", "get", "--raw=/readyz"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _decoded(text):
    return base64.b64decode(text).decode()


def _kubeconfig():
    cluster = {"server": f"https://127.0.0.1:{PORT}", "insecure-skip-tls-verify": True}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "a", "cluster": cluster}],
            "users": [{"name": "a", "user": {"token": TOKEN}}],
            "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
            "current-context": "a",
        }
    )


class Node:
    """Node with an agent that runs in a thread of this process."""

    def __init__(self, stack, plane: ControlPlane, image: str):
        self._plane, self._image = plane, image
        self._started: dict[str, int] = {}  # number of restarts by name of the pod
        self._ended = threading.Event()
        self._register()
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        stack.callback(lambda: remove(*self._started) if self._started else None)
        stack.callback(thread.join)
        stack.callback(self._ended.set)

    def _register(self):
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
        self._plane.kubectl("apply", "--filename=-", stdin=json.dumps(node))
        capacity = {"cpu": "64", "memory": "256Gi", "pods": "50"}
        ready = [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]
        self._report(
            "node", NODE, {"capacity": capacity, "allocatable": capacity, "conditions": ready}
        )
        untainted = json.dumps({"spec": {"taints": None}})
        self._plane.kubectl("patch", "node", NODE, "--type=merge", f"--patch={untainted}")

    def _report(self, kind, name, status, *arguments):
        change = json.dumps({"status": status})
        self._plane.kubectl(
            "patch", kind, name, "--subresource=status", f"--patch={change}", *arguments
        )

    def _run(self):
        while not self._ended.wait(0.5):
            pods = self._plane.get("pods", "--all-namespaces")["items"]
            for pod in pods:
                if pod["spec"].get("nodeName") == NODE:
                    self._update(pod)

    def _update(self, pod):
        """Start, check or stop a pod, whichever its state requires."""
        name, space = pod["metadata"]["name"], f"--namespace={pod['metadata']['namespace']}"
        if "deletionTimestamp" in pod["metadata"]:
            grace = pod["metadata"].get("deletionGracePeriodSeconds", 0)
            if name in self._started:
                podman("stop", f"--time={grace}", name)
            self._plane.kubectl("delete", "pod", name, "--grace-period=0", "--force", space)
        elif name not in self._started:
            self._start(pod)
            self._report("pod", name, self._status(pod), space)
        elif pod["status"]["phase"] == "Running":
            self._check_container(pod)

    def _check_container(self, pod):
        """Restart the container of a pod if it has ended, or report how the pod ended."""
        name, space = pod["metadata"]["name"], f"--namespace={pod['metadata']['namespace']}"
        state = json.loads(podman("inspect", name))[0]["State"]
        if state["Running"]:
            return
        policy, code = pod["spec"].get("restartPolicy", "Always"), state["ExitCode"]
        if policy == "Always" or (policy == "OnFailure" and code):
            self._started[name] += 1
            podman("start", name)
            self._report("pod", name, self._status(pod), space)
        else:
            self._report("pod", name, {"phase": "Failed" if code else "Succeeded"}, space)

    def _status(self, pod):
        name = pod["metadata"]["name"]
        running = {
            "name": pod["spec"]["containers"][0]["name"],
            "image": self._image,
            "imageID": "",
            "ready": True,
            "restartCount": self._started[name],
            "state": {"running": {"startedAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}},
        }
        return {
            "phase": "Running",
            "podIP": address(name),
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [running],
        }

    def _start(self, pod):
        name, spec = pod["metadata"]["name"], pod["spec"]
        (container,) = spec["containers"]
        user = spec["securityContext"]
        environment = self._environment(container, pod["metadata"]["namespace"])
        podman(
            "run",
            "--detach",
            f"--name={name}",
            f"--network={NETWORK}",
            *(f"--network-alias={alias}" for alias in self._names(pod)),
            "--read-only",
            "--cap-drop=ALL",
            "--security-opt=no-new-privileges",
            f"--user={user['runAsUser']}:{user['runAsGroup']}",
            f"--memory={container['resources']['limits']['memory'].removesuffix('i')}",
            "--tmpfs=/tmp",
            *(f"--env={key}={value}" for key, value in environment.items()),
            self._image,
            *(substitute(argument, environment) for argument in container["args"]),
        )
        self._started[name] = 0

    def _environment(self, container, namespace):
        variables = {}
        for source in container.get("envFrom", ()):
            secret = self._plane.get(
                "secret", source["secretRef"]["name"], f"--namespace={namespace}"
            )
            variables |= {k: _decoded(v) for k, v in secret["data"].items()}
        for each in container.get("env", ()):
            value = value_of(each, container["resources"], cluster=None)
            variables[each["name"]] = substitute(value, variables)
        return variables

    def _names(self, pod):
        """Yield the names of the services that select a pod."""
        space = pod["metadata"]["namespace"]
        for service in self._plane.get("services", f"--namespace={space}")["items"]:
            selector = service["spec"].get("selector") or {}
            if selector and selector.items() <= pod["metadata"].get("labels", {}).items():
                name = service["metadata"]["name"]
                yield from (name, f"{name}.{space}.svc.cluster.local")

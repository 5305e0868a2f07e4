"""A control plane of Kubernetes for rehearsals, and a node whose containers are podman's.

API server, controllers and scheduler are real; the node is the least that jobs need: it starts what
is scheduled, restarts what has ended as the pod says, tells the pod's status, and stops what is
deleted.
"""

import base64
import json
import os
import subprocess
import threading
import time
from pathlib import Path

from tests.deploy.containers import NETWORK, address, podman, remove, until
from tests.deploy.manifests import substituted

PORT, TOKEN = 16443, "rehearsal"
NODE = "node-1"


class ControlPlane:
    """etcd, API server, controllers and scheduler, in a folder of their own.

    Args:
        stack: What ends them.
        binaries: Where kube-apiserver, kube-controller-manager and kube-scheduler are.
        folder: For their data and logs.
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
            "--disable-admission-plugins=ServiceAccount",  # there are no tokens to mount
        )
        until(self._is_up)
        self.start(
            str(binaries / "kube-controller-manager"),
            f"--kubeconfig={self.config}",
            "--controllers=*,-nodelifecycle",  # the node is there, though it has no heartbeat
        )
        self.start(str(binaries / "kube-scheduler"), f"--kubeconfig={self.config}")

    def start(self, *command):
        """A process that ends with the rehearsal, and knows where the API server is."""
        log = self._stack.enter_context((self._folder / f"{Path(command[0]).name}.log").open("wb"))
        own = {**os.environ, "KUBECONFIG": str(self.config)}
        process = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log, env=own)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)

    def kubectl(self, *arguments, given=None):
        done = subprocess.run(
            ["kubectl", f"--kubeconfig={self.config}", *arguments],
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def get(self, kind, *arguments):
        return json.loads(self.kubectl("get", kind, "--output=json", *arguments))

    def _is_up(self):
        asked = ["kubectl", f"--kubeconfig={self.config}", "get", "--raw=/readyz"]
        return subprocess.run(asked, capture_output=True, check=False).returncode == 0


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
    """The node's agent, in a thread of this process."""

    def __init__(self, stack, plane: ControlPlane, image: str):
        self._plane, self._image = plane, image
        self._started: dict[str, int] = {}  # how often each pod's container has been
        self._ends = threading.Event()
        self._register()
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        stack.callback(lambda: remove(*self._started) if self._started else None)
        stack.callback(thread.join)
        stack.callback(self._ends.set)

    def _register(self):
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
        self._plane.kubectl("apply", "--filename=-", given=json.dumps(node))
        room = {"cpu": "64", "memory": "256Gi", "pods": "50"}
        ready = [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]
        self._tell("node", NODE, {"capacity": room, "allocatable": room, "conditions": ready})
        free = json.dumps({"spec": {"taints": None}})
        self._plane.kubectl("patch", "node", NODE, "--type=merge", f"--patch={free}")

    def _tell(self, kind, name, status, *arguments):
        change = json.dumps({"status": status})
        self._plane.kubectl(
            "patch", kind, name, "--subresource=status", f"--patch={change}", *arguments
        )

    def _run(self):
        while not self._ends.wait(0.5):
            pods = self._plane.get("pods", "--all-namespaces")["items"]
            for pod in pods:
                if pod["spec"].get("nodeName") == NODE:
                    self._see_to(pod)

    def _see_to(self, pod):
        name, space = pod["metadata"]["name"], f"--namespace={pod['metadata']['namespace']}"
        if "deletionTimestamp" in pod["metadata"]:
            grace = pod["metadata"].get("deletionGracePeriodSeconds", 0)
            if name in self._started:
                podman("stop", f"--time={grace}", name)
            self._plane.kubectl("delete", "pod", name, "--grace-period=0", "--force", space)
        elif name not in self._started:
            self._start(pod)
            self._tell("pod", name, self._status(pod), space)
        elif pod["status"]["phase"] == "Running":
            self._look(pod)

    def _look(self, pod):
        """Restart a container that has ended, or tell how the pod has."""
        name, space = pod["metadata"]["name"], f"--namespace={pod['metadata']['namespace']}"
        state = json.loads(podman("inspect", name))[0]["State"]
        if state["Running"]:
            return
        policy, code = pod["spec"].get("restartPolicy", "Always"), state["ExitCode"]
        if policy == "Always" or (policy == "OnFailure" and code):
            self._started[name] += 1
            podman("start", name)
            self._tell("pod", name, self._status(pod), space)
        else:
            self._tell("pod", name, {"phase": "Failed" if code else "Succeeded"}, space)

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
            *(substituted(argument, environment) for argument in container["args"]),
        )
        self._started[name] = 0

    def _environment(self, container, namespace):
        found = {}
        for source in container.get("envFrom", ()):
            secret = self._plane.get(
                "secret", source["secretRef"]["name"], f"--namespace={namespace}"
            )
            found |= {k: _decoded(v) for k, v in secret["data"].items()}
        for each in container.get("env", ()):
            found[each["name"]] = substituted(each["value"], found)
        return found

    def _names(self, pod):
        """The names of the services that lead to a pod."""
        space = pod["metadata"]["namespace"]
        for service in self._plane.get("services", f"--namespace={space}")["items"]:
            selector = service["spec"].get("selector") or {}
            if selector and selector.items() <= pod["metadata"].get("labels", {}).items():
                name = service["metadata"]["name"]
                yield from (name, f"{name}.{space}.svc.cluster.local")

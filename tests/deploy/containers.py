"""Pods of the manifests as containers of podman, for rehearsals.

`Containers` starts the containers of one rehearsal on a network of their own and removes them at
its end. The functions inspect, kill and disconnect single containers by name.
"""

import json
import os
import signal
import subprocess
import time

from tests.deploy.manifests import Pod

IMAGE = os.environ.get("DKMEANS_IMAGE", "localhost/dkmeans:0.1.0-cpu")
NETWORK = "dkmeans-rehearsal"


def podman(*arguments):
    """Run a podman command and return its output; fail if podman fails."""
    process = subprocess.run(
        ["podman", *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


class Containers:
    """Containers of one rehearsal, on a network where they find each other by name.

    Attributes:
        secret: Variables of the secret that the pods' `envFrom` names.
        mounts: Options of podman for the volumes of every container.
    """

    def __init__(self, stack):
        self._stack = stack
        self.secret = {}
        self.mounts = []
        known = podman("network", "ls", "--format={{.Name}}").split()
        if NETWORK not in known:
            podman("network", "create", NETWORK)

    def start(self, pod: Pod, name, *options):
        """Start the container of a pod, with the limits and rights of the pod."""
        user = pod.spec["securityContext"]
        secret = self.secret if "envFrom" in pod.container else {}
        return self.run(
            name,
            "--read-only",
            "--cap-drop=ALL",
            "--security-opt=no-new-privileges",
            f"--user={user['runAsUser']}:{user['runAsGroup']}",
            f"--memory={pod.container['resources']['limits']['memory'].removesuffix('i')}",
            "--tmpfs=/tmp",
            *self.mounts,
            *options,
            *(f"--env={k}={v}" for k, v in (secret | pod.variables).items()),
            IMAGE,
            *pod.arguments,
        )

    def run(self, name, *arguments):
        """Start a container that is removed when the rehearsal ends, and return its name."""
        remove(name)
        podman("run", "--detach", f"--name={name}", f"--network={NETWORK}", *arguments)
        self._stack.callback(remove, name)
        return name


def remove(*names):
    podman("rm", "--force", "--ignore", "--time=0", *names)


def address(name):
    """Return the IP address of a container on the network."""
    about = json.loads(podman("inspect", name))[0]
    return about["NetworkSettings"]["Networks"][NETWORK]["IPAddress"]


def kill(name):
    """Kill the first process of a container, as a crash does.

    Podman does not restart a container after its own `kill`.
    """
    os.kill(int(podman("inspect", "--format={{.State.Pid}}", name)), signal.SIGKILL)


def disconnect(name):
    """Disconnect a container from the network, without closing its connections."""
    podman("network", "disconnect", NETWORK, name)


def is_running(name):
    return podman("inspect", "--format={{.State.Running}}", name) == "true"


def exit_code_of(name):
    """Wait until a container has ended and return its exit code."""
    return int(podman("wait", name))


def logs_of(name):
    """Return the standard output and the standard error of a container so far."""
    process = subprocess.run(["podman", "logs", name], capture_output=True, text=True, check=True)
    return process.stdout, process.stderr


def is_healthy(name, pod: Pod):
    """Return whether all probes of a pod succeed, as a kubelet would run them."""
    probes = [value for key, value in pod.container.items() if key.endswith("Probe")]
    return all(
        _answers(name, pod.ports[p["httpGet"]["port"]], p["httpGet"]["path"]) for p in probes
    )


def _answers(name, port, path):
    url = f"http://{address(name)}:{port}{path}"
    process = subprocess.run(["curl", "--fail", "--silent", url], capture_output=True, check=False)
    return process.returncode == 0


def wait_until(condition, seconds=60):
    """Wait until a condition holds; fail if it does not within some seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)

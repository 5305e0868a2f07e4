"""Pods of the manifests as containers of podman, for rehearsals."""

import json
import os
import signal
import subprocess
import time

from tests.deploy.manifests import Pod

IMAGE = os.environ.get("DKMEANS_IMAGE", "localhost/dkmeans:0.1.0-cpu")
NETWORK = "dkmeans-rehearsal"


def podman(*arguments):
    """What podman says; a failure is an error."""
    done = subprocess.run(
        ["podman", *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class Containers:
    """The containers of one rehearsal: on a network of their own, where names tell them apart."""

    def __init__(self, stack):
        self._stack = stack
        self.secret = {}  # what the pods' secret holds
        self.mounts = []
        known = podman("network", "ls", "--format={{.Name}}").split()
        if NETWORK not in known:
            podman("network", "create", NETWORK)

    def start(self, pod: Pod, name, *options):
        """A pod's container."""
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
        """Any container, which is removed when the rehearsal ends."""
        remove(name)
        podman("run", "--detach", f"--name={name}", f"--network={NETWORK}", *arguments)
        self._stack.callback(remove, name)
        return name


def remove(*names):
    podman("rm", "--force", "--ignore", "--time=0", *names)


def address(name):
    """A container's address on the network."""
    about = json.loads(podman("inspect", name))[0]
    return about["NetworkSettings"]["Networks"][NETWORK]["IPAddress"]


def kill(name):
    """End a container's first process as a crash does; podman's own `kill` is never restarted."""
    os.kill(int(podman("inspect", "--format={{.State.Pid}}", name)), signal.SIGKILL)


def cut_off(name):
    """Take a container off the network, without a word to those it talks to."""
    podman("network", "disconnect", NETWORK, name)


def is_running(name):
    return podman("inspect", "--format={{.State.Running}}", name) == "true"


def ended(name):
    """The exit code of a container, once it has ended."""
    return int(podman("wait", name))


def said(name):
    """All that a container has written so far: its result, and its log."""
    done = subprocess.run(["podman", "logs", name], capture_output=True, text=True, check=True)
    return done.stdout, done.stderr


def is_healthy(name, pod: Pod):
    """What a kubelet would find by the probes of the pod."""
    probes = [value for key, value in pod.container.items() if key.endswith("Probe")]
    return all(
        _answers(name, pod.ports[p["httpGet"]["port"]], p["httpGet"]["path"]) for p in probes
    )


def _answers(name, port, path):
    url = f"http://{address(name)}:{port}{path}"
    done = subprocess.run(["curl", "--fail", "--silent", url], capture_output=True, check=False)
    return done.returncode == 0


def until(condition, seconds=60):
    """Wait for what should happen soon."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)

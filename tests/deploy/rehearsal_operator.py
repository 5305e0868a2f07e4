"""Rehearsal of a DaskJob from `kubectl apply` to its end, with the Dask operator.

The control plane is real. `rendered/train-cpu.yaml` and then `predict-cpu.yaml` are applied as they
are, except for disruption budgets, which Kubernetes 1.20 does not have in this form.
"""

import os
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
import zarr
from numpy.testing import assert_array_equal

from dkmeans import checkpoints
from dkmeans.storage import zarr_store
from tests.deploy.containers import IMAGE, kill, wait_until
from tests.deploy.control_plane import ControlPlane, Node
from tests.deploy.manifests import manifest
from tests.deploy.rehearsal import (  # noqa: F401 fixtures
    CLUSTERED,
    MODEL,
    containers,
    expected,
    has_begun,
    rows,
    server,
    storage,
)

BINARIES = Path(os.environ["KUBERNETES_BINARIES"])
OPERATOR = Path(os.environ["OPERATOR_PYTHON"])  # of an environment with dask-kubernetes


@pytest.fixture
def plane(storage, containers, tmp_path):  # noqa: F811
    with ExitStack() as stack:
        plane = ControlPlane(stack, BINARIES, tmp_path)
        for crd in sorted(_operator_files().glob("*.yaml")):
            plane.kubectl("create", f"--filename={crd}")
        Node(stack, plane, IMAGE)
        plane.start(
            *(str(OPERATOR), "-m", "kopf", "run", "--all-namespaces"),
            *("-m", "dask_kubernetes.operator.controller"),
        )
        plane.kubectl("create", "namespace", "dkmeans")
        literals = [f"--from-literal={key}={value}" for key, value in containers.secret.items()]
        plane.kubectl("create", "secret", "generic", "dkmeans-s3", "--namespace=dkmeans", *literals)
        yield plane


def _operator_files():
    script = "import dask_kubernetes as d; print(d.__path__[0])"
    process = subprocess.run([OPERATOR, "-c", script], capture_output=True, text=True, check=True)
    chart = "operator/deployment/helm/dask-kubernetes-operator/crds"
    return Path(process.stdout.strip()) / chart


def apply(plane, overlay):
    resources = [each for each in manifest(overlay) if each["kind"] != "PodDisruptionBudget"]
    plane.kubectl("apply", "--filename=-", stdin=yaml.safe_dump_all(resources))


def status(plane, job):
    about = plane.get("daskjob", job, "--namespace=dkmeans")
    return about.get("status", {}).get("jobStatus")


def test_a_daskjob_trains_survives_a_crash_of_its_driver_and_predicts(plane, expected):  # noqa: F811
    apply(plane, "train-cpu")
    wait_until(lambda: status(plane, "dkmeans-train") == "Running", 120)
    wait_until(lambda: has_begun("dkmeans-train-runner"), 120)
    kill("dkmeans-train-runner")  # the node restarts it, as the pod's restart policy requires
    wait_until(lambda: status(plane, "dkmeans-train") == "Successful", 240)
    assert_array_equal(checkpoints.latest(MODEL).state.centers, expected.centers)
    wait_until(lambda: not plane.get("deployments", "--namespace=dkmeans")["items"])

    apply(plane, "predict-cpu")
    wait_until(lambda: status(plane, "dkmeans-predict") == "Successful", 240)
    written = zarr.open_group(zarr_store(CLUSTERED))
    assert written.attrs["complete"] is True

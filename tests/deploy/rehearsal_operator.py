"""A DaskJob from `kubectl apply` to its end: by the Dask operator, on a real control plane.

`rendered/train-cpu.yaml`, then `predict-cpu.yaml`, as they are, but for what Kubernetes
1.20 does not know yet: disruption budgets.
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
from tests.deploy.containers import IMAGE, kill, until
from tests.deploy.control_plane import ControlPlane, Node
from tests.deploy.manifests import manifest
from tests.deploy.rehearsal import (  # noqa: F401 fixtures
    CLUSTERED,
    MODEL,
    containers,
    expected,
    is_at_work,
    rows,
    server,
    storage,
)

BINARIES = Path(os.environ["KUBERNETES_BINARIES"])
OPERATOR = Path(os.environ["OPERATOR_PYTHON"])  # of an environment with dask-kubernetes in it


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
    find = "import dask_kubernetes as d; print(d.__path__[0])"
    where = subprocess.run([OPERATOR, "-c", find], capture_output=True, text=True, check=True)
    chart = "operator/deployment/helm/dask-kubernetes-operator/crds"
    return Path(where.stdout.strip()) / chart


def apply(plane, overlay):
    known = [each for each in manifest(overlay) if each["kind"] != "PodDisruptionBudget"]
    plane.kubectl("apply", "--filename=-", given=yaml.safe_dump_all(known))


def status(plane, job):
    about = plane.get("daskjob", job, "--namespace=dkmeans")
    return about.get("status", {}).get("jobStatus")


def test_a_daskjob_trains_is_not_stopped_by_a_crash_and_predicts(plane, expected):  # noqa: F811
    apply(plane, "train-cpu")
    until(lambda: status(plane, "dkmeans-train") == "Running", 120)
    until(lambda: is_at_work("dkmeans-train-runner"), 120)
    kill("dkmeans-train-runner")  # the node starts it again, as the pod asks
    until(lambda: status(plane, "dkmeans-train") == "Successful", 240)
    assert_array_equal(checkpoints.latest(MODEL).state.centers, expected.centers)
    until(lambda: not plane.get("deployments", "--namespace=dkmeans")["items"])

    apply(plane, "predict-cpu")
    until(lambda: status(plane, "dkmeans-predict") == "Successful", 240)
    written = zarr.open_group(zarr_store(CLUSTERED))
    assert written.attrs["complete"] is True

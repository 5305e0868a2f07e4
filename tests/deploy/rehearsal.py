"""Rehearsals: the containers of the manifests run with podman. `deploy/rehearse.sh` runs this file.

Each container has the image, arguments, environment, user, limits and read-only file system of its
pod in `tests/deploy/rendered`. Storage is a SeaweedFS server in a container of its own. Four things
differ from a cluster: there are two workers instead of four and no network policies, podman instead
of a kubelet restarts containers, and the tests restart the driver. `make test` does not run this.
"""

import json
import os
import shutil
import subprocess
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from dkmeans_jobs.__main__ import main
from numpy.testing import assert_array_equal

from dkmeans import __version__, checkpoints
from dkmeans.backends import select
from dkmeans.distance import Centers, Distance
from dkmeans.retry import with_retries
from dkmeans.storage import remove as remove_all
from dkmeans.storage import zarr_store
from tests.conftest import _point_to
from tests.deploy.containers import (
    IMAGE,
    Containers,
    address,
    disconnect,
    exit_code_of,
    is_healthy,
    is_running,
    kill,
    logs_of,
    podman,
    remove,
    wait_until,
)
from tests.deploy.manifests import DRIVER, SCHEDULER, WORKER, of_kind, pods
from tests.s3_server import binary

CLUSTERS, COLUMNS, ROWS, CHUNK = 1000, 32, 1_000_000, 50_000
MODEL = "s3://bucket/model"
MEGABYTES = 700
RESTARTED = "--restart=always"  # like the containers of a Deployment
CLUSTERED = "s3://bucket/clusters.zarr"
AWS = ("ENDPOINT_URL", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "REGION", "ALLOW_HTTP")


@pytest.fixture(scope="session")
def rows():
    rng = np.random.default_rng(0)
    centers = 0.6 * rng.normal(size=(CLUSTERS, COLUMNS))  # these overlap: about sixty steps
    noise = rng.normal(size=(ROWS, COLUMNS))
    return (centers[rng.integers(CLUSTERS, size=ROWS)] + noise).astype(np.float32)


@pytest.fixture(scope="session")
def server():
    """Name of the container of a SeaweedFS server, and the variables of its secret."""
    with ExitStack() as stack, pytest.MonkeyPatch.context() as environment:
        name = Containers(stack).run(
            "dkmeans-s3",
            f"--volume={Path(binary('weed')).resolve()}:/weed:ro",
            *("--tmpfs=/data", "--user=0", "--entrypoint=/weed", IMAGE),
            *("server", "-s3", "-dir=/data", "-s3.port.iceberg=0", "-s3.port.lance=0"),
            *("-volume.max=20", "-master.volumeSizeLimitMB=64", "-volume.minFreeSpace=0"),
            "-master.telemetry=false",
        )
        endpoint = f"http://{address(name)}:8333"
        _point_to(endpoint, environment)
        wait_until(lambda: is_put(f"{endpoint}/bucket") and is_put(f"{endpoint}/bucket/first"))
        yield name, {f"AWS_{key}": os.environ[f"AWS_{key}"] for key in AWS}


@pytest.fixture
def containers():
    with ExitStack() as stack:
        yield Containers(stack)


@pytest.fixture
def storage(containers, server, rows):
    """Name of the storage server, with the rows and nothing else in s3://bucket."""
    name, containers.secret = server
    for each in (MODEL, CLUSTERED):
        remove_all(each)
    store(rows)
    return name


def is_put(url):
    put = ["curl", "--fail", "--silent", "--request", "PUT", url]
    return subprocess.run(put, check=False).returncode == 0


def store(rows):
    def write():
        target = zarr_store("s3://bucket/rows.zarr")
        zarr.create_array(target, data=rows, chunks=(CHUNK, COLUMNS), overwrite=True)

    with_retries("s3://bucket/rows.zarr", write)  # the previous test may have stopped the server


@pytest.fixture(scope="session")
def expected(rows, tmp_path_factory):
    """State after training on threads of this process, with the flags of the manifest."""
    folder = tmp_path_factory.mktemp("expected")
    zarr.create_array(folder / "rows.zarr", data=rows, chunks=(CHUNK, COLUMNS))
    (driver,) = pods("train-cpu", DRIVER)
    flags = [f for f in driver.arguments[3:] if not f.startswith(("--cluster", "--model-dir"))]
    code = main(["train", str(folder / "rows.zarr"), f"--model-dir={folder / 'model'}", *flags])
    assert code == 0
    return checkpoints.latest(str(folder / "model")).state


class Job:
    """Containers of a DaskJob: a scheduler and workers, and drivers when a test starts them."""

    def __init__(self, containers, overlay):
        self._containers = containers
        self.parts = {pod.component: pod for pod in pods(overlay)}
        self.name = self.parts[DRIVER].owner["metadata"]["name"]
        self.scheduler = self.start_scheduler()
        self.workers = [self.start_worker(i) for i in range(2)]

    def start_scheduler(self):
        # A Service has a long name and, within its namespace, a short one.
        name = f"{self.name}-scheduler"
        alias = f"--network-alias={name}.dkmeans.svc.cluster.local"
        return self._containers.start(self.parts[SCHEDULER], name, alias, RESTARTED)

    def start_worker(self, number):
        pod = replace(self.parts[WORKER], worker=f"worker-{number}")
        return self._containers.start(pod, pod.variables["DASK_WORKER_NAME"], RESTARTED)

    def start_driver(self):
        return self._containers.start(self.parts[DRIVER], f"{self.name}-runner")

    def run_driver(self):
        """Run the driver to its end and return its result and its log."""
        driver = self.start_driver()
        code = exit_code_of(driver)
        result, log = logs_of(driver)
        assert code == 0, log
        return json.loads(result), log

    def close(self):
        remove(self.scheduler, *self.workers)


def has_begun(driver):
    """Return whether a driver has completed its first step, of about fifty."""
    return "step 1 of" in logs_of(driver)[1]


def centers():
    return checkpoints.latest(MODEL).state.centers


def is_ready(job):
    """Return whether all probes of a job's pods succeed."""
    workers = [is_healthy(name, job.parts[WORKER]) for name in job.workers]
    return is_healthy(job.scheduler, job.parts[SCHEDULER]) and all(workers)


def test_the_image_is_small_and_closed(containers):
    size = int(podman("inspect", "--format={{.Size}}", IMAGE)) // 10**6
    assert size <= MEGABYTES
    script = "id -u; touch /opt/dkmeans/a || true; which pip || true; dkmeans --version"
    name = containers.run("dkmeans-look", "--read-only", "--tmpfs=/tmp", IMAGE, "sh", "-c", script)
    assert exit_code_of(name) == 0
    output, log = logs_of(name)
    assert output.split() == ["10001", "dkmeans", __version__]
    assert "Read-only file system" in log


def test_training_and_prediction_have_the_bits_of_one_process(containers, storage, rows, expected):
    training = Job(containers, "train-cpu")
    wait_until(lambda: is_ready(training))
    _, log = training.run_driver()
    assert "memory of 2 workers with 8 threads" in log
    assert_array_equal(centers(), expected.centers)
    logs = [logs_of(worker)[1] for worker in training.workers]
    assert "compiled the kernel" not in "".join(logs), "the kernels of the image were not used"
    assert training.run_driver()[0]["status"] == "already done"
    training.close()

    Job(containers, "predict-cpu").run_driver()
    written = zarr.open_group(zarr_store(CLUSTERED))
    index = select("numpy").nearest(rows, Centers(expected.centers, Distance.SQUARED_EUCLIDEAN))[0]
    assert written.attrs["complete"] is True
    assert_array_equal(written["cluster_index"][:], index)


def test_workers_that_are_killed_or_drained_change_no_bit(containers, storage, expected):
    job = Job(containers, "train-cpu")
    driver = job.start_driver()
    wait_until(lambda: has_begun(driver))
    kill(job.workers[0])
    wait_until(lambda: is_healthy(job.workers[0], job.parts[WORKER]))
    podman("stop", "--time=25", job.workers[1])  # SIGTERM, and SIGKILL after the grace period
    assert is_running(driver)
    assert exit_code_of(driver) == 0, logs_of(driver)
    assert_array_equal(centers(), expected.centers)


def test_a_killed_driver_resumes_when_it_starts_again(containers, storage, expected):
    job = Job(containers, "train-cpu")
    driver = job.start_driver()
    wait_until(lambda: has_begun(driver))
    kill(driver)
    assert exit_code_of(driver) == 137
    assert job.run_driver()[0]["step"] == expected.step
    assert_array_equal(centers(), expected.centers)


def test_a_driver_saves_at_sigterm_and_resumes_when_it_starts_again(containers, storage, expected):
    job = Job(containers, "train-cpu")
    driver = job.start_driver()
    wait_until(lambda: has_begun(driver))
    podman("stop", "--time=60", driver)  # the manifest's grace period is 90 s
    assert exit_code_of(driver) == 143, logs_of(driver)
    assert "terminated. Run the same command again" in logs_of(driver)[1]
    assert 0 < checkpoints.latest(MODEL).state.step < expected.step
    assert job.run_driver()[0]["step"] == expected.step
    assert_array_equal(centers(), expected.centers)


def test_a_disconnected_worker_changes_no_bit(containers, storage, expected):
    job = Job(containers, "train-cpu")
    driver = job.start_driver()
    wait_until(lambda: has_begun(driver))
    disconnect(job.workers[0])
    assert exit_code_of(driver) == 0, logs_of(driver)
    assert is_running(job.workers[0])  # it got no signal, and still waits
    assert_array_equal(centers(), expected.centers)


def test_a_lost_scheduler_is_an_outage(containers, storage, expected):
    job = Job(containers, "train-cpu")
    driver = job.start_driver()
    wait_until(lambda: has_begun(driver))
    kill(job.scheduler)
    assert exit_code_of(driver) == 75, logs_of(driver)
    assert 0 < checkpoints.latest(MODEL).state.step < expected.step
    job.run_driver()  # scheduler and workers lost their connections and were restarted
    assert_array_equal(centers(), expected.centers)


def test_the_job_waits_for_storage_that_does_not_answer_for_a_while(containers, storage, expected):
    job = Job(containers, "train-cpu")
    driver = job.start_driver()
    wait_until(lambda: "finding the first centers" in logs_of(driver)[1])
    podman("pause", storage)
    time.sleep(15)
    podman("unpause", storage)
    assert exit_code_of(driver) == 0, logs_of(driver)
    assert_array_equal(centers(), expected.centers)


def test_a_pod_with_its_own_workers_trains_and_later_continues(containers, storage, rows, expected):
    (plain,), (retrain,) = pods("plain"), pods("retrain")
    first = containers.start(plain, "dkmeans-plain")
    assert exit_code_of(first) == 0, logs_of(first)
    assert_array_equal(centers(), expected.centers)
    store(np.concatenate([rows, rows[: CHUNK * 2] + 1]))
    assert exit_code_of(containers.start(retrain, "dkmeans-retrain-1")) == 0
    assert checkpoints.latest(MODEL).state.step > expected.step
    again = containers.start(retrain, "dkmeans-retrain-2")
    assert exit_code_of(again) == 0
    assert json.loads(logs_of(again)[0])["status"] == "already done"


def test_with_certificates_strangers_are_refused(containers, storage, expected, certificates):
    containers.mounts = [f"--volume={certificates}:/etc/dask:ro"]
    job = Job(containers, "train-tls")
    job.run_driver()
    assert_array_equal(centers(), expected.centers)
    _, log = logs_of(job.scheduler)
    assert "tls://" in log
    assert "tcp://" not in log
    containers.mounts = []
    (stranger,) = pods("predict-cpu", DRIVER)
    address = f"--cluster=tcp://{job.scheduler}:8786"
    arguments = [*(a for a in stranger.arguments if not a.startswith("--cluster")), address]
    stranger.container["args"] = arguments
    name = containers.start(stranger, "dkmeans-stranger")
    assert exit_code_of(name) == 75
    assert "must be a scheduler that answers" in logs_of(name)[1]


@pytest.fixture
def certificates(tmp_path):
    """Folder with the files that cert-manager and the overlay's ConfigMap put into /etc/dask."""
    (settings,) = of_kind("train-tls", "ConfigMap")
    for name, text in settings["data"].items():
        (tmp_path / name).write_text(text)
    new = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=dkmeans -keyout tls.key -out tls.crt"
    subprocess.run(["openssl", *new.split()], cwd=tmp_path, check=True, capture_output=True)
    shutil.copy(tmp_path / "tls.crt", tmp_path / "ca.crt")
    for path in (tmp_path, *tmp_path.iterdir()):
        path.chmod(0o755)
    return tmp_path

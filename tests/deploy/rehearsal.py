"""The manifests' containers, really run: `deploy/rehearse.sh`, which is no part of `make test`.

Each container has the image, arguments, environment, user, limits and read-only file system of its
pod in `tests/deploy/rendered`. Storage is a SeaweedFS server in a container of its own. What is not
as in a cluster: two workers in place of four, no network policies, and no kubelet:
restarts of containers are podman's, and those of the driver are done here.
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
from tests.conftest import _binary, _point_to
from tests.deploy.containers import (
    IMAGE,
    Containers,
    address,
    cut_off,
    ended,
    is_healthy,
    is_running,
    kill,
    podman,
    remove,
    said,
    until,
)
from tests.deploy.manifests import DRIVER, SCHEDULER, WORKER, of_kind, pods

CLUSTERS, COLUMNS, ROWS, CHUNK = 1000, 32, 1_000_000, 50_000
MODEL = "s3://bucket/model"
MEGABYTES = 700
RESTARTED = "--restart=always"  # as a Deployment's containers are
CLUSTERED = "s3://bucket/clusters.zarr"
AWS = ("ENDPOINT_URL", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "REGION", "ALLOW_HTTP")


@pytest.fixture(scope="session")
def rows():
    rng = np.random.default_rng(0)
    places = 0.6 * rng.normal(size=(CLUSTERS, COLUMNS))  # that overlap: some sixty steps
    noise = rng.normal(size=(ROWS, COLUMNS))
    return (places[rng.integers(CLUSTERS, size=ROWS)] + noise).astype(np.float32)


@pytest.fixture(scope="session")
def server():
    """A SeaweedFS server, and what the secret says of it."""
    with ExitStack() as stack, pytest.MonkeyPatch.context() as environment:
        name = Containers(stack).run(
            "dkmeans-s3",
            f"--volume={Path(_binary('weed')).resolve()}:/weed:ro",
            *("--tmpfs=/data", "--user=0", "--entrypoint=/weed", IMAGE),
            *("server", "-s3", "-dir=/data", "-s3.port.iceberg=0", "-s3.port.lance=0"),
            *("-volume.max=20", "-master.volumeSizeLimitMB=64", "-volume.minFreeSpace=0"),
            "-master.telemetry=false",
        )
        endpoint = f"http://{address(name)}:8333"
        _point_to(endpoint, environment)
        until(lambda: is_put(f"{endpoint}/bucket") and is_put(f"{endpoint}/bucket/first"))
        yield name, {f"AWS_{key}": os.environ[f"AWS_{key}"] for key in AWS}


@pytest.fixture
def containers():
    with ExitStack() as stack:
        yield Containers(stack)


@pytest.fixture
def storage(containers, server, rows):
    """s3://bucket with the rows and nothing else in it: the name of its server."""
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

    with_retries("s3://bucket/rows.zarr", write)  # the test before may have stopped the server


@pytest.fixture(scope="session")
def expected(rows, tmp_path_factory):
    """The centers as the threads of this process find them, with the manifest's own flags."""
    folder = tmp_path_factory.mktemp("expected")
    zarr.create_array(folder / "rows.zarr", data=rows, chunks=(CHUNK, COLUMNS))
    (driver,) = pods("train-cpu", DRIVER)
    flags = [f for f in driver.arguments[3:] if not f.startswith(("--cluster", "--model-dir"))]
    code = main(["train", str(folder / "rows.zarr"), f"--model-dir={folder / 'model'}", *flags])
    assert code == 0
    return checkpoints.latest(str(folder / "model")).state


class Job:
    """What the operator makes of a DaskJob: scheduler, workers, and a driver beside them."""

    def __init__(self, containers, overlay):
        self._containers = containers
        self.parts = {pod.component: pod for pod in pods(overlay)}
        self.name = self.parts[DRIVER].owner["metadata"]["name"]
        self.scheduler = self.start_scheduler()
        self.workers = [self.start_worker(i) for i in range(2)]

    def start_scheduler(self):
        # Under the long name and the short one, as a Service in this namespace is.
        name = f"{self.name}-scheduler"
        alias = f"--network-alias={name}.dkmeans.svc.cluster.local"
        return self._containers.start(self.parts[SCHEDULER], name, alias, RESTARTED)

    def start_worker(self, number):
        pod = replace(self.parts[WORKER], worker=f"worker-{number}")
        return self._containers.start(pod, pod.variables["DASK_WORKER_NAME"], RESTARTED)

    def start_driver(self):
        return self._containers.start(self.parts[DRIVER], f"{self.name}-runner")

    def run_driver(self):
        """The driver's result, and its log."""
        driver = self.start_driver()
        code = ended(driver)
        result, log = said(driver)
        assert code == 0, log
        return json.loads(result), log

    def close(self):
        remove(self.scheduler, *self.workers)


def is_at_work(driver):
    """Whether a driver has done a step, of some fifty."""
    return "step 1 of" in said(driver)[1]


def centers():
    return checkpoints.latest(MODEL).state.centers


def is_ready(job):
    """Whether the kubelet's probes would find all parts of a job well."""
    workers = [is_healthy(name, job.parts[WORKER]) for name in job.workers]
    return is_healthy(job.scheduler, job.parts[SCHEDULER]) and all(workers)


def test_the_image_is_small_and_closed(containers):
    size = int(podman("inspect", "--format={{.Size}}", IMAGE)) // 10**6
    assert size <= MEGABYTES
    looks = "id -u; touch /opt/dkmeans/a || true; which pip || true; dkmeans --version"
    name = containers.run("dkmeans-look", "--read-only", "--tmpfs=/tmp", IMAGE, "sh", "-c", looks)
    assert ended(name) == 0
    told, log = said(name)
    assert told.split() == ["10001", "dkmeans", __version__]
    assert "Read-only file system" in log


def test_training_and_prediction_have_the_bits_of_one_process(containers, storage, rows, expected):
    training = Job(containers, "train-cpu")
    until(lambda: is_ready(training))
    _, log = training.run_driver()
    assert "memory of 2 workers with 8 threads" in log
    assert_array_equal(centers(), expected.centers)
    logs = [said(worker)[1] for worker in training.workers]
    assert "compiled the kernel" not in "".join(logs), "those of the image were not used"
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
    until(lambda: is_at_work(driver))
    kill(job.workers[0])
    until(lambda: is_healthy(job.workers[0], job.parts[WORKER]))
    podman("stop", "--time=25", job.workers[1])  # SIGTERM, and SIGKILL after the grace period
    assert is_running(driver)
    assert ended(driver) == 0, said(driver)
    assert_array_equal(centers(), expected.centers)


def test_a_driver_that_is_killed_goes_on(containers, storage, expected):
    job = Job(containers, "train-cpu")
    driver = job.start_driver()
    until(lambda: is_at_work(driver))
    kill(driver)
    assert ended(driver) == 137
    assert job.run_driver()[0]["step"] == expected.step
    assert_array_equal(centers(), expected.centers)


def test_a_driver_that_is_told_to_end_saves_and_goes_on(containers, storage, expected):
    job = Job(containers, "train-cpu")
    driver = job.start_driver()
    until(lambda: is_at_work(driver))
    podman("stop", "--time=60", driver)  # the manifest's grace period is 90 s
    assert ended(driver) == 143, said(driver)
    assert "terminated. Run the same command again" in said(driver)[1]
    assert 0 < checkpoints.latest(MODEL).state.step < expected.step
    assert job.run_driver()[0]["step"] == expected.step
    assert_array_equal(centers(), expected.centers)


def test_a_worker_that_is_cut_off_from_the_others_changes_no_bit(containers, storage, expected):
    job = Job(containers, "train-cpu")
    driver = job.start_driver()
    until(lambda: is_at_work(driver))
    cut_off(job.workers[0])
    assert ended(driver) == 0, said(driver)
    assert is_running(job.workers[0])  # which has been told nothing, and still waits
    assert_array_equal(centers(), expected.centers)


def test_a_scheduler_that_is_lost_is_an_outage(containers, storage, expected):
    job = Job(containers, "train-cpu")
    driver = job.start_driver()
    until(lambda: is_at_work(driver))
    kill(job.scheduler)
    assert ended(driver) == 75, said(driver)
    assert 0 < checkpoints.latest(MODEL).state.step < expected.step
    job.run_driver()  # scheduler and workers, which have lost each other, are started again
    assert_array_equal(centers(), expected.centers)


def test_storage_that_is_away_for_a_while_is_waited_for(containers, storage, expected):
    job = Job(containers, "train-cpu")
    driver = job.start_driver()
    until(lambda: "finding the first centers" in said(driver)[1])
    podman("pause", storage)
    time.sleep(15)
    podman("unpause", storage)
    assert ended(driver) == 0, said(driver)
    assert_array_equal(centers(), expected.centers)


def test_a_pod_with_its_own_workers_trains_and_later_goes_on(containers, storage, rows, expected):
    (plain,), (retrain,) = pods("plain"), pods("retrain")
    first = containers.start(plain, "dkmeans-plain")
    assert ended(first) == 0, said(first)
    assert_array_equal(centers(), expected.centers)
    store(np.concatenate([rows, rows[: CHUNK * 2] + 1]))
    assert ended(containers.start(retrain, "dkmeans-retrain-1")) == 0
    assert checkpoints.latest(MODEL).state.step > expected.step
    again = containers.start(retrain, "dkmeans-retrain-2")
    assert ended(again) == 0
    assert json.loads(said(again)[0])["status"] == "already done"


def test_with_certificates_strangers_are_not_heard(containers, storage, expected, certificates):
    containers.mounts = [f"--volume={certificates}:/etc/dask:ro"]
    job = Job(containers, "train-tls")
    job.run_driver()
    assert_array_equal(centers(), expected.centers)
    _, log = said(job.scheduler)
    assert "tls://" in log
    assert "tcp://" not in log
    containers.mounts = []
    (stranger,) = pods("predict-cpu", DRIVER)
    address = f"--cluster=tcp://{job.scheduler}:8786"
    arguments = [*(a for a in stranger.arguments if not a.startswith("--cluster")), address]
    stranger.container["args"] = arguments
    name = containers.start(stranger, "dkmeans-stranger")
    assert ended(name) == 75
    assert "must be a scheduler that answers" in said(name)[1]


@pytest.fixture
def certificates(tmp_path):
    """What cert-manager and the overlay's ConfigMap put into /etc/dask."""
    (settings,) = of_kind("train-tls", "ConfigMap")
    for name, text in settings["data"].items():
        (tmp_path / name).write_text(text)
    new = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=dkmeans -keyout tls.key -out tls.crt"
    subprocess.run(["openssl", *new.split()], cwd=tmp_path, check=True, capture_output=True)
    shutil.copy(tmp_path / "tls.crt", tmp_path / "ca.crt")
    for path in (tmp_path, *tmp_path.iterdir()):
        path.chmod(0o755)
    return tmp_path

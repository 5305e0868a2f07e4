"""The process of a worker: it keeps freed memory, and its profiler does not block it."""

import resource
import subprocess
import sys

import numpy as np
from threadpoolctl import threadpool_info

from dkmeans.executors import Dask
from dkmeans.executors.cores import SWITCH_SECONDS
from dkmeans.partial_sums import accumulate
from tests.executors.laws import batches_of, centers


def test_a_worker_keeps_the_memory_that_the_next_chunk_needs(client, dataset):
    with Dask(client) as executor:
        executor.map_reduce(accumulate, batches_of(dataset), centers())

    def touched():
        """Pages touched for the first time by the second of two arrays of 16 MB."""
        faults = []
        for _ in range(3):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            np.ones(2**21)
            faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        return faults[-1]

    assert max(client.run(touched).values()) < 400


def test_a_worker_computes_with_one_blas_thread_for_each_task(client, dataset):
    with Dask(client) as executor:
        executor.map_reduce(accumulate, batches_of(dataset), centers())

    def settings():
        blas = {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
        return sys.getswitchinterval(), blas

    for interval, threads in client.run(settings).values():
        assert abs(interval - SWITCH_SECONDS) < 1e-9
        assert threads <= {1}


# Dask looks at the frames of a worker's threads a hundred times a second while it computes.
# Dask looks at the frames of a worker's threads a hundred times a second while it computes.
PROFILED = """
import gc, sys, threading, time
from dkmeans.executors.dask.process import prepare_worker

prepare_worker()
gc.callbacks.append(lambda *about: time.sleep(0))
gc.set_threshold(1)


def begin_threads():
    for _ in range(300):
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()


beginning = threading.Thread(target=begin_threads)
beginning.start()
while beginning.is_alive():
    sys._current_frames()
"""


def test_a_worker_whose_threads_are_profiled_while_others_start_does_not_hang():
    subprocess.run([sys.executable, "-c", PROFILED], check=True, timeout=60)

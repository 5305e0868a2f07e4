"""`dkmeans plan`: estimate the memory and the time that training would need.

`command` calls `run`. The estimates come from the library's preflight check and from timing a few
chunks on the cluster. Nothing is written.
"""

from __future__ import annotations

import argparse
import logging
from typing import Any

from dkmeans_jobs.client import check_cluster, open_client
from dkmeans_jobs.input import open_input

from dkmeans import Invalid
from dkmeans.config import AUTO
from dkmeans.data.chunks import GPU_TARGET_BYTES
from dkmeans.distance import Computation, Distance
from dkmeans.errors import check_integer, readable
from dkmeans.executors import computes_on_gpu, open_executor
from dkmeans.preflight import examine, scale_remarks, seconds_per_iteration
from dkmeans.skipping import bounds_bytes

logger = logging.getLogger("dkmeans")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Examine the input and the cluster, time a few chunks, and return the estimates.

    Raises:
        Invalid: the arguments or the input cannot be used.
    """
    check_integer("--num-clusters", arguments.num_clusters, 1)
    dataset = open_input(arguments.input, arguments.columns, filters=arguments.filter)
    if dataset.rows is not None and dataset.rows < arguments.num_clusters:
        most = f"the number of rows, {dataset.rows}"
        raise Invalid(f"--num-clusters must be at most {most}, got {arguments.num_clusters}")
    check_cluster(arguments)
    cache = arguments.cache or AUTO
    with open_client(arguments) as client:
        on_gpu = computes_on_gpu(client, arguments.backend)
        with open_executor(client, on_gpu=on_gpu) as executor:
            dataset = dataset.in_chunks_of(GPU_TARGET_BYTES if on_gpu else None)
            # Without `Dataset.batch` a dataset is one batch of all its rows.
            batch = next(dataset.batches())
            names = dataset.columns
            preflight = examine(batch, dataset.rows, executor, cache, dataset.chunk_bytes, names)
            remarks = [*preflight.remarks, *scale_remarks(batch, preflight, executor)]
            logger.info("timing a few chunks, on %s", executor)
            distance = Distance(arguments.metric or Distance.SQUARED_EUCLIDEAN)
            computation = Computation(distance, arguments.backend)
            first, later = seconds_per_iteration(
                preflight, batch, arguments.num_clusters, computation, executor
            )
    return {
        "rows": preflight.rows,
        "columns": preflight.columns,
        "column_names": list(preflight.names),
        "dtype": preflight.dtype,
        "size": readable(preflight.bytes or 0),
        "chunks": preflight.chunks,
        "largest_chunk": readable(preflight.chunk_bytes),
        "workers": str(preflight.memory),
        "memory_of_a_worker": readable(preflight.memory.limit),
        "kept_in_memory": (
            f"{preflight.cached_share:.0%}" if preflight.is_stored else "the rows are there already"
        ),
        "bounds": (
            f"{readable(bounds_bytes(batch.rows, arguments.num_clusters))} beside the rows, if "
            "there is room: later iterations of full batch skip most distances"
        ),
        "seconds_of_the_first_iteration": round(first, 3),
        "seconds_of_a_later_one": round(later, 3),
        "remarks": remarks,
    }

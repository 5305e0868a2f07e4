"""`dkmeans plan`: what training on some rows would take."""

from __future__ import annotations

import argparse
from typing import Any

from dkmeans_jobs.client import open_client
from dkmeans_jobs.input import open_input

from dkmeans.config import AUTO
from dkmeans.distance import Distance
from dkmeans.errors import check_integer
from dkmeans.executors import open_executor
from dkmeans.preflight import examine, readable, seconds_per_iteration


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Examine the input and the cluster, and go over a few chunks.

    Raises:
        Invalid: the arguments or the input cannot be used.
    """
    check_integer("--num-clusters", arguments.num_clusters, 1)
    dataset = open_input(arguments.input, arguments.columns)
    cache = arguments.cache or AUTO
    with open_client(arguments) as client, open_executor(client) as executor:
        batch = next(dataset.batches())
        found = examine(batch, dataset.rows, executor, cache)
        distance = Distance(arguments.metric or Distance.SQUARED_EUCLIDEAN)
        first, later = seconds_per_iteration(
            found, batch, arguments.num_clusters, distance, executor, arguments.backend
        )
    return {
        "rows": found.rows,
        "columns": found.columns,
        "dtype": found.dtype,
        "size": readable(found.bytes or 0),
        "chunks": found.chunks,
        "largest_chunk": readable(found.chunk_bytes),
        "workers": str(found.memory),
        "memory_of_a_worker": readable(found.memory.limit),
        "kept_in_memory": f"{found.kept:.0%}" if found.is_stored else "the rows are there already",
        "seconds_of_the_first_iteration": round(first, 3),
        "seconds_of_a_later_one": round(later, 3),
        "remarks": list(found.remarks),
    }

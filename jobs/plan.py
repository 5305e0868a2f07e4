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
from dkmeans.distance import Computation, Distance
from dkmeans.errors import check_integer
from dkmeans.executors import computes_on_gpu, open_executor, threads_of
from dkmeans.planning import plan_fit

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
    cache, backend = arguments.cache or AUTO, arguments.backend
    computation = Computation(Distance(arguments.metric or Distance.SQUARED_EUCLIDEAN), backend)
    with open_client(arguments) as client:
        on_gpu = computes_on_gpu(client, backend)
        threads = threads_of(client)
        dataset = dataset.in_chunks_for(arguments.num_clusters, threads, on_gpu=on_gpu)
        with open_executor(client, on_gpu=on_gpu) as executor:
            logger.info("timing a few chunks, on %s", executor)
            plan = plan_fit(
                dataset, arguments.num_clusters, computation, executor, cache, on_gpu=on_gpu
            )
    return plan.numbers() if arguments.json else plan.facts()

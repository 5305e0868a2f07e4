"""`dkmeans predict`: write the cluster index of each row to storage.

`command` calls `run`. The workers write the predictions. A job that was interrupted continues:
predictions that are already written are not written again.
"""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

from dkmeans_jobs.client import check_cluster, open_client
from dkmeans_jobs.input import names_in, open_input, refuse_memory, refuse_output_in_input
from dkmeans_jobs.model_dir import load_for

from dkmeans import Dataset, RunConfig, load
from dkmeans.checkpoints import Checkpoint
from dkmeans.data.batches import Batch
from dkmeans.errors import check_integer
from dkmeans.prediction import output as outputs
from dkmeans.prediction.request import Request


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write the predictions of the latest checkpoint that are not yet written.

    Raises:
        Invalid: the arguments or the input cannot be used, or there is no model.
    """
    began = time.monotonic()
    refuse_memory("--output", arguments.output)
    refuse_output_in_input(arguments.output, arguments.input)
    dataset = open_input(arguments.input, arguments.columns, filters=arguments.filter)
    # Before the cluster starts, which takes seconds: a mistake, or that nothing is left to do, is
    # reported at once.
    check_cluster(arguments)
    checkpoint, dataset = load_for(dataset, arguments.model_dir)
    request = _request(arguments)
    done = _is_done(arguments.output, dataset, checkpoint, request)
    with nullcontext() if done else open_client(arguments) as client:
        config = RunConfig(client=client, backend=arguments.backend)
        model = load(arguments.model_dir, config=config)
        asked = asdict(request) | {"top": arguments.top}  # None where `Request` has 0
        rows = model.write_predictions(lambda: dataset, arguments.output, **asked)
    return {
        "status": "already done" if done else "predicted",
        "rows": rows,
        "seconds": round(time.monotonic() - began, 3),
        "output": arguments.output,
        "checkpoint": model.latest_checkpoint(),
    }


def _request(arguments: argparse.Namespace) -> Request:
    """Return what to write.

    Raises:
        Invalid: an argument has a value that is not allowed.
    """
    if arguments.top is not None:
        check_integer("--top", arguments.top, 1)
    return Request(
        distance=bool(arguments.distance),
        second=bool(arguments.second),
        top=arguments.top or 0,
        transform=bool(arguments.transform),
        keep=tuple(names_in("--keep", arguments.keep) or ()),
        partition_by=arguments.partition_by or "",
    )


def _is_done(address: str, dataset: Dataset, checkpoint: Checkpoint, request: Request) -> bool:
    """Return whether the output holds the predictions already."""
    whole = Batch.chained(dataset.batches())
    output = outputs.plan_output(address, whole, checkpoint, request, dataset.table)
    return outputs.is_complete(output)

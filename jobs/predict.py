"""`dkmeans predict`: write the cluster index of each row to storage.

`command` calls `run`. The workers write the predictions. A job that was interrupted continues:
predictions that are already written are not written again.
"""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext
from typing import Any

from dkmeans_jobs.client import check_cluster, open_client
from dkmeans_jobs.input import open_input
from dkmeans_jobs.model_dir import load_for

from dkmeans import Dataset, KMeans, RunConfig, load
from dkmeans.checkpoints import Checkpoint
from dkmeans.data.batches import Batch
from dkmeans.prediction import output as outputs


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write the predictions of the latest checkpoint that are not yet written.

    Raises:
        Invalid: the arguments or the input cannot be used, or there is no model.
    """
    began = time.monotonic()
    dataset = open_input(arguments.input, arguments.columns)
    # Before the cluster starts, which takes seconds: a mistake, or that nothing is left to do, is
    # reported at once.
    check_cluster(arguments)
    checkpoint = load_for(dataset, arguments.model_dir)
    done = _is_done(arguments, dataset, checkpoint)
    with nullcontext() if done else open_client(arguments) as client:
        config = RunConfig(client=client, backend=arguments.backend)
        model = load(arguments.model_dir, config=config)
        rows = model.write_predictions(
            lambda: dataset, arguments.output, transform=bool(arguments.transform)
        )
    return {
        "status": "already done" if done else "predicted",
        "rows": rows,
        "seconds": round(time.monotonic() - began, 3),
        "output": arguments.output,
        "checkpoint": model.latest_checkpoint(),
    }


def _is_done(arguments: argparse.Namespace, dataset: Dataset, checkpoint: Checkpoint) -> bool:
    """Return whether the output holds the predictions already."""
    names = KMeans.CLUSTER_INDEX, KMeans.ALL_DISTANCES
    whole = sum(dataset.batches(), Batch())
    results = names[: 1 + bool(arguments.transform)]
    return outputs.is_complete(outputs.plan_output(arguments.output, whole, checkpoint, results))

"""`dkmeans evaluate`: compute the loss of a model over some rows.

`command` calls `run`. The latest checkpoint of the model directory is evaluated.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from dkmeans_jobs.client import check_cluster, open_client
from dkmeans_jobs.input import open_input
from dkmeans_jobs.model_dir import load_for

from dkmeans import RunConfig, load, storage


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Evaluate the latest checkpoint over all rows and return the metrics.

    Raises:
        Invalid: the arguments or the input cannot be used, or there is no model.
    """
    given = arguments.input, arguments.columns, arguments.weights, arguments.filter
    dataset = open_input(*given)
    # Before the cluster starts, which takes seconds: a mistake is reported at once.
    check_cluster(arguments)
    _, dataset = load_for(dataset, arguments.model_dir)
    with open_client(arguments) as client:
        config = RunConfig(client=client, backend=arguments.backend)
        model = load(arguments.model_dir, config=config)
        result = model.evaluate(lambda: dataset)
    # A directory that cannot be written to does not end an evaluation.
    found = storage.read(model.evaluation_file(result["global_step"]))
    is_written = found is not None and found.data == json.dumps(result).encode()
    return {**result, "written_to": model.eval_dir() if is_written else None}

"""`dkmeans evaluate`: compute the loss of a model over some rows.

`__main__` calls `run`. The latest checkpoint of the model directory is evaluated.
"""

from __future__ import annotations

import argparse
from typing import Any

from dkmeans_jobs.client import open_client
from dkmeans_jobs.input import open_input
from dkmeans_jobs.model_dir import open_model

from dkmeans import RunConfig


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Evaluate the latest checkpoint over all rows and return the metrics.

    Raises:
        Invalid: the arguments or the input cannot be used, or there is no model.
    """
    dataset = open_input(arguments.input, arguments.columns)
    with open_client(arguments) as client:
        config = RunConfig(client=client, backend=arguments.backend)
        model = open_model(arguments.model_dir, config)
        return {**model.evaluate(lambda: dataset), "written_to": model.eval_dir()}

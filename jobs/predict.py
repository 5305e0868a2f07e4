"""`dkmeans predict`: write the cluster index of each row to storage.

`__main__` calls `run`. The workers write the predictions. A job that was interrupted continues:
predictions that are already written are not written again.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from dkmeans_jobs.client import open_client
from dkmeans_jobs.input import open_input
from dkmeans_jobs.model_dir import open_model

from dkmeans import RunConfig


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write the predictions of the latest checkpoint that are not yet written.

    Raises:
        Invalid: the arguments or the input cannot be used, or there is no model.
    """
    began = time.monotonic()
    dataset = open_input(arguments.input, arguments.columns)
    with open_client(arguments) as client:
        config = RunConfig(client=client, backend=arguments.backend)
        model = open_model(arguments.model_dir, config)
        rows = model.write_predictions(
            lambda: dataset, arguments.output, transform=bool(arguments.transform)
        )
        return {
            "rows": rows,
            "seconds": round(time.monotonic() - began, 3),
            "output": arguments.output,
            "checkpoint": model.latest_checkpoint(),
        }

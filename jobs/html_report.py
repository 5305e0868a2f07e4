"""`dkmeans report`: write one HTML page about a model, for people.

`command` calls `run`. The page is made by `dkmeans.write_report`.
"""

from __future__ import annotations

import argparse
from typing import Any

from dkmeans_jobs.client import check_cluster, open_client
from dkmeans_jobs.input import open_input, refuse_memory
from dkmeans_jobs.model_dir import load_for

from dkmeans import Invalid, RunConfig, load, write_report


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write the page of the latest checkpoint and return where it is.

    Raises:
        Invalid: the arguments or the input cannot be used, or there is no model.
    """
    refuse_memory("--output", arguments.output)
    check_cluster(arguments)
    dataset = None
    if arguments.input is not None:
        chosen = arguments.columns, arguments.weights, arguments.filter
        dataset = open_input([arguments.input], *chosen)
        _, dataset = load_for(dataset, arguments.model_dir)
    elif any(each is not None for each in (arguments.columns, arguments.weights, arguments.filter)):
        raise Invalid("--columns, --weights and --filter must come with --input, got none")
    input_fn = None if dataset is None else lambda: dataset
    with open_client(arguments) as client:
        config = RunConfig(client=client, backend=arguments.backend)
        model = load(arguments.model_dir, config=config)
        write_report(model, arguments.output, input_fn)
    return {"output": arguments.output, "checkpoint": model.latest_checkpoint()}

"""`dkmeans evaluate`: compute the loss of a model over some rows.

`command` calls `run`. The latest checkpoint of the model directory is evaluated.
"""

from __future__ import annotations

import argparse
from typing import Any

from dkmeans_jobs.client import check_cluster, open_client
from dkmeans_jobs.input import names_in, open_input
from dkmeans_jobs.model_dir import load_for

from dkmeans import RunConfig, load, storage
from dkmeans.data.columns import value_names
from dkmeans.errors import counted
from dkmeans.indices.quality import NAMES, check_indices
from dkmeans.json_text import json_text
from dkmeans.model import comparable

# More clusters or columns are not printed for people.
_MOST_CLUSTERS = _MOST_COLUMNS = 20
# Indices with one value for each cluster and column.
_TABLES = {"cluster_mean": "mean", "cluster_deviation": "deviation"}


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Evaluate the latest checkpoint over all rows and return the metrics.

    Raises:
        Invalid: the arguments or the input cannot be used, or there is no model.
    """
    dataset = open_input(arguments.input, arguments.columns, arguments.weights, arguments.filter)
    # Before the cluster starts, which takes seconds: a mistake is reported at once.
    check_cluster(arguments)
    checkpoint, dataset = load_for(dataset, arguments.model_dir)
    asked = names_in("--indices", arguments.indices)
    names = check_indices(asked and [name.strip() for name in asked], "--indices")
    if arguments.against is not None:
        comparable("--against", arguments.against, checkpoint)
    with open_client(arguments) as client:
        config = RunConfig(client=client, backend=arguments.backend)
        model = load(arguments.model_dir, config=config)
        result = model.evaluate(lambda: dataset, indices=names, against=arguments.against)
    # A directory that cannot be written to does not end an evaluation.
    found = storage.read(model.evaluation_file(result["global_step"]))
    is_written = found is not None and found.data == json_text(result)
    about = {**result, "written_to": model.eval_dir() if is_written else None}
    columns = value_names(checkpoint.settings.columns, checkpoint.state.centers.shape[1])
    return about if arguments.json else _for_people(about, columns)


def _for_people(result: dict[str, Any], columns: list[str]) -> dict[str, Any]:
    """Return a result as people want to read it: what has one value for each cluster is cut."""
    shown: dict[str, Any] = {}
    for name, value in result.items():
        if isinstance(value, list) and len(value) > _MOST_CLUSTERS:
            shown[name] = f"{counted(len(value), 'value')}, printed with --json"
        elif name in _TABLES:
            for number, row in enumerate(value):
                pairs = zip(columns[:_MOST_COLUMNS], row, strict=False)
                text = ", ".join(f"{column} {_number(each)}" for column, each in pairs)
                more = ", ..." if len(row) > _MOST_COLUMNS else ""
                shown[f"{_TABLES[name]} of cluster {number}"] = text + more
        elif isinstance(value, list):
            shown[name] = ", ".join(map(_number, value))
        else:  # an index that is not defined is said, too
            shown[name] = "none" if value is None and name in NAMES else value
    return shown


def _number(value: float | None) -> str:
    if value is None:
        return "none"
    return str(value) if isinstance(value, int) else f"{value:.6g}"

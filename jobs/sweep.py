"""`dkmeans sweep`: train models of several numbers of clusters together, and recommend one.

`command` calls `run`. The same command can always be run again: it continues each model from its
latest checkpoint.
"""

from __future__ import annotations

import argparse
from typing import Any

from dkmeans_jobs.client import check_cluster, open_client
from dkmeans_jobs.input import open_input, refuse_memory, refuse_model_in_input

from dkmeans import Invalid, RunConfig, sweep
from dkmeans.config import AUTO
from dkmeans.errors import check_integer, counted, expected

# What is printed of each model for people: its name, and how its number is written.
_SHOWN = {
    "loss": "{:.6g}",
    "silhouette": "{:.3f}",
    "davies_bouldin": "{:.3f}",
    "calinski_harabasz": "{:,.0f}",
    "ambiguous": "{:.1%}",
    "stability": "{:.3f}",
    "seconds": "{:.1f}",
}


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train a model for each number of clusters, judge them, and return what was found.

    Raises:
        Invalid: the arguments or the input cannot be used.
        KeyboardInterrupt: after checkpoints were saved.
    """
    counts = _counts_in(arguments.num_clusters)
    refuse_memory("--output", arguments.output)
    refuse_model_in_input("--output", arguments.output, arguments.input, arguments.columns)
    check_cluster(arguments)
    dataset = open_input(arguments.input, arguments.columns, arguments.weights, arguments.filter)
    if arguments.standardize:
        dataset = dataset.standardize()
    flags = "seed", "num_restarts", "max_steps", "relative_tolerance"
    given = {name: value for name in flags if (value := getattr(arguments, name)) is not None}
    if arguments.init is not None:
        given["initial_clusters"] = arguments.init
    if arguments.metric is not None:
        given["distance_metric"] = arguments.metric
    with open_client(arguments) as client:
        cache = arguments.cache or AUTO
        config = RunConfig(client=client, backend=arguments.backend, cache=cache)
        result = sweep(lambda: dataset, counts, arguments.output, config=config, **given)
    return result if arguments.json else _for_people(result)


def _counts_in(text: str) -> list[int]:
    try:
        counts = [int(name) for name in text.split(",")]
    except ValueError:
        must = "integers with a comma between two"
        raise Invalid(expected("--num-clusters", must, text)) from None
    return [check_integer("--num-clusters", count, 1) for count in counts]


def _for_people(result: dict[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for model in result["models"]:
        texts = [
            f"{name.replace('_', ' ')} {form.format(model[name])}"
            for name, form in _SHOWN.items()
            if model[name] is not None
        ]
        shown[counted(model["num_clusters"], "cluster")] = ", ".join(texts)
    # The sentences of `against` have commas of their own.
    whole = {**result, "against": "; ".join(result["against"]) or None}
    for name in ("recommended", "reason", "against", "recommended_model", "seed", "seconds"):
        shown[name] = whole[name]
    return shown

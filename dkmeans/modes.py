"""What a model is asked for, and what its function answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class ModeKeys(StrEnum):
    """What rows are for: the `mode` of an `input_fn` and of a `model_fn`."""

    TRAIN = "train"
    EVAL = "eval"
    PREDICT = "infer"


@dataclass(frozen=True, slots=True)
class EstimatorSpec:
    """What a model says of some rows: values, where the original had the nodes of a graph.

    Attributes:
        mode: What it was asked for.
        predictions: `all_distances`, (n, k) float32, and `cluster_index`, (n,) int64.
        loss: The sum of the rows' distances to their nearest centers.
        eval_metric_ops: `score`, which is the loss.
        export_outputs: The exported signatures, `all_distances`, `cluster_index` and
            `serving_default`, each with its values by the name of its output.
    """

    mode: str
    predictions: Mapping[str, Any]
    loss: float
    eval_metric_ops: Mapping[str, float]
    export_outputs: Mapping[str, Mapping[str, Any]]

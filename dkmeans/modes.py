"""Modes of a model, and the result of a model's function, as in TensorFlow's estimators.

An `input_fn` may ask for the mode that its rows are for. The function `KMeans.model_fn` returns an
`EstimatorSpec`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from dkmeans.errors import Invalid, InvalidType, expected


class ModeKeys(StrEnum):
    """Purpose of some rows: the `mode` of an `input_fn` and of a `model_fn`."""

    TRAIN = "train"
    EVAL = "eval"
    PREDICT = "infer"


def check_mode(name: str, mode: object) -> ModeKeys:
    """Return the mode that is given by the argument `name`.

    Raises:
        InvalidType: it is not text.
        Invalid: there is no such mode.
    """
    must = f"one of {', '.join(repr(str(each)) for each in ModeKeys)}"
    if not isinstance(mode, str):
        raise InvalidType(expected(name, must, mode))
    if mode not in tuple(ModeKeys):
        raise Invalid(expected(name, must, mode))
    return ModeKeys(mode)


@dataclass(frozen=True, slots=True)
class EstimatorSpec:
    """Results of a model for some rows. TensorFlow's spec has graph nodes; this one has values.

    Attributes:
        mode: The requested mode.
        predictions: `all_distances`, (n, k) float32, and `cluster_index`, (n,) int64.
        loss: Sum of the distances of the rows to their nearest centers.
        eval_metric_ops: `score`, which is the loss.
        export_outputs: Outputs of the exported signatures `all_distances`, `cluster_index` and
            `serving_default`: for each signature, the values by name of the output.
    """

    mode: str
    predictions: Mapping[str, Any]
    loss: float
    eval_metric_ops: Mapping[str, float]
    export_outputs: Mapping[str, Mapping[str, Any]]

"""Evaluations: which measures are needed of the rows, and the result.

`KMeans.evaluate` calls `measuring` before its pass (`prediction.stream.scores`), and `result_of`
after it. `dkmeans.indices` computes the indices.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dkmeans.checkpoints import Checkpoint
from dkmeans.distance import Centers
from dkmeans.errors import check_path
from dkmeans.extras import needs
from dkmeans.hooks import summaries
from dkmeans.indices.contingency import agreement, check_pairs
from dkmeans.indices.quality import DEVIATION, OF_ROWS, OF_TWO, SAMPLED, indices_of
from dkmeans.indices.row_sample import silhouette
from dkmeans.model import comparable
from dkmeans.prediction.measures import Measures, Measuring
from dkmeans.state import sum_up

# Results that are drawn as charts.
_CHARTED = ("average_loss", "loss", "score")


def measuring(
    centers: Centers,
    names: Sequence[str],
    checkpoint: Checkpoint,
    against: str | os.PathLike[str] | None,
) -> Measuring:
    """Return what an evaluation measures, for the indices of some names.

    Raises:
        Invalid: the other model cannot be compared with, or SciPy is missing (extra `sklearn`).
    """
    task = Measuring(
        centers,
        with_moments=bool(set(names) - {SAMPLED}),
        with_rows=not OF_ROWS.isdisjoint(names),
        with_second=not OF_TWO.isdisjoint(names),
        with_squares=DEVIATION in names,
        with_sample=SAMPLED in names,
    )
    if against is None:
        return task
    with needs("a comparison with another model", "sklearn"):
        import scipy.optimize  # noqa: F401, PLC0415 an extra, needed after the pass
    other = comparable("against", check_path("against", against), checkpoint)
    check_pairs((len(centers.values), len(other.state.centers)))
    its = Centers(other.state.centers, other.settings.distance_metric, centers.backend)
    return replace(task, against=its)


def result_of(
    batches: Sequence[Measures], task: Measuring, names: Sequence[str], checkpoint: Checkpoint
) -> dict[str, Any]:
    """Return the result of an evaluation by name: numbers, and the indices `names` as arrays."""
    measures = sum_up(batches)
    score = measures.score
    result: dict[str, Any] = {
        "average_loss": score.mean_distance,
        "global_step": checkpoint.state.step,
        "loss": score.inertia / len(batches),
        "score": score.inertia / len(batches),
    }
    if measures.moments is not None:
        scaling = checkpoint.settings.scaling
        result |= indices_of(measures.moments, task.centers, names, scaling)
    if measures.sample is not None:
        result[SAMPLED] = silhouette(measures.sample, task.centers.distance)
    if measures.contingency is not None:
        result |= agreement(measures.contingency)
    return result


def draw(result: dict[str, Any], eval_dir: str) -> None:
    """Draw the losses of a result as charts of TensorBoard."""
    charts = summaries.EventFile(eval_dir)
    charts.add(result["global_step"], {name: result[name] for name in _CHARTED})
    charts.write()

"""Bounds by the scores of all pairs: valid and tight, with and without a matrix unit."""

import numpy as np
import pytest

from dkmeans.backends.native import backend as native
from dkmeans.backends.native import bounds, groups, processor
from dkmeans.backends.native.bounds import Waiting
from dkmeans.backends.native.runner import kernel_array
from dkmeans.distance import Centers, Distance, directions
from tests.exactly import same_partial_sums


# Rows of a whole group of features and a rest, and an odd number of groups.
@pytest.mark.parametrize(
    ("unit", "metric", "dtype"),
    [
        ("matrix", "squared_euclidean", np.float64),
        ("matrix", "cosine", np.float32),
        ("vectors", "squared_euclidean", np.float32),
    ],
)
def test_bounds_hold_and_are_tight(unit, metric, dtype, monkeypatch):
    if unit == "vectors":
        monkeypatch.setattr(processor, "matrix_unit", lambda: False)
    rng = np.random.default_rng(3)
    rows = kernel_array((rng.normal(size=(333, 41)) + 2).astype(dtype))
    rows_as_compared = rows.astype(float) if metric != "cosine" else directions(rows)
    values = rng.normal(size=(150, 41)).astype(dtype) + dtype(2)
    values[7] = values[5]
    centers = Centers(values, Distance(metric))
    found = bounds.begin(rows, centers, Waiting(), "a fit", with_sums=True).bounds
    assert same_partial_sums(found.sums, native.partial_sums(rows, centers))
    exact = found.stage.grouped.exact
    distances = np.linalg.norm(rows_as_compared[:, None] - exact, axis=2)
    (piece,) = found.pieces
    own = np.arange(len(rows)), piece.rows.nearest
    assert (distances[own] <= piece.rows.upper).all()
    assert (piece.rows.upper <= distances[own] * 1.001 + 1e-6).all()
    distances[own] = np.inf
    lower = (piece.rows.lower.astype(np.uint32) << 16).view(np.float32)
    for group, members in enumerate(found.stage.grouped.members.reshape(-1, groups.GROUP)):
        least = distances[:, members[members >= 0]].min(axis=1)
        assert (lower[:, group] <= least).all()
        assert (lower[:, group] >= 0.99 * least - 0.01).all()

"""Scalings: rows less the means, divided by the deviations, each value rounded once."""

import numpy as np
import pytest

from dkmeans.scaling import Scaling

RNG = np.random.default_rng(8)
MEANS, DEVIATIONS = RNG.normal(size=3) * 1e6, np.array([1e-3, 1.0, 1e5])
SCALING = Scaling.of(MEANS, DEVIATIONS)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_are_computed_in_float64_and_rounded_once(dtype):
    rows = (RNG.normal(size=(40_000, 3)) * DEVIATIONS + MEANS).astype(dtype)
    known = ((rows.astype(np.float64) - MEANS) / DEVIATIONS).astype(dtype)
    found = SCALING.standardized(rows)
    assert found.dtype == dtype
    assert np.array_equal(found, known)
    assert np.allclose(SCALING.original(found), rows, rtol=1e-6)


def test_values_that_are_not_finite_stay_so():
    rows = np.array([[np.nan, 1, 2], [np.inf, 1, 2], [3e38, 1, 2]], np.float32)
    assert not np.isfinite(SCALING.standardized(rows)[:, 0]).any()


def test_scalings_are_equal_if_they_scale_alike():
    assert Scaling.of(MEANS.copy(), DEVIATIONS.copy()) == SCALING
    assert Scaling.of(MEANS + 1, DEVIATIONS) != SCALING

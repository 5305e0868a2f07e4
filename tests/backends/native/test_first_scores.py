"""Tiles that are resolved by first scores in 8 bits: no bit of a result depends on these scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dkmeans.backends import numpy as by_numpy
from dkmeans.backends.native import backend as native
from dkmeans.distance import Centers, Distance
from tests.exactly import same_partial_sums

KINDS = {
    "small integers": lambda rng, shape: rng.integers(-2, 3, shape),
    "normal": lambda rng, shape: rng.normal(size=shape),
    "an offset": lambda rng, shape: rng.normal(size=shape) + 1e6,
    "Cauchy": lambda rng, shape: rng.standard_cauchy(shape),
    "a large column": lambda rng, shape: (
        rng.normal(size=shape) * np.where(np.arange(shape[1]) == 0, 1e9, 1)
    ),
    "near a few places": lambda rng, shape: (
        rng.normal(size=(3, shape[1]))[rng.integers(3, size=shape[0])]
        + 1e-5 * rng.normal(size=shape)
    ),
    "constant": lambda rng, shape: np.full(shape, rng.normal()),
    "tiny": lambda rng, shape: rng.normal(size=shape) * 10.0 ** -rng.integers(14, 44),
    "huge": lambda rng, shape: rng.normal(size=shape) * 1e18,
}


@pytest.mark.parametrize(
    ("byte_unit", "metric", "dtype"),
    [
        ("vectors", "squared_euclidean", "f"),
        ("vectors", "cosine", "d"),
        ("matrix", "squared_euclidean", "f"),
    ],
    indirect=["byte_unit"],
)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    d=st.integers(1, 40),
    k=st.integers(1, 150),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_clusters_and_sums_have_the_bits_of_numpys(byte_unit, metric, dtype, kind, d, k, seed):
    rng = np.random.default_rng(seed)
    pool = KINDS[kind](rng, (k + 70, d)).astype(dtype)
    # Some rows are centers, and some centers are equal.
    rows, centers = pool[rng.integers(len(pool), size=70)], pool[rng.integers(len(pool), size=k)]
    centers = Centers(centers, Distance(metric))
    index, distance = native.nearest(rows, centers)
    expected_index, expected_distance = by_numpy.nearest(rows, centers)
    assert index.tolist() == expected_index.tolist()
    assert distance.tobytes() == expected_distance.tobytes()
    assert same_partial_sums(
        native.partial_sums(rows, centers), by_numpy.partial_sums(rows, centers)
    )
    if k > 1:
        index, distance = native.nearest_two(rows, centers)
        expected_index, expected_distance = by_numpy.nearest_two(rows, centers)
        assert index.tolist() == expected_index.tolist()
        assert distance.tobytes() == expected_distance.tobytes()


@pytest.mark.parametrize("k", [3, 8, 11])
@pytest.mark.parametrize("byte_unit", ["vectors", "matrix"], indirect=True)
def test_rows_whose_scores_overflow_get_exact_distances(byte_unit, k):
    rng = np.random.default_rng(k)
    rows, centers = rng.normal(size=(40, 20)).astype("f"), rng.normal(size=(k, 20)).astype("f")
    rows[[5, 39]], rows[17, 3] = 3e38, -3e38
    centers = Centers(centers, Distance.SQUARED_EUCLIDEAN)
    for find in "nearest", "nearest_two":
        (index, distance), expected = (
            getattr(each, find)(rows, centers) for each in (native, by_numpy)
        )
        assert index.tolist() == expected[0].tolist()
        assert distance.tobytes() == expected[1].tobytes()


@pytest.mark.parametrize("byte_unit", ["vectors"], indirect=True)
def test_rows_that_are_not_finite_have_center_0(byte_unit):
    rng = np.random.default_rng(0)
    rows, centers = rng.normal(size=(40, 20)).astype("f"), rng.normal(size=(30, 20)).astype("f")
    rows[3, 4], rows[17, 0], rows[30] = np.nan, np.inf, -np.inf
    centers = Centers(centers, Distance.SQUARED_EUCLIDEAN)
    expected = by_numpy.nearest_index(rows, centers).tolist()
    assert native.nearest_index(rows, centers).tolist() == expected
    assert native.nearest_two(rows, centers)[0][:, 0].tolist() == expected

"""The bound on rounding errors holds, and centers are shifted to their mean."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkmeans.backends import select
from dkmeans.backends.rounding import shifted
from dkmeans.distance import Centers, Distance, directions


@given(
    st.integers(1, 50),
    st.integers(0, 2**32),
    st.sampled_from([1e-30, 1.0, 1e6]),
    st.sampled_from(Distance),
)
def test_float32_scores_differ_from_exact_scores_by_half_of_the_bound_at_most(
    d, seed, scale, distance
):
    rng = np.random.default_rng(seed)
    rows = (rng.normal(size=(20, d)) * scale).astype(np.float32)
    values = (rng.normal(size=(6, d)) * scale).astype(np.float32)
    prepared = shifted(Centers(values, distance), np.dtype(np.float32))
    # In float64 the scores of float32 rows are exact for the purpose of this test.
    exact_rows = directions(rows) if prepared.cosine else rows - prepared.shift.astype(np.float64)
    scored = directions(rows).astype("f") if prepared.cosine else rows - prepared.shift
    exact = prepared.halves - exact_rows @ prepared.values().T
    rounded = prepared.halves.astype("f") - scored @ prepared.values().T.astype("f")
    bound = prepared.rounding
    lengths = np.sqrt(np.vecdot(scored, scored, dtype=np.float64))
    margins = bound.factor * (lengths * bound.largest + bound.half) + bound.floor
    margins += bound.exact * np.square(lengths + bound.largest)
    assert (np.abs(rounded - exact) <= margins[:, None] / 2).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_centers_are_shifted_by_their_mean_in_the_dtype_of_the_rows(dtype):
    values = np.array([[1e6, 1], [1e6 + 2, 3]])
    prepared = shifted(Centers(values, Distance.SQUARED_EUCLIDEAN), np.dtype(dtype))
    assert (prepared.shift.dtype, prepared.shift.tolist()) == (dtype, [1e6 + 1, 2])
    assert prepared.values().tolist() == [[-1, -1], [1, 1]]
    assert prepared.halves.tolist() == [1, 1]
    assert prepared.exact().tolist() == values.tolist()
    assert (prepared.rounding.largest, prepared.rounding.half) == (np.sqrt(2), 1)


def test_by_cosine_centers_have_length_one_and_no_shift():
    prepared = shifted(Centers(np.array([[3.0, 4], [0, 2]]), Distance.COSINE), np.dtype("f"))
    np.testing.assert_allclose(prepared.values(), [[0.6, 0.8], [0, 1]], rtol=1e-15)
    assert prepared.shift.tolist() == [0, 0]
    assert prepared.halves.tolist() == [0, 0]
    assert prepared.cosine


@pytest.mark.parametrize("backend", ["native", "numpy"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_where_all_exact_cosine_distances_are_equal_the_lowest_index_is_the_nearest(dtype, backend):
    # Rows so short that 1 - x.c is exactly 1 for all centers, though the scores differ.
    rng = np.random.default_rng(0)
    values, rows = ((rng.normal(size=(n, 5)) * 1e-25).astype(dtype) for n in (200, 50))
    centers = Centers(values, Distance.COSINE)
    index, distances = select(backend).nearest(rows, centers)
    assert distances.tolist() == [1.0] * 50
    assert index.tolist() == [0] * 50


@pytest.mark.parametrize("backend", ["native", "numpy"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_so_far_away_that_exact_distances_are_equal_go_to_the_lowest_index(dtype, backend):
    rng = np.random.default_rng(0)
    values, rows = rng.normal(size=(40, 7)).astype(dtype), rng.normal(size=(50, 7)) * 1e16
    rows = rows.astype(dtype)
    index, _ = select(backend).nearest(rows, Centers(values, Distance.SQUARED_EUCLIDEAN))
    differences = rows.astype(np.float64)[:, None] - values.astype(np.float64)
    expected = np.add.reduce(differences**2, axis=2).argmin(axis=1)
    assert index.tolist() == expected.tolist()

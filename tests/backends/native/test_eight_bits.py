"""First scores in 8 bits: their error is known, and no bit of a result depends on them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from dkmeans.backends import numpy as by_numpy
from dkmeans.backends.native import backend as native
from dkmeans.backends.native import eight_bits, packed_bytes, packed_centers, packing, processor
from dkmeans.backends.native.scratch import ScratchPerThread
from dkmeans.distance import Centers, Distance
from tests.exactly import same_partial_sums


@pytest.fixture(scope="module", params=["vectors", "matrix"])
def unit(request):
    """Unit that computes first scores in 8 bits, for any problem."""
    has_products = (
        processor.matrix_unit if request.param == "matrix" else processor.multiplies_bytes
    )
    if not has_products():
        pytest.skip("this processor does not multiply bytes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processor, "matrix_unit", lambda: request.param == "matrix")
        patch.setattr(packing, "_is_large", lambda k, d: True)
        patch.setattr(packed_bytes, "_gains_by_bytes", lambda k, d, with_matrix: True)
        # Of coarse scores too: no other scoring takes their place.
        patch.setattr(packed_centers, "_AMBIGUOUS_SHARE", np.inf)
        patch.setattr(packed_centers, "takes_long_again", lambda *_: False)
        yield request.param


@njit
def score(rows, width, centers, halves, scratch, ranked, panels, tile):
    """Compute the first scores of a tile and one panel, as `kernels` does."""
    eight_bits.round_rows(rows, width, scratch.quads, scratch.steps, scratch.losses, tile)
    for place in range(len(scratch.steps)):
        scratch.steps[place] *= centers.step
    eight_bits.score_panel(
        scratch.quads, scratch.steps, centers.quads, centers.offsets, halves, 0, -(-width // 4),
        ranked, panels, scratch.minima, tile,
    )  # fmt: skip


@pytest.mark.parametrize("width", [1, 7, 40])
@pytest.mark.parametrize("unit", ["vectors"], indirect=True)
def test_the_error_of_first_scores_is_within_what_rounding_loses(unit, width):
    rng = np.random.default_rng(width)
    centers = Centers(rng.normal(size=(2, width)).astype("f"), Distance.SQUARED_EUCLIDEAN)
    tile, packed = packed_centers.PackedCentersCache()(centers, np.dtype("f"))
    scratch = ScratchPerThread()(tile, packed)
    rows = rng.normal(size=(len(scratch.indices), width)).astype("f")
    rows[1], rows[2] = 0, 1e-38
    scratch.ranked[:] = np.inf
    score(
        rows.T.ravel(), width, packed.in_bytes, packed.halves, scratch.in_bytes, scratch.ranked,
        scratch.panels, tile,
    )  # fmt: skip
    losses, first = np.sqrt(scratch.in_bytes.losses.astype(float)), scratch.in_bytes.minima[0]
    assert losses[1] == 0
    assert (losses <= np.abs(rows).max(axis=1) / 254 * np.sqrt(width) * 1.001 + 1e-19).all()
    values = packed.exact - packed.shift
    scores = packed.halves[:2] - rows.astype(float) @ values.T
    norms, largest = np.linalg.norm(rows, axis=1), np.linalg.norm(values, axis=1).max()
    errors = losses * largest + (norms + losses) * packed.in_bytes.largest_loss
    assert (np.abs(first - scores.min(axis=1)) <= errors + 1e-5 * (1 + norms)).all()
    assert (scratch.ranked[0] == first).all()


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
    ("unit", "metric", "dtype"),
    [
        ("vectors", "squared_euclidean", "f"),
        ("vectors", "cosine", "d"),
        ("matrix", "squared_euclidean", "f"),
    ],
    indirect=["unit"],
)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    d=st.integers(1, 40),
    k=st.integers(1, 150),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_clusters_and_sums_have_the_bits_of_numpys(unit, metric, dtype, kind, d, k, seed):
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

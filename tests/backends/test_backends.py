"""Every implementation against `tests.reference`: indices and sums exactly, distances nearly."""

import shutil
import sys
import tracemalloc
from dataclasses import replace
from fractions import Fraction
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkmeans import Invalid
from dkmeans.backends import select
from dkmeans.backends.cuda.launches import Launches
from dkmeans.backends.native import backend as native_backend
from dkmeans.backends.native import packed_bytes, packed_centers, packing, processor
from dkmeans.distance import Centers, Distance, directions
from dkmeans.exact import of_rows
from dkmeans.exact_grid import NotFinite
from dkmeans.exact_total import total_of_squares
from dkmeans.loss import inertia
from dkmeans.state import on_host, sum_up
from tests import reference
from tests.exactly import floats, same_partial_sums, same_sums
from tests.host_device import HostDevice
from tests.reference import COSINE, EUCLIDEAN, METRICS

DTYPES = (np.float32, np.float64)

# Every test here runs for every implementation. The native backend is also tested
# * with the vectors of other processors, which LLVM breaks up into those of this one, and
# * with the matrix unit, or first scores in 8 bits, on problems too small to gain from them.
# The CUDA kernels run on the host, and on a GPU if there is one.
BACKENDS = (
    "numpy",
    "native",
    "native with 16 bytes",
    "native with 32 bytes",
    "native with 64 bytes",
    "native with a matrix unit",
    "native with first scores in 8 bits",
    "native with scores as wide as the rows",
    "cuda on the host",
    *(["cuda"] if find_spec("cupy") else []),
)
# Each module once, for what does not depend on vectors and scores.
EACH_MODULE = [name for name in BACKENDS if " with " not in name]


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request, compiled):
    if request.param == "cuda on the host":
        if shutil.which("g++") is None:
            pytest.skip("no C++ compiler")
        yield Launches(HostDevice(compiled))
        return
    if request.param == "cuda":
        try:
            yield select("cuda")
        except Invalid as error:
            pytest.skip(str(error))
        return
    name, _, width = request.param.partition(" with ")
    with pytest.MonkeyPatch.context() as patch:
        if name == "native":  # which scoring problems of other parameters are left to is kept
            patch.setattr(native_backend, "_packed_centers", packed_centers.PackedCentersCache())
        if width == "a matrix unit":
            if not processor.matrix_unit():
                pytest.skip("this processor has no matrix unit")
            patch.setattr(packing, "_is_large", lambda k, d: True)
        elif width == "first scores in 8 bits":
            if not processor.multiplies_bytes():
                pytest.skip("this processor does not multiply bytes")
            patch.setattr(processor, "matrix_unit", lambda: False)
            patch.setattr(packed_bytes, "_gains_by_bytes", lambda tile, k, d: True)
        elif width == "scores as wide as the rows":
            patch.setattr(
                packed_centers, "scorings", lambda dtype: (packing.Scoring(dtype, False),)
            )
        elif width:
            patch.setattr(processor, "vector_bytes", lambda: int(width.split()[0]))
            patch.setattr(processor, "matrix_unit", lambda: False)
        yield select(name)


def centers_of(values, metric):
    return Centers(np.asarray(values), Distance(metric))


def wide(backend):
    """Return a number of columns that is large for a backend."""
    # The tensor cores of the host need a second for 9000 columns.
    return 601 if isinstance(backend, Launches) else 9001


def sums_of(backend, rows, centers):
    """Return partial sums with squares, on the host; on a GPU the sums stay there at first."""
    sums = on_host(backend.partial_sums(rows, centers))
    if centers.distance is Distance.COSINE:
        return sums
    return replace(sums, squares=backend.squares(rows))


def loss_of(backend, rows, centers):
    """Return the loss as it follows from the partial sums."""
    return inertia(sums_of(backend, rows, centers), centers)


def assert_nearest(index, rows, centers, metric):
    """Check nearest centers. By cosine, rounding may decide between almost equal distances."""
    expected, least = reference.nearest(rows, centers, metric)
    assert index.dtype == np.int64
    if metric == EUCLIDEAN:
        assert index.tolist() == expected.tolist()
        return
    distances = reference.distances(rows, centers, metric)[np.arange(len(rows)), index]
    np.testing.assert_allclose(distances, least, rtol=0, atol=1e-15 * np.shape(rows)[1])
    directions = [tuple(center) for center in reference.units(centers)]
    first = [directions.index(direction) for direction in directions]
    assert all(first[j] == j for j in index)


def assert_sums(backend, found, rows, centers, metric):
    """Check exact sums, given the nearest centers, which other tests check."""
    index, distances = backend.nearest(rows, centers_of(centers, metric))
    points = rows
    if metric == COSINE:  # directions are rounded to multiples of 2^-45
        points = np.rint(directions(np.asarray(rows)) * 2.0**45) * 2.0**-45
    assert same_sums(found.sums, of_rows(points, index, len(centers)))
    assert found.counts.dtype == np.int64
    assert found.counts.tolist() == np.bincount(index, minlength=len(centers)).tolist()
    if metric == EUCLIDEAN:
        assert found.squares == total_of_squares(np.ravel(rows))
    # Each float64 distance is rounded d times, and each direction once to 2^-45. The loss comes
    # from sums that are good to 2^-95 of their terms, which may cancel to nothing.
    least = 4e-14 * len(rows) if metric == COSINE else 1e-26 * float(found.squares)
    rounding = {"rtol": 1e-14, "atol": least}
    loss = inertia(found, centers_of(centers, metric))
    np.testing.assert_allclose(loss, distances.sum(), **rounding)


@st.composite
def problems(draw, metrics=METRICS):
    """Draw rows and centers of one dtype. Some are equal, among themselves and to each other."""
    n, d, k = draw(st.integers(1, 40)), draw(st.integers(1, 6)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["small integers", "normal", "shifted"]))
    pool = {
        "small integers": lambda: rng.integers(-2, 3, (n + k, d)),
        "normal": lambda: rng.normal(size=(n + k, d)),
        "shifted": lambda: rng.normal(size=(n + k, d)) + rng.normal(size=d) * 100,
    }[kind]()
    pool = pool.astype(draw(st.sampled_from(DTYPES)))
    rows, centers = pool[rng.integers(0, n + k, n)], pool[rng.integers(0, n + k, k)]
    return rows, centers, draw(st.sampled_from(metrics))


@given(problems())
def test_nearest_centers_and_their_distances_are_the_references(backend, problem):
    rows, centers, metric = problem
    index, distances = backend.nearest(rows, centers_of(centers, metric))
    assert_nearest(index, rows, centers, metric)
    assert distances.dtype == np.float64
    _, expected = reference.nearest(rows, centers, metric)
    np.testing.assert_allclose(distances, expected, rtol=1e-13, atol=4e-15)
    assert (distances >= 0).all()


@given(problems())
def test_partial_sums_are_the_references(backend, problem):
    rows, centers, metric = problem
    found = sums_of(backend, rows, centers_of(centers, metric))
    assert_sums(backend, found, rows, centers, metric)
    if metric == EUCLIDEAN:
        sums, counts = reference.partial_sums(rows, centers, metric)
        assert found.counts.tolist() == counts.tolist()
        # The reference adds up with `math.fsum`, which rounds once.
        assert floats(found.sums).tolist() == sums.tolist()


@given(problems())
def test_distances_are_the_references_to_float32_precision(backend, problem):
    rows, centers, metric = problem
    found = backend.distances(rows, centers_of(centers, metric))
    assert (found.shape, found.dtype) == ((len(rows), len(centers)), np.float32)
    expected = reference.distances(rows, centers, metric)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    assert (found >= 0).all()


@given(problems(metrics=(EUCLIDEAN,)), st.integers(1, 30))
def test_rows_halfway_between_centers_go_to_the_lowest_index(backend, problem, spread):
    _, centers, metric = problem
    centers = np.round(centers) * 2 * spread
    first, second = np.meshgrid(np.arange(len(centers)), np.arange(len(centers)))
    rows = (centers[first.ravel()] + centers[second.ravel()]) / 2
    index, _ = backend.nearest(rows, centers_of(centers, metric))
    assert_nearest(index, rows, centers, metric)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_of_equal_centers_the_first_is_the_nearest(backend, metric, dtype):
    rng = np.random.default_rng(3)
    rows, distinct = rng.normal(size=(200, 5)).astype(dtype), rng.normal(size=(7, 5)).astype(dtype)
    index, _ = backend.nearest(rows, centers_of(np.tile(distinct, (4, 1)), metric))
    expected, _ = reference.nearest(rows, distinct, metric)
    assert index.tolist() == expected.tolist()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("steps", [1, 2, 16])
def test_of_almost_equal_centers_the_nearer_is_found(backend, steps, dtype):
    offsets = 1 + steps * np.finfo(dtype).eps * np.arange(6, -1, -1)
    for row in (0.0, 0.25, -3.0):
        # Two centers are far away. Without them the shift would be the mean of the close centers,
        # and the rounding errors of the scores would be too small for this test.
        centers = np.array([-50, *(row + offsets), 70], dtype)[:, None]
        rows = np.array([[row]], dtype)
        index, _ = backend.nearest(rows, centers_of(centers, EUCLIDEAN))
        assert index.tolist() == reference.nearest(rows, centers, EUCLIDEAN)[0].tolist()


@pytest.mark.parametrize("dtype", DTYPES)
def test_of_centers_in_one_direction_the_first_is_the_nearest_by_cosine(backend, dtype):
    rng = np.random.default_rng(4)
    rows, distinct = rng.normal(size=(100, 3)).astype(dtype), rng.normal(size=(5, 3)).astype(dtype)
    longer = np.concatenate([distinct * scale for scale in (1, 2, 0.25, 64)]).astype(dtype)
    index, _ = backend.nearest(rows, centers_of(longer, COSINE))
    expected, _ = reference.nearest(rows, distinct, COSINE)
    assert index.tolist() == expected.tolist()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("n", "d", "k"), [(1, 1, 1), (1, 3, 5), (9, 1, 4), (3, 2, 50), (30, 4, 1)])
def test_the_smallest_shapes_are_right(backend, n, d, k, metric):
    rng = np.random.default_rng(n + d + k)
    rows, centers = rng.normal(size=(n, d)).astype("f"), rng.normal(size=(k, d)).astype("f")
    index, _ = backend.nearest(rows, centers_of(centers, metric))
    assert_nearest(index, rows, centers, metric)
    assert_sums(backend, sums_of(backend, rows, centers_of(centers, metric)), rows, centers, metric)
    expected = reference.distances(rows, centers, metric)
    found = backend.distances(rows, centers_of(centers, metric))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


# A kernel of its own finds the second nearest center, which takes some seconds to compile. How rows
# of each dtype are scored by vectors of each width is tested without it. On a GPU, NumPy's function
# ranks the distances.
WITH_SECOND = [
    ("numpy", np.float32),
    ("native", np.float32),
    ("native", np.float64),
    ("native with 16 bytes", np.float32),
    ("native with a matrix unit", np.float32),
    ("native with scores as wide as the rows", np.float64),
]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("backend", "dtype"), WITH_SECOND, indirect=["backend"])
@pytest.mark.parametrize(("k", "d"), [(2, 1), (130, 20), (200, 7)])
def test_the_two_nearest_centers_are_the_references(backend, metric, dtype, k, d):
    rng = np.random.default_rng(k)
    rows = rng.normal(size=(60, d)).astype(dtype)
    centers = rng.normal(size=(k, d)).astype(dtype)
    # Some centers are equal, and some nearly: the lower index, or the nearer center, comes first.
    # Three are scored apart from one another.
    centers[k // 2] = centers[k // 3] = centers[0]
    centers[k // 3, 0] += dtype(1e-3)
    centers[k // 4] = centers[k - 1]
    centers[k // 4, 0] += dtype(1e-3)
    rows[:2] = centers[0], centers[k - 1]
    distances = reference.distances(rows, centers, metric)
    order = np.lexsort((np.broadcast_to(np.arange(k), distances.shape), distances))[:, :2]
    index, found = backend.nearest_two(rows, centers_of(centers, metric))
    assert np.array_equal(index, order)
    expected = np.take_along_axis(distances, order, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
    nearest = backend.nearest(rows, centers_of(centers, metric))
    assert np.array_equal(index[:, 0], nearest[0])
    assert np.array_equal(found[:, 0], nearest[1])
    sums, first, both = backend.assign_two(rows, centers_of(centers, metric))
    assert same_sums(sums.sums, sums_of(backend, rows, centers_of(centers, metric)).sums)
    assert (first.tolist(), both.T.tobytes()) == (index[:, 0].tolist(), found.tobytes())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_assign_gives_the_bits_of_partial_sums_and_nearest(backend, metric, dtype):
    rng = np.random.default_rng(12)
    rows, centers = (rng.normal(size=(n, 5)).astype(dtype) for n in (300, 7))
    sums, index, distances = backend.assign(rows, centers_of(centers, metric))
    alone = sums_of(backend, rows, centers_of(centers, metric))
    nearest, least = backend.nearest(rows, centers_of(centers, metric))
    assert same_sums(sums.sums, alone.sums)
    assert sums.counts.tobytes() == alone.counts.tobytes()
    assert (index.tobytes(), distances.tobytes()) == (nearest.tobytes(), least.tobytes())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [1e4, 1e6])
def test_an_offset_that_all_rows_share_costs_no_precision(backend, offset, dtype):
    rng = np.random.default_rng(5)
    rows = (rng.normal(size=(400, 3)) + offset).astype(dtype)
    centers = rows[:10]
    index, distances = backend.nearest(rows, centers_of(centers, EUCLIDEAN))
    expected, least = reference.nearest(rows, centers, EUCLIDEAN)
    assert index.tolist() == expected.tolist()
    np.testing.assert_allclose(distances, least, rtol=1e-12)
    everything = backend.distances(rows, centers_of(centers, EUCLIDEAN))
    assert (everything >= 0).all()
    np.testing.assert_allclose(
        everything, reference.distances(rows, centers, EUCLIDEAN), rtol=1e-6, atol=1e-9
    )
    found = sums_of(backend, rows, centers_of(centers, EUCLIDEAN))
    sums, counts = reference.partial_sums(rows, centers, EUCLIDEAN)
    assert found.counts.tolist() == counts.tolist()
    assert floats(found.sums).tolist() == sums.tolist()
    loss = loss_of(backend, rows, centers_of(centers, EUCLIDEAN))
    np.testing.assert_allclose(loss, least.sum(), rtol=1e-14)


def test_close_rows_are_distinguished_in_two_groups_far_from_each_other(backend):
    rng = np.random.default_rng(6)
    groups = [rng.normal(size=(60, 2)) - 1e6, rng.normal(size=(60, 2)) + 1e6]
    rows = np.concatenate(groups).astype(np.float32)
    centers = rows[::15]
    index, distances = backend.nearest(rows, centers_of(centers, EUCLIDEAN))
    expected, least = reference.nearest(rows, centers, EUCLIDEAN)
    assert index.tolist() == expected.tolist()
    np.testing.assert_allclose(distances, least, rtol=1e-12)
    everything = backend.distances(rows, centers_of(centers, EUCLIDEAN))
    nearest = everything[np.arange(len(rows)), index]
    np.testing.assert_allclose(nearest, least, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_float32_rows_of_1e30_give_finite_and_right_sums(backend, metric):
    rng = np.random.default_rng(7)
    rows = (rng.normal(size=(50, 3)) * 1e30).astype(np.float32)
    centers = rows[:4]
    index, distances = backend.nearest(rows, centers_of(centers, metric))
    assert_nearest(index, rows, centers, metric)
    assert np.isfinite(distances).all()
    found = sums_of(backend, rows, centers_of(centers, metric))
    assert_sums(backend, found, rows, centers, metric)
    loss = loss_of(backend, rows, centers_of(centers, metric))
    np.testing.assert_allclose(loss, reference.loss(rows, centers, metric), rtol=1e-12)


def test_float32_distances_of_1e15_rows_are_right(backend):
    rng = np.random.default_rng(8)
    rows = (rng.normal(size=(20, 3)) * 1e15).astype(np.float32)
    found = backend.distances(rows, centers_of(rows[:4], EUCLIDEAN))
    expected = reference.distances(rows, rows[:4], EUCLIDEAN)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e18)


def test_tiny_rows_are_distinguished(backend):
    rng = np.random.default_rng(9)
    for dtype, scale in ((np.float32, 1e-18), (np.float32, 1e-30), (np.float64, 1e-140)):
        rows = (rng.normal(size=(50, 3)) * scale).astype(dtype)
        index, _ = backend.nearest(rows, centers_of(rows[:5], EUCLIDEAN))
        assert index.tolist() == reference.nearest(rows, rows[:5], EUCLIDEAN)[0].tolist()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_zero_row_is_at_distance_one_from_every_center_and_goes_to_the_first(backend, dtype):
    rows = np.zeros((3, 4), dtype)
    centers = centers_of(np.random.default_rng(0).normal(size=(5, 4)).astype(dtype), COSINE)
    index, distances = backend.nearest(rows, centers)
    assert index.tolist() == [0, 0, 0]
    assert distances.tolist() == [1, 1, 1]
    assert (backend.distances(rows, centers) == 1).all()
    found = sums_of(backend, rows, centers)
    assert inertia(found, centers) == 3
    assert found.counts.tolist() == [3, 0, 0, 0, 0]
    assert not floats(found.sums).any()


def test_a_zero_center_is_at_distance_one_from_every_row(backend):
    rows = np.array([[1, 0], [-1, 0], [0, 0]], np.float32)
    centers = centers_of(np.array([[0, 0], [1, 0]], np.float32), COSINE)
    index, distances = backend.nearest(rows, centers)
    assert index.tolist() == [1, 0, 0]
    assert distances.tolist() == [0, 1, 1]
    assert backend.distances(rows, centers).tolist() == [[1, 0], [1, 2], [1, 1]]
    assert loss_of(backend, rows, centers) == 2


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_block_borders_change_no_result(backend, dtype, metric):
    rng = np.random.default_rng(10)
    rows, centers = rng.normal(size=(1000, 3)), rng.normal(size=(300, 3))
    rows, centers = rows.astype(dtype), centers_of(centers.astype(dtype), metric)
    index, distances = backend.nearest(rows, centers)
    everything = backend.distances(rows, centers)
    for start, size in ((0, 7), (850, 1), (850, 150), (871, 7), (999, 1)):
        part = slice(start, start + size)
        part_index, part_distances = backend.nearest(rows[part], centers)
        assert part_index.tolist() == index[part].tolist()
        assert part_distances.tolist() == distances[part].tolist()
        part_everything = backend.distances(rows[part], centers)
        np.testing.assert_allclose(part_everything, everything[part], rtol=1e-6, atol=1e-12)
    sample = slice(860, 880)
    assert_nearest(index[sample], rows[sample], centers.values, metric)
    assert_sums(backend, sums_of(backend, rows, centers), rows, centers.values, metric)


@given(problems(), st.data())
def test_rows_in_any_order_and_parts_have_the_same_sums(backend, problem, data):
    rows, values, metric = problem
    centers = centers_of(values, metric)
    cut = data.draw(st.integers(0, len(rows)))
    order = data.draw(st.permutations(range(len(rows))))
    parts = [part for part in (rows[order[:cut]], rows[order[cut:]]) if len(part)]
    added = on_host(sum_up(backend.partial_sums(part, centers) for part in parts))
    assert same_partial_sums(added, on_host(backend.partial_sums(rows, centers)))
    assert (
        added.counts.tolist()
        == np.bincount(backend.nearest(rows, centers)[0], minlength=len(values)).tolist()
    )


# Rows of which many values do not lie on the grid.
HARD = {
    "Cauchy": lambda rng, n, d: rng.standard_cauchy((n, d)),
    "forty decades": lambda rng, n, d: np.exp(rng.uniform(-46, 46, (n, d))),
    "one huge column": lambda rng, n, d: rng.normal(size=(n, d)) * ([1e9] + [1.0] * (d - 1)),
    "an offset": lambda rng, n, d: rng.normal(size=(n, d)) + 1e6,
    "mostly zeros": lambda rng, n, d: np.where(rng.random((n, d)) < 0.02, 1e-3, -0.0),
    "subnormal": lambda rng, n, d: rng.normal(size=(n, d)) * 1e-40,
    "one large row": lambda rng, n, d: (
        np.full((n, d), 1 / 3) + 1e15 * (np.arange(n)[:, None] == 77)
    ),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", HARD)
def test_rows_off_the_grid_are_added_up_exactly_too(backend, kind, dtype):
    rows = HARD[kind](np.random.default_rng(17), 200, 9).astype(dtype)
    centers = rows[::37]
    found = sums_of(backend, rows, centers_of(centers, EUCLIDEAN))
    assert_sums(backend, found, rows, centers, EUCLIDEAN)


def test_more_rows_than_a_plane_can_hold_at_the_top_of_the_window_are_added_up_exactly(backend):
    # All values are the largest on the grid of the first rows; 2^17 of them are 2^63 of its units.
    rows = np.full((2**17 + 5, 1), 2.0**8 - 2.0**-16, np.float32)
    rows[:: len(rows) // 32] = 1.0
    centers = centers_of(np.zeros((1, 1), np.float32), EUCLIDEAN)
    part = on_host(backend.partial_sums(rows, centers))
    total = sum_up([part] * 5)
    ones = int((rows == 1).sum())
    expected = ones + (len(rows) - ones) * Fraction(float(rows[1, 0]))
    assert total.sums.exact(0, 0) == 5 * expected


@given(problems(), st.integers(0, 2**32))
def test_permuting_rows_permutes_their_nearest_centers(backend, problem, seed):
    rows, values, metric = problem
    centers = centers_of(values, metric)
    order = np.random.default_rng(seed).permutation(len(rows))
    index, distances = backend.nearest(rows, centers)
    permuted_index, permuted_distances = backend.nearest(rows[order], centers)
    assert permuted_index.tolist() == index[order].tolist()
    assert permuted_distances.tolist() == distances[order].tolist()


@pytest.mark.parametrize("metric", METRICS)
def test_wide_rows_are_right(backend, metric):
    rng, d = np.random.default_rng(11), wide(backend)
    rows, centers = rng.normal(size=(5, d)).astype("f"), rng.normal(size=(3, d)).astype("f")
    index, _ = backend.nearest(rows, centers_of(centers, metric))
    assert_nearest(index, rows, centers, metric)
    assert_sums(backend, sums_of(backend, rows, centers_of(centers, metric)), rows, centers, metric)


@pytest.mark.parametrize("metric", METRICS)
def test_a_row_among_wide_ones_has_the_same_distance_alone(backend, metric):
    rng, d = np.random.default_rng(12), wide(backend)
    rows, values = rng.normal(size=(12, d)).astype("f"), rng.normal(size=(3, d)).astype("f")
    centers = centers_of(values, metric)
    _, together = backend.nearest(rows, centers)
    alone = [backend.nearest(rows[i : i + 1], centers)[1][0] for i in range(len(rows))]
    assert together.tolist() == alone


@pytest.mark.parametrize("backend", EACH_MODULE, indirect=True)
@pytest.mark.parametrize("metric", METRICS)
def test_rows_and_centers_may_have_different_dtypes(backend, metric):
    rng = np.random.default_rng(13)
    rows, centers = rng.normal(size=(60, 3)), rng.normal(size=(5, 3))
    for one, other in ((rows.astype("f"), centers), (rows, centers.astype("f"))):
        index, _ = backend.nearest(one, centers_of(other, metric))
        assert_nearest(index, one, other, metric)
        assert_sums(backend, sums_of(backend, one, centers_of(other, metric)), one, other, metric)


@pytest.mark.parametrize("metric", METRICS)
def test_arguments_are_not_changed(backend, metric):
    rng = np.random.default_rng(14)
    rows, centers = rng.normal(size=(60, 3)).astype("f"), rng.normal(size=(5, 3)).astype("f")
    before = rows.copy(), centers.copy()
    for function in (backend.partial_sums, backend.nearest, backend.distances):
        function(rows, centers_of(centers, metric))
    backend.squares(rows)
    np.testing.assert_array_equal(rows, before[0])
    np.testing.assert_array_equal(centers, before[1])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("metric", METRICS)
def test_rows_that_are_not_finite_are_refused(backend, metric, bad):
    rows = np.random.default_rng(15).normal(size=(40, 3)).astype("f")
    centers = centers_of(rows[:5].copy(), metric)
    rows[17, 1] = bad
    with np.errstate(all="ignore"):
        with pytest.raises(NotFinite):
            on_host(backend.partial_sums(rows, centers))
        if metric == EUCLIDEAN:
            with pytest.raises(NotFinite):
                backend.squares(rows)
        assert not np.isfinite(backend.nearest(rows, centers)[1][17])


@pytest.mark.parametrize("metric", METRICS)
def test_nothing_as_large_as_rows_times_centers_is_allocated(backend, metric):
    n, d, k = 100_000, 4, 128
    rng = np.random.default_rng(16)
    rows = rng.normal(size=(n, d)).astype(np.float32)
    centers = centers_of(rows[:k], metric)
    tracemalloc.start()
    try:
        sums_of(backend, rows, centers)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < n * k * 4 / 3


def test_a_backend_asked_for_by_name_is_never_replaced_by_another(monkeypatch):
    monkeypatch.setitem(sys.modules, "dkmeans.backends.cuda.backend", None)
    select.cache_clear()
    with pytest.raises(Invalid, match="backend 'cuda' cannot be used on this machine: "):
        select("cuda")


def test_an_unknown_backend_is_refused_with_the_names_of_all():
    with pytest.raises(Invalid, match="one of cuda, native, numpy"):
        select("fortran")

"""Bounds: with them, every iteration has the clusters and sums of an iteration without them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkmeans.backends.native import backend as native
from dkmeans.backends.native import bounds
from dkmeans.backends.native.bounds import Bounds, Waiting
from dkmeans.backends.native.runner import kernel_array
from dkmeans.distance import Centers, Distance
from dkmeans.exact_grid import PIECE_ROWS, NotFinite
from tests.exactly import same_partial_sums
from tests.reference import METRICS

EUCLIDEAN = Distance.SQUARED_EUCLIDEAN
N = 3000


def normal(seed=5, shape=(N, 20)):
    return np.random.default_rng(seed).normal(size=shape)


KINDS = {
    "overlapping": lambda: normal(),
    "blobs": lambda: normal() + 8 * normal(6, (40, 20))[np.arange(N) % 40],
    "integers with ties": lambda: np.random.default_rng(5).integers(0, 4, (N, 8)),
    "duplicates": lambda: np.repeat(normal(shape=(N // 10, 20)), 10, axis=0),
    "an offset of 1e6": lambda: 1e6 + normal(),
    "cauchy": lambda: np.random.default_rng(5).standard_cauchy((N, 24)),
    "one huge column": lambda: normal() * np.r_[1e5, np.ones(19)],
    "constant columns": lambda: np.c_[np.zeros((N, 10)), np.full((N, 6), 7), normal()],
    "tiny": lambda: normal() * 1e-15,
    "subnormal": lambda: normal() * 1e-39,
    "bytes": lambda: np.random.default_rng(5).integers(0, 256, (N, 33)),
    "equal rows": lambda: np.ones((N, 20)),
    "one column": lambda: normal(shape=(N, 1)),
    "zero rows": lambda: normal() * (np.arange(N) % 7 > 0)[:, None],
    "some values off the grid": lambda: (
        normal() * 10.0 ** np.where(np.arange(N) % 90, 0, 12)[:, None]
    ),
}


def moved(sums, centers):
    """Return the centers of the next iteration of Lloyd's algorithm."""
    means = sums.sums.means(sums.counts)
    values = np.where(sums.counts[:, None] > 0, means, centers.values)
    return Centers(values.astype(centers.values.dtype), centers.distance)


def begin(rows, centers, *, with_sums=True):
    return bounds.begin(rows, centers, Waiting(), "a fit", with_sums=with_sums)


def follow(rows, centers, iterations, move=moved):
    """Check iterations by bounds, with sums and without, against iterations without bounds.

    Yields:
        The bounds of each iteration.
    """
    found = without = None
    for _ in range(iterations):
        expected = native.partial_sums(rows, centers)
        if found is None:
            result, unsummed = begin(rows, centers), begin(rows, centers, with_sums=False)
        else:
            result = bounds.advance(rows, centers, found)
            unsummed = bounds.advance(rows, centers, without)
        assert same_partial_sums(result.bounds.sums, expected)
        index = native.nearest(rows, centers)[0].tolist()
        assert result.bounds.nearest.tolist() == unsummed.bounds.nearest.tolist() == index
        sizes = [sum(p.rows.sizes for p in each.bounds.pieces) for each in (result, unsummed)]
        assert sizes[0].tolist() == sizes[1].tolist() == expected.counts.tolist()
        found, without = result.bounds, unsummed.bounds
        yield found
        centers = move(expected, centers)


def rows_of(kind, dtype):
    rows = kernel_array(KINDS[kind]().astype(dtype))
    assert np.isfinite(rows).all()
    return rows


def first_centers(rows, k, metric=EUCLIDEAN):
    chosen = np.random.default_rng(1).choice(len(rows), k, replace=False)
    return Centers(rows[chosen].copy(), Distance(metric))


@pytest.fixture(autouse=True)
def bounds_are_always_kept(monkeypatch):
    # No path of another test, whose bounds may not be collected yet.
    monkeypatch.setattr(bounds, "_courses", bounds.Courses())
    monkeypatch.setattr(bounds, "_USELESS_SHARE", 9.0)
    monkeypatch.setattr(bounds, "_MOST_SLOW", 99.0)


# 130 centers are compared group by group, whatever the number of columns.
@pytest.mark.parametrize("k", [9, 130])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_every_iteration_has_the_sums_of_one_without_bounds(kind, dtype, k):
    rows = rows_of(kind, dtype)
    for _ in follow(rows, first_centers(rows, k), 8):
        pass


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("kind", "k"), [("overlapping", 45), ("integers with ties", 100), ("one column", 70)]
)
def test_few_products_of_several_groups_have_them_too(kind, k, dtype):
    rows = rows_of(kind, dtype)
    for found in follow(rows, first_centers(rows, k), 8):
        assert found.stage.groups > 1
        assert found.work == 0


@pytest.mark.parametrize("k", [9, 70])
@pytest.mark.parametrize("kind", ["overlapping", "blobs", "duplicates", "tiny", "zero rows"])
def test_cosine_has_them_too(kind, k):
    rows = rows_of(kind, np.float32)
    directed = rows[np.linalg.norm(rows, axis=1) > 1e-5]
    centers = first_centers(directed if len(directed) > k else rows, k, Distance.COSINE)
    if bounds.can_group(centers):
        for _ in follow(rows, centers, 8):
            pass


@given(
    seed=st.integers(0, 2**32),
    n=st.integers(1, 200),
    d=st.integers(1, 40),
    k=st.integers(1, 50),
    digits=st.integers(0, 3),
    metric=st.sampled_from(METRICS),
)
def test_centers_may_move_in_any_way(seed, n, d, k, digits, metric):
    rng = np.random.default_rng(seed)
    # Rounded values: many ties.
    rows = kernel_array(rng.normal(size=(n, d)).round(digits).astype(np.float32))

    def jump(_, centers):
        step = rng.choice([0, 0.01, 1]) * rng.normal(size=(k, d))
        values = (centers.values + step).astype(np.float32).round(digits)
        values[:, 0] += values[:, 0] == 0  # no center is zero
        return Centers(values, centers.distance)

    centers = jump(None, Centers(np.zeros((k, d), np.float32), Distance(metric)))
    for _ in follow(rows, centers, 5, jump):
        pass


def test_centers_that_are_nearly_as_near_are_told_apart_exactly():
    rows = rows_of("an offset of 1e6", np.float32)
    values = rows[:70].copy()
    values[35:] = values[:35]
    values[35:, 0] += np.float32(0.0625)  # an ulp of these numbers
    for found in follow(rows, Centers(values, EUCLIDEAN), 6):
        assert isinstance(found, Bounds)


def test_bounds_of_an_earlier_iteration_are_good_for_a_later_one():
    rows = rows_of("overlapping", np.float32)
    centers = first_centers(rows, 70)
    early = begin(rows, centers).bounds
    sums = native.partial_sums(rows, centers)
    # Another chunk of the fit has moved the path on meanwhile.
    other = kernel_array(normal(9).astype(np.float32))
    found = begin(other, centers).bounds
    for _ in range(4):
        centers = moved(sums, centers)
        sums = native.partial_sums(rows, centers)
        found = bounds.advance(other, centers, found).bounds
    assert same_partial_sums(bounds.advance(rows, centers, early).bounds.sums, sums)


def test_most_rows_are_skipped_when_centers_hardly_move():
    rows = rows_of("blobs", np.float32)
    found = list(follow(rows, first_centers(rows, 60), 12))
    assert len({each.stage.course for each in found}) == 1
    assert bounds._scratch(found[-1].stage.groups, 20, rows.dtype).counts[0] < N / 10


def test_distances_that_are_not_computed_are_counted():
    rows = rows_of("blobs", np.float32)
    centers = first_centers(rows, 60)
    result = bounds.advance(rows, centers, begin(rows, centers).bounds)
    assert N * 60 * 0.9 < result.skipped <= N * 60
    far = Centers(centers.values[::-1].copy(), EUCLIDEAN)
    assert bounds.advance(rows, far, result.bounds).skipped < N * 60 * 0.9


def test_loose_bounds_are_made_anew():
    rows = rows_of("overlapping", np.float32)
    works = [found.work for found in follow(rows, first_centers(rows, 70), 20)]
    assert 0 in works[1:]
    assert max(works) <= 3 * len(rows) * 70 / 16 + 4 * len(rows)


def test_sums_do_not_change_when_another_task_moves_the_rows_of_cached_bounds():
    rows = rows_of("bytes", np.float32)
    centers = first_centers(rows, 70)
    found = begin(rows, centers).bounds
    sums = found.sums
    before = sums.sums.planes[0].copy()
    bounds.advance(rows, moved(sums, centers), found)
    assert np.array_equal(before, sums.sums.planes[0])


@pytest.mark.parametrize("k", [9, 40, 130])
def test_chunks_of_many_pieces_have_bounds_for_each(k):
    rows = kernel_array(normal(shape=(PIECE_ROWS + 100, 4)).astype(np.float32))
    for found in follow(rows, first_centers(rows, k), 3):
        assert [len(piece.rows.nearest) for piece in found.pieces] == [PIECE_ROWS, 100]


def test_rows_that_are_not_finite_are_reported():
    rows = normal().astype(np.float32)
    rows[17, 3] = np.nan
    with pytest.raises(NotFinite):
        begin(kernel_array(rows), first_centers(rows[:, :], 70))


def test_a_chunk_waits_before_it_gets_bounds_and_longer_after_useless_ones(monkeypatch):
    monkeypatch.setattr(bounds, "_USELESS_SHARE", 0.0)
    monkeypatch.setattr(bounds, "_FEWEST_CHUNK_PRODUCTS", 0)
    rows = normal(shape=(500, 20)).astype(np.float32)
    centers, found, kinds = first_centers(rows, 70), None, []
    for _ in range(16):
        sums, found, _ = native.sums_by_bounds(rows, centers, found, "a fit")
        kinds.append(type(found).__name__)
        centers = moved(sums, centers)
    # Bounds are made in the fifth iteration, and found useless in the sixth.
    assert kinds == ["Waiting"] * 4 + ["Bounds"] + ["Waiting"] * 9 + ["Bounds", "Waiting"]
    assert found.pause == 32


def test_rows_of_which_many_are_off_the_grid_have_no_bounds(monkeypatch):
    monkeypatch.undo()
    rows = rows_of("cauchy", np.float32)
    assert begin(rows, first_centers(rows, 70)) == Waiting(Waiting().pause, 2 * Waiting().pause)


@pytest.mark.parametrize(
    ("n", "d", "k"),
    [
        (20_000, 40, 31),
        (200_000, 7, 130),
        (1000, 100, 100),
        (2000, 10, 1001),
        (20_000, 40, 3),
        (16_000, 40, 16),
    ],
)
def test_few_centers_narrow_rows_and_small_chunks_have_no_bounds(n, d, k):
    rows = normal(shape=(n, d)).astype(np.float32)
    assert native.sums_by_bounds(rows, first_centers(rows, k), None, "a fit")[1:] == (None, 0)


def test_bounds_take_two_bytes_a_group_and_eight_more_for_each_row():
    rows = np.random.default_rng(5).integers(-9, 9, (10_000, 8)).astype(np.float32)
    arguments = kernel_array(rows), first_centers(rows, 512)
    of_rows = 10_000 * (512 // 8 + 8) + 512 * 8
    assert begin(*arguments).bounds.nbytes == of_rows + 512 * 8 * 8
    assert begin(*arguments, with_sums=False).bounds.nbytes == of_rows

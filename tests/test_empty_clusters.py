"""Empty clusters: they are relocated to the farthest rows, which leave their own clusters."""

from uuid import uuid4

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkmeans import Dataset, InvalidData, KMeans, RunConfig, checkpoints
from dkmeans.backends import select
from dkmeans.distance import Centers, Computation, Distance, directions
from dkmeans.empty_clusters import EmptyClusters, fill, sums_and_farthest
from dkmeans.executors import Threads
from dkmeans.lloyd import Rules, iterate
from dkmeans.schedule import Schedule
from dkmeans.state import TrainState, sum_up
from tests import reference
from tests.reference import COSINE, EUCLIDEAN, METRICS

FULL = Schedule.full_batch()
STEP = Schedule.mini_batch(1)
TWO = Schedule.mini_batch(2)


def after(rows, centers, metric=EUCLIDEAN, schedule=FULL, policy="relocate", counts=None):
    """Return the state after an iteration of one batch over these rows."""
    rows, centers = np.asarray(rows), np.asarray(centers)
    counts = np.full(len(centers), int(schedule.keeps_counts)) if counts is None else counts
    batches = list(Dataset.from_array(rows).batches())
    rules = Rules(Computation(Distance(metric)), schedule, EmptyClusters(policy))
    with Threads(1) as threads:
        start = TrainState(centers, np.asarray(counts))
        (((state,), _),) = iterate([start], batches, rules, threads)
    return state


def with_empty(rows, metric, k=7):
    """Return centers of which some have no rows: some are rows, others are far away or equal."""
    far = -np.abs(rows[:2]) * 50 if metric == EUCLIDEAN else rows[:2]
    return np.concatenate([rows[: k - 3], far, rows[:1]]).astype(rows.dtype)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(5))
def test_empty_clusters_move_to_the_farthest_rows_which_leave_their_own(metric, dtype, seed):
    rng = np.random.default_rng(seed)
    rows = (np.abs(rng.normal(size=(40, 3))) + 0.1).astype(dtype)
    rows = np.concatenate([rows, rows[30:], rows[35:]])  # with copies
    centers = with_empty(rows, metric)
    expected, counts = reference.relocating_step(rows, centers, metric)
    assert (counts > 0).all()
    state = after(rows, centers, metric)
    assert state.counts.tolist() == counts.tolist()
    rtol = 1e-6 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(state.centers, expected, rtol=rtol)
    assert state.empty_clusters == state.relocated_clusters == 3
    assert state.inertia == pytest.approx(reference.loss(rows, centers, metric))


cells = st.integers(-3, 3).map(float)


@st.composite
def rows_in_pieces(draw):
    """Draw rows of which many are equal or equally far, and the same rows in pieces."""
    rows = draw(st.lists(st.tuples(cells, cells), min_size=1, max_size=40))
    order = draw(st.permutations(range(len(rows))))
    cuts = sorted(draw(st.sets(st.integers(1, len(rows)), max_size=6)))
    shuffled = np.array(rows, np.float32)[list(order)]
    return np.array(rows, np.float32), [p for p in np.split(shuffled, cuts) if len(p)]


@given(rows_in_pieces(), st.integers(1, 6), st.sampled_from(METRICS))
def test_which_rows_are_farthest_depends_on_no_order_and_no_chunks(case, k, metric):
    rows, pieces = case
    centers = Centers(rows[:: max(1, len(rows) // k)][:k] + np.float32(0.25), Distance(metric))
    whole = sums_and_farthest(rows, centers).farthest
    parts = sum_up([sums_and_farthest(piece, centers) for piece in pieces]).farthest
    for name in ("rows", "distances", "clusters", "copies"):
        assert getattr(whole, name).tobytes() == getattr(parts, name).tobytes()
    if metric == EUCLIDEAN:  # for cosine, rounding decides between equally far rows
        expected = reference.farthest(rows, centers.values, metric)[: len(centers.values)]
        assert whole.rows.tolist() == [row.tolist() for row, *_ in expected]
        assert whole.clusters.tolist() == [cluster for _, _, cluster, _ in expected]
        assert whole.copies.tolist() == [copies for *_, copies in expected]


def test_the_farthest_rows_are_found_behind_thousands_of_copies_of_farther_ones():
    rows = np.repeat(np.arange(6.0), [5000, 4000, 3000, 2000, 1, 1000])[:, None]
    centers = Centers(np.array([[0.0], [90.0], [91.0], [92.0]]), Distance.SQUARED_EUCLIDEAN)
    found = sums_and_farthest(rows, centers).farthest
    assert found.rows.ravel().tolist() == [5.0, 4.0, 3.0, 2.0]
    assert found.copies.tolist() == [1000, 1, 2000, 3000]


def test_copies_of_a_row_move_together_so_that_no_two_centers_coincide():
    rows = [[0.0], [0.0], [0.0], [9.0], [9.0]]
    state = after(rows, [[1.0], [50.0]])
    assert state.centers.tolist() == [[0.0], [9.0]]
    assert state.counts.tolist() == [3, 2]


def test_no_cluster_loses_its_last_row():
    rows = [[0.0], [10.0], [11.0]]
    # 10 and 11 have a center each that is far from them, and 0 is the only row of its center.
    state = after(rows, [[0.0], [10.25], [11.5], [70.0]])
    assert state.counts.tolist() == [1, 1, 1, 0]
    assert (state.empty_clusters, state.relocated_clusters) == (1, 0)
    assert state.centers[3] == 70.0


def test_as_many_clusters_move_as_there_are_different_rows_to_spare():
    rows = [[0.0], [0.0], [3.0], [5.0]]
    state = after(rows, [[1.0], [80.0], [81.0], [82.0], [83.0]])
    assert state.centers.ravel().tolist() == [0.0, 5.0, 3.0, 82.0, 83.0]
    assert (state.empty_clusters, state.relocated_clusters) == (4, 2)


def test_a_row_at_its_center_is_no_place_for_another():
    state = after([[2.0], [2.0], [2.0]], [[2.0], [90.0]])
    assert state.centers.ravel().tolist() == [2.0, 90.0]


def test_relocated_clusters_make_the_loss_fall():
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(500, 4)).astype(np.float32)
    centers = np.concatenate([rows[:3], np.full((5, 4), 1e3)]).astype(np.float32)
    state = after(rows, centers)
    losses = [reference.loss(rows, c, EUCLIDEAN) for c in (state.centers, centers)]
    assert losses[0] < 0.8 * losses[1]


def test_running_means_relocate_only_centers_that_never_had_rows_and_begin_anew():
    rows = [[0.0], [1.0], [8.0]]
    # The second center had rows in earlier steps and none in this one; the third never had any.
    state = after(rows, [[0.5], [40.0], [50.0]], schedule=STEP, counts=[1, 5, 1])
    assert state.centers.ravel().tolist() == pytest.approx([(0.5 + 0 + 1) / 3, 40.0, 8.0])
    assert state.counts.tolist() == [3, 5, 2]
    assert (state.empty_clusters, state.relocated_clusters) == (2, 1)


def test_a_center_that_was_relocated_is_not_relocated_again_for_want_of_rows():
    first = after([[0.0], [1.0], [8.0]], [[0.5], [50.0]], schedule=STEP)
    second = after([[0.0], [1.0]], first.centers, schedule=STEP, counts=first.counts)
    assert second.centers[1] == 8.0
    assert second.relocated_clusters == 0


def model(model_dir=None, k=6, **more):
    more.setdefault("empty_clusters", "relocate")
    more.setdefault("initial_clusters", np.full((k, 3), 30.0) + np.arange(k)[:, None])
    return KMeans(k, model_dir or f"memory://{uuid4().hex}", **more)


def batches_of(number=8, n=60):
    rng = np.random.default_rng(4)
    return [rng.normal(size=(n, 3)).astype(np.float32) for _ in range(number)]


def values_of(estimator):
    values = estimator.get_variable_value(estimator.get_variable_names())
    return {name: np.asarray(value).tobytes() for name, value in values.items()}


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("first", [1, 3, 5])
def test_stopping_in_the_middle_of_an_iteration_and_continuing_gives_the_same_bits(steps, first):
    settings = {"mini_batch_steps_per_iteration": steps}
    whole = model(**settings).train(lambda: iter(batches_of()))
    parts = model(**settings).train(lambda: iter(batches_of()[:first]))
    again = model(parts.model_dir, **settings).train(lambda: iter(batches_of()[first:]))
    assert values_of(again) == values_of(whole)
    assert checkpoints.latest(whole.model_dir).state.counts.min() > 0


@pytest.mark.parametrize("metric", METRICS)
def test_workers_relocate_to_the_same_rows_as_threads(client, metric):
    rows = np.concatenate(batches_of(40, 500))
    settings = {"use_mini_batch": False, "distance_metric": metric}
    fits = [
        model(**settings, config=RunConfig(client=each, cache="none")).train(
            lambda: Dataset.from_array(rows).repeat(), steps=4
        )
        for each in (client, None)
    ]
    assert values_of(fits[0]) == values_of(fits[1])


def test_an_iteration_that_began_without_its_farthest_rows_can_be_continued():
    settings = {"mini_batch_steps_per_iteration": 2}
    kept = model(**settings, empty_clusters="keep").train(lambda: iter(batches_of(1)))
    assert checkpoints.latest(kept.model_dir).state.pending.farthest is None
    model(kept.model_dir, **settings).train(lambda: iter(batches_of(2)[1:]))
    assert checkpoints.latest(kept.model_dir).state.relocated_clusters > 0


def test_an_empty_cluster_that_is_an_error_is_named_and_the_state_before_it_saved():
    rows = np.array([[0.0], [1.0], [10.0], [11.0]])
    places = np.array([[0.0], [10.0], [30.0]])

    def batches():
        yield np.concatenate([rows, [[30.0]]])
        yield rows

    estimator = KMeans(
        3,
        f"memory://{uuid4().hex}",
        initial_clusters=places,
        use_mini_batch=False,
        empty_clusters="error",
    )
    with pytest.raises(InvalidData, match=r"1 of 3 got none .* at step 2: 2$"):
        estimator.train(batches)
    found = checkpoints.latest(estimator.model_dir)
    assert found.state.step == 1
    assert found.state.centers.ravel().tolist() == [0.5, 10.5, 30.0]


def test_the_number_of_relocated_clusters_is_reported(caplog):
    caplog.set_level("DEBUG", "dkmeans")
    model(use_mini_batch=False).train(lambda: batches_of(1)[0], steps=1)
    (progress,) = (r.progress for r in caplog.records if hasattr(r, "progress"))
    assert progress.relocated_clusters == 5
    assert str(progress).endswith("5 empty clusters, 5 relocated")


def test_other_policies_are_refused_by_name():
    must = "empty_clusters must be 'keep' or 'relocate' or 'error', got 'drop'"
    with pytest.raises(ValueError, match=must):
        KMeans(3, empty_clusters="drop")


def test_parallel_rows_are_not_taken_for_a_center_of_their_own():
    rows = np.array([[1.0, 2.0], [3.0, 6.0], [7.0, 14.0]], np.float32)
    state = after(rows, reference.units(rows[[0, 0]]).astype(np.float32), COSINE)
    assert state.relocated_clusters == 0


def test_without_relocation_no_farthest_rows_are_collected():
    rows = np.random.default_rng(0).normal(size=(50, 3))
    state = after(rows, rows[:4], schedule=TWO, policy="keep")
    assert state.pending.farthest is None
    sums = select().partial_sums(rows, Centers(rows[:4], Distance.SQUARED_EUCLIDEAN))
    assert state.pending.counts.tolist() == sums.counts.tolist()


@pytest.mark.parametrize("metric", METRICS)
def test_rows_with_weights_are_relocated_with_all_their_copies_and_their_weight(metric):
    rng = np.random.default_rng(6)
    rows = np.abs(rng.normal(size=(60, 3))) + 0.1
    rows[50:] = rows[40:50]  # copies with other weights
    weights = np.round(rng.random(60) * 64) / 64
    centers = with_empty(rows, metric)
    expected = None
    for parts in (1, 7):
        tables = zip(np.array_split(rows, parts), np.array_split(weights, parts), strict=True)
        places = Centers(centers, Distance(metric))
        total = sum_up([sums_and_farthest(x[w > 0], places, w[w > 0]) for x, w in tables])
        found, relocated = fill(np.array([4, 5]), total, EmptyClusters.RELOCATE, 0)
        means, totals = found.means, found.totals
        assert relocated[[4, 5]].all()
        for cluster in (4, 5):
            own = (directions(rows) if metric == COSINE else rows) - means[cluster]
            same = np.abs(own).max(axis=1) < 1e-12
            assert totals[cluster] == weights[same].sum() > 0
        assert totals.sum() == weights.sum()
        expected = expected or (means.tobytes(), totals.tobytes())
        assert (means.tobytes(), totals.tobytes()) == expected

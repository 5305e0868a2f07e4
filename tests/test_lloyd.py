"""The Lloyd loop, against plain float64 loops."""

from dataclasses import replace

import numpy as np
import pytest

from dkmeans.data.batches import Batch
from dkmeans.data.dataset import Dataset
from dkmeans.distance import Computation, Distance
from dkmeans.empty_clusters import EmptyClusters
from dkmeans.errors import InvalidData
from dkmeans.executors import Serial, Threads
from dkmeans.lloyd import Rules, iterate, update
from dkmeans.schedule import Schedule
from dkmeans.state import PartialSums, TrainState
from tests import reference
from tests.exactly import floats, same_partial_sums, sums_of
from tests.reference import COSINE, EUCLIDEAN, METRICS

FULL = Schedule.full_batch()
STEP = Schedule.mini_batch(1)
THREE = Schedule.mini_batch(3)


def batch_of(rows):
    (batch,) = Dataset.from_array(rows).batches()
    return batch


def start(centers, schedule=FULL):
    centers = np.asarray(centers)
    return TrainState(centers, np.full(len(centers), int(schedule.keeps_counts), np.int64))


def run(state, batches, metric, schedule, policy="keep"):
    """Return the states after each step over these arrays."""
    rules = Rules(Computation(Distance(metric)), schedule, EmptyClusters(policy))
    states = []
    with Threads(2) as threads:
        for taken in schedule.iterations(map(batch_of, batches), state.pending_steps, None):
            states += [state for (state,), _ in iterate([state], taken, rules, threads)]
            state = states[-1]
    return states


def whole(states):
    """Return the states after each iteration."""
    return [state for state in states if state.pending is None]


def random_batches(number, rows=20, d=3, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(rows, d)) for _ in range(number)]


def assert_same_state(one, other):
    assert one.centers.tobytes() == other.centers.tobytes()
    assert one.counts.tobytes() == other.counts.tobytes()
    assert (one.step, one.pending_steps) == (other.step, other.pending_steps)
    assert (one.pending is None) == (other.pending is None)
    if one.pending is not None:
        assert same_partial_sums(one.pending, other.pending)
    assert one.inertia == other.inertia


@pytest.mark.parametrize("metric", METRICS)
def test_full_batch_steps_are_lloyd_iterations(metric):
    batches = random_batches(4)
    centers = expected = reference.units(batches[0][:4]) if metric == COSINE else batches[0][:4]
    states = run(start(centers), batches, metric, FULL)
    for number, (state, rows) in enumerate(zip(states, batches, strict=True), 1):
        _, counts = reference.partial_sums(rows, expected, metric)
        expected, loss = reference.full_batch_step(rows, expected, metric)
        np.testing.assert_allclose(state.centers, expected, rtol=1e-12, atol=1e-14)
        assert state.inertia == pytest.approx(loss, rel=1e-12)
        assert state.losses == (state.inertia,)
        assert state.counts.tolist() == counts.tolist()
        assert (state.step, state.pending, state.pending_steps) == (number, None, 0)


@pytest.mark.parametrize("metric", METRICS)
def test_mini_batch_steps_are_running_means_that_begin_with_weight_one(metric):
    batches = random_batches(6)
    centers = expected = reference.units(batches[0][:4]) if metric == COSINE else batches[0][:4]
    counts = np.ones(4, np.int64)
    states = run(start(centers, STEP), batches, metric, STEP)
    for state, rows in zip(states, batches, strict=True):
        expected, counts, loss = reference.mini_batch_step(rows, expected, counts, metric)
        np.testing.assert_allclose(state.centers, expected, rtol=1e-12, atol=1e-14)
        assert state.counts.tolist() == counts.tolist()
        assert state.inertia == pytest.approx(loss, rel=1e-12)
    assert len(states) == 6


def test_the_first_rows_of_a_far_center_are_its_mean_to_the_bit():
    schedule = Schedule.mini_batch(1, counts_first=False)
    first = TrainState(np.array([[1e16], [-1e17]]), np.zeros(2, np.int64))
    (state,) = run(first, [np.array([[0.5], [1.5]])], EUCLIDEAN, schedule)
    assert state.centers.tolist() == [[1.0], [-1e17]]


@pytest.mark.parametrize("metric", METRICS)
def test_several_steps_to_an_iteration_are_one_lloyd_update_over_their_union(metric):
    batches = random_batches(6)
    centers = expected = reference.units(batches[0][:4]) if metric == COSINE else batches[0][:4]
    steps = run(start(centers), batches, metric, THREE)
    assert [state.step for state in steps] == [1, 2, 3, 4, 5, 6]
    assert [len(state.losses) for state in steps] == [1, 2, 3, 1, 2, 3]
    assert [state.rows for state in steps] == [20, 40, 60, 20, 40, 60]
    states = whole(steps)
    assert [state.step for state in states] == [3, 6]
    for state, own in zip(states, (batches[:3], batches[3:]), strict=True):
        expected, losses = reference.mini_batch_iteration(own, expected, metric)
        np.testing.assert_allclose(state.centers, expected, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(state.losses, losses, rtol=1e-12)
        assert state.inertia == pytest.approx(sum(losses), rel=1e-12)
        assert state.pending is None


@pytest.mark.parametrize("metric", METRICS)
def test_an_epoch_in_as_many_steps_as_it_has_batches_is_a_lloyd_iteration(metric):
    batches = random_batches(3)
    centers = batches[0][:4]
    (one,) = whole(run(start(centers), batches, metric, THREE))
    (other,) = run(start(centers), [np.concatenate(batches)], metric, FULL)
    assert one.centers.tobytes() == other.centers.tobytes()
    assert one.counts.tolist() == other.counts.tolist()
    assert one.inertia == other.inertia


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("metric", METRICS)
def test_centers_are_a_function_of_the_set_of_rows(metric, dtype):
    rng = np.random.default_rng(1)
    rows = (rng.normal(size=(3000, 3)) * [1, 1e3, 1e-3] + [0, 1e6, 0]).astype(dtype)
    rows[17] = rows[1800]  # a copy
    before = start(rows[:5])
    expected = run(before, [rows] * 4, metric, FULL)[-1]
    for number in (1, 7, 60):
        shuffled = np.array_split(rng.permutation(rows), number)
        schedule = Schedule.mini_batch(number) if number > 1 else FULL
        found = run(before, shuffled * 4, metric, schedule)[-1]
        assert found.centers.tobytes() == expected.centers.tobytes()
        assert found.inertia == expected.inertia


def test_full_batch_fits_of_float64_rows_come_to_rest():
    for seed in range(12):
        rng = np.random.default_rng(seed)
        rows = rng.normal(size=(150, 4)) + rng.integers(0, 4, (150, 1))
        states = run(start(rows[:3]), [rows] * 60, EUCLIDEAN, FULL)
        assert states[-1].centers.tobytes() == states[-2].centers.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_many_small_batches_move_a_center_of_many_rows(dtype):
    # In float32 each of these steps alone is less than half of a last place.
    state = TrainState(np.full((1, 1), 1000, dtype), np.array([10**6]))
    rules = Rules(Computation(Distance.SQUARED_EUCLIDEAN), STEP)
    batch = PartialSums(sums_of([[20 * 1001.0]]), np.array([20]))
    for _ in range(500):
        state = update(replace(state, pending=batch, pending_steps=1), rules)
    assert state.centers.dtype == dtype
    assert state.centers[0, 0] == pytest.approx(1000 + 10_000 / 1_010_000, abs=1e-4)


@pytest.mark.parametrize("schedule", [FULL, STEP, THREE])
@pytest.mark.parametrize("metric", METRICS)
def test_a_center_without_rows_keeps_its_place(metric, schedule):
    far = [-7.0, -7.0] if metric == COSINE else [900.0, 900.0]
    centers = np.array([[1.0, 2.0], far, [2.0, 1.0]])
    batches = [np.abs(rows) + 0.1 for rows in random_batches(3, d=2)]
    for state in whole(run(start(centers, schedule), batches, metric, schedule)):
        assert state.centers[1].tolist() == far
        assert state.counts[1] == int(schedule.keeps_counts)
        assert (state.centers[[0, 2]] != centers[[0, 2]]).any()


def test_a_mean_is_the_exact_mean():
    rows = np.array([[1.0], [2.0], [6.0], [100.0]])
    (state,) = run(start([[3.0], [99.0]]), [rows], EUCLIDEAN, FULL)
    assert state.centers.tolist() == [[3.0], [100.0]]


@pytest.mark.parametrize("schedule", [FULL, STEP, THREE])
def test_centers_keep_the_dtype_of_the_data(schedule):
    for dtype in (np.float32, np.float64):
        batches = [rows.astype(dtype) for rows in random_batches(3)]
        for state in run(start(batches[0][:2], schedule), batches, EUCLIDEAN, schedule):
            assert state.centers.dtype == dtype
            assert state.counts.dtype == np.int64


def test_cosine_centers_have_length_one_but_running_means_do_not():
    batches = random_batches(3)
    centers = reference.units(batches[0][:2])
    for schedule in (FULL, THREE):
        state = run(start(centers, schedule), batches, COSINE, schedule)[-1]
        np.testing.assert_allclose(np.linalg.norm(state.centers, axis=1), 1.0, rtol=1e-12)
    state = run(start(centers, STEP), batches, COSINE, STEP)[-1]
    assert (np.linalg.norm(state.centers, axis=1) < 0.999).all()


def test_zero_rows_count_in_the_loss_and_pull_no_direction():
    rows = np.array([[2.0, 0.0], [0.0, 0.0], [0.0, 3.0]])
    (state,) = run(start([[1.0, 0.0], [0.0, 1.0]]), [rows], COSINE, FULL)
    assert state.inertia == 1.0
    assert state.counts.tolist() == [2, 1]
    assert state.centers.tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_an_unfinished_iteration_leaves_the_centers_and_keeps_its_sums():
    batches = random_batches(2)
    before = start(batches[0][:4])
    _, state = run(before, batches, EUCLIDEAN, THREE)
    assert state.centers.tobytes() == before.centers.tobytes()
    assert (state.step, state.pending_steps) == (2, 2)
    sums, counts = reference.partial_sums(np.concatenate(batches), before.centers, EUCLIDEAN)
    np.testing.assert_allclose(floats(state.pending.sums), sums, rtol=1e-12, atol=1e-13)
    assert state.pending.counts.tolist() == counts.tolist()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("schedule", [FULL, STEP, THREE, Schedule.mini_batch(4)])
@pytest.mark.parametrize("first", [1, 2, 4, 5])
def test_stopping_anywhere_and_continuing_gives_the_same_bits(first, schedule, metric):
    batches = [rows.astype(np.float32) for rows in random_batches(8)]
    before = start(batches[0][:4], schedule)
    states = run(before, batches, metric, schedule)
    half = run(before, batches[:first], metric, schedule)[-1]
    assert half.step == first
    assert_same_state(half, states[first - 1])
    assert_same_state(run(half, batches[first:], metric, schedule)[-1], states[-1])


def test_one_step_at_a_time_gives_the_same_bits():
    batches = [rows.astype(np.float32) for rows in random_batches(8)]
    before = start(batches[0][:4])
    state = before
    for rows in batches:
        (state,) = run(state, [rows], EUCLIDEAN, THREE)
    assert_same_state(state, run(before, batches, EUCLIDEAN, THREE)[-1])


def test_two_equal_runs_are_equal_to_the_bit():
    batches = [rows.astype(np.float32) for rows in random_batches(5, rows=3000)]
    before = start(batches[0][:7], STEP)
    one, other = (run(before, batches, EUCLIDEAN, STEP)[-1] for _ in range(2))
    assert_same_state(one, other)


def test_the_loss_never_rises_over_lloyd_iterations():
    rows = random_batches(1, rows=300)[0].astype(np.float32)
    for metric in METRICS:
        losses = [s.inertia for s in run(start(rows[:6]), [rows] * 15, metric, FULL)]
        assert (np.diff(losses) <= 1e-9 * losses[0]).all()


def test_centers_too_far_from_their_rows_are_refused():
    with pytest.raises(InvalidData, match="too far apart, or too large, for squared distances"):
        run(start([[1e300]]), [np.ones((3, 1))], EUCLIDEAN, FULL)
    (state,) = run(start([[1e300], [0.0]]), [np.ones((3, 1))], EUCLIDEAN, FULL)
    assert state.centers.tolist() == [[1e300], [1.0]]


def test_the_loss_is_from_before_the_update():
    rows = np.array([[0.0], [2.0]])
    first, second = run(start([[0.0]]), [rows, rows], EUCLIDEAN, FULL)
    assert (first.inertia, second.inertia) == (4.0, 2.0)


def test_an_update_without_sums_changes_nothing():
    state = start([[1.0, 2.0]])
    assert update(state, Rules(Computation(Distance.SQUARED_EUCLIDEAN), FULL)) is state


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("schedule", [FULL, STEP])
def test_centers_that_are_updated_a_few_at_a_time_have_the_same_bits(metric, schedule, monkeypatch):
    batches = [batch.astype(np.float32) for batch in random_batches(3)]
    whole = run(start(batches[0][:7], schedule), batches, metric, schedule)
    monkeypatch.setattr("dkmeans.exact._SUMS_AT_ONCE", 6)
    in_pieces = run(start(batches[0][:7], schedule), batches, metric, schedule)
    for one, other in zip(whole, in_pieces, strict=True):
        assert_same_state(one, other)


def test_an_update_leaves_the_state_it_came_from():
    pending = PartialSums(sums_of([[6.0]]), np.array([2]))
    state = replace(start([[1.0]]), pending=pending, pending_steps=1)
    moved = update(state, Rules(Computation(Distance.SQUARED_EUCLIDEAN), FULL))
    assert moved.centers.tolist() == [[3.0]]
    assert state.centers.tolist() == [[1.0]]
    assert state.pending is pending


def test_no_iterations_give_no_states():
    assert run(start([[1.0]]), [], EUCLIDEAN, FULL) == []


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("metric", METRICS)
def test_rows_that_are_not_finite_are_named_by_their_position(metric, bad):
    rows = np.ones((9, 3))
    rows[6, 2] = bad
    with pytest.raises(ValueError, match=r"row 6 .* column 2"):
        run(start([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]]), [rows], metric, FULL)


def test_values_too_large_to_square_are_named_as_such():
    with pytest.raises(ValueError, match="too large"):
        run(start([[1.0]]), [np.array([[1e200], [2.0]])], EUCLIDEAN, FULL)


@pytest.mark.parametrize("chunks", [[[0, 1, 2, 3]], [[0, 1], [2, 3]], [[0], [1], [2], [3]]])
def test_whether_a_row_is_too_large_does_not_depend_on_its_chunk(chunks):
    rows = np.array([[6e153], [6e153], [-6e153], [1.0]])
    state = start(rows[1:])
    batch = sum((batch_of(rows[some]) for some in chunks), Batch())
    rules = Rules(Computation(Distance.SQUARED_EUCLIDEAN), FULL)
    (((state,), _),) = iterate([state], [batch], rules, Serial())
    assert state.counts.tolist() == [2, 1, 1]
    assert state.inertia == 0


def run_weighted(state, tables, metric, schedule, policy="keep", chunk_bytes=None):
    """Return the state after steps over these pairs of rows and weights."""
    rules = Rules(Computation(Distance(metric)), schedule, EmptyClusters(policy))
    datasets = [Dataset.from_array(*table).in_chunks_of(chunk_bytes) for table in tables]
    batches = [next(dataset.batches()) for dataset in datasets]
    with Threads(2) as threads:
        for taken in schedule.iterations(iter(batches), 0, None):
            *_, ((state,), _) = iterate([state], taken, rules, threads)
    return state


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("policy", ["keep", "relocate"])
@pytest.mark.parametrize("schedule", [FULL, STEP, THREE])
def test_whole_weights_are_repeated_rows_to_the_bit(schedule, policy, metric, dtype):
    batches = [rows.astype(dtype) for rows in random_batches(3)]
    rng = np.random.default_rng(3)
    weights = [rng.integers(0, 4, len(rows)) for rows in batches]
    for rows in batches:
        rows[13:16] = rows[9]
    far = -50 * np.abs(batches[0][:2])
    before = start(np.concatenate([batches[0][:4], far]), schedule)
    found = run_weighted(before, zip(batches, weights, strict=True), metric, schedule, policy)
    repeated = [np.repeat(rows, w, axis=0) for rows, w in zip(batches, weights, strict=True)]
    expected = run(before, repeated, metric, schedule, policy)[-1]
    assert_same_state(found, expected)
    assert found.counts.dtype == np.int64
    assert found.losses == expected.losses
    assert found.inertia_rows == expected.inertia_rows
    assert found.relocated_clusters == expected.relocated_clusters


@pytest.mark.parametrize("policy", ["keep", "relocate"])
@pytest.mark.parametrize("schedule", [FULL, STEP, THREE])
@pytest.mark.parametrize("metric", METRICS)
def test_rows_of_weight_zero_are_as_if_they_were_not_there(metric, schedule, policy):
    batches = random_batches(3)
    rng = np.random.default_rng(4)
    weights = [rng.random(20) * (rng.random(20) < 0.6) for _ in batches]
    if schedule is not THREE:
        weights[1][:] = 0  # a step without rows
    before = start(np.concatenate([batches[0][:4], -50 * np.abs(batches[0][:2])]), schedule)
    tables = list(zip(batches, weights, strict=True))
    found = run_weighted(before, tables, metric, schedule, policy)
    left = [(rows[w > 0], w[w > 0]) for rows, w in tables if w.any()]
    expected = run_weighted(before, left, metric, schedule, policy)
    assert found.centers.tobytes() == expected.centers.tobytes()
    assert found.counts.tobytes() == expected.counts.tobytes()
    assert found.counts.dtype == np.float64


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("metric", METRICS)
def test_weighted_centers_are_a_function_of_the_set_of_rows(metric, dtype):
    rng = np.random.default_rng(1)
    rows = (rng.normal(size=(3000, 3)) * [1, 1e3, 1e-3] + [0, 1e6, 0]).astype(dtype)
    weights = np.exp(rng.normal(size=3000))
    before = start(rows[:5])
    expected = run_weighted(before, [(rows, weights)] * 3, metric, FULL)
    for number in (1, 7):
        order = rng.permutation(3000)
        tables = [(rows[some], weights[some]) for some in np.array_split(order, number)]
        schedule = Schedule.mini_batch(number) if number > 1 else FULL
        found = run_weighted(before, tables * 3, metric, schedule, chunk_bytes=1000)
        assert found.centers.tobytes() == expected.centers.tobytes()
        assert found.inertia == expected.inertia


def test_weighted_means_move_running_means_by_their_weight():
    rows, weights = np.array([[4.0], [8.0]]), np.array([0.5, 1.5])
    state = run_weighted(start([[2.0]], STEP), [(rows, weights)], EUCLIDEAN, STEP)
    assert state.counts.tolist() == [3.0]
    assert state.centers.tolist() == [[(2 + 2 + 12) / 3]]
    assert state.inertia == 0.5 * 4 + 1.5 * 36
    assert state.inertia_rows == 2


@pytest.mark.parametrize("kind", ["whole", "fractions"])
def test_weighted_fits_are_those_of_scikit_learn(kind):
    cluster = pytest.importorskip("sklearn.cluster")
    rng = np.random.default_rng(7)
    rows = rng.normal(size=(500, 4)) + rng.integers(0, 3, (500, 1)) * 2
    weights = rng.integers(0, 6, 500).astype(float) if kind == "whole" else rng.random(500)
    model = cluster.KMeans(6, init=rows[:6], n_init=1, max_iter=9, tol=0, algorithm="lloyd")
    model.fit(rows, sample_weight=weights)
    state = run_weighted(start(rows[:6]), [(rows, weights)] * 9, EUCLIDEAN, FULL)
    np.testing.assert_allclose(state.centers, model.cluster_centers_, rtol=0, atol=1e-9)
    after = run_weighted(state, [(rows, weights)], EUCLIDEAN, FULL)
    assert after.inertia == pytest.approx(model.inertia_, rel=1e-9)

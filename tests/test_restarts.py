"""Several starts over the same reads: each is what it would be alone, and the best is the model."""

from dataclasses import dataclass, field, replace
from uuid import uuid4

import numpy as np
import pytest

from dkmeans import Dataset, InvalidCheckpoint, KMeans, RunConfig, checkpoints
from dkmeans.checkpoints import loading
from dkmeans.data.batches import Batch
from dkmeans.data.chunks import Chunk
from dkmeans.distance import Computation, Distance
from dkmeans.executors import Threads
from dkmeans.fit import Fit
from dkmeans.lloyd import Rules, iterate
from dkmeans.schedule import Schedule
from dkmeans.state import StopReason, TrainState
from tests.exactly import same_partial_sums
from tests.numbered import Numbers
from tests.reference import COSINE, EUCLIDEAN

SEED = 5
STRIDE = 2**32
MODES = {
    "full batch": {"use_mini_batch": False},
    "mini-batch": {"mini_batch_steps_per_iteration": 1},
    "three steps": {"mini_batch_steps_per_iteration": 3},
}
in_every_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)


def rows_of(n=400, seed=0):
    rng = np.random.default_rng(seed)
    places = rng.normal(size=(9, 3)) * 4
    return (places[rng.integers(9, size=n)] + rng.normal(size=(n, 3))).astype(np.float32)


def batches_of(number=9):
    return [rows_of(120 - number, seed) for seed in range(number)]


def model(restarts=4, model_dir=None, **more):
    more.setdefault("seed", SEED)
    return KMeans(6, model_dir or f"memory://{uuid4().hex}", num_restarts=restarts, **more)


def fit_of(estimator):
    return checkpoints.latest(estimator.model_dir).fit


def loss_of(estimator):
    (start,) = fit_of(estimator).starts
    return start.state.inertia


def values_of(estimator):
    values = estimator.get_variable_value(estimator.get_variable_names())
    return {name: np.asarray(value).tobytes() for name, value in values.items()}


def same_state(one, other):
    return (
        one.centers.tobytes() == other.centers.tobytes()
        and one.counts.tobytes() == other.counts.tobytes()
        and one.inertia == other.inertia
    )


@pytest.mark.parametrize(
    ("mode", "source", "metric"),
    [
        ("full batch", "random", EUCLIDEAN),
        ("full batch", "kmeans_plus_plus", COSINE),
        ("mini-batch", "random", COSINE),
        ("mini-batch", "kmeans_plus_plus", EUCLIDEAN),
        ("three steps", "random", EUCLIDEAN),
        ("three steps", "kmeans_plus_plus", COSINE),
    ],
)
def test_each_start_is_to_the_bit_the_fit_of_its_own_seed_and_the_best_is_kept(
    mode, source, metric
):
    settings = {**MODES[mode], "initial_clusters": source, "distance_metric": metric}
    together = model(**settings).train(lambda: iter(batches_of()))
    alone = [
        model(1, seed=SEED + number * STRIDE, **settings).train(lambda: iter(batches_of()))
        for number in range(4)
    ]
    losses = [loss_of(each) for each in alone]
    assert len(set(losses)) > 1
    fit = fit_of(together)
    assert fit.best == int(np.argmin(losses))
    assert values_of(together) == values_of(alone[fit.best])
    for start, each in zip(fit.starts, alone, strict=True):
        assert same_state(start.state, fit_of(each).state)


@pytest.mark.parametrize("tolerance", [None, 1e-3])
def test_each_start_ends_when_it_has_converged_itself(tolerance):
    settings = {"use_mini_batch": False, "relative_tolerance": tolerance}
    together = model(5, **settings).train(lambda: rows_of())
    fits = [
        fit_of(model(1, seed=SEED + number * STRIDE, **settings).train(lambda: rows_of()))
        for number in range(5)
    ]
    fit = fit_of(together)
    steps = [each.step for each in fits]
    assert len(set(steps)) > 1
    assert [start.steps for start in fit.starts] == steps
    assert fit.step == max(steps)
    assert all(same_state(s.state, f.state) for s, f in zip(fit.starts, fits, strict=True))
    assert all(start.reason.converged for start in fit.starts)
    assert (StopReason.CONVERGED in {s.reason for s in fit.starts}) == (tolerance is not None)
    assert together.get_variable_value("global_step") == max(steps)


@in_every_mode
@pytest.mark.parametrize("first", [1, 4, 5])
def test_stopping_anywhere_and_continuing_gives_the_same_bits(mode, first):
    whole = model(**mode).train(lambda: iter(batches_of()))
    parts = model(**mode).train(lambda: iter(batches_of()[:first]))
    assert fit_of(parts).step == first
    again = model(model_dir=parts.model_dir, **mode).train(lambda: iter(batches_of()[first:]))
    assert values_of(again) == values_of(whole)
    pairs = zip(fit_of(again).starts, fit_of(whole).starts, strict=True)
    assert all(same_state(one.state, other.state) for one, other in pairs)


def test_starts_that_had_converged_stay_as_they_are_after_an_interruption(monkeypatch):
    settings = {"use_mini_batch": False, "config": RunConfig(save_checkpoints_steps=1)}
    whole = fit_of(model(5, **settings).train(lambda: rows_of()))
    steps = [start.steps for start in whole.starts]
    own, save = model(5, **settings), checkpoints.save
    interrupts = [KeyboardInterrupt]

    def interrupted(model_dir, manifest, fit, *rest):
        if fit.step == min(steps) + 1 and interrupts:
            raise interrupts.pop()
        return save(model_dir, manifest, fit, *rest)

    monkeypatch.setattr(checkpoints, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        own.train(lambda: rows_of())
    assert len(fit_of(own).running) == sum(taken > min(steps) + 1 for taken in steps)
    assert [start.steps for start in fit_of(own.train(lambda: rows_of())).starts] == steps


def test_a_call_after_one_that_has_ended_moves_all_starts():
    own = model(relative_tolerance=1e-2, use_mini_batch=False).train(lambda: rows_of())
    before = [start.steps for start in fit_of(own).starts]
    after = [start.steps for start in fit_of(own.train(lambda: rows_of(), steps=1)).starts]
    assert after == [steps + 1 for steps in before]


def test_rows_are_read_once_for_all_starts():
    numbers, read = Numbers(64, 4), []

    @dataclass(frozen=True)
    class Counted:
        """Rows that record each read."""

        rows: int = 64
        chunk_rows: int = 4
        key: str = "counted"
        first: int = 0
        name: str = "counted"
        width: int = 1
        dtype: str = "float64"
        parts: tuple[()] = ()
        is_repeatable: bool = False
        reads: list = field(default_factory=lambda: read, compare=False)

        def read(self, start, stop):
            self.reads.append(start)
            return numbers.read(start, stop)

        def with_leaves(self, change):
            return change(self)

    batch = Batch.of(Chunk(Counted(), 0, 64))
    rules = Rules(Computation(Distance.SQUARED_EUCLIDEAN), Schedule.full_batch())
    states = [TrainState(np.array([[c], [c + 9.0]]), np.zeros(2, np.int64)) for c in range(5)]
    with Threads(2) as threads:
        ((moved, _),) = iterate(states, [batch], rules, threads)
        assert sorted(read) == list(range(0, 64, 4))
        for before, after in zip(states, moved, strict=True):
            (((alone,), _),) = iterate([before], [batch], rules, threads)
            assert same_state(after, alone)


@in_every_mode
def test_workers_give_the_bits_of_threads(client, mode):
    dataset = Dataset.from_array(rows_of(4000)).batch(1000)
    fits = [
        fit_of(model(3, config=RunConfig(client=each), **mode).train(lambda: dataset))
        for each in (client, None)
    ]
    pairs = zip(fits[0].starts, fits[1].starts, strict=True)
    assert all(same_state(one.state, other.state) for one, other in pairs)


def test_the_best_start_is_what_predicts():
    own = model(use_mini_batch=False, seed=SEED + 3).train(lambda: rows_of())
    fit = fit_of(own)
    assert fit.best != 0
    assert own.cluster_centers().tobytes() == fit.starts[fit.best].state.centers.tobytes()
    assert own.score(rows_of) == pytest.approx(fit.state.inertia, rel=1e-6)


def test_the_results_of_all_starts_are_logged(caplog):
    caplog.set_level("INFO", "dkmeans")
    own = model(3, use_mini_batch=False).train(lambda: rows_of())
    fit = fit_of(own)
    lines = [r.getMessage() for r in caplog.records if "after" in r.getMessage()]
    assert lines == list(fit.describe())
    assert lines[fit.best].endswith("steps, the best")
    assert (
        f"start 1: loss {fit.starts[1].state.inertia:.6g} after {fit.starts[1].steps}" in lines[1]
    )


def test_starts_that_continue_are_counted(caplog):
    caplog.set_level("DEBUG", "dkmeans")
    fit = fit_of(model(3, use_mini_batch=False).train(lambda: rows_of()))
    progress = [r.progress for r in caplog.records if hasattr(r, "progress")]
    steps = [start.steps for start in fit.starts]
    assert [p.starts for p in progress] == [
        sum(own >= step for own in steps) for step in range(1, max(steps) + 1)
    ]
    assert str(progress[0]).endswith("3 starts")


def test_resuming_with_another_number_of_starts_is_refused_by_name():
    own = model(3).train(lambda: iter(batches_of(1)))
    with pytest.raises(InvalidCheckpoint, match=r"num_restarts must be .*, 3, .* got 1"):
        model(1, own.model_dir).train(lambda: iter(batches_of(1)))


def test_given_centers_cannot_be_restarted():
    with pytest.raises(ValueError, match=r"num_restarts must be 1 where .* an array, .* got 2"):
        KMeans(6, initial_clusters=rows_of(6), num_restarts=2)


@pytest.mark.parametrize("number", [0, -1, True, 1.5])
def test_a_number_of_starts_is_an_integer_above_zero(number):
    with pytest.raises(ValueError, match=r"num_restarts must be an integer >= 1, got"):
        KMeans(6, num_restarts=number)


def test_a_function_is_called_for_each_start():
    calls = []

    def initial(points, missing):
        calls.append(missing)
        return points[len(calls) :][:missing]

    fit = fit_of(model(3, initial_clusters=initial).train(lambda: iter(batches_of(1))))
    assert calls == [6, 6, 6]
    assert len({start.state.centers.tobytes() for start in fit.starts}) == 3


def test_empty_clusters_are_relocated_in_each_start():
    def initial(points, missing):
        return np.full((missing, 3), 40.0) + np.arange(missing)[:, None]

    settings = {"initial_clusters": initial, "empty_clusters": "relocate", "use_mini_batch": False}
    fit = fit_of(model(2, **settings).train(lambda: rows_of(), steps=1))
    assert [start.state.relocated_clusters for start in fit.starts] == [5, 5]


def test_a_fit_of_one_start_is_saved_as_one_state(tmp_path):
    estimator = model(1, str(tmp_path)).train(lambda: iter(batches_of(2)))
    arrays, about = loading._read(estimator.latest_checkpoint())
    assert set(arrays) == {"centers", "counts", "means"}
    assert set(about) == {
        *("format", "step", "inertia", "empty_clusters", "pending_steps", "pending_squares"),
        *("loss_before", "settings", "stop", "sha256"),
    }


@pytest.mark.parametrize("best", [0, 2])
def test_all_starts_of_a_checkpoint_come_back(tmp_path, best):
    own = model(3, str(tmp_path), mini_batch_steps_per_iteration=2)
    own.train(lambda: iter(batches_of(3)))
    manifest, found = checkpoints.open_latest(own.model_dir)
    losses = [2.0 - (number == best) for number in range(3)]
    starts = tuple(
        replace(start, state=replace(start.state, inertia=loss), steps=number)
        for number, (start, loss) in enumerate(zip(found.fit.starts, losses, strict=True))
    )
    fit = Fit(starts)
    checkpoints.save(own.model_dir, manifest, fit, found.settings, None, 5)
    again = checkpoints.latest(own.model_dir)
    assert again.fit.best == best
    for start, saved in zip(again.fit.starts, starts, strict=True):
        assert same_state(start.state, saved.state)
        assert same_partial_sums(start.state.pending, saved.state.pending)
        assert (start.reason, start.steps) == (saved.reason, saved.steps)

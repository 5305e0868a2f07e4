"""k-means||: a few epochs over all rows find first centers, the same on any executor."""

from contextlib import ExitStack
from uuid import uuid4

import dask.array as da
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from distributed import Client, LocalCluster
from hypothesis import given
from hypothesis import strategies as st

from dkmeans import Dataset, InvalidData, KMeans, RunConfig
from dkmeans.distance import Centers, Computation, Distance
from dkmeans.executors import Dask, Serial, Threads
from dkmeans.initialization import Initialization, Rounds
from dkmeans.initialization import kmeans_parallel as parallel
from dkmeans.initialization.draws import Seed
from dkmeans.initialization.sample import one_epoch, sample
from tests import reference
from tests.reference import COSINE, EUCLIDEAN, METRICS

PARALLEL = "k-means||"


def rows_of(n, d=3, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(dtype)


def blobs(k=12, each=60, d=3, seed=1):
    rng = np.random.default_rng(seed)
    places = rng.normal(size=(k, d)) * 40
    return (np.repeat(places, each, axis=0) + rng.normal(size=(k * each, d))).astype(np.float32)


def find(source, k, data, metric=EUCLIDEAN, seed=0, executor=None, most=None):
    """Return the first centers."""
    dataset = data if isinstance(data, Dataset) else Dataset.from_array(data)
    initialization = Initialization(
        source, k, Computation(Distance(metric)), 2, seed, Rounds(1.0, 3), most
    )
    with ExitStack() as stack:
        executor = executor or stack.enter_context(Threads(2, cache="auto"))
        centers, _ = initialization.find(dataset.batches(), dataset.rows, executor)
    return centers


def candidates(rows, k, first=0, metric=EUCLIDEAN, cache="auto", **more):
    """Return the candidates that the rounds of k-means|| find."""
    whole, _ = one_epoch(Dataset.from_array(rows).batches(), len(rows))
    rounds = more.get("rounds", Rounds(1.0, 3))
    with Threads(2, cache=cache) as threads:
        start = Centers(rows[[first]], Distance(metric))
        return parallel.find_candidates(whole, start, k, rounds, Seed(4), threads)


# The centers that are found.


@pytest.mark.parametrize("metric", METRICS)
def test_every_cluster_far_from_the_others_has_a_center(metric):
    rows = blobs()
    for seed in range(5):
        centers = find(PARALLEL, 12, rows, metric, seed)
        index, _ = reference.nearest(rows, centers, metric)
        assert len(np.unique(index)) == 12
        if metric == EUCLIDEAN:
            assert len(np.unique(index.reshape(12, 60)[:, 0])) >= 10


def test_parallel_is_as_good_a_start_as_plus_plus():
    rows = rows_of(3000, 4)
    loss = {
        source: np.median(
            [
                reference.loss(rows[::10], find(source, 20, rows, seed=s), EUCLIDEAN)
                for s in range(5)
            ]
        )
        for source in (PARALLEL, "kmeans_plus_plus", "random")
    }
    assert loss[PARALLEL] < 1.05 * loss["kmeans_plus_plus"]
    assert loss[PARALLEL] < 0.95 * loss["random"]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("cache", ["auto", "none"])
def test_a_candidate_weighs_the_rows_that_it_is_nearest_to(metric, cache):
    rows = rows_of(150)
    found = candidates(rows, 6, metric=metric, cache=cache)
    index, _ = reference.nearest(rows, found.rows, metric)
    assert found.weights.tolist() == np.bincount(index, minlength=len(found.rows)).tolist()


@given(st.integers(2, 12), st.integers(0, 50), st.floats(0.05, 4), st.integers(1, 4))
def test_weights_sum_to_the_rows_and_candidates_differ(k, seed, oversampling, rounds):
    rows = np.random.default_rng(seed).integers(0, 4, (60, 2)).astype(np.float32)
    different = len(np.unique(rows, axis=0))
    k = min(k, different)
    found = candidates(rows, k, rounds=Rounds(oversampling, rounds))
    assert found.weights.sum() == 60
    assert (found.weights > 0).all()
    assert k <= len(np.unique(found.rows, axis=0)) == len(found.rows) <= different


@pytest.mark.parametrize("oversampling", [0.5, 2.0])
def test_a_round_draws_as_many_candidates_as_are_expected(oversampling):
    rows = rows_of(4000, 4)
    found = candidates(rows, 100, rounds=Rounds(oversampling, 2))
    expected = 200 * oversampling
    assert abs(len(found.rows) - 1 - expected) < 5 * expected**0.5


def test_a_round_compares_rows_with_new_candidates_only(monkeypatch):
    compared = []
    select = parallel.select

    def counting(backend):
        class Counting:
            @staticmethod
            def nearest(points, centers):
                compared.append(len(points) * len(centers.values))
                return select(backend).nearest(points, centers)

        return Counting

    monkeypatch.setattr(parallel, "select", counting)
    rows = rows_of(2000)
    found = candidates(rows, 20)
    assert sum(compared) == 2000 * len(found.rows)


# Few different rows.


@pytest.mark.parametrize("metric", METRICS)
def test_as_many_centers_as_different_rows_are_these(metric):
    rows = np.repeat(np.array([[1, 0], [0, 1], [-1, 0], [3, 3], [0, -2]], np.float32), 30, axis=0)
    for seed in range(4):
        centers = find(PARALLEL, 5, rows, metric, seed)
        places = rows if metric == EUCLIDEAN else reference.units(rows)
        expected = np.unique(places.astype(np.float32), axis=0)
        np.testing.assert_allclose(np.unique(centers, axis=0), expected, rtol=1e-6)


def test_rows_at_all_scales_are_found_without_a_round_for_each(monkeypatch):
    rows = np.repeat(10.0 ** np.arange(-15, 15), 10)[:, None]
    epochs = []
    map_reduce = Threads.map_reduce
    monkeypatch.setattr(
        Threads, "map_reduce", lambda self, *given: epochs.append(1) or map_reduce(self, *given)
    )
    assert len(np.unique(find(PARALLEL, 30, rows))) == 30
    assert len(epochs) <= 6


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.timeout(20)
def test_fewer_different_rows_than_clusters_are_refused_with_both_numbers(metric):
    rows = np.repeat(np.array([[1, 2], [-3, 4], [5, -6]], np.float32), 40, axis=0)
    with pytest.raises(InvalidData, match=r"clusters, 4; 120 rows .* gave 3"):
        find(PARALLEL, 4, rows, metric)


def test_rows_of_one_direction_are_the_same_for_cosine():
    rows = np.outer(np.arange(1, 100), [0.1, 0.7]).astype(np.float32)
    assert len(find(PARALLEL, 5, rows)) == 5
    with pytest.raises(InvalidData, match=r"clusters, 2; .* gave 1"):
        find(PARALLEL, 2, rows, COSINE)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("length", [0.0, 1e-30, 1e-12, 1e-8, 9e-7, 1.0])
def test_by_cosine_the_search_ends_at_rows_of_any_length(length, dtype):
    # Five directions; rows of length zero have none.
    angles = np.arange(5)[:, None]
    rows = np.hstack([np.cos(angles), np.sin(angles)])
    rows[3:] *= length
    # Powers of two, so that float32 rows of one direction are exactly that.
    rows = (
        np.repeat(rows.astype(dtype), 12, axis=0) * np.tile(np.array([0.5, 1], dtype), 30)[:, None]
    )
    different = 5 if length > 1e-20 else 3
    for seed in range(6):
        centers = find(PARALLEL, different, rows, COSINE, seed)
        assert len(np.unique(np.round(reference.units(centers), 5), axis=0)) == different
        with pytest.raises(InvalidData, match=rf"clusters, 7; .* gave {different} \(by cosine"):
            find(PARALLEL, 7, rows, COSINE, seed)


@pytest.mark.timeout(20)
def test_zero_rows_alone_are_refused_by_cosine():
    with pytest.raises(InvalidData, match=r"gave 0 .*zero rows do not count"):
        find(PARALLEL, 2, np.zeros((30, 3), np.float32), COSINE)
    with pytest.raises(InvalidData, match="gave 1"):
        find(PARALLEL, 2, np.zeros((30, 3), np.float32), EUCLIDEAN)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("scale", [1e-310, 1e-200, 1e-160])
def test_rows_whose_squares_vanish_are_refused_with_the_remedy(scale):
    rows = np.arange(1.0, 31.0)[:, None] * scale
    with pytest.raises(InvalidData, match=r"[Ss]cale the columns first"):
        find(PARALLEL, 3, rows)


def test_fewer_rows_than_clusters_are_refused_with_both_numbers():
    with pytest.raises(InvalidData, match=r"num_clusters = 9 rows, got 5"):
        find(PARALLEL, 9, rows_of(5))


def test_one_cluster_and_one_row_will_do():
    rows = rows_of(1)
    np.testing.assert_array_equal(find(PARALLEL, 1, rows), rows)
    assert find(PARALLEL, 1, rows_of(50)).shape == (1, 3)


def test_a_row_that_is_not_finite_is_named():
    rows = rows_of(300)
    rows[123, 2] = np.inf
    with pytest.raises(InvalidData, match=r"row 123 .* column 2"):
        find(PARALLEL, 4, rows)


# The same seed.


@pytest.mark.parametrize("metric", METRICS)
def test_the_same_seed_gives_the_same_centers_for_any_chunking(metric, tmp_path):
    rows = blobs(8, 50)
    expected = find(PARALLEL, 7, rows, metric)
    for size in (1, 13, 64, 400):
        array = da.from_array(rows, chunks=(size, 2))
        np.testing.assert_array_equal(find(PARALLEL, 7, array, metric), expected)
    for number, (low, high) in enumerate([(0, 33), (33, 250), (250, 400)]):
        table = pa.table({str(i): rows[low:high, i] for i in range(3)})
        pq.write_table(table, tmp_path / f"{number}.parquet", row_group_size=29)
    parquet = Dataset.from_parquet(str(tmp_path))
    np.testing.assert_array_equal(find(PARALLEL, 7, parquet, metric), expected)
    for batched in (parquet.batch(37), parquet.repeat(), parquet.batch(91).repeat(2)):
        np.testing.assert_array_equal(find(PARALLEL, 7, batched, metric), expected)


def test_worker_processes_find_what_threads_find(client, tmp_path):
    rows = blobs(8, 50)
    path = tmp_path / "rows.parquet"
    table = pa.table({str(i): rows[:, i] for i in range(3)})
    pq.write_table(table, path, row_group_size=23)
    expected = find(PARALLEL, 7, rows, executor=Threads(1))
    for cache in ("none", "auto"):
        with Dask(client, cache) as executor:
            found = find(PARALLEL, 7, Dataset.from_parquet(str(path)), executor=executor)
            np.testing.assert_array_equal(found, expected)


def test_any_executor_finds_the_same_centers():
    array = da.from_array(blobs(8, 50), chunks=(31, 3))
    expected = find(PARALLEL, 7, array, executor=Serial())
    for threads in (1, 2, 5):
        with Threads(threads) as executor:
            np.testing.assert_array_equal(find(PARALLEL, 7, array, executor=executor), expected)


def test_one_worker_finds_what_threads_find():
    rows = blobs(8, 50)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster, set_as_default=False) as client,
        Dask(client) as executor,
    ):
        found = find(PARALLEL, 7, da.from_array(rows, chunks=(31, 3)), executor=executor)
    np.testing.assert_array_equal(found, find(PARALLEL, 7, rows))


def test_one_start_after_another_finds_what_each_finds_alone():
    rows = rows_of(500, 4)
    alone = [find(PARALLEL, 9, rows, seed=seed) for seed in range(3)]
    with Threads(2, cache="auto") as threads:
        together = [find(PARALLEL, 9, rows, seed=seed, executor=threads) for seed in range(3)]
    assert all(map(np.array_equal, alone, together))


def test_other_seeds_give_other_centers():
    rows = rows_of(300)
    assert len({find(PARALLEL, 5, rows, seed=seed).tobytes() for seed in range(4)}) == 4
    assert len({find(PARALLEL, 5, rows, seed=None).tobytes() for _ in range(3)}) == 3


def test_training_is_the_same_with_and_without_a_cache(tmp_path):
    rows = blobs(8, 50)
    pq.write_table(pa.table({str(i): rows[:, i] for i in range(3)}), tmp_path / "rows.parquet")
    dataset = Dataset.from_parquet(str(tmp_path / "rows.parquet"))
    found = []
    for cache in ("none", "auto"):
        config = RunConfig(cache=cache)
        model = KMeans(
            7, f"memory://{uuid4().hex}", PARALLEL, seed=3, use_mini_batch=False, config=config
        )
        model.train(lambda: dataset.repeat(3))
        found.append(model.cluster_centers())
    np.testing.assert_array_equal(*found)


# Which rows are used.


def test_of_batches_of_unknown_number_the_first_is_used():
    taken = []

    def batches():
        for seed in range(4):
            taken.append(seed)
            yield rows_of(50, seed=seed)

    model = KMeans(5, f"memory://{uuid4().hex}", PARALLEL, seed=1)
    model.train(batches, steps=1)
    assert taken[-1] <= 1
    assert model.get_variable_value("Variable").sum() == 5 + 50


def test_only_a_sample_is_used_where_that_is_requested():
    rows = rows_of(5000, 1)
    rows[:, 0] = np.arange(5000)
    some = find(PARALLEL, 10, rows, most=64)
    assert len(np.unique(some)) == 10
    whole, _ = one_epoch(Dataset.from_array(rows).batches(), 5000)
    drawn = sample(whole, 64, Seed(0).of(0).generator())
    allowed = np.concatenate([chunk.load(1)[:, 0] for chunk in drawn])
    assert len(allowed) == 64
    with pytest.raises(InvalidData, match="num_clusters = 65 rows, got 64"):
        find(PARALLEL, 65, rows, most=64)


# Arguments.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("oversampling", 0),
        ("oversampling", float("nan")),
        ("oversampling", float("inf")),
        ("oversampling", None),
        ("oversampling", "2"),
        ("initialization_rounds", 0),
        ("initialization_rounds", 1.5),
        ("initialization_rows", 0),
        ("initialization_rows", True),
    ],
)
def test_an_argument_of_no_use_is_named(name, value):
    with pytest.raises((ValueError, TypeError), match=rf"{name} must be .*, got"):
        KMeans(3, **{name: value})

"""A sweep: every model is the one that is trained alone, and a killed sweep goes on to the same."""

import json
import shutil

import numpy as np
import pytest

import dkmeans
from dkmeans import Dataset, Invalid, InvalidCheckpoint, InvalidType, KMeans
from dkmeans.executors import Threads
from dkmeans.sweeping import sweep
from tests import killed_sweeps


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(1)
    middles = rng.normal(size=(5, 3)) * 8
    return (middles[rng.integers(5, size=3000)] + rng.normal(size=(3000, 3))).astype(np.float32)


class Alone(KMeans):
    """A model that is trained as a sweep trains it, but alone."""

    _loss_offset = 0.0


def test_models_are_those_that_are_trained_alone_and_one_is_recommended(
    rows, tmp_path, monkeypatch
):
    reads = []
    map_reduce = Threads.map_reduce

    def counted(self, function, batches, value):
        reads.append(function)
        return map_reduce(self, function, batches, value)

    monkeypatch.setattr(Threads, "map_reduce", counted)
    found = sweep(lambda: rows, [8, 3, 5], tmp_path / "s", seed=2)
    shared = len(reads)
    assert [each["num_clusters"] for each in found["models"]] == [3, 5, 8]
    for model in found["models"]:
        k = model["num_clusters"]
        alone = Alone(
            *(k, tmp_path / f"alone{k}", "kmeans_plus_plus"),
            seed=2,
            use_mini_batch=False,
            relative_tolerance=1e-4,
            num_restarts=2,
        )
        alone.train(lambda: rows, max_steps=300)
        loaded = dkmeans.load(model["model_dir"])
        assert np.array_equal(loaded.cluster_centers(), alone.cluster_centers())
        judged = loaded.evaluate(lambda: rows, indices=["silhouette", "davies_bouldin"])
        for name in ("loss", "silhouette", "davies_bouldin"):
            assert model[name] == judged[name]
    # As many passes as the longest needs, and one to judge all.
    assert shared == max(model["steps"] for model in found["models"]) + 1
    assert found["recommended"] == 5
    assert found["recommended_model"] == str(tmp_path / "s" / "k5")
    assert json.loads((tmp_path / "s" / "sweep.json").read_text()) == found


def test_models_that_start_by_k_means_parallel_do_not_take_each_others_candidates(tmp_path):
    # All models have one seed, and with these rows two of them have equally many candidates.
    rows = np.random.default_rng(4).normal(size=(3000, 3)).astype(np.float32)
    options = {"seed": 0, "initial_clusters": "k-means||", "max_steps": 2}
    together = sweep(lambda: rows, range(3, 11), tmp_path / "together", **options)
    for model in together["models"]:
        k = model["num_clusters"]
        (alone,) = sweep(lambda: rows, [k], tmp_path / f"alone{k}", **options)["models"]
        centers = [dkmeans.load(each["model_dir"]).cluster_centers() for each in (model, alone)]
        assert np.array_equal(*centers)


def test_further_numbers_are_added_and_other_options_are_refused(rows, tmp_path):
    first = sweep(lambda: rows, [2, 5], tmp_path, seed=2)
    both = sweep(lambda: rows, [2, 5, 6], tmp_path)
    assert both["models"][:2] == first["models"]
    assert both["seed"] == 2
    more = sweep(lambda: rows, [4], tmp_path)
    assert [each["num_clusters"] for each in more["models"]] == [2, 4, 5, 6]
    assert [each for each in more["models"] if each["num_clusters"] != 4] == both["models"]
    assert more["recommended"] == both["recommended"] == 5
    assert json.loads((tmp_path / "sweep.json").read_text()) == more
    with pytest.raises(Invalid, match="num_restarts must be that of the sweep in output, 2"):
        sweep(lambda: rows, [2], tmp_path, num_restarts=3)
    with pytest.raises(Invalid, match="seed must be that of the sweep in output, 2"):
        sweep(lambda: rows, [2], tmp_path, seed=3)
    with pytest.raises(Invalid, match="the rows must be those of the sweep in output"):
        sweep(lambda: rows + 1, [2], tmp_path)


def test_a_model_that_is_gone_is_said_and_not_recommended(rows, tmp_path, caplog):
    output = tmp_path / "s"
    assert sweep(lambda: rows, [2, 5], output, seed=2)["recommended"] == 5
    shutil.rmtree(output / "k5")
    found = sweep(lambda: rows, [3], output, seed=2)
    assert [each["num_clusters"] for each in found["models"]] == [2, 3]
    assert found["recommended"] != 5
    assert f"leaving out k = 5: its model is gone: {output}/k5" in caplog.messages
    (output / "k2" / "checkpoints.json").write_text("{damaged")
    found = sweep(lambda: rows, [4], output, seed=2)
    assert [each["num_clusters"] for each in found["models"]] == [3, 4]
    assert any(f"leaving out k = 2: {output}/k2" in message for message in caplog.messages)


def test_models_of_which_no_plan_says_how_they_were_made_are_refused_and_left(rows, tmp_path):
    cosine = KMeans(4, tmp_path / "s" / "k4", rows[:4], "cosine", use_mini_batch=False)
    cosine.train(lambda: rows, steps=1)
    whole = KMeans(2, tmp_path / "m", use_mini_batch=False).train(lambda: rows, steps=1)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(Invalid, match=r"it holds a model \(k4\), but no sweep-plan.json that says"):
        sweep(lambda: rows, [2, 4], tmp_path / "s")
    with pytest.raises(Invalid, match=r"got .*/m: it holds a model \(itself\), but no sweep-plan"):
        sweep(lambda: rows, [2, 4], whole.model_dir)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_sweep_whose_rows_were_refused_may_begin_anew_with_others(rows, tmp_path):
    bad = rows.copy()
    bad[7, 1] = np.nan
    with pytest.raises(ValueError, match="row 7"):
        sweep(lambda: bad, [2, 3], tmp_path, seed=1)
    found = sweep(lambda: rows, [2, 3], tmp_path, seed=2, relative_tolerance=np.float32(1e-3))
    assert found["seed"] == 2


@pytest.mark.parametrize("kind", [np.asarray, lambda rows: dict(zip("abc", rows.T, strict=True))])
def test_a_sweep_is_continued_whatever_the_chunks_of_its_largest_model(
    rows, tmp_path, monkeypatch, kind
):
    monkeypatch.setattr("dkmeans.data.chunks._ROWS_OF_SUMS", 2**16)
    monkeypatch.setattr("dkmeans.data.chunks._CHUNKS_PER_THREAD", 1)
    monkeypatch.setattr("dkmeans.data.chunks.TARGET_BYTES", 2**12)
    monkeypatch.setattr("dkmeans.data.chunks.SMALLEST_BYTES", 2**10)
    first = sweep(lambda: kind(rows), [2], tmp_path, seed=1, max_steps=2)
    both = sweep(lambda: kind(rows), [2, 9], tmp_path, max_steps=2)
    assert both["models"][0] == first["models"][0]


def test_the_directory_of_a_sweep_is_no_model_and_says_where_the_models_are(rows, tmp_path):
    sweep(lambda: rows, [2], tmp_path / "s", max_steps=1)
    for use in (dkmeans.load, lambda path: KMeans(2, path).cluster_centers()):
        with pytest.raises(InvalidCheckpoint, match=r"It holds a sweep: .*s/kN for N clusters"):
            use(tmp_path / "s")
    before = sorted((tmp_path / "s").rglob("*"))
    with pytest.raises(Invalid, match=r"a new directory, got .*s'. It holds a sweep: give"):
        KMeans(2, tmp_path / "s").train(lambda: rows, steps=1)
    assert sorted((tmp_path / "s").rglob("*")) == before


def test_all_models_of_a_sweep_standardize_alike(rows, tmp_path):
    table = Dataset.from_array(rows * np.float32([1, 10, 100]))
    found = sweep(lambda: table.standardize(), [2, 5], tmp_path, seed=2)
    assert found["recommended"] == 5
    models = [dkmeans.load(each["model_dir"]) for each in found["models"]]
    (scaling,) = {model.checkpoint().settings.scaling for model in models}
    scaled = sweep(
        lambda: scaling.standardized(rows * np.float32([1, 10, 100])),
        [2, 5],
        tmp_path / "scaled",
        seed=2,
    )
    for one, other in zip(found["models"], scaled["models"], strict=True):
        assert (one["loss"], one["silhouette"]) == (other["loss"], other["silhouette"])
    more = sweep(lambda: table.standardize(), [5, 3], tmp_path)
    assert more["models"][2] == found["models"][1]
    with pytest.raises(Invalid, match="standardize must be that of the sweep in output, True, "):
        sweep(lambda: table, [3, 4], tmp_path)


def test_a_sweep_on_a_cluster_and_with_weights_has_the_same_bits(rows, tmp_path, request):
    weights = np.random.default_rng(1).random(len(rows))
    expected = sweep(lambda: Dataset.from_array(rows, weights), [2, 4], tmp_path / "a", seed=1)
    request.getfixturevalue("client")
    found = sweep(lambda: Dataset.from_array(rows, weights), [2, 4], tmp_path / "b", seed=1)
    for one, other in zip(found["models"], expected["models"], strict=True):
        differing = {"model_dir", "seconds"}
        assert {n: v for n, v in one.items() if n not in differing} == {
            n: v for n, v in other.items() if n not in differing
        }


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.long)])
def test_a_sweep_killed_at_random_file_operations_goes_on_to_the_same_bits(tmp_path, kills):
    assert len(killed_sweeps.rehearse(tmp_path, kills, seed=kills)) == kills


def test_an_error_of_one_model_ends_all_of_them(tmp_path):
    bad = np.zeros((50, 2))
    bad[40, 1] = np.nan
    with pytest.raises(Invalid, match="row 40"):
        sweep(lambda: bad, [2, 3], tmp_path, initial_clusters="random", seed=1)


def test_an_output_that_is_a_file_is_refused(rows, tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(Invalid, match="output must be writable, got"):
        sweep(lambda: rows, [2], tmp_path / "file")


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"num_clusters": []}, Invalid, "one or more different integers"),
        ({"num_clusters": [3, 3]}, Invalid, "one or more different integers"),
        ({"num_clusters": "4,8"}, InvalidType, "num_clusters must be a list of integers"),
        ({"num_clusters": [4, 5000]}, Invalid, "at most the number of rows, 3,000, got 5000"),
        ({"num_restarts": 1}, Invalid, "num_restarts must be an integer >= 2, got 1"),
        ({"output": 3}, InvalidType, "output must be a path or URL, got 3"),
        ({"initial_clusters": np.ones((2, 3))}, InvalidType, "the name of a method"),
        ({"input_fn": lambda: iter([np.ones((9, 3))])}, Invalid, "all rows in each step"),
    ],
)
def test_arguments_that_make_no_sweep_are_refused(rows, tmp_path, arguments, error, match):
    given = {"input_fn": lambda: rows, "num_clusters": [2], "output": tmp_path, **arguments}
    with pytest.raises(error, match=match):
        sweep(**given)


@pytest.mark.parametrize("damaged", ['{"models": null}', '{"models": [{}, 1]}', "[1]", "no JSON"])
def test_a_damaged_result_of_an_earlier_call_costs_no_model(rows, tmp_path, damaged):
    sweep(lambda: rows, [3], tmp_path, seed=2, max_steps=2)
    (tmp_path / "sweep.json").write_text(damaged)
    found = sweep(lambda: rows, [3, 4], tmp_path, seed=2, max_steps=2)
    assert [each["num_clusters"] for each in found["models"]] == [3, 4]

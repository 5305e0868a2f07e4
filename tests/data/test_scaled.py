"""Scaled rows: standardized on the workers, in every order of the methods, and cached once."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from dkmeans import Dataset, Invalid, InvalidData, KMeans
from dkmeans.data.sources.zarr_array import ZarrRows
from dkmeans.scaling import Scaling
from tests.data.sources.rows import loaded

ROWS = (np.random.default_rng(6).normal(size=(300, 3)) * [1, 10, 100] + 5).astype(np.float32)
SCALING = Scaling.of(np.array([5.0, 4.0, 3.0]), np.array([1.0, 10.0, 90.0]))
KNOWN = SCALING.standardized(ROWS)


@pytest.fixture
def stored(tmp_path):
    zarr.create_array(tmp_path / "rows.zarr", data=ROWS, chunks=(40, 3))
    return Dataset.from_zarr(str(tmp_path / "rows.zarr"))


def test_rows_are_scaled_in_every_order_of_the_methods(stored):
    assert np.array_equal(loaded(stored.scaled(SCALING)), KNOWN)
    assert np.array_equal(loaded(stored.batch(17).scaled(SCALING)), KNOWN)
    assert np.array_equal(
        loaded(stored.map(lambda rows: -rows).scaled(SCALING)), SCALING.standardized(-ROWS)
    )
    shuffled = SCALING.standardized(loaded(stored.shuffle(1).batch(70)))
    assert np.array_equal(loaded(stored.shuffle(1).batch(70).scaled(SCALING)), shuffled)
    repeated = stored.repeat(2).scaled(SCALING).batches()
    assert next(repeated) is next(repeated)  # what is known of a batch is not computed again


def test_storage_is_read_once_for_all_steps(stored, monkeypatch):
    reads, read = [], ZarrRows.read
    monkeypatch.setattr(ZarrRows, "read", lambda *given: reads.append(given) or read(*given))
    counts = []
    for steps in (2, 5):
        KMeans(9, seed=1).train(lambda: stored.standardize(), steps=steps)
        counts.append(len(reads))
    assert counts[1] == 2 * counts[0]


def test_a_row_that_is_not_finite_is_named_as_the_input_has_it(stored, tmp_path):
    model = KMeans(2, str(tmp_path / "m"), seed=1, use_mini_batch=False)
    model.train(lambda: stored.standardize(), steps=1)
    broken = ROWS.copy()
    broken[77, 1] = np.nan
    with pytest.raises(InvalidData, match="row 77 of the array has nan in column 1"):
        model.evaluate(lambda: Dataset.from_array(broken))
    with pytest.raises(InvalidData, match="row 77 of the array has nan in column 1"):
        KMeans(2, seed=1).train(lambda: Dataset.from_array(broken).standardize(), steps=1)


def test_predictions_keep_the_files_and_the_ids_of_the_input(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(3):
        rows = ROWS[number * 100 : number * 100 + 100]
        columns = {name: rows[:, i] for i, name in enumerate("abc")}
        ids = [f"{number}-{i}" for i in range(100)]
        pq.write_table(pa.table({**columns, "id": ids}), tmp_path / f"in/part.{number}.parquet")
    dataset = Dataset.from_parquet(str(tmp_path / "in"), columns=["a", "b", "c"])
    model = KMeans(3, str(tmp_path / "m"), seed=1, use_mini_batch=False)
    model.train(lambda: dataset.standardize(), steps=2)
    out = tmp_path / "out.parquet"
    assert model.write_predictions(lambda: dataset, out, keep=["id"]) == 300
    found = pq.read_table(out / "part.1.parquet")
    assert found["id"].to_pylist() == [f"1-{i}" for i in range(100)]
    known = [*model.predict_cluster_index(lambda: ROWS[100:200])]
    assert found["cluster_index"].to_pylist() == known


def test_rows_that_cannot_be_standardized_are_refused(stored, tmp_path):
    for dataset in (stored.repeat(), stored.batch(3).repeat()):
        with pytest.raises(
            Invalid, match=r"standardize\(\) must come before repeat\(\), with rows"
        ):
            dataset.standardize()
    with pytest.raises(Invalid, match=r"map\(function\) must come before standardize\(\)"):
        stored.standardize().map(lambda rows: rows)
    model = KMeans(2, str(tmp_path / "m"), seed=1, use_mini_batch=False)
    model.train(lambda: stored, steps=1)
    for call in (model.train, model.evaluate):
        with pytest.raises(Invalid, match="standardize must come with a new model"):
            call(lambda: stored.standardize(), steps=1)

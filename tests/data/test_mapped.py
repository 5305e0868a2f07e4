"""Mapped rows: a function of the user, run on the workers and tried before."""

import threading

import numpy as np
import pytest
import zarr
from distributed import get_worker

from dkmeans import Dataset, Invalid, InvalidData, InvalidType, KMeans
from dkmeans.feature_columns import numeric_column
from tests.data.sources.rows import loaded

ROWS = np.random.default_rng(6).normal(size=(300, 3)).astype(np.float32)
# An object that cannot be pickled.
LOCK = threading.Lock()


def logs(rows):
    """Return two columns for each row."""
    return np.log1p(np.abs(rows[:, :2]))


@pytest.fixture
def stored(tmp_path):
    zarr.create_array(tmp_path / "rows.zarr", data=ROWS, chunks=(40, 3))
    return Dataset.from_zarr(str(tmp_path / "rows.zarr"))


def test_rows_are_mapped_in_every_order_of_the_methods(stored):
    assert (stored.map(logs).width, stored.map(logs).columns) == (2, None)
    assert np.array_equal(loaded(stored.map(logs)), logs(ROWS))
    assert np.array_equal(loaded(stored.map(logs).batch(17)), logs(ROWS))
    assert np.array_equal(loaded(stored.batch(17).map(logs).map(lambda rows: -rows)), -logs(ROWS))
    for shuffled in (stored.shuffle(1).map(logs), stored.map(logs).shuffle(1)):
        assert np.array_equal(loaded(shuffled), logs(loaded(stored.shuffle(1))))
    frame = Dataset.from_array(ROWS, weights=np.arange(300)).map(logs)
    assert next(frame.batches())[0].loaded().weights.tolist() == list(range(1, 300))


def test_workers_run_the_function_and_predictions_are_resumed(stored, tmp_path, client, caplog):
    main = threading.get_ident()

    def on_a_worker(rows):
        if threading.get_ident() != main:  # the first rows are tried here
            get_worker()
        return logs(rows)

    model = KMeans(3, str(tmp_path / "m"), seed=1, use_mini_batch=False)
    model.train(lambda: stored.map(on_a_worker), steps=2)
    known = KMeans(3, str(tmp_path / "k"), seed=1, use_mini_batch=False)
    known.train(lambda: logs(ROWS), steps=2)
    assert np.array_equal(model.cluster_centers(), known.cluster_centers())
    caplog.set_level("INFO", "dkmeans")
    for _ in range(2):
        model.write_predictions(lambda: stored.map(logs), tmp_path / "o.zarr")
    assert "nothing to do" in caplog.text


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (3, InvalidType, r"function must be a function of rows \(n, d\), got 3"),
        (lambda rows: rows[0], Invalid, r"must return rows, \(100, e\) for 100 rows"),
        (lambda rows: rows[1:], Invalid, r"got an array of shape \(99, 3\)"),
        (lambda rows: rows.astype(str), InvalidType, "must return real numbers, got dtype <U"),
        (lambda rows: rows - rows.mean(axis=0), Invalid, "depends on that row alone"),
        (LOCK.acquire, InvalidType, "that can be pickled"),
        (lambda rows: np.ma.masked_greater(rows, 1), InvalidData, "must have no masked values"),
    ],
)
def test_functions_that_cannot_be_used_are_refused(stored, function, error, message):
    with pytest.raises(error, match=message):
        stored.map(function)


def test_a_function_cannot_change_the_rows_of_the_caller():
    def doubled(rows):
        rows *= 2
        return rows

    with pytest.raises(ValueError, match="read-only"):
        Dataset.from_array(ROWS).map(doubled)


def test_rows_that_are_missing_or_come_from_an_iterator_are_not_mapped(stored):
    for empty in (stored.take(0), stored.skip(300)):
        with pytest.raises(Invalid, match="map must come with at least one row, got none"):
            empty.map(logs)
    with pytest.raises(Invalid, match="can be read again, got an iterator's"):
        Dataset.of_batches(3, iter([])).map(logs)


def test_a_mapped_dataset_is_refused_where_other_rows_would_be_read(stored, tmp_path):
    model = KMeans(2, str(tmp_path / "m"), feature_columns=[numeric_column("a")])
    with pytest.raises(Invalid, match="feature_columns must come with a dataset without map"):
        model.train(lambda: stored.map(logs), steps=1)
    changing = stored.map(lambda rows: rows if rows[0, 0] == ROWS[0, 0] else rows[:, :1])
    with pytest.raises(InvalidData, match=r"must return 40 rows of 3 columns, got .* \(40, 1\)"):
        loaded(changing.batch(40))

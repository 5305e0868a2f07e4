"""Rows of Dask arrays: computed block by block, or fetched from a cluster if persisted."""

import os
import pickle
import signal
import time
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import zarr
from distributed import Client

from dkmeans import Dataset, InvalidData, KMeans, RunConfig
from dkmeans.data.sources.dask_array import DaskRows, FutureRows
from tests.at_step import at_step
from tests.data.sources.rows import ROWS, chunks_of, loaded
from tests.programs import output_of


def doubled(block, log):
    with Path(log).open("a") as file:
        file.write(f"{len(block)}\n")
    return block * 2


def logged(log, chunks=(10, 4)):
    """Return a Dask array that logs the size of each block when it computes the block."""
    array = da.from_array(ROWS, chunks=chunks)
    return array.map_blocks(doubled, log=str(log), dtype=ROWS.dtype, meta=ROWS[:0])


def test_a_dask_array_is_computed_block_by_block_and_not_before_it_is_loaded(tmp_path):
    log = tmp_path / "log"
    chunks = chunks_of(Dataset.from_array(logged(log)).repeat(1))
    assert len(chunks) == 5
    assert not log.exists()
    assert np.array_equal(chunks[3].load(4), 2 * ROWS[30:40])
    assert log.read_text().split() == ["10"]
    assert np.array_equal(chunks[1].cut(2, 4).load(4), 2 * ROWS[12:14])
    assert len(log.read_text().split()) == 2


@pytest.mark.parametrize("chunks", [(50, 4), (7, 4), (50, 1), (7, 3), ((1, 40, 9), (2, 2))])
def test_dask_arrays_of_any_chunks_give_their_rows(chunks):
    dataset = Dataset.from_array(da.from_array(ROWS, chunks=chunks))
    assert np.array_equal(loaded(dataset), ROWS)
    assert np.array_equal(loaded(dataset.batch(8)), ROWS)
    for chunk in chunks_of(dataset):
        again = pickle.loads(pickle.dumps(chunk))
        assert np.array_equal(again.load(4), ROWS[chunk.start : chunk.stop])


def test_unknown_chunk_sizes_are_computed_and_the_given_array_stays_as_it_is():
    array = da.from_array(ROWS, chunks=(10, 4))
    selected = array[array[:, 0] > 0]
    dataset = Dataset.from_array(selected)
    assert dataset.rows == (ROWS[:, 0] > 0).sum()
    assert np.isnan(selected.chunks[0]).all()
    assert np.array_equal(loaded(dataset), ROWS[ROWS[:, 0] > 0])


def test_empty_blocks_are_skipped():
    selected = (ROWS[:, 1] > -9) & ~((np.arange(50) >= 10) & (np.arange(50) < 30))
    array = da.from_array(ROWS, chunks=(10, 4))
    dataset = Dataset.from_array(array[da.from_array(selected, chunks=10)])
    assert [chunk.rows for chunk in chunks_of(dataset)] == [10, 10, 10]
    assert np.array_equal(loaded(dataset), ROWS[selected])
    sized = da.concatenate([array[:10], array[:0], array[10:]])
    assert np.array_equal(loaded(Dataset.from_array(sized)), ROWS)


@pytest.mark.parametrize(
    "change",
    [lambda b: np.repeat(b, 2, 0), lambda b: b[::2], lambda b: b[:, :3], lambda b: b[:, 0]],
    ids=["more rows", "fewer rows", "fewer columns", "one dimension"],
)
@pytest.mark.parametrize("persisted", [False, True])
def test_blocks_of_another_shape_than_the_array_declares_are_refused(change, persisted, request):
    array = da.from_array(ROWS, chunks=(10, 4)).map_blocks(change, dtype="f4", meta=ROWS[:0])
    if persisted:
        request.getfixturevalue("client")
        array = array.persist()
    with pytest.raises(InvalidData, match=r"blocks of the shapes that it declares, \(10, 4\)"):
        loaded(Dataset.from_array(array).skip(10))
    if persisted:
        model = KMeans(2, initial_clusters=ROWS[:2], use_mini_batch=False)
        with pytest.raises(InvalidData, match="blocks of the shapes"):
            model.train(lambda: array, steps=1)


def test_a_block_that_fails_is_refused_by_its_rows():
    def fail(block, block_info=None):
        if block_info[0]["chunk-location"][0] == 1:
            raise ZeroDivisionError("no such block")
        return block

    array = da.from_array(ROWS, chunks=(10, 4)).map_blocks(fail, dtype=ROWS.dtype, meta=ROWS[:0])
    with pytest.raises(InvalidData, match=r"rows 10 to 19 .*ZeroDivisionError: no such block"):
        loaded(Dataset.from_array(array))


def test_only_graphs_that_contain_rows_carry_rows(tmp_path):
    rows = np.zeros((20_000, 4))
    stored = zarr.create_array(str(tmp_path / "rows.zarr"), data=rows, chunks=(5_000, 4))
    made = {
        "from_array": (da.from_array(rows, chunks=(5_000, 4)), True),
        "sum of from_array": (da.from_array(rows, chunks=(5_000, 4)) + 1, True),
        "random": (da.random.default_rng(1).normal(size=(20_000, 4), chunks=(5_000, 4)), False),
        "ones": (da.ones((20_000, 4), chunks=(5_000, 2)), False),
        "from_zarr": (da.from_zarr(stored), False),
        "half of from_zarr": (da.from_zarr(str(tmp_path / "rows.zarr"))[10_000:] / 2, False),
    }
    for name, (array, carries) in made.items():
        chunks = chunks_of(Dataset.from_array(array))
        assert all(isinstance(chunk.source, DaskRows) for chunk in chunks)
        assert {chunk.source.carries_rows for chunk in chunks} == {carries}, name
        assert np.array_equal(chunks[-1].load(4), array[-chunks[-1].rows :].compute()), name


def centers_of(rows, folder, config=None):
    model = KMeans(3, str(folder), initial_clusters=ROWS[:3], use_mini_batch=False, config=config)
    return model.train(lambda: rows, steps=5).cluster_centers()


@pytest.mark.parametrize("chunks", [(10, 4), (20, 3)])
def test_persisted_arrays_are_futures_and_train_to_the_same_centers(client, chunks, tmp_path):
    array = client.persist(da.from_array(ROWS, chunks=chunks))
    source_kinds = {type(chunk.source) for chunk in chunks_of(Dataset.from_array(array))}
    assert source_kinds == {FutureRows}
    assert np.array_equal(loaded(Dataset.from_array(array)), ROWS)
    config = RunConfig(client=client)
    trained = centers_of(array, tmp_path / "persisted", config)
    expected = centers_of(ROWS, tmp_path / "rows")
    assert np.allclose(trained, expected, rtol=1e-5, atol=1e-6)


def test_arrays_computed_from_persisted_arrays_are_futures_too(client, tmp_path):
    array = client.persist(da.from_array(ROWS, chunks=(10, 4)))
    dataset = Dataset.from_array(array[5:] * 2)
    assert {type(chunk.source) for chunk in chunks_of(dataset)} == {FutureRows}
    assert np.array_equal(loaded(dataset), ROWS[5:] * 2)


def test_arrays_that_are_not_persisted_train_on_a_cluster_to_the_same_centers(client, tmp_path):
    config = RunConfig(client=client)
    array = da.from_array(ROWS, chunks=(10, 3))
    trained = centers_of(array, tmp_path / "Dask", config)
    assert np.allclose(trained, centers_of(ROWS, tmp_path / "rows"), rtol=1e-5, atol=1e-6)


def test_an_import_of_the_library_and_of_its_command_does_not_import_dask_array():
    program = "import sys, dkmeans, dkmeans_jobs.__main__; print('dask.array' in sys.modules)"
    assert output_of(program) == "False\n"


def test_rows_in_the_memory_of_a_cluster_that_is_closed_or_has_lost_them_are_refused(tmp_path):
    one = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": ":0"}
    with Client(**one, set_as_default=False) as client:
        kept = client.persist(da.from_array(ROWS, chunks=(10, 4)))
        (scattered,) = client.scatter([ROWS])
        block = da.from_delayed(scattered, shape=ROWS.shape, dtype=ROWS.dtype)
        config = RunConfig(client=client)
        model = KMeans(2, str(tmp_path), ROWS[:2], use_mini_batch=False, config=config)
        model.train(lambda: kept, steps=1)
        model.train(lambda: block, steps=1)
        with Client(processes=False, **one, set_as_default=False) as other:
            config = RunConfig(client=other)
            elsewhere = KMeans(2, None, ROWS[:2], use_mini_batch=False, config=config)
            with pytest.raises(InvalidData, match="must be in the memory of the cluster that comp"):
                elsewhere.train(lambda: kept, steps=1)
        lost = pytest.raises(InvalidData, match="were lost with their workers")
        with lost, at_step(3, lambda: kill_workers(client)):
            model.train(lambda: block, steps=4)
        with pytest.raises(InvalidData, match="got rows whose cluster is closed or has lost them"):
            model.train(lambda: block, steps=1)
        model.train(lambda: kept, steps=1)  # Dask computes these rows again
    with pytest.raises(InvalidData, match="got rows whose cluster is closed or has lost them"):
        KMeans(2, None, ROWS[:2], use_mini_batch=False).train(lambda: kept, steps=1)


def kill_workers(client):
    before = client.run(os.getpid)
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while not client.nthreads() or set(client.nthreads()) & set(before):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_block_of_more_precision_than_declared_is_refused():
    array = da.from_array(ROWS.astype(np.float32), chunks=(10, 4))
    wide = array.map_blocks(lambda block: block.astype(np.float64) / 3, dtype=np.float32)
    (batch,) = Dataset.from_array(wide).batches()
    with pytest.raises(InvalidData, match=r"dtype that it declares, float32 .* got float64"):
        batch[0].loaded()
    narrow = array.map_blocks(lambda block: block, dtype=np.float64)
    (batch,) = Dataset.from_array(narrow).batches()
    assert batch[0].loaded().points.tolist() == ROWS[:10].astype(np.float32).tolist()

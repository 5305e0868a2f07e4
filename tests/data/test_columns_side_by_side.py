"""Columns side by side: of a Zarr group, chunked as they like."""

import numpy as np
import pytest
import zarr
from dkmeans_jobs.input import open_input

from dkmeans import Dataset, Invalid, InvalidData, KMeans
from dkmeans.data.batches import Batch
from dkmeans.data.columns_side_by_side import side_by_side
from dkmeans.data.views import Columns
from tests.data.sources.rows import chunks_of, loaded

RNG = np.random.default_rng(4)
ARRAYS = {
    "a": RNG.normal(size=90),
    "v": RNG.normal(size=(90, 2)),
    "n": np.arange(90, dtype=np.int16),
}


@pytest.fixture
def store(tmp_path):
    """A group of columns in chunks of different sizes, below the root of the store."""
    group = zarr.open_group(tmp_path / "rows.zarr", mode="w").create_group("part")
    for chunk, (name, values) in enumerate(ARRAYS.items(), 7):
        group.create_array(name, data=values, chunks=(chunk, *values.shape[1:]))
    group.create_array("short", data=np.zeros(89))
    group.create_array("cube", data=np.zeros((90, 1, 1)))
    return str(tmp_path / "rows.zarr")


def test_arrays_of_a_group_are_columns_with_names(store, tmp_path):
    rows = np.column_stack([ARRAYS["n"], ARRAYS["v"], ARRAYS["a"]])
    named = Dataset.from_zarr(f"{store}::part", columns=["n", "v", "a"])
    assert named.columns == ("n", "v[2]", "a")
    assert np.array_equal(loaded(named), rows)
    assert np.array_equal(loaded(Dataset.from_zarr(f"{store}::part/n,part/v,part/a")), rows)
    assert len(chunks_of(named.in_chunks_of(7 * 8 * 3))) > 1
    assert np.array_equal(loaded(named.in_chunks_of(7 * 8 * 3)), rows)
    weighted = Dataset.from_zarr(f"{store}::part", f"{store}::part/n", ["v"])
    assert np.array_equal(loaded(weighted), ARRAYS["v"])
    model = KMeans(3, str(tmp_path / "m"), seed=1).train(lambda: named, steps=2)
    others = Dataset.from_zarr(f"{store}::part", columns=["a", "n", "v"])
    assert list(model.predict_cluster_index(lambda: others)) == [
        *model.predict_cluster_index(lambda: rows)
    ]
    assert open_input([f"{store}::part"], "n,v,a").columns == named.columns


def test_arrays_that_make_no_table_are_refused(store):
    with pytest.raises(InvalidData, match=r"must be equally long, got \[89, 90\] rows"):
        Dataset.from_zarr(f"{store}::part", columns=["a", "short"])
    with pytest.raises(InvalidData, match=r"part/cube must be 2-D"):
        Dataset.from_zarr(f"{store}::part", columns=["a", "cube"])
    with pytest.raises(InvalidData, match=r"part/b must be a Zarr array: nothing is there"):
        Dataset.from_zarr(f"{store}::part", columns=["a", "b"])
    with pytest.raises(Invalid, match=r"columns must be names of arrays, got \[\]"):
        Dataset.from_zarr(f"{store}::part", columns=[])
    with pytest.raises(InvalidData, match="got a group; give columns, or name one of its arrays"):
        Dataset.from_zarr(f"{store}::part")


def test_no_rows_have_no_chunks():
    assert side_by_side([Batch(), Batch()], "no rows", Columns).rows == 0

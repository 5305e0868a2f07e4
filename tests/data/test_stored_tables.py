"""Stored tables: several files are one table, and what names no file is refused."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from dkmeans import Dataset
from tests.data.sources.rows import loaded as rows_in


def tables(folder, kind):
    """Write two tables, and return a function that opens addresses, and the rows of both."""
    rows = [np.arange(20, dtype=np.float32).reshape(10, 2) + start for start in (0, 100)]
    for name, table in zip((2, 10), rows, strict=True):
        path = folder / f"rows.{name}.{kind}"
        if kind == "npy":
            np.save(path, table)
        elif kind == "zarr":
            zarr.create_array(str(path), data=table, chunks=(3, 2))
        else:
            pq.write_table(pa.table({"a": table[:, 0], "b": table[:, 1]}), path)
    return getattr(Dataset, f"from_{kind}"), np.vstack(rows)


in_every_kind = pytest.mark.parametrize("kind", ["npy", "zarr", "parquet"])


@in_every_kind
def test_the_rows_of_several_files_follow_one_another(kind, tmp_path):
    open_files, rows = tables(tmp_path, kind)
    two, ten = tmp_path / f"rows.2.{kind}", tmp_path / f"rows.10.{kind}"
    for address in (
        [two, str(ten)],
        (str(two), str(ten)),
        f"{tmp_path}/*.{kind}",
        iter([two, ten]),
    ):
        dataset = open_files(address)
        assert dataset.rows == 20
        assert np.array_equal(rows_in(dataset), rows)
    assert np.array_equal(rows_in(open_files([ten, two])), np.roll(rows, 10, axis=0))


def test_a_pattern_of_stores_keeps_the_name_of_the_array(tmp_path):
    for name in ("2.zarr", "10.zarr"):
        group = zarr.create_group(str(tmp_path / name))
        group.create_array("rows", data=np.full((3, 2), float(name.removesuffix(".zarr"))))
    dataset = Dataset.from_zarr(f"{tmp_path}/*.zarr::rows")
    assert rows_in(dataset)[:, 0].tolist() == [2, 2, 2, 10, 10, 10]


@in_every_kind
def test_files_of_different_widths_are_refused(kind, tmp_path):
    open_files, _ = tables(tmp_path, kind)
    other = tmp_path / "other"
    other.mkdir()
    if kind == "npy":
        np.save(other / "x.npy", np.zeros((3, 3)))
    elif kind == "zarr":
        zarr.create_array(str(other / "x.zarr"), data=np.zeros((3, 3)))
    else:
        pq.write_table(pa.table({name: [1.0] for name in "abc"}), other / "x.parquet")
    with pytest.raises(ValueError, match=r"columns.*rows\.2\..*x\."):
        open_files([f"{tmp_path}/rows.2.{kind}", f"{other}/x.{kind}"])


@in_every_kind
@pytest.mark.parametrize("given", [3, None, b"x.npy", {"a": "x"}, {"x"}, ["x", 3], [["x"]]])
def test_what_is_no_path_is_refused_as_an_address(kind, given):
    with pytest.raises(TypeError, match="address must be a path, a URL, or a list of them, got"):
        getattr(Dataset, f"from_{kind}")(given)


@in_every_kind
def test_an_empty_list_of_files_is_refused(kind):
    with pytest.raises(ValueError, match="at least one file, got an empty list"):
        getattr(Dataset, f"from_{kind}")([])


def test_weights_of_another_shape_in_storage_are_refused(tmp_path):
    np.save(tmp_path / "rows.npy", np.zeros((4, 2)))
    np.save(tmp_path / "cube.npy", np.zeros((4, 1, 1)))
    with pytest.raises(ValueError, match=r"cube.npy must hold a 2-D array"):
        Dataset.from_npy(tmp_path / "rows.npy", weights=tmp_path / "cube.npy")
    zarr.create_array(str(tmp_path / "rows.zarr"), data=np.zeros((4, 2)))
    with pytest.raises(ValueError, match=r"rows.zarr must be one column of weights, .*\(4, 2\)"):
        Dataset.from_zarr(tmp_path / "rows.zarr", weights=tmp_path / "rows.zarr")

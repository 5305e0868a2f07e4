"""Rows of .npy files, on a disk, in memory and on S3; other files are refused."""

import io

import numpy as np
import pytest

from dkmeans import Dataset, InvalidData
from dkmeans.storage import write
from tests.data.sources.rows import ROWS, chunks_of, everywhere, loaded


def npy(array, **more):
    data = io.BytesIO()
    np.lib.format.write_array(data, array, **more)
    return data.getvalue()


@everywhere
@pytest.mark.parametrize("dtype", ["f4", "f8", ">f8", "i2"])
def test_npy_files_are_read_everywhere(address, dtype):
    rows = (ROWS * 100).astype(dtype)
    write(address, npy(rows))
    dataset = Dataset.from_npy(address)
    assert (dataset.rows, dataset.width) == ROWS.shape
    assert np.array_equal(loaded(dataset), rows)
    assert np.array_equal(loaded(dataset.batch(7)), rows)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_npy_files_of_every_version_are_read(version, tmp_path):
    path = tmp_path / "rows.npy"
    path.write_bytes(npy(ROWS, version=version))
    assert np.array_equal(loaded(Dataset.from_npy(str(path))), ROWS)


def test_a_header_is_read_again_if_python_was_disturbed_by_another_thread(tmp_path, monkeypatch):
    np.save(tmp_path / "rows.npy", ROWS)
    read, failures = np.lib.format.read_array_header_1_0, [SystemError("depth mismatch")]

    def disturbed(file):
        header = read(file)
        if failures:
            raise failures.pop()
        return header

    monkeypatch.setattr(np.lib.format, "read_array_header_1_0", disturbed)
    assert np.array_equal(loaded(Dataset.from_npy(str(tmp_path / "rows.npy"))), ROWS)
    assert not failures


@everywhere
def test_an_npy_file_in_fortran_order_is_refused(address):
    write(address, npy(np.asfortranarray(ROWS)))
    with pytest.raises(
        InvalidData,
        match=r"C order, got shape \(50, 4\) of float32 in Fortran order; save .*ascontiguousarray",
    ):
        Dataset.from_npy(address)


@pytest.mark.parametrize("shape", [(50, 1), (1, 50)])
def test_an_array_of_one_row_or_column_is_accepted_in_both_orders(shape, tmp_path):
    rows = np.asfortranarray(np.arange(50.0).reshape(shape))
    np.save(tmp_path / "rows.npy", rows)
    assert np.array_equal(loaded(Dataset.from_npy(str(tmp_path / "rows.npy"))), rows)


@everywhere
def test_an_npy_file_that_is_cut_short_is_refused_by_its_length(address):
    data = npy(ROWS)
    write(address, data[:-1])
    with pytest.raises(
        InvalidData, match=f"{len(data)} bytes long, got {len(data) - 1}: it is cut short"
    ):
        Dataset.from_npy(address)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"rows",
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00\x76\x00{'descr'",
        npy(ROWS)[:60],
        b"PK\3\4" * 9,
        b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr': '<f4', 'shape': ((((".ljust(117) + b"\n",
        b"\x93NUMPY\x01\x00\x76\x00" + b"{[]: '<f4'}".ljust(117) + b"\n",
    ],
    ids=[
        "empty",
        "text",
        "magic",
        "half a header",
        "most of a header",
        "npz",
        "open brackets",
        "no keys",
    ],
)
def test_files_of_other_formats_are_refused(data, tmp_path):
    path = tmp_path / "rows.npy"
    path.write_bytes(data)
    with pytest.raises(InvalidData, match=r"rows.npy must be an .npy file"):
        Dataset.from_npy(str(path))


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(InvalidData, match=r"must be an .npy file"):
        Dataset.from_npy(str(tmp_path))


@pytest.mark.parametrize("shape", [(4,), (2, 2, 2), ()])
def test_npy_files_of_other_shapes_are_refused_by_their_shape(shape, tmp_path):
    np.save(tmp_path / "rows.npy", np.zeros(shape))
    with pytest.raises(InvalidData, match="must hold a 2-D array of numbers") as caught:
        Dataset.from_npy(str(tmp_path / "rows.npy"))
    assert str(shape) in str(caught.value)


def test_an_npy_file_of_a_negative_length_is_refused(tmp_path):
    data = npy(ROWS).replace(str(ROWS.shape).encode(), f"(-{str(ROWS.shape)[1:]}".encode(), 1)
    (tmp_path / "rows.npy").write_bytes(data)
    with pytest.raises(InvalidData, match=r"must hold a 2-D array of numbers, .*, got shape \(-"):
        Dataset.from_npy(str(tmp_path / "rows.npy"))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_npy_files_without_rows_or_columns_are_refused(shape, tmp_path):
    np.save(tmp_path / "rows.npy", np.zeros(shape))
    with pytest.raises(InvalidData, match="at least one"):
        Dataset.from_npy(str(tmp_path / "rows.npy"))


@pytest.mark.parametrize("dtype", ["V2", "c8", "M8[s]", "U1", [("a", "f4")]])
def test_npy_files_of_other_dtypes_are_refused_when_they_are_opened(dtype, tmp_path):
    np.save(tmp_path / "rows.npy", np.zeros((3, 2), dtype))
    with pytest.raises(
        InvalidData, match=r"2-D array of numbers, .*got shape \(3, 2\) of"
    ) as caught:
        Dataset.from_npy(str(tmp_path / "rows.npy"))
    # NumPy writes bfloat16 of ml_dtypes as two bytes without a meaning.
    assert ("save bfloat16 as float32" in str(caught.value)) == (dtype == "V2")


def test_an_npy_file_of_objects_is_refused_without_unpickling(tmp_path):
    np.save(tmp_path / "rows.npy", np.array([[1, None]], object), allow_pickle=True)
    with pytest.raises(InvalidData, match="2-D array of numbers"):
        Dataset.from_npy(str(tmp_path / "rows.npy"))


def test_a_local_npy_file_is_mapped_and_not_copied(tmp_path):
    np.save(tmp_path / "rows.npy", ROWS)
    (chunk,) = chunks_of(Dataset.from_npy(str(tmp_path / "rows.npy")))
    assert isinstance(chunk.source.read(3, 9), np.memmap)
    assert not chunk.load(4).flags.writeable


CHANGED = {
    "shorter": (ROWS[:10], r"got shape \(10, 4\) of float32"),
    "longer": (np.vstack([ROWS, ROWS]), r"got shape \(100, 4\) of float32"),
    "wider": (ROWS.reshape(25, 8), r"got shape \(25, 8\) of float32"),
    "another dtype": (ROWS.view(np.int32), r"got shape \(50, 4\) of int32"),
    "half as wide": (ROWS.astype(np.float16), r"got shape \(50, 4\) of float16"),
    "another order": (np.asfortranarray(ROWS), r"got shape \(50, 4\) of float32 in Fortran order"),
}


@everywhere
@pytest.mark.parametrize(("rows", "got"), CHANGED.values(), ids=CHANGED)
def test_an_npy_file_that_was_replaced_by_another_shape_is_refused(address, rows, got):
    write(address, npy(ROWS))
    dataset = Dataset.from_npy(address).skip(30)
    write(address, npy(rows))
    with pytest.raises(
        InvalidData, match=r"must have shape \(50, 4\) of float32, .*changed"
    ) as error:
        loaded(dataset)
    assert error.match(got)


@everywhere
def test_an_npy_file_that_is_cut_short_after_it_was_opened_is_refused(address):
    write(address, npy(ROWS))
    dataset = Dataset.from_npy(address).skip(30)
    size = len(npy(ROWS))
    for missing in (1, 400):
        write(address, npy(ROWS)[:-missing])
        with pytest.raises(InvalidData, match=rf"must have at least {size} bytes, .*changed"):
            loaded(dataset)
    write(address, b"rows" * 1000)
    with pytest.raises(InvalidData, match=r"got no header of .npy: .*changed; run again"):
        loaded(dataset)


@everywhere
def test_an_npy_file_that_was_replaced_by_rows_of_the_same_shape_is_read(address):
    write(address, npy(ROWS))
    dataset = Dataset.from_npy(address)
    write(address, npy(ROWS + 1))
    assert np.array_equal(loaded(dataset), ROWS + 1)

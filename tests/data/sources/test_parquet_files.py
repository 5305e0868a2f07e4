"""Parquet files below folders: their order, links, other endings, and tables of other formats."""

import io

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from dkmeans import Dataset, InvalidData
from dkmeans.data.sources.parquet_files import list_parquet_files
from dkmeans.storage import filesystem, write
from tests.data.sources.rows import everywhere, loaded
from tests.s3_folders import mark_folder


def rows_of(*values):
    """Return a Parquet file of one column, with these values."""
    data = io.BytesIO()
    pq.write_table(pa.table({"a": np.array(values, np.float32)}), data)
    return data.getvalue()


def put(folder, *names):
    """Write files below a local folder. The rows of the n-th file have the value n."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rows_of(number))


def values(address):
    return loaded(Dataset.from_parquet(str(address)))[:, 0].tolist()


@everywhere
def test_numbers_in_names_are_compared_as_numbers(address):
    names = [
        *("1.parquet", "2.parquet", "10.parquet"),
        *("day=2/part.2.parquet", "day=2/part.10.parquet", "day=10/part.1.parquet"),
        *("part-9-of-12.parquet", "part-010-of-12.parquet", "x2.parquet", "x10.parquet"),
    ]
    for name in sorted(names):
        write(f"{address}/{name}", rows_of(names.index(name)))
    assert values(address) == list(range(len(names)))


@pytest.mark.parametrize("address", ["S3"], indirect=True)
def test_a_folder_that_an_object_marks_is_read(address):
    for folder in ("", "/sub"):
        mark_folder(f"{address}{folder}")
        write(f"{address}{folder}/a.parquet", rows_of(3))
    assert values(address) == [3, 3]
    mark_folder(f"{address}-empty")
    with pytest.raises(InvalidData, match="a folder that holds some"):
        values(f"{address}-empty")


@pytest.mark.parametrize("address", ["S3"], indirect=True)
def test_a_whole_bucket_is_a_folder(address):
    write(f"{address}/a.parquet", rows_of(3))
    bucket = address.rpartition("/")[0]
    found = [file.path for file in list_parquet_files(*filesystem(bucket), bucket)]
    assert f"{address}/a.parquet".removeprefix("s3://") in found


def test_numbers_with_zeros_before_them_are_in_an_order_that_does_not_depend_on_the_disk(tmp_path):
    put(tmp_path, "part.01.parquet", "part.1.parquet", "part.001.parquet")
    assert values(tmp_path) == [2, 0, 1]


@everywhere
def test_endings_in_capitals_and_short_endings_are_read(address):
    for number, name in enumerate(("a.PARQUET", "b.pq", "c.Parq", "d.snappy.parquet", "e.PQ")):
        write(f"{address}/{name}", rows_of(number))
    assert values(address) == [0, 1, 2, 3, 4]


@everywhere
def test_files_of_other_endings_are_counted_in_one_warning(address, caplog):
    write(f"{address}/a.parquet", rows_of(0))
    for name in ("x/b.parquet.gz", "x/part-10", "x/part-2", "_SUCCESS", "_metadata", ".a.crc"):
        write(f"{address}/{name}", rows_of(1))
    write(f"{address}/x/_common_metadata", rows_of(1))
    assert values(address) == [0]
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("dkmeans", "WARNING")
    message = record.getMessage()
    assert message.startswith(f"not reading 3 files below {address} without a name that ends in ")
    assert message.endswith("/x/b.parquet.gz")


def test_names_without_rows_are_passed_over_in_silence(tmp_path, caplog):
    put(tmp_path, "a.parquet", "_temporary/b", ".hidden/c", "lost+found/d", "day=1_$folder$")
    (tmp_path / "empty").touch()
    assert values(tmp_path) == [0]
    assert not caplog.records


def test_a_folder_of_other_endings_only_is_refused_by_an_example(tmp_path):
    put(tmp_path, "000001_0", "000000_0")
    with pytest.raises(InvalidData, match=r"holds some; it holds 2 files .* such as .*/000000_0$"):
        Dataset.from_parquet(str(tmp_path))


def test_a_folder_named_by_a_value_of_a_column_is_read_even_if_an_underscore_begins_it(tmp_path):
    put(tmp_path, "_day=1/a.parquet", "_day=2/a.parquet")
    assert values(tmp_path) == [0, 1]


def test_a_link_to_a_folder_or_a_file_is_read(tmp_path):
    put(tmp_path / "elsewhere", "b.parquet", "c/d.parquet")
    put(tmp_path / "rows", "a.parquet")
    (tmp_path / "rows" / "z").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "rows" / "file.parquet").symlink_to(tmp_path / "elsewhere" / "c" / "d.parquet")
    assert values(tmp_path / "rows") == [0, 1, 0, 1]
    (tmp_path / "link").symlink_to(tmp_path / "rows")
    assert values(tmp_path / "link") == [0, 1, 0, 1]


def test_a_folder_that_a_link_shows_a_second_time_is_read_once(tmp_path):
    put(tmp_path, "1/a.parquet", "2/b.parquet")
    (tmp_path / "0-latest").symlink_to(tmp_path / "2")
    (tmp_path / "2" / "up").symlink_to(tmp_path)
    assert values(tmp_path) == [0, 1]


def test_a_link_that_leads_nowhere_is_counted(tmp_path, caplog):
    put(tmp_path, "a.parquet")
    (tmp_path / "more").symlink_to(tmp_path / "gone")
    assert values(tmp_path) == [0]
    assert "not reading 1 file below" in caplog.text


class LockedFolders(MemoryFileSystem):
    """Memory in which folders of the name `locked` cannot be listed."""

    protocol = "lockedfolders"

    def ls(self, path, detail=True, **more):
        """Return the names below a folder."""
        if path.rstrip("/").endswith("/locked"):
            raise PermissionError(13, "Permission denied", path)
        return super().ls(path, detail=detail, **more)


def test_a_folder_that_cannot_be_listed_is_refused_by_its_name():
    fsspec.register_implementation("lockedfolders", LockedFolders, clobber=True)
    write("lockedfolders://rows/a.parquet", rows_of(0))
    write("lockedfolders://rows/locked/b.parquet", rows_of(1))
    with pytest.raises(
        InvalidData, match=r"/rows/locked must be a folder that can be listed, .*13"
    ):
        Dataset.from_parquet("lockedfolders://rows")


TABLES = {
    "Delta Lake": ["_delta_log/00000000000000000000.json", "part-00000.snappy.parquet"],
    "Delta Lake, partitioned": ["_delta_log/0.json", "day=1/a.parquet"],
    "Iceberg": ["metadata/00000-5f3c.metadata.json", "data/00000-0.parquet"],
    "Iceberg, compressed": ["metadata/v1.gz.metadata.json", "data/00000-0.parquet"],
    "Hudi": [".hoodie/hoodie.properties", "day=1/a.parquet"],
}
of_every_table = pytest.mark.parametrize(
    ("kind", "names"), [(kind.split(",")[0], names) for kind, names in TABLES.items()], ids=TABLES
)


@everywhere
@of_every_table
def test_a_table_of_another_format_is_refused_by_its_format(address, kind, names):
    for name in names:
        write(f"{address}/table/{name}", rows_of(0))
    for place in (f"{address}/table", f"{address}/table/", address):
        match = f"/table must be a folder of plain Parquet files, got a table of {kind}, .* export"
        with pytest.raises(InvalidData, match=match):
            Dataset.from_parquet(place)


@everywhere
@pytest.mark.parametrize(
    ("names", "part"),
    [
        (["_delta_log/0.json", "year=1/day=1/a.parquet"], "year=1/day=1"),
        (["_delta_log/0.json", "year=1/day=1/a.parquet"], "year=1"),
        (["metadata/0.metadata.json", "data/a.parquet"], "data"),
        (["metadata/0.metadata.json", "data/day=1/a.parquet"], "data/day=1/"),
        ([".hoodie/hoodie.properties", "day=1/a.parquet"], "day=1"),
    ],
)
def test_a_folder_inside_a_table_of_another_format_is_refused(address, names, part):
    for name in names:
        write(f"{address}/{name}", rows_of(0))
    with pytest.raises(
        InvalidData, match="must be a folder of plain Parquet files, got a table of"
    ):
        Dataset.from_parquet(f"{address}/{part}")


@everywhere
def test_of_a_table_of_another_format_a_single_file_is_read_and_several_are_refused(address):
    for number, name in enumerate(("a.parquet", "b.parquet", "_delta_log/0.json")):
        write(f"{address}/{name}", rows_of(number))
    files = [f"{address}/a.parquet", f"{address}/b.parquet"]
    assert Dataset.from_parquet(files[1]).rows == 1
    for given in (files, f"{address}/*.parquet"):
        with pytest.raises(InvalidData, match="got a table of Delta Lake"):
            Dataset.from_parquet(given)


@everywhere
def test_folders_named_data_and_metadata_are_read_if_they_are_no_table(address):
    write(f"{address}/metadata/notes.json", b"{}")
    write(f"{address}/data/day=1/a.parquet", rows_of(0))
    for place in (address, f"{address}/data", f"{address}/data/day=1"):
        assert values(place) == [0]

"""Footers of many Parquet files: read together, by few requests, or from a file of all of them."""

from threading import Barrier

import dask.dataframe as dd
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dkmeans import Dataset
from dkmeans.storage import write
from tests.data.sources.rows import loaded
from tests.data.sources.test_parquet_files import rows_of

FILES = 16


@pytest.mark.parametrize("given", ["a folder", "a list of files"])
def test_footers_are_read_by_one_request_each_all_at_a_time(faulty_place, proxy, given):
    for number in range(FILES):
        write(f"{faulty_place}/part-{number}.parquet", rows_of(number))
    together, asked = Barrier(FILES, timeout=60), []

    def wait_for_others(method, path):
        if "part-" in path and method == "GET" and "prefix" not in path:
            asked.append(path)
            together.wait()  # fails unless all files are asked for at the same time

    proxy.fault = wait_for_others
    files = [f"{faulty_place}/part-{number}.parquet" for number in range(FILES)]
    assert Dataset.from_parquet(faulty_place if given == "a folder" else files).rows == FILES
    assert len(asked) == FILES


def with_footers(folder):
    """Write files of ten rows each, with a file of their footers."""
    frame = dd.from_pandas(pd.DataFrame({"a": range(40)}), npartitions=4)
    frame.to_parquet(folder, write_metadata_file=True, write_index=False)
    return folder / "_metadata"


def test_a_file_of_footers_spares_those_of_the_files_it_names(tmp_path):
    with_footers(tmp_path)
    whole = (tmp_path / "part.1.parquet").read_bytes()
    (tmp_path / "part.0.parquet").write_bytes(b"not read")
    pq.write_table(pa.table({"a": [100]}), tmp_path / "part.4.parquet")  # added later
    (tmp_path / "part.2.parquet").unlink()
    dataset = Dataset.from_parquet(str(tmp_path))
    assert dataset.rows == 31
    (tmp_path / "part.0.parquet").write_bytes(whole)
    assert loaded(dataset)[:, 0].tolist() == [*range(10, 20), *range(10, 20), *range(30, 40), 100]


def test_a_broken_file_of_footers_is_reported_and_not_needed(tmp_path, caplog):
    with_footers(tmp_path).write_bytes(b"broken")
    assert Dataset.from_parquet(str(tmp_path)).rows == 40
    assert f"as {tmp_path}/_metadata cannot be read" in caplog.text


def test_a_footer_larger_than_the_first_request_is_read_whole(tmp_path):
    groups = {"row_group_size": 1}
    pq.write_table(pa.table({"a": range(3000)}), tmp_path / "rows.parquet", **groups)
    assert (tmp_path / "rows.parquet").stat().st_size > 2**17
    assert Dataset.from_parquet(str(tmp_path)).rows == 3000

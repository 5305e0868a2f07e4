"""Predictions as Parquet files: a folder of files for each cluster."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dkmeans import Dataset, Invalid, storage
from tests.prediction.parquet_files import X, files_of


def test_files_in_folders_of_the_input_are_replaced_too(trained, tmp_path):
    for name in ("a/part-0.parquet", "b/part-1.parquet"):
        (tmp_path / "in" / name).parent.mkdir(parents=True)
        pq.write_table(pa.table({"x": X[:9, 0], "y": X[:9, 1]}), tmp_path / "in" / name)
    rows = Dataset.from_parquet(str(tmp_path / "in"))
    address = f"{tmp_path}/o.parquet"
    for more in ({}, {"distance": True}):
        trained.write_predictions(lambda: rows, address, **more)
        assert files_of(address) == ["a/part-0.parquet", "b/part-1.parquet"]


def test_what_a_killed_writer_left_in_the_folders_is_replaced(trained, tmp_path):
    address = tmp_path / "o.parquet"
    trained.write_predictions(lambda: X, address, partition_by="cluster_index")
    left = address / "cluster_index=0" / ".part-00000001.parquet.a1b2c3d4"
    left.write_bytes(b"PAR1")
    (address / "cluster_index=9").mkdir()
    trained.write_predictions(lambda: X, address, distance=True, partition_by="cluster_index")
    assert not left.exists()
    assert pq.read_table(address).num_rows == len(X)


def test_a_folder_of_somebody_elses_files_is_not_replaced(trained, tmp_path):
    address = tmp_path / "o.parquet"
    trained.write_predictions(lambda: X, address)
    (address / "archive").mkdir()
    pq.write_table(pa.table({"x": [1]}), address / "archive" / "part.parquet")
    with pytest.raises(Invalid, match="holds 'archive': move it away"):
        trained.write_predictions(lambda: X, address, distance=True)
    assert (address / "archive" / "part.parquet").exists()


@pytest.mark.parametrize("kind", ["disk", "s3"])
def test_each_cluster_has_a_folder_and_what_is_missing_is_written_again(
    trained, stored, tmp_path, kind, request, new_log, monkeypatch
):
    place = str(tmp_path) if kind == "disk" else f"{request.getfixturevalue('s3')}/partitioned"
    address = f"{place}/o.parquet"

    def write():
        trained.write_predictions(
            lambda: Dataset.from_parquet(stored), address, keep=["id"], partition_by="cluster_index"
        )
        return new_log()

    with monkeypatch.context() as patch:
        patch.setattr("dkmeans.estimator.outputs.finish", lambda output: None)  # a kill
        write()
    assert storage.read(f"{address}/_SUCCESS") is None
    storage.remove(f"{address}/_done/year=2023/part-2.parquet.done")
    storage.remove(f"{address}/cluster_index=1/year=2023/part-2.parquet")
    assert "holds 3 of 4 regions" in write()
    assert "nothing to do" in write()
    assert not storage.children(f"{address}/_done")
    clusters = np.array([*trained.predict_cluster_index(lambda: X)])
    for cluster in range(3):
        names = files_of(f"{address}/cluster_index={cluster}")
        tables = [
            pq.read_table(
                pa.BufferReader(storage.read(f"{address}/cluster_index={cluster}/{n}").data)
            )
            for n in names
        ]
        ids = sorted(pa.concat_tables(tables)["id"].to_pylist())
        assert tables[0].column_names == ["id"]
        assert ids == np.flatnonzero(clusters == cluster).tolist()
    if kind == "disk":
        assert pq.read_table(address).num_rows == 500


@pytest.mark.parametrize(
    "name", ["enriched.parquet", "cluster_index=0/mine.parquet", "part-0.parquet"]
)
def test_a_file_of_parquet_of_somebody_else_is_not_replaced(trained, tmp_path, name):
    address = tmp_path / "o.parquet"
    more = {"partition_by": "cluster_index"} if "/" in name else {}
    trained.write_predictions(lambda: X, address, **more)
    pq.write_table(pa.table({"cluster_index": [1]}), address / name)
    with pytest.raises(Invalid, match=f"holds '{name.partition('/')[0]}': move it away"):
        trained.write_predictions(lambda: X, address, distance=True, **more)
    assert pq.read_table(address / name, partitioning=None).num_rows == 1
    (address / name).unlink()
    trained.write_predictions(lambda: X, address, distance=True, **more)
    assert "distance" in pq.read_table(address).column_names


def test_predictions_of_other_rows_are_replaced_whatever_the_names_of_their_files(
    trained, tmp_path
):
    address = f"{tmp_path}/o.parquet"
    for name in ("monday", "tuesday"):
        pq.write_table(pa.table({"x": X[:9, 0], "y": X[:9, 1]}), tmp_path / f"{name}.parquet")
        rows = Dataset.from_parquet(str(tmp_path / f"{name}.parquet"))
        trained.write_predictions(lambda rows=rows: rows, address)
        assert files_of(address) == [f"{name}.parquet"]

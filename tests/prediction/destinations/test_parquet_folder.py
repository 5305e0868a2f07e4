"""Predictions as Parquet files: a folder of files for each cluster."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dkmeans import Dataset, storage
from tests.prediction.parquet_files import X, files_of


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
    assert "keeping 3 of 4 regions" in write()
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

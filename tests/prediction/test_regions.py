"""Regions of an output: files of the input, and folders of clusters."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dkmeans import Dataset, Invalid, KMeans, storage
from dkmeans.prediction import output

X = np.random.default_rng(3).normal(size=(500, 2))
TABLE = pa.table({"x": X[:, 0], "y": X[:, 1], "id": range(500)})
NAMES = {
    "year=2023/part-2.parquet": 0,
    "year=2023/part-10.parquet": 1,
    "year=2024/part-1.parquet": 2,
}


@pytest.fixture
def trained(tmp_path):
    return KMeans(3, str(tmp_path / "m"), initial_clusters=X[:3]).train(
        lambda: {"x": X[:, 0], "y": X[:, 1]}, steps=2
    )


@pytest.fixture
def stored(tmp_path):
    """Three files of 100 rows and one of 200 rows, in folders."""
    for name, number in {**NAMES, "year=2024/part-3.parquet": 3}.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = TABLE[100 * number :] if number == 3 else TABLE[100 * number : 100 * number + 100]
        pq.write_table(rows, path, row_group_size=40)
    return str(tmp_path / "in")


def files_of(folder):
    return [name for name in storage.files_below(str(folder)) if name.endswith(".parquet")]


def test_each_file_of_the_input_has_one_of_its_name_in_the_output(
    trained, stored, tmp_path, monkeypatch
):
    monkeypatch.setattr(output, "_REGION_ROWS", 120)
    clusters = np.array([*trained.predict_cluster_index(lambda: X)])
    for given, expected in (
        (stored, [*NAMES, "year=2024/part-3-00000.parquet", "year=2024/part-3-00001.parquet"]),
        (f"{stored}/year=2023/part-2.parquet", ["year=2023/part-2.parquet"]),
        (f"{stored}/year=2023", ["year=2023/part-2.parquet", "year=2023/part-10.parquet"]),
    ):
        trained.write_predictions(lambda g=given: Dataset.from_parquet(g), tmp_path / "o.parquet")
        assert files_of(tmp_path / "o.parquet") == sorted(expected)
    trained.write_predictions(lambda: Dataset.from_parquet(stored), tmp_path / "o.parquet")
    for name, number in NAMES.items():
        found = pq.read_table(tmp_path / "o.parquet" / name, partitioning=None)["cluster_index"]
        assert found.to_pylist() == clusters[100 * number : 100 * number + 100].tolist()
    batches = Dataset.from_parquet(stored).repeat(2)
    trained.write_predictions(lambda: batches, tmp_path / "twice.parquet")
    assert files_of(tmp_path / "twice.parquet")[:2] == [
        "part-00000000.parquet",
        "part-00000001.parquet",
    ]


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


def test_folders_that_cannot_be_written_are_refused(trained, tmp_path):
    with pytest.raises(Invalid, match=r"partition_by must come with an output that ends in \.parq"):
        trained.write_predictions(lambda: X, tmp_path / "o.zarr", partition_by="cluster_index")
    with pytest.raises(Invalid, match="partition_by must be 'cluster_index', got 'id'"):
        trained.write_predictions(lambda: X, tmp_path / "o.parquet", partition_by="id")

"""Regions of an output: files of the input, or rows of one number."""

import numpy as np
import pyarrow.parquet as pq

from dkmeans import Dataset
from dkmeans.prediction import output
from tests.prediction.parquet_files import NAMES, X, files_of


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
